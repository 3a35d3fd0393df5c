"""Recent histories and the event log, in NATS JetStream.

The log (a stream) holds every event once: JetStream drops a repeated `Nats-Msg-Id`. Histories (a
key-value bucket) hold each user's last events, merged by event id under compare-and-set, so that
posting a batch again after a lost answer changes nothing. User ids are stored as one-way hashes.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import nats
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext, api
from nats.js.errors import (
    APIError,
    BucketNotFoundError,
    KeyNotFoundError,
    KeyWrongLastSequenceError,
    NotFoundError,
)
from nats.js.kv import KeyValue

from bento import embedded
from bento.settings import ServiceSettings
from bento.types import Event, EventKind

STREAM = "events"
BUCKET = "histories"
# Compare-and-set rounds before giving up; each lost round means another writer won one.
ROUNDS = 50
RETRY_S = 0.1
ATTEMPT_S = 2.0

log = logging.getLogger("bento.history")
T = TypeVar("T")


class StoreAwayError(RuntimeError):
    """The store does not answer now; the caller may try again."""


class Kept(NamedTuple):
    """One entry of a stored history."""

    event_id: str
    time_ms: int
    item_id: str


class Stored(NamedTuple):
    """What posting a batch changed."""

    accepted: int
    duplicates: int


def pseudonym(user_id: str) -> str:
    """The key that stands for a user in the store: 128 bits, one way, fit for a subject."""
    return hashlib.blake2b(user_id.encode(), digest_size=16, person=b"user").hexdigest()


def merge(old: Sequence[Kept], new: Sequence[Kept], keep: int) -> list[Kept]:
    """Both without repeated event ids, oldest first, the last `keep` of them."""
    by_id = {entry.event_id: entry for entry in [*new, *old]}
    return sorted(by_id.values(), key=lambda e: (e.time_ms, e.event_id))[-keep:]


def _decode(value: bytes | None) -> list[Kept]:
    return [Kept(*entry) for entry in json.loads(value)] if value else []


def _record(event: Event) -> bytes:
    """The event as the log keeps it: the user by pseudonym."""
    record = event.model_dump(mode="json", exclude_none=True)
    record["user_id"] = pseudonym(event.user_id)
    return json.dumps(record, separators=(",", ":")).encode()


class HistoryStore:
    """One connection of one process. Not thread-safe: use it from one event loop."""

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings = settings
        self._client: Client | None = None
        self._jetstream: JetStreamContext | None = None
        self._bucket: KeyValue | None = None
        self.was_usable = False

    @property
    def usable(self) -> bool:
        """Connected, with both stream and bucket there."""
        return self._bucket is not None and self._client is not None and self._client.is_connected

    async def connect(self) -> None:
        """Connect and make stream and bucket; tries until it succeeds or is cancelled."""
        while True:
            try:
                await self._connect()
            except (OSError, NatsError, APIError, TimeoutError, FileNotFoundError) as error:
                log.warning("history store is away", extra={"reason": type(error).__name__})
                await asyncio.sleep(0.5)
            else:
                self.was_usable = True
                log.info("history store is usable")
                return

    async def _connect(self) -> None:
        if self._client is None or not self._client.is_connected:
            await self.close()
            options: dict[str, Any] = {}
            url = self.settings.nats_url
            if url is None:
                where = embedded.endpoint(self.settings)
                if where is None:
                    raise FileNotFoundError("the embedded store is not up yet")
                url, options["token"] = where
            if self.settings.nats_creds is not None:
                options["user_credentials"] = str(self.settings.nats_creds)
            if self.settings.nats_token is not None:
                file = self.settings.nats_token
                # asked at each connection: a rotated token is found without a restart
                options["token"] = lambda: file.read_text(encoding="utf-8").strip()
            if self.settings.nats_ca is not None:
                import ssl

                options["tls"] = ssl.create_default_context(cafile=str(self.settings.nats_ca))
            self._client = await nats.connect(
                url,
                name="bento",
                connect_timeout=2,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.1,
                ping_interval=5,
                max_outstanding_pings=2,
                error_cb=self._on_error,
                disconnected_cb=self._on_lost,
                reconnected_cb=self._on_back,
                **options,
            )
        self._jetstream = self._client.jetstream(timeout=ATTEMPT_S)
        await self._make_stream(self._jetstream)
        self._bucket = await self._make_bucket(self._jetstream)

    async def _make_stream(self, jetstream: JetStreamContext) -> None:
        try:
            await jetstream.stream_info(STREAM)
        except NotFoundError:
            await jetstream.add_stream(
                name=STREAM,
                subjects=["events.>"],
                storage=api.StorageType.FILE,
                num_replicas=self.settings.nats_replicas,
                duplicate_window=self.settings.dedupe_window_s,
                max_msg_size=2**20,
            )

    async def _make_bucket(self, jetstream: JetStreamContext) -> KeyValue:
        try:
            return await jetstream.key_value(BUCKET)
        except (BucketNotFoundError, NotFoundError):
            config = api.KeyValueConfig(
                bucket=BUCKET,
                history=1,
                storage=api.StorageType.FILE,
                replicas=self.settings.nats_replicas,
                # Only the stream's leader answers reads: an event posted now is seen at once.
                direct=self.settings.nats_replicas == 1,
            )
            return await jetstream.create_key_value(config)

    async def _on_error(self, error: Exception) -> None:
        log.warning("history store error", extra={"reason": type(error).__name__})

    async def _on_lost(self) -> None:
        log.warning("history store connection lost")

    async def _on_back(self) -> None:
        log.info("history store connection is back")

    async def close(self) -> None:
        """Close the connection; what was acknowledged is stored already."""
        client, self._client, self._bucket = self._client, None, None
        if client is not None and not client.is_closed:
            await client.close()

    async def recent(self, user_id: str) -> list[str]:
        """Item ids of the user's last events, oldest first; empty for an unknown user.

        Raises StoreAwayError within `history_timeout_ms`.
        """
        bucket = self._bucket
        if bucket is None or not self.usable:
            raise StoreAwayError("not connected")
        try:
            async with asyncio.timeout(self.settings.history_timeout_ms / 1000):
                entry = await bucket.get(pseudonym(user_id), validate_keys=False)
        except KeyNotFoundError:
            return []
        except (TimeoutError, NatsError, APIError, OSError) as error:
            raise StoreAwayError(type(error).__name__) from error
        return [kept.item_id for kept in _decode(entry.value)]

    async def append(self, events: Sequence[Event]) -> Stored:
        """Store a batch; returns when the log and every history are on disk.

        Waits `event_wait_s` for a store that is coming back, then raises StoreAwayError; posting
        the same batch again is safe.
        """
        until = time.monotonic() + self.settings.event_wait_s
        gate = asyncio.Semaphore(64)

        async def held(action: Callable[[], Awaitable[T]]) -> T:
            async with gate:
                return await self._insist(action, until)

        acknowledged = await asyncio.gather(
            *(held(lambda event=event: self._publish(event)) for event in events)
        )
        by_user: dict[str, list[Kept]] = {}
        for event in events:
            if event.kind is not EventKind.SEARCH and event.item_id is not None:
                kept = Kept(event.event_id, int(event.time.timestamp() * 1000), event.item_id)
                by_user.setdefault(event.user_id, []).append(kept)
        await asyncio.gather(
            *(held(lambda u=u, new=new: self._extend(u, new)) for u, new in by_user.items())
        )
        duplicates = sum(acknowledged)
        return Stored(accepted=len(events) - duplicates, duplicates=duplicates)

    async def _insist(self, action: Callable[[], Awaitable[T]], until: float) -> T:
        while True:
            try:
                if not self.usable:
                    raise StoreAwayError("not connected")
                return await action()
            except (StoreAwayError, TimeoutError, NatsError, APIError, OSError) as error:
                if time.monotonic() + RETRY_S >= until:
                    raise StoreAwayError(type(error).__name__) from error
                await asyncio.sleep(RETRY_S)

    async def _publish(self, event: Event) -> bool:
        """Append to the log; True if the log had this event id already."""
        if self._jetstream is None:
            raise StoreAwayError("not connected")
        acknowledged = await self._jetstream.publish(
            f"events.{event.kind}",
            _record(event),
            stream=STREAM,
            headers={"Nats-Msg-Id": event.event_id},
        )
        return bool(acknowledged.duplicate)

    async def _extend(self, user_id: str, new: Sequence[Kept]) -> None:
        bucket = self._bucket
        if bucket is None:
            raise StoreAwayError("not connected")
        key = pseudonym(user_id)
        for _ in range(ROUNDS):
            try:
                entry = await bucket.get(key, validate_keys=False)
                old, revision = _decode(entry.value), entry.revision
            except KeyNotFoundError as missing:
                # A deleted key still has a revision that the next write must follow.
                old, revision = [], missing.entry.revision if missing.entry else None
            merged = merge(old, new, self.settings.history_length)
            if merged == old:
                return
            try:
                value = json.dumps(merged, separators=(",", ":")).encode()
                await bucket.update(key, value, last=revision)
            except KeyWrongLastSequenceError:
                continue
            return
        raise StoreAwayError("too many writers of one history")
