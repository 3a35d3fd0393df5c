"""Evens out kept connections between the workers of one service.

All workers accept from one socket, and who is awake takes what comes: of 48 connections one worker
may get 45, and keeps them for as long as the clients do, while another idles. So each worker tells
the others how many requests it has under way, and one with more than its share ends some of its
connections with their answers (`Connection: close`, RFC 9112 section 9.6); their clients connect
anew. No request is refused or cut for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import struct
import time
from pathlib import Path

from bento import metrics
from bento.guard import Admission

PERIOD_S = 0.2  # between two looks at the others
STALE_S = 2.0  # a worker that told nothing for so long has ended, or is stuck
# Requests above the mean that are left alone, at least and as a share of it: moving fewer brings
# less than the new connections cost.
FEW, SHARE = 1.0, 0.2
# when it was told (CLOCK_MONOTONIC, the same in all processes), and the requests under way
_TOLD = struct.Struct("<dd")


class Balance:
    """One worker's part; `folder` is shared by all workers of `service`, and by other services."""

    def __init__(self, folder: Path, service: str, worker: str) -> None:
        self._folder, self._others = folder, f"{service}-*.underway"
        self._own = folder / f"{service}-{worker}.underway"
        self._surplus = 0
        self._task: asyncio.Task[None] | None = None

    def look(self, under_way: float, now: float) -> None:
        """Tell how much is under way here, and see how many connections are too many."""
        self._own.write_bytes(_TOLD.pack(now, under_way))
        told = [under_way]
        for path in self._folder.glob(self._others):
            if path == self._own:
                continue
            with contextlib.suppress(OSError, struct.error):  # being written, or removed
                when, count = _TOLD.unpack(path.read_bytes())
                if now - when < STALE_S:
                    told.append(count)
                else:
                    path.unlink()
        mean = sum(told) / len(told)
        above = under_way - mean
        # half of it: some of those that connect anew come back to where they were
        self._surplus = math.ceil(above / 2) if above > max(FEW, SHARE * mean) else 0

    def end(self) -> bool:
        """Whether the answer that is about to be sent ends its connection."""
        if not self._surplus:
            return False
        self._surplus -= 1
        metrics.REBALANCED.inc()
        return True

    def start(self, admission: Admission) -> None:
        """Begin looking; needs a running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._watch(admission), name="balance")

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._own.unlink(missing_ok=True)

    async def _watch(self, admission: Admission) -> None:
        while True:
            with contextlib.suppress(OSError):  # a full disk: as it was without balance
                self.look(admission.usual, time.monotonic())
            await asyncio.sleep(PERIOD_S)
