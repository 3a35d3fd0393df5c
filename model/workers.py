"""The processes of one run: alone, or several started by `torchrun`.

`torchrun` sets RANK, WORLD_SIZE and LOCAL_RANK; without them a run is alone. Workers agree through
gloo on CPUs and NCCL on GPUs. When a worker dies, torchrun starts all of them again (maybe fewer)
and each reads the last saved state: nothing here has to repair a group.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")
ARRIVAL = timedelta(minutes=5)
"""Longest wait for a neighbour to start; torchrun starts them all again after it."""
MEETING = timedelta(seconds=30)
"""Of one try to connect with each other. Gloo now and then loses a connection while it is made, and
both ends wait for the other: seen on a loaded machine, once in five starts."""
TRIES = 5
WORK = timedelta(minutes=10)
"""Longest that one worker may keep the others waiting: the first one prepares the data."""


class Workers:
    """This process' place among the workers, and its device."""

    def __init__(self, device: str = "auto") -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(f"cuda:{local}" if device == "cuda" else device)
        self._started = False

    @property
    def first(self) -> bool:
        """Whether this worker writes files and talks to the user."""
        return self.rank == 0

    def start(self, always: bool = False) -> None:
        """Join the group; a run alone needs none unless parameters are sharded (`always`)."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        if self.count == 1 and not always:
            return
        if "MASTER_ADDR" not in os.environ:  # sharded but alone: a group of one
            store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
            dist.init_process_group(self._backend(), store=store, rank=0, world_size=1)
        else:
            self._meet()
        self._started = True

    def _meet(self) -> None:
        """Connect with the other workers, again if a connection was lost while it was made."""
        torch_dist = cast("Any", dist)
        store, rank, count = next(torch_dist.rendezvous("env://", timeout=ARRIVAL))
        for attempt in range(1, TRIES + 1):
            # all are there before the short time of a try begins; each try has keys of its own
            place = torch_dist.PrefixStore(f"meeting/{attempt}", store)
            place.set(f"here/{rank}", "yes")
            place.wait([f"here/{other}" for other in range(count)], ARRIVAL)
            try:
                dist.init_process_group(
                    self._backend(), store=place, rank=rank, world_size=count, timeout=MEETING
                )
            except (RuntimeError, ValueError) as error:
                if attempt == TRIES:
                    raise
                told = f"worker {rank}: no connection at try {attempt} of {TRIES}: {error}"
                print(told, file=sys.stderr, flush=True)
                continue
            # older torch has it under a private name alone
            private = torch_dist.distributed_c10d._set_pg_timeout
            getattr(torch_dist, "set_timeout", private)(WORK, dist.group.WORLD)
            return

    def _backend(self) -> str:
        return "nccl" if self.device.type == "cuda" else "gloo"

    def stop(self) -> None:
        """Leave the group."""
        if self._started:
            dist.destroy_process_group()
            self._started = False

    def mean(self, value: Tensor) -> float:
        """The mean of a scalar over workers, on every worker."""
        if self.count > 1:
            dist.all_reduce(value)
            value = value / self.count
        return value.item()

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first worker makes, on every worker. Others wait; errors reach all."""
        if self.count == 1:
            return make()
        box: list[Any] = [make() if self.first else None]
        dist.broadcast_object_list(box, src=0)
        return cast("T", box[0])

    def barrier(self) -> None:
        """Wait for all workers."""
        if self.count > 1:
            dist.barrier()

    @contextmanager
    def whole(self, objective: nn.Module, sharded: bool) -> Generator[None]:
        """The tables outside the blocks in one piece on every worker, inside a `with`."""
        if not sharded:
            yield
            return
        cast("Any", objective).unshard()
        try:
            yield
        finally:
            cast("Any", objective).reshard()

    def shard(self, objective: nn.Module) -> None:
        """Shard parameters over the workers (FSDP2): each block by itself, the rest together.

        The network is no unit of its own: the objective calls its parts, not its `forward`.
        """
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self.device.type, (self.count,))
        net = cast("Any", objective).net
        for block in net.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(objective, mesh=mesh)
