"""The products as arrays of term numbers, and queries in the same numbers.

Shapes: V products, N terms of the vocabulary, L = `LENGTH` places of a product's text. `places`
is (V, L) with -1 behind the end, `sizes` is (V, S) with the measures and shapes of the title.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import bm25s
import numpy as np
from numpy.typing import NDArray

from model.search.spelling import Speller
from model.search.tables import Entry
from model.search.text import Term, head_length, measures, plain, shapes, stem, terms

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]

LENGTH = 40
SIZES = 8
MAX_QUERY = 24  # terms of a query
UNKNOWN = -2


@dataclass(frozen=True)
class Query:
    """An analysed query: M terms by number (`UNKNOWN` where the catalogue has none)."""

    terms: tuple[str, ...]
    ids: Ints  # (M,)
    numeric: NDArray[np.bool_]  # (M,)
    unit: NDArray[np.bool_]  # (M,)
    sizes: tuple[int, ...]
    joins: tuple[int, ...]
    corrected: int


class Catalogue:
    """Everything that is counted from the products alone."""

    def __init__(
        self, ids: list[str], vocabulary: list[str], words: dict[str, int],
        places: Ints, sizes: Ints, heads: Ints,
    ) -> None:  # fmt: skip
        self.ids, self.vocabulary, self.words = ids, vocabulary, words
        self.places, self.sizes = places, sizes
        self.heads = heads  # (V,) terms of the part that names the thing
        self.index = {text: number for number, text in enumerate(vocabulary)}
        self.speller = Speller(words)

    def __len__(self) -> int:
        return len(self.ids)

    def query(self, text: str) -> Query:
        """Analyse, correct and number a query."""
        analysed = terms(text)
        kept: list[Term] = []
        corrected = 0
        for term in plain(analysed)[:MAX_QUERY]:
            meant = (term.word,)
            # an unknown form of a known stem ("drilled") is no typing error
            if term.kind == "word" and (term.text not in self.index or term.word in self.words):
                meant = self.speller.correct(term.word)
            if meant == (term.word,):
                kept.append(term)
            else:
                corrected += 1
                kept += [Term(stem(word), word, "word") for word in meant]
        joins = [term.text for term in analysed if term.kind == "join"]
        joins += [
            stem(left.word + right.word)
            for left, right in pairwise(kept)
            if left.kind == right.kind == "word" and left.word + right.word in self.words
        ]
        index = self.index
        sizes = [*shapes(analysed), *measures(analysed)]
        return Query(
            terms=tuple(term.text for term in kept),
            ids=np.array([index.get(term.text, UNKNOWN) for term in kept], np.int32),
            numeric=np.array([term.kind == "number" for term in kept], bool),
            unit=np.array([term.kind == "unit" for term in kept], bool),
            sizes=tuple(index[text] for text in sizes if text in index),
            joins=tuple(index[text] for text in dict.fromkeys(joins) if text in index),
            corrected=corrected,
        )


def build(
    entries: Sequence[Entry], watch: Callable[[int, int], None] = lambda _done, _all: None
) -> Catalogue:
    """Number the terms of every product; `watch` hears products done and products in all."""
    numbers: dict[str, int] = {}
    words: Counter[str] = Counter()
    ids: list[str] = []
    rows: list[list[int]] = []
    sizes: list[list[int]] = []
    heads: list[int] = []

    def number(text: str) -> int:
        return numbers.setdefault(text, len(numbers))

    for done, entry in enumerate(entries):
        analysed = terms(entry.title)
        title = plain(analysed)
        body = plain(terms(entry.body)) if entry.body else []
        words.update(term.word for term in title + body if term.kind == "word")
        ids.append(entry.id)
        rows.append([number(term.text) for term in (title + body)[:LENGTH]])
        sizes.append([number(text) for text in [*shapes(analysed), *measures(analysed)][:SIZES]])
        watch(done + 1, len(entries))
        heads.append(max(1, min(head_length(entry.title), len(title), LENGTH)))
    return Catalogue(
        ids, list(numbers), dict(words), _padded(rows, LENGTH), _padded(sizes, SIZES),
        np.array(heads, np.int32),
    )  # fmt: skip


def _padded(rows: list[list[int]], width: int) -> Ints:
    out = np.full((len(rows), width), -1, np.int32)
    for place, row in enumerate(rows):
        out[place, : len(row)] = row
    return out


class Lexical:
    """BM25 (library `bm25s`) over the stems and shapes of a catalogue."""

    def __init__(self, catalogue: Catalogue, k1: float = 1.2, b: float = 0.75) -> None:
        joined = np.concatenate([catalogue.places, catalogue.sizes], axis=1)
        shape = np.array(["x" in t and t[0].isdigit() for t in catalogue.vocabulary] or [False])
        keep = joined >= 0
        keep[:, LENGTH:] &= shape[joined[:, LENGTH:]]  # measures are features, not terms
        rows = [row[mask].tolist() for row, mask in zip(joined, keep, strict=True)]
        vocabulary = {text: number for number, text in enumerate(catalogue.vocabulary)}
        self._bm25 = bm25s.BM25(k1=k1, b=b)
        self._bm25.index((rows, vocabulary), show_progress=False)
        self._count = len(catalogue)
        documents = np.zeros(len(catalogue.vocabulary), np.int64)
        for row in rows:
            documents[list(set(row))] += 1
        self.documents = documents  # (N,) products that hold each term
        self.idf: Floats = np.log1p((self._count - documents + 0.5) / (documents + 0.5)).astype(
            np.float32
        )
        self.idf_unknown = math.log1p(self._count / 0.5)

    def scores(self, query: Query) -> Floats:
        """BM25 of every product, (V,); zeros if no term is known."""
        known = [int(i) for i in query.ids if i >= 0 and self.documents[i] > 0]
        known += [i for i in (*query.sizes, *query.joins) if self.documents[i] > 0]
        if not known:
            return np.zeros(self._count, np.float32)
        return self._bm25.get_scores_from_ids(known)
