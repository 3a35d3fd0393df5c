"""The k best of each row of scores, for many rows at once.

Shapes: B rows, V items. Best first, ties to the lower item, nothing that is out of reach (-inf).
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor

Best = list[tuple[int, float]]


def best_of(scores: Tensor, k: int) -> list[Best]:
    """(item, score) pairs of every row of scores (B, V) on the CPU; fewer where fewer are left."""
    count = min(k, scores.shape[1])
    # one more than asked for shows whether the last place is contested by an equal score
    values, places = (t.numpy() for t in scores.topk(min(count + 1, scores.shape[1]), dim=1))
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


def _contested(scores: Tensor, count: int) -> Best:
    """The same for one row (V,): everything at the last place's score competes."""
    edge = scores.topk(count).values[-1]
    competing = torch.nonzero(scores >= edge)[:, 0]
    order = torch.argsort(scores[competing], descending=True, stable=True)[:count]
    places = cast("list[int]", competing[order].tolist())
    return list(zip(places, cast("list[float]", scores[competing[order]].tolist()), strict=True))
