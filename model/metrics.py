"""Ranking metrics by leave-one-out: one held-out item a user, ranked against the whole catalogue.

A rank counts from 0. Seen items are removed before ranking, ties go to the lower item index, and
a target that cannot be recommended (seen already) has rank `MISSED`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MISSED = np.iinfo(np.int64).max

Ranks = NDArray[np.int64]


def mask_seen(scores: Tensor, histories: Sequence[NDArray[np.int64]]) -> Tensor:
    """Put every history's items out of reach, in place: scores (B, V)."""
    rows = np.repeat(np.arange(len(histories)), [len(h) for h in histories])
    columns = np.concatenate(histories) if len(histories) else np.zeros(0, np.int64)
    scores[torch.from_numpy(rows), torch.from_numpy(columns)] = float("-inf")
    return scores


def rank_of(scores: Tensor, targets: NDArray[np.int64]) -> Ranks:
    """Rank of each row's target: scores (B, V) with unreachable items at -inf, targets (B,)."""
    at = torch.from_numpy(targets).to(scores.device)[:, None]
    own = scores.gather(1, at)
    lower = torch.arange(scores.shape[1], device=scores.device)[None] < at
    ahead = ((scores > own) | ((scores == own) & lower)).sum(1)
    ranks = ahead.cpu().numpy().astype(np.int64)
    ranks[torch.isinf(own[:, 0]).cpu().numpy()] = MISSED
    return ranks


def gains(ranks: Ranks, k: int = 10) -> dict[str, NDArray[np.float64]]:
    """Per-user HR@k, NDCG@k (one relevant item, so 1 / log2(rank + 2)) and reciprocal rank."""
    place = ranks.astype(np.float64)
    hit = place < k
    return {
        f"hr@{k}": hit.astype(np.float64),
        f"ndcg@{k}": np.where(hit, 1.0 / np.log2(place + 2.0), 0.0),
        "mrr": np.where(ranks == MISSED, 0.0, 1.0 / (place + 1.0)),
    }


def summary(ranks: Ranks, k: int = 10) -> dict[str, float]:
    """Means of `gains`."""
    if len(ranks) == 0:
        raise ValueError("no ranked user; hold out at least one item")
    return {name: float(values.mean()) for name, values in gains(ranks, k).items()}


def bootstrap(
    values: NDArray[np.float64], rounds: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean when users are drawn again with replacement."""
    rng = np.random.default_rng(seed)
    means = np.empty(rounds)
    for each in range(rounds):
        means[each] = values[rng.integers(0, len(values), len(values))].mean()
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def coverage(lists: NDArray[np.int64], items: int) -> float:
    """Share of the catalogue that occurs in any recommended list; -1 fills short lists."""
    shown = np.unique(lists[lists >= 0])
    return len(shown) / items


def popularity_bias(lists: NDArray[np.int64], popularity: NDArray[np.int64]) -> Mapping[str, float]:
    """How far lists lean to what is popular already.

    `mean_percentile`: where a recommended item stands by popularity, 1 = the most popular.
    `gini`: inequality of exposure over the catalogue, 0 = equal. `lift`: mean popularity of what
    is recommended over that of what was consumed; 1 = no amplification.
    """
    shown = lists[lists >= 0]
    order = np.argsort(np.argsort(popularity, kind="stable"), kind="stable")
    percentile = (order + 1) / len(popularity)
    exposure = np.sort(np.bincount(shown, minlength=len(popularity)).astype(np.float64))
    place = np.arange(1, len(exposure) + 1)
    total = exposure.sum()
    gini = float((2 * place - len(exposure) - 1) @ exposure / (len(exposure) * total))
    consumed = float((popularity.astype(np.float64) ** 2).sum() / popularity.sum())
    return {
        "mean_percentile": float(percentile[shown].mean()),
        "gini": gini,
        "lift": float(popularity[shown].mean()) / consumed,
    }
