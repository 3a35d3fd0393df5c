"""Search metrics by query; gains are linear, products without a judgement have gain 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

RELEVANT = 2 / 3  # of the highest gain: what counts as relevant for recall and MRR


def ndcg(ranked: Sequence[int], gains: Mapping[int, float], k: int = 10) -> float:
    """Discounted gain of the first k over that of the best order; 0 if nothing has a gain."""
    found = [gains.get(item, 0.0) for item in ranked[:k]]
    ideal = sorted(gains.values(), reverse=True)[:k]
    whole = _discounted(ideal)
    return _discounted(found) / whole if whole > 0 else 0.0


def _discounted(gains: Sequence[float]) -> float:
    if not gains:
        return 0.0
    return float(np.asarray(gains) @ (1 / np.log2(np.arange(2, len(gains) + 2))))


def measure(
    ranked: Sequence[int], gains: Mapping[int, float], highest: float, k: int = 10, depth: int = 100
) -> dict[str, float]:
    """All figures of one query from its first `depth` finds.

    `judged_ndcg@k` leaves products without a judgement out of the list before it is cut at k;
    `recall` and `mrr` are NaN if the query has no relevant product.
    """
    kept = list(ranked[:depth])
    relevant = {item for item, gain in gains.items() if gain >= RELEVANT * highest - 0.01}
    first = next((place for place, item in enumerate(kept) if item in relevant), None)
    return {
        f"ndcg@{k}": ndcg(kept, gains, k),
        f"judged_ndcg@{k}": ndcg([item for item in kept if item in gains], gains, k),
        f"recall@{depth}": (
            len(relevant & set(kept)) / len(relevant) if relevant else float("nan")
        ),
        "mrr": (0.0 if first is None else 1 / (first + 1)) if relevant else float("nan"),
    }


def summary(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over queries, those without a relevant product left out where it has no meaning."""
    if not rows:
        raise ValueError("no judged query; give queries that have a product with a gain")
    return {name: float(np.nanmean([row[name] for row in rows])) for name in rows[0]}
