"""Both legs side by side, and the candidates that they hand on."""

from __future__ import annotations

import numpy as np

from model.search.catalogue import Catalogue, Floats, Ints, Lexical, Query
from model.search.dense import DenseIndex
from model.search.features import Found

LEXICAL_DEPTH = 150
DENSE_DEPTH = 100
FUSION_OFFSET = 20  # of reciprocal rank fusion; smaller trusts the first places more


def best(scores: Floats, k: int) -> Ints:
    """Places of the k highest scores, best first, ties to the lower place."""
    k = min(k, len(scores))
    if k < 1:
        return np.zeros(0, np.int32)
    edge = np.partition(scores, len(scores) - k)[len(scores) - k]
    found = np.flatnonzero(scores >= edge)
    return found[np.argsort(-scores[found], kind="stable")][:k].astype(np.int32)


def fuse(lexical_rank: Ints, dense_rank: Ints, dense_weight: float) -> Floats:
    """Reciprocal rank fusion of ranks that count from 0, (C,) each."""
    fused = 1.0 / (FUSION_OFFSET + lexical_rank) + dense_weight / (FUSION_OFFSET + dense_rank)
    return fused.astype(np.float32)


class Legs:
    """Lexical and dense retrieval over one catalogue."""

    def __init__(self, catalogue: Catalogue, lexical: Lexical, dense: DenseIndex) -> None:
        self.catalogue, self.lexical, self.dense = catalogue, lexical, dense

    def scores(self, query: Query) -> tuple[Floats, Floats]:
        """Lexical and dense scores of every product, (V,) each."""
        return self.lexical.scores(query), self.dense.products @ self.dense.vector(query)

    def find(self, query: Query, dense_weight: float, depth: int | None = None) -> Found:
        """The candidates of a query: both legs' best, fused by reciprocal rank."""
        lexical, dense = self.scores(query)
        first = best(lexical, depth or LEXICAL_DEPTH)
        first = first[lexical[first] > 0]
        second = best(dense, depth or DENSE_DEPTH)
        items = np.union1d(first, second).astype(np.int32)
        by_lexical = _ranks(first, items)
        by_dense = _ranks(second, items)
        fused = fuse(by_lexical, by_dense, dense_weight)
        order = np.argsort(-fused, kind="stable")
        items = items[order]
        return Found(
            items, lexical[items], dense[items], by_lexical[order], by_dense[order],
            fused[order],
        )  # fmt: skip


def _ranks(leg: Ints, items: Ints) -> Ints:
    """Rank of each item in a leg's list; its length times two where the leg has it not."""
    out = np.full(len(items), 2 * max(len(leg), 1), np.int32)
    out[np.searchsorted(items, leg)] = np.arange(len(leg), dtype=np.int32)
    return out
