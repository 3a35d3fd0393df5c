"""The k best of each row of scores, for many rows at once.

Shapes: B rows, V items. Best first, ties to the lower item, nothing that is out of reach (-inf).
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor

Best = list[tuple[int, float]]
BLOCK = 64  # items, about the square root of a catalogue of thousands


def best_of(scores: Tensor, k: int) -> list[Best]:
    """(item, score) pairs of every row of scores (B, V) on the CPU; fewer where fewer are left."""
    count = min(k, scores.shape[1])
    # one more than asked for shows whether the last place is contested by an equal score
    values, places = (t.numpy() for t in _largest(scores, min(count + 1, scores.shape[1])))
    edge = values[:, count - 1]
    contested = np.isfinite(edge) & (values[:, count:] == edge[:, None]).any(axis=1)
    values, places = values[:, :count], places[:, :count]
    order = np.lexsort((places, -values))
    values, places = np.take_along_axis(values, order, 1), np.take_along_axis(places, order, 1)
    left = np.isfinite(values).sum(axis=1)
    found = [
        list(zip(row[:n].tolist(), score[:n].tolist(), strict=True))
        for row, score, n in zip(places, values, left, strict=True)
    ]
    for row in np.flatnonzero(contested):
        found[row] = _contested(scores[row], count)
    return found


def _largest(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`scores.topk(count, dim=1)`, exact: places may differ where the last value is a tie.

    Only `count` blocks can hold one of the `count` largest, those with the largest maxima, and
    maxima are found sooner than the k best of a whole row.
    """
    rows, items = scores.shape
    whole = items - items % BLOCK
    if (count + 1) * BLOCK * 2 > whole:
        return cast("tuple[Tensor, Tensor]", scores.topk(count, dim=1))
    heads = scores[:, :whole].unflatten(1, (-1, BLOCK)).amax(2).topk(count, dim=1, sorted=False)
    within = (heads.indices[:, :, None] * BLOCK + torch.arange(BLOCK)).flatten(1)
    after = torch.arange(whole, items).expand(rows, -1)
    candidates = torch.cat([within, after], dim=1)
    values, at = scores.gather(1, candidates).topk(count, dim=1)
    return values, candidates.gather(1, at)


def _contested(scores: Tensor, count: int) -> Best:
    """The same for one row (V,): everything at the last place's score competes."""
    edge = scores.topk(count).values[-1]
    competing = torch.nonzero(scores >= edge)[:, 0]
    order = torch.argsort(scores[competing], descending=True, stable=True)[:count]
    places = cast("list[int]", competing[order].tolist())
    return list(zip(places, cast("list[float]", scores[competing[order]].tolist()), strict=True))
