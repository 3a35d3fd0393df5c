"""Adaptive batching on one compute thread, with the delay a new request would meet.

No timer: while the thread computes one batch, the next one gathers, and before it starts the event
loop hands over what has arrived. A lone request starts at once; under load batches grow by
themselves up to `max_batch`, or to what the measured cost allows within the latency target. Several
lanes (ranker, small ranker, search) share the thread; a lane listed earlier goes first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

log = logging.getLogger("bento.batcher")

In = TypeVar("In")
Out = TypeVar("Out")

# Weight of the newest call in how slow the machine is now.
NEWEST = 0.2
# One call counts for at most so many times the usual: a pause of the machine is no new usual.
OUTLIER = 4.0
# A call over the latency target is made all the same if it takes at most so many times a lone
# row's time and does twice the work a second: smaller ones would only lengthen the queue.
WORTH = 4.0
# Turns of the event loop without a new request, after which a batch starts: from readable socket to
# queue a request takes three. A call costs several times what one more row in it does.
IDLE_TURNS = 3
# Seconds after which a lane that nobody may use for its time is measured again.
STALE_S = 0.2


class LateError(RuntimeError):
    """The deadline passed while the request waited; nothing was computed."""


class Lane(Generic[In, Out]):
    """A queue in front of one batch function."""

    def __init__(
        self, name: str, run: Callable[[Sequence[In]], Sequence[Out]], max_batch: int
    ) -> None:
        self.name = name
        self.run = run
        self.max_batch = max_batch
        self.queue: deque[tuple[In, float, asyncio.Future[Out]]] = deque()
        # Seconds per call by the power of two at or above the batch size, each as first measured.
        self._costs: dict[int, float] = {}
        # How many times longer calls take now: a busy machine slows all sizes alike, and a size
        # that is not in use would never be measured again.
        self._slow = 1.0
        self.measured = -math.inf  # when, on the perf_counter clock

    def observe(self, size: int, seconds: float) -> None:
        """Take one measured call into account."""
        self.measured = time.perf_counter()
        bucket = _bucket(size)
        known = self._costs.get(bucket)
        if known is None:
            self._costs[bucket] = seconds / self._slow
            return
        slow = min(seconds / known, OUTLIER * self._slow)
        self._slow += NEWEST * (slow - self._slow)

    def cost(self, size: int) -> float:
        """Expected seconds for a call of this size; scales from the nearest measured one."""
        if not self._costs or size <= 0:
            return 0.0
        bucket = _bucket(size)
        near = min(self._costs, key=lambda b: abs(b.bit_length() - bucket.bit_length()))
        return self._slow * self._costs[near] * max(1.0, bucket / near)

    def limit(self, target_s: float) -> int:
        """Largest batch whose expected cost is within the target, or worth more (at least 1)."""
        size, alone = self.max_batch, self.cost(1)
        while size > 1:
            cost = self.cost(size)
            if cost <= target_s or cost <= alone * min(WORTH, size / 2):
                break
            size //= 2
        return size

    def backlog(self, extra: int, target_s: float) -> float:
        """Seconds until the queue and `extra` more requests are computed."""
        waiting, limit = len(self.queue) + extra, self.limit(target_s)
        full, rest = divmod(waiting, limit)
        return full * self.cost(limit) + self.cost(rest)


def _unheard(future: asyncio.Future[Any]) -> None:
    """Tell an error of a call that nobody waits for."""
    if not future.cancelled() and (error := future.exception()) is not None:
        log.error("model call failed", exc_info=error)


def _bucket(size: int) -> int:
    return 1 << max(0, size - 1).bit_length()


class Batcher:
    """One compute thread for the lanes of a process. Use it from one event loop."""

    def __init__(
        self, target_s: float, on_batch: Callable[[str, int], None] = lambda _name, _size: None
    ) -> None:
        self.target_s = target_s
        self.lanes: list[Lane[Any, Any]] = []
        self._on_batch = on_batch
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._wake = asyncio.Event()
        self._busy_until = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin taking batches; needs a running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._loop(), name="batcher")

    async def stop(self) -> None:
        """Stop after the batch in hand; whoever still waits is told by cancellation."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for lane in self.lanes:
            for _, _, future in lane.queue:
                future.cancel()
            lane.queue.clear()
        self._thread.shutdown(wait=True)

    async def on_thread(self, work: Callable[[], Out]) -> Out:
        """Run something on the compute thread, between batches."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    @property
    def depth(self) -> int:
        """Requests waiting in all lanes."""
        return sum(len(lane.queue) for lane in self.lanes)

    def delay(self, lane: Lane[Any, Any]) -> float:
        """Seconds a request entering this lane now would take, its own call included."""
        wait = max(0.0, self._busy_until - time.perf_counter())
        for other in self.lanes:
            if other is lane:
                return wait + lane.backlog(1, self.target_s)
            wait += other.backlog(0, self.target_s)
        return wait + lane.backlog(1, self.target_s)

    async def submit(self, lane: Lane[In, Out], job: In, deadline: float) -> Out:
        """Answer of the lane's function for this job.

        `deadline` is on the `time.perf_counter` clock; LateError if, when its turn comes, the call
        would end after it.
        """
        future: asyncio.Future[Out] = asyncio.get_running_loop().create_future()
        lane.queue.append((job, deadline, future))
        self._wake.set()
        return await future

    def probe(self, lane: Lane[In, Out], job: In) -> None:
        """Measure a lane that looked too slow for this job; nobody waits for the answer.

        Only what is called is measured: a lane that the end of an overload left looking slow would
        stay out of use for ever. Does nothing while it is in use, or was measured just now.
        """
        now = time.perf_counter()
        if lane.queue or now < max(self._busy_until, lane.measured + STALE_S):
            return
        future: asyncio.Future[Out] = asyncio.get_running_loop().create_future()
        future.add_done_callback(_unheard)
        lane.measured = now  # one that fails is not called for every request either
        lane.queue.append((job, math.inf, future))
        self._wake.set()

    async def _loop(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            lane = next((lane for lane in self.lanes if lane.queue), None)
            if lane is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            await self._gather(lane)
            taken = self._take(lane)
            if not taken:
                continue
            jobs = [job for job, _ in taken]
            began = time.perf_counter()
            self._busy_until = began + lane.cost(len(jobs))
            self._on_batch(lane.name, len(jobs))
            try:
                answers = await loop.run_in_executor(self._thread, lane.run, jobs)
            except Exception as error:  # noqa: BLE001  each caller gets it; the loop must go on
                for _, future in taken:
                    if not future.done():
                        future.set_exception(error)
                continue
            lane.observe(len(jobs), time.perf_counter() - began)
            self._busy_until = 0.0
            for (_, future), answer in zip(taken, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    async def _gather(self, lane: Lane[Any, Any]) -> None:
        """Let in what clients have sent already; waits for nothing else."""
        limit, idle, known = lane.limit(self.target_s), 0, 0
        while idle < IDLE_TURNS and len(lane.queue) < limit:
            idle = idle + 1 if len(lane.queue) == known else 0
            known = len(lane.queue)
            await asyncio.sleep(0)

    def _take(self, lane: Lane[Any, Any]) -> list[tuple[Any, asyncio.Future[Any]]]:
        limit = lane.limit(self.target_s)
        done = time.perf_counter() + lane.cost(min(limit, len(lane.queue)))
        taken: list[tuple[Any, asyncio.Future[Any]]] = []
        while lane.queue and len(taken) < limit:
            job, deadline, future = lane.queue.popleft()
            if future.done():  # the caller went away
                continue
            if deadline < done:
                future.set_exception(LateError(lane.name))
                continue
            taken.append((job, future))
        return taken
