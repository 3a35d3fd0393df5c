"""Padding-free batches: sequences of unequal length laid end to end.

Shapes: B sequences, N = their total length. Everything but attention runs on (N, …). Attention
needs sequences side by side, so a `Group` maps runs of nearly equal length to a small rectangle
(b, T) and back. Rows are padded on the right, where a causal query never looks, so no mask is
needed and the padding's own outputs are dropped on the way back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

WASTE = 1.25  # longest over shortest sequence of one rectangle: at most a fifth of it is padding


class Group(NamedTuple):
    """One rectangle: `take` (b, T) are flat places, `real` the (n,) rectangle places to keep."""

    take: Tensor
    real: Tensor


class Packed(NamedTuple):
    """A batch of sequences, shortest first. `order[k]` is the caller's number of sequence k."""

    items: Tensor  # (N,)
    positions: Tensor  # (N,), the last event of a sequence always has the last position
    groups: list[Group]
    ends: Tensor  # (B,) flat place of each sequence's last event
    order: NDArray[np.int64]  # (B,)

    def to(self, device: torch.device) -> Packed:
        """The same batch on `device`."""
        moved = [Group(g.take.to(device), g.real.to(device)) for g in self.groups]
        return Packed(
            self.items.to(device),
            self.positions.to(device),
            moved,
            self.ends.to(device),
            self.order,
        )


def pack(sequences: Sequence[NDArray[np.int64]], max_length: int, waste: float = WASTE) -> Packed:
    """Lay non-empty sequences of at most `max_length` events end to end, shortest first."""
    unsorted = np.array([len(s) for s in sequences], dtype=np.int64)
    if len(unsorted) == 0 or unsorted.min() < 1 or unsorted.max() > max_length:
        raise ValueError(
            f"{len(unsorted)} sequences; give at least one, each with 1 to {max_length} events"
        )
    order = np.argsort(unsorted, kind="stable")
    lengths = unsorted[order]
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    items = np.concatenate([sequences[k] for k in order])
    within = np.arange(bounds[-1]) - np.repeat(bounds[:-1], lengths)
    positions = within + np.repeat(max_length - lengths, lengths)
    groups: list[Group] = []
    first = 0
    while first < len(lengths):
        limit = max(lengths[first] + 1, int(lengths[first] * waste))
        last = int(np.searchsorted(lengths, limit, side="right"))
        span = np.arange(lengths[last - 1])[None]
        real = span < lengths[first:last, None]
        take = np.where(real, bounds[first:last, None] + span, bounds[first:last, None])
        groups.append(Group(torch.from_numpy(take), torch.from_numpy(np.flatnonzero(real.ravel()))))
        first = last
    return Packed(
        torch.from_numpy(items.astype(np.int64)),
        torch.from_numpy(positions),
        groups,
        torch.from_numpy(bounds[1:] - 1),
        order,
    )
