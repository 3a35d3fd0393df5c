"""What one worker process holds: settings, history store, engine, and the model watcher."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

from bento import logs, metrics
from bento.balance import Balance
from bento.engine import Engine
from bento.errors import NotReadyError
from bento.guard import Admission
from bento.history import HistoryStore
from bento.lanes import Served
from bento.models import BundleError, Lock, ModelSource, load, signature
from bento.settings import ServiceSettings
from bento.types import (
    Answer,
    EventsAnswer,
    EventsRequest,
    ModelAnswer,
    RecommendRequest,
    SearchRequest,
    Tier,
)

log = logging.getLogger("bento.runtime")

# Half the default deadline may go to waiting for the event loop; beyond, requests are refused.
LAG_SHARE = 0.5
# The event loop and the model's thread take turns at the interpreter. At Python's own 5 ms the loop
# is kept from arrivals for most of a batch, and the next batch is small.
TURN_S = 0.0005

# (folder, lock, device, threads) -> what to serve
Loader = Callable[[Path, Lock | None, str, int | None], Served]


async def _end(task: asyncio.Task[None]) -> None:
    """Cancel until it has ended: a library may swallow the first (nats-py does while it connects,
    by `asyncio.wait_for` of Python 3.11, https://github.com/python/cpython/issues/86296)."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.5)
    with contextlib.suppress(asyncio.CancelledError):
        task.result()


class Runtime:
    """Created at import, started and stopped by the service's hooks."""

    def __init__(
        self, settings: ServiceSettings, source: ModelSource, loader: Loader = load
    ) -> None:
        self.settings = settings
        self.source = source
        self._load = loader
        self.store = None if settings.store == "off" else HistoryStore(settings)
        self.admission = Admission(settings.max_in_flight, settings.deadline_ms / 1000 * LAG_SHARE)
        self._engine: Engine | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._tried = asyncio.Event()
        self.threads = 1
        self.workers = 1
        self._balance: Balance | None = None

    async def start(self) -> None:
        """Begin loading and connecting; returns once a model that is there has been tried.

        A worker listens only after this: one that starts beside others takes no request that it
        would have to refuse. Without a usable model it listens all the same, and is not ready.
        """
        sys.setswitchinterval(TURN_S)
        logs.configure(self.settings.log_level)
        metrics.forget_dead_workers()
        self._engine = Engine(self.settings, self.store, lambda: self.admission.wait)
        self._engine.batcher.start()
        self.admission.start()
        shared = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if shared is not None and self.workers > 1:
            self._balance = Balance(Path(shared), str(os.getppid()), str(os.getpid()))
            self._balance.start(self.admission)
        loop = asyncio.get_running_loop()
        self._tried.clear()
        self._tasks = [loop.create_task(self._watch_model(), name="model watcher")]
        if self.store is not None:
            self._tasks.append(loop.create_task(self._keep_store(self.store), name="store"))
        self._tasks.append(loop.create_task(self._report(), name="gauges"))
        await self._tried.wait()

    async def stop(self) -> None:
        """End the background work and close the store."""
        self.admission.stop()
        if self._balance is not None:
            self._balance.stop()
        for task in self._tasks:
            await _end(task)
        if self._engine is not None:
            await self._engine.batcher.stop()
        if self.store is not None:
            await self.store.close()

    @property
    def engine(self) -> Engine:
        """The engine; NotReadyError before `start`."""
        if self._engine is None:
            raise NotReadyError("the service is starting", retry_after_s=2)
        return self._engine

    def ready(self) -> bool:
        """Model and index loaded and warmed, and the store answered at least once.

        A store lost later does not unset it: requests are then answered from their own history,
        which is better than no replica at all.
        """
        if self._engine is None or self._engine.served is None:
            return False
        return self.settings.store != "required" or (
            self.store is not None and self.store.was_usable
        )

    def ends_connection(self) -> bool:
        """Whether the answer that is sent next ends its connection, for another worker to take."""
        return self._balance is not None and self._balance.end()

    async def _watch_model(self) -> None:
        seen: str | None = None
        while True:
            path = self.source.path()
            now = await asyncio.to_thread(signature, path)
            if now is not None and now != seen:
                seen = now
                await self._try(path)
            self._tried.set()
            await asyncio.sleep(self.settings.model_poll_s)

    async def _try(self, path: Path) -> None:
        engine = self.engine
        device, threads = self.settings.device, self.threads
        try:
            with self.admission.loading():
                served = await asyncio.to_thread(
                    self._load, path, self.source.lock, device, threads
                )
                await engine.take_up(served)
        except BundleError as error:
            metrics.SWAPS.labels("refused").inc()
            log.error("model refused: %s", error)
        except Exception:
            # Whatever a broken model raises, the version in use keeps answering.
            metrics.SWAPS.labels("failed").inc()
            log.exception("model could not be loaded")
        else:
            metrics.SWAPS.labels("taken_up").inc()

    async def _keep_store(self, store: HistoryStore) -> None:
        while True:
            if not store.usable:
                await store.connect()
            await asyncio.sleep(0.5)

    async def _report(self) -> None:
        while True:
            metrics.QUEUE_DEPTH.set(self.engine.batcher.depth)
            if self.store is not None:
                metrics.STORE_UP.set(self.store.usable)
            await asyncio.sleep(0.5)

    async def recommend(self, request: RecommendRequest, began: float, request_id: str) -> Answer:
        """POST /recommend."""
        return await self.engine.recommend(request, began, request_id)

    async def search(self, request: SearchRequest, began: float, request_id: str) -> Answer:
        """POST /search."""
        return await self.engine.search(request, began, request_id)

    async def events(self, request: EventsRequest, began: float, request_id: str) -> EventsAnswer:
        """POST /events."""
        return await self.engine.events(request.events, began, request_id)

    def describe(self) -> ModelAnswer:
        """GET /model."""
        engine = self.engine
        tier = engine.tier_now()  # NotReadyError while loading
        assert engine.served is not None
        manifest = engine.served.predictor.manifest
        tiers = [Tier.RANKER, Tier.SMALL_RANKER, Tier.POPULAR]
        if engine.served.small is None:
            tiers.remove(Tier.SMALL_RANKER)
        return ModelAnswer(
            model_version=manifest.version,
            data_fingerprint=manifest.data_fingerprint,
            size=manifest.size,
            created=manifest.created.isoformat(),
            items=manifest.item_count,
            metrics=dict(manifest.metrics),
            tier=tier,
            tiers=tiers,
            loaded_at=engine.served.loaded_at.isoformat(),
            bento=self.source.bento,
        )
