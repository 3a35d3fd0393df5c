"""HTTP load: open loop (arrivals do not wait for answers) and closed loop (a fixed number do).

A request's time begins when it was *due*, so a stalled service cannot hide its stall by slowing
the arrivals down. Connections are kept alive; an arrival that finds none idle opens another. One
that lay idle for `IDLE_S` is not used again: servers close theirs after a while (uvicorn after five
seconds), and a request sent at that moment is lost, which proves nothing about the service.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

import httptools
import uvloop

TIMEOUT_S = 30.0
IDLE_S = 2.0
# Tiers that count as full answers; a service that names none always gives its best.
BEST = {"ranker", ""}


@dataclass
class Outcome:
    """What came back; times in seconds from the moment a request was due."""

    seconds: float
    full: list[float] = field(default_factory=list)  # 200 by the best tier
    lower: list[float] = field(default_factory=list)  # 200 by a lower tier
    refused: list[float] = field(default_factory=list)  # 429 and 503
    wrong: Counter[str] = field(default_factory=Counter)  # anything else
    behind: float = 0.0  # how late a request was sent at worst: the sender's own fault

    @property
    def sent(self) -> int:
        return len(self.full) + len(self.lower) + len(self.refused) + sum(self.wrong.values())

    @property
    def rate(self) -> float:
        """Full answers a second."""
        return len(self.full) / self.seconds

    @property
    def share(self) -> float:
        """Full answers among all requests."""
        return len(self.full) / max(1, self.sent)

    def add(self, status: int, tier: str, took: float) -> None:
        if status == 200:
            (self.full if tier in BEST else self.lower).append(took)
        elif status in (429, 503):
            self.refused.append(took)
        else:
            self.wrong[str(status)] += 1


def quantile(times: Sequence[float], share: float) -> float:
    """The share-quantile in milliseconds; infinite if there is none."""
    if not times:
        return float("inf")
    ranked = sorted(times)
    return 1000 * ranked[min(len(ranked) - 1, int(share * len(ranked)))]


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request under way."""

    def __init__(self) -> None:
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.Transport | None = None
        self._parser: Any = None
        self._body = bytearray()
        self._since = time.perf_counter()  # idle
        self.fresh = True  # nothing was asked yet
        self._open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes
        self._transport, self._open = cast("asyncio.Transport", transport), True
        self._parser = httptools.HttpResponseParser(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.connection_lost(error)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self._open = self._open and bool(self._parser.should_keep_alive())
        self._since = time.perf_counter()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((self._parser.get_status_code(), bytes(self._body)))
        self._body.clear()
        self._parser = httptools.HttpResponseParser(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("closed before the answer"))

    @property
    def idle(self) -> float:
        """Seconds since its last answer."""
        return time.perf_counter() - self._since

    @property
    def usable(self) -> bool:
        return self._open and self.idle < IDLE_S

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class Caller:
    """Sends prepared requests over a pool of connections."""

    def __init__(self, url: str, path: str, bodies: Sequence[bytes]) -> None:
        place = urlsplit(url)
        self.host, self.port = place.hostname or "127.0.0.1", place.port or 80
        head = f"POST {path} HTTP/1.1\r\nhost: {place.netloc}\r\ncontent-type: application/json\r\n"
        self.requests = [head.encode() + b"content-length: %d\r\n\r\n" % len(b) + b for b in bodies]
        self._idle: list[Connection] = []

    async def call(self, number: int, due: float, outcome: Outcome) -> None:
        connection: Connection | None = None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while self._idle and connection is None:
                    connection = self._idle.pop()
                    if not connection.usable:
                        connection.close()
                        connection = None
                if connection is None:
                    loop = asyncio.get_running_loop()
                    _, connection = await loop.create_connection(Connection, self.host, self.port)
                status, body = await connection.ask(self.requests[number % len(self.requests)])
        except (OSError, TimeoutError) as error:
            used = "" if connection is None or connection.fresh else " on a connection used before"
            outcome.wrong[type(error).__name__ + used] += 1
            if connection is not None:
                connection.close()
            return
        took, connection.fresh = time.perf_counter() - due, False
        outcome.add(status, tier_of(body) if status == 200 else "", took)
        if connection.usable:
            self._idle.append(connection)

    def close(self) -> None:
        for connection in self._idle:
            connection.close()


def tier_of(body: bytes) -> str:
    """The answer's `tier`, without parsing all of it."""
    _, found, rest = body.partition(b'"tier":"')
    return rest[: rest.index(b'"')].decode() if found else ""


async def _open(caller: Caller, rate: float, seconds: float, seed: int) -> Outcome:
    outcome = Outcome(seconds)
    rng = random.Random(seed)
    tasks: set[asyncio.Task[None]] = set()
    began = due = time.perf_counter()
    number = 0
    while True:
        due += rng.expovariate(rate)
        if due > began + seconds:
            break
        if (wait := due - time.perf_counter()) > 0.0005:
            await asyncio.sleep(wait)
        elif number % 16 == 0:
            await asyncio.sleep(0)  # behind: let answers in all the same
        outcome.behind = max(outcome.behind, time.perf_counter() - due)
        task = asyncio.create_task(caller.call(number, due, outcome))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        number += 1
    await asyncio.gather(*tasks)
    return outcome


async def _closed(caller: Caller, callers: int, seconds: float) -> Outcome:
    until = time.perf_counter() + seconds
    outcome = Outcome(seconds)

    async def work(number: int) -> None:
        while (now := time.perf_counter()) < until:
            await caller.call(number, now, outcome)
            number += callers

    await asyncio.gather(*(work(number) for number in range(callers)))
    return outcome


def open_loop(
    url: str, bodies: Sequence[bytes], rate: float, seconds: float, *, seed: int = 1,
    path: str = "/recommend",
) -> Outcome:  # fmt: skip
    """Poisson arrivals at `rate` a second, whatever the service does."""
    return _run(lambda caller: _open(caller, rate, seconds, seed), url, path, bodies)


def closed_loop(
    url: str, bodies: Sequence[bytes], callers: int, seconds: float, *, path: str = "/recommend"
) -> Outcome:
    """`callers` that each send the next request when the last is answered."""
    return _run(lambda caller: _closed(caller, callers, seconds), url, path, bodies)


def _run(work: Any, url: str, path: str, bodies: Sequence[bytes]) -> Outcome:
    async def main() -> Outcome:
        caller = Caller(url, path, bodies)
        gc.collect()
        gc.disable()  # a pause of the sender would be taken for one of the service
        try:
            return await work(caller)
        finally:
            gc.enable()
            caller.close()

    return uvloop.run(main())


def bodies_of(
    items: Sequence[str], *, deadline_ms: int | None, count: int = 500, seed: int = 1
) -> list[bytes]:
    """Recommend requests with histories of 1 to 20 items."""
    rng = random.Random(seed)
    more = {} if deadline_ms is None else {"deadline_ms": deadline_ms}
    bodies: list[bytes] = []
    for _ in range(count):
        history = rng.sample(items, min(len(items), rng.randint(1, 20)))
        bodies.append(json.dumps({"history": history, "k": 10, **more}).encode())
    return bodies
