"""What the reranker knows of a (query, product) pair: C candidates of one query -> (C, F).

No feature names a product or counts how often it was judged: those would learn which products the
judgements happen to hold, not what fits a query.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.search.catalogue import LENGTH, Catalogue, Floats, Ints, Lexical, Query
from model.search.dense import DenseIndex

Column = NDArray[Any] | float

FEEDBACK = 10  # first finds whose common traits count

NAMES = (
    "lexical", "lexical_share", "lexical_rank", "dense", "dense_gap", "dense_rank", "fused",
    "covered", "hits", "misses", "worst_miss", "covered_words", "covered_numbers",
    "number_misses", "covered_sizes", "last_hit", "first_hit", "last_place", "last_to_head",
    "last_is_head", "in_head", "mean_place", "adjacent", "title_covered", "head_covered",
    "length", "head", "brand_hit", "brand_asked", "first_term_asked", "soft", "soft_worst",
    "soft_last", "soft_head", "soft_first", "query_terms", "query_numbers", "rarest", "weight",
    "corrected", "unknown", "lexical_best", "dense_best", "dense_feedback", "head_feedback",
    "brand_feedback", "covered_feedback", "title_idf",
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """Candidates of one query with the scores of both legs, best fused first."""

    items: Ints  # (C,)
    lexical: Floats
    dense: Floats
    lexical_rank: Ints  # from 0; candidates that a leg did not find stand behind its last
    dense_rank: Ints
    fused: Floats


class Features:
    """Computes features against one catalogue."""

    def __init__(self, catalogue: Catalogue, lexical: Lexical, dense: DenseIndex) -> None:
        self.catalogue, self.dense = catalogue, dense
        # one place more than terms, so that -1 (no term) and -2 (unknown) read harmless values
        self.idf = np.append(lexical.idf, [lexical.idf_unknown, 0.0]).astype(np.float32)
        self.units = _unit(dense.terms)
        places = catalogue.places
        self.length = (places >= 0).sum(1).astype(np.float32)
        first = np.bincount(places[:, 0][places[:, 0] >= 0], minlength=len(catalogue.vocabulary))
        share = first / np.maximum(lexical.documents, 1)
        self.brand = np.append(np.minimum(share, 1.0), [0.0, 0.0]).astype(np.float32)
        at = np.arange(len(places))
        self.head_term = places[at, catalogue.heads - 1]

    def of(self, query: Query, found: Found) -> Floats:
        """(C, F) in the order of `NAMES`."""
        count = len(query.ids)
        out = np.zeros((len(found.items), len(NAMES)), np.float32)
        if count == 0 or len(found.items) == 0:
            return out
        longest = max(1, int(self.length[found.items].max()))
        places = self.catalogue.places[found.items, :longest]  # (C, L)
        heads = self.catalogue.heads[found.items]
        same = places[None] == query.ids[:, None, None]  # (M, C, L)
        hit = same.any(2)
        place = np.where(hit, same.argmax(2), LENGTH)
        weight = self.idf[query.ids][:, None]  # (M, 1)
        real = ~query.unit
        word = real & ~query.numeric
        last = int(np.flatnonzero(word)[-1]) if word.any() else count - 1
        first = int(np.flatnonzero(word)[0]) if word.any() else 0
        columns: list[Column] = [
            *self._legs(found),
            *self._cover(query, hit, weight, real, word),
            self._sizes(query, found.items),
            *self._position(hit, place, heads, first, last),
            *self._title(same, places, heads, found.items),
            *self._brand(query, hit, places),
            *self._soft(query, places, found.items, weight, first, last),
            *self._query(query, weight, found),
            *self._feedback(found, places, hit, weight),
            self.idf[places].sum(1) / np.maximum(self.length[found.items], 1),
        ]
        for number, column in enumerate(columns):
            out[:, number] = column
        return out

    def _legs(self, found: Found) -> list[Column]:
        return [
            found.lexical,
            found.lexical / max(float(found.lexical.max()), 1e-6),
            np.log1p(found.lexical_rank),
            found.dense,
            found.dense - found.dense.max(),
            np.log1p(found.dense_rank),
            found.fused,
        ]

    def _cover(
        self,
        query: Query,
        hit: NDArray[Any],
        weight: Floats,
        real: NDArray[Any],
        word: NDArray[Any],
    ) -> list[Column]:
        def share(mask: NDArray[Any]) -> Floats:
            total = float(weight[mask].sum())
            if total == 0:
                return np.full(hit.shape[1], -1.0, np.float32)
            return (hit[mask] * weight[mask]).sum(0) / total

        missed = np.where(hit, 0.0, weight)
        numbers = query.numeric
        return [
            share(np.ones(len(word), bool)), hit[real].sum(0), (~hit[real]).sum(0),
            missed.max(0), share(word), share(numbers), (~hit[numbers]).sum(0),
        ]  # fmt: skip

    def _sizes(self, query: Query, items: Ints) -> Floats:
        if not query.sizes:
            return np.full(len(items), -1.0, np.float32)
        wanted = np.array(query.sizes)
        sizes = self.catalogue.sizes[items]
        return (sizes[None] == wanted[:, None, None]).any(2).mean(0).astype(np.float32)

    def _position(
        self, hit: NDArray[Any], place: NDArray[Any], heads: Ints, first: int, last: int
    ) -> list[Column]:
        follow = (place[1:] == place[:-1] + 1) & hit[1:] & hit[:-1]
        hits = np.maximum(hit.sum(0), 1)
        return [
            hit[last], hit[first], place[last],
            np.where(hit[last], heads - 1 - place[last], -LENGTH),
            place[last] == heads - 1,
            (place < heads).mean(0),
            np.where(hit, place, 0).sum(0) / hits,
            follow.sum(0) if len(place) > 1 else np.zeros(place.shape[1]),
        ]  # fmt: skip

    def _title(
        self, same: NDArray[Any], places: NDArray[Any], heads: Ints, items: Ints
    ) -> list[Column]:
        matched = same.any(0)  # (C, L)
        idf = self.idf[places] * (places >= 0)
        head = np.arange(places.shape[1])[None] < heads[:, None]
        return [
            (matched * idf).sum(1) / np.maximum(idf.sum(1), 1e-6),
            (matched & head).sum(1) / heads,
            self.length[items],
            heads,
        ]

    def _brand(self, query: Query, hit: NDArray[Any], places: NDArray[Any]) -> list[Column]:
        brand = self.brand[query.ids][:, None]
        return [
            (hit * brand).max(0),
            float(brand.max()),
            (places[:, :1] == query.ids[None]).any(1),
        ]

    def _soft(
        self, query: Query, places: NDArray[Any], items: Ints, weight: Floats, first: int, last: int
    ) -> list[Column]:
        """Late interaction: how near the closest term of the title comes to each query term."""
        asked = _unit(self.dense.term_vectors(query))
        unique, local = np.unique(places, return_inverse=True)
        vectors = self.units[np.maximum(unique, 0)]
        near = asked @ vectors.T  # (M, U)
        near[:, unique < 0] = -1.0
        best = near[:, local.reshape(places.shape)].max(2)  # (M, C)
        head = self.units[np.maximum(self.head_term[items], 0)]
        return [
            (best * weight).sum(0) / max(float(weight.sum()), 1e-6),
            best.min(0), best[last], (asked @ head.T).max(0), best[first],
        ]  # fmt: skip

    def _query(self, query: Query, weight: Floats, found: Found) -> list[Column]:
        return [
            float(len(query.ids)), float(query.numeric.sum()), float(weight.max()),
            float(weight.sum()), float(query.corrected), float((query.ids < 0).sum()),
            float(found.lexical.max()), float(found.dense.max()),
        ]  # fmt: skip

    def _feedback(
        self, found: Found, places: NDArray[Any], hit: NDArray[Any], weight: Floats
    ) -> list[Column]:
        """Agreement with the first finds: what most of them are is probably what is meant."""
        products = self.dense.products[found.items]
        top = slice(0, FEEDBACK)
        centre = products[top].mean(0)
        covered = (hit * weight).sum(0)
        head = self.head_term[found.items]
        return [
            products @ centre,
            (head[:, None] == head[None, top]).mean(1),
            (places[:, :1] == places[None, top, 0]).mean(1),
            covered - covered[top].mean(),
        ]


def _unit(vectors: Floats) -> Floats:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
