"""The processes of one run: alone, or several started by `torchrun`.

`torchrun` sets RANK, WORLD_SIZE and LOCAL_RANK; without them a run is alone. Workers agree through
gloo on CPUs and NCCL on GPUs. When a worker dies, torchrun starts all of them again (maybe fewer)
and each reads the last saved state: nothing here has to repair a group.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")
MEETING = timedelta(minutes=3)
"""A neighbour that died before all have met is given up after this; torchrun starts them again."""
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
            dist.init_process_group(self._backend(), timeout=MEETING)
            # the public call gives one time to both
            cast("Any", dist.distributed_c10d)._set_pg_timeout(WORK, dist.group.WORLD)
        self._started = True

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
