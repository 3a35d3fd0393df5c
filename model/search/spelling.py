"""Spelling from the catalogue's own vocabulary: no word list of a language is needed.

A word that the catalogue does not hold becomes the closest word that it holds (transpositions
count as one edit), the more frequent one on a tie; failing that it is split in two known words.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

from rapidfuzz import process
from rapidfuzz.distance import OSA

SHORTEST = 4  # letters; shorter words have too many neighbours
RARE = 2  # a known word this rare may itself be a typing error ...
MANY = 100  # ... of a neighbour so many times as frequent
_COST_FIRST = 0.7  # typing errors seldom hit the first letter
_WEIGHT_COUNT = 0.15  # edits that one e-fold of frequency is worth


class Speller:
    """Corrects single lower-case words; `counts` says how often the catalogue holds each."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        self.counts = dict(counts)
        self._by_length: dict[int, list[str]] = defaultdict(list)
        for word in sorted(self.counts):
            if len(word) >= SHORTEST - 1:
                self._by_length[len(word)].append(word)
        self._known: dict[str, tuple[str, ...]] = {}

    def correct(self, word: str) -> tuple[str, ...]:
        """What was probably meant: mostly the word itself, sometimes another, sometimes two."""
        if word not in self._known:
            if len(self._known) > 100_000:  # a service runs for long
                self._known.clear()
            self._known[word] = self._correct(word)
        return self._known[word]

    def _correct(self, word: str) -> tuple[str, ...]:
        count = self.counts.get(word, 0)
        if len(word) < SHORTEST or len(word) > 40 or count > RARE:
            return (word,)
        best = self._closest(word, 1 if count or len(word) < 6 else 2)
        if count:
            often = best is not None and self.counts[best] >= MANY * count and len(word) >= 6
            return (best,) if best is not None and often else (word,)
        pair = self._split(word)
        if best is not None and (pair is None or OSA.distance(word, best) <= 1):
            return (best,)
        return pair or (word,)

    def _closest(self, word: str, edits: int) -> str | None:
        lengths = range(len(word) - edits, len(word) + edits + 1)
        near = [
            (self._cost(word, other, int(distance)), other)
            for length in lengths
            for other, distance, _ in process.extract(
                word, self._by_length.get(length, []), scorer=OSA.distance,
                score_cutoff=edits, limit=30,
            )
            if other != word
        ]  # fmt: skip
        return min(near)[1] if near else None

    def _cost(self, word: str, other: str, distance: int) -> float:
        first = _COST_FIRST if word[0] != other[0] else 0.0
        return distance + first - _WEIGHT_COUNT * math.log(self.counts[other])

    def _split(self, word: str) -> tuple[str, str] | None:
        pairs = [
            (min(self.counts.get(word[:at], 0), self.counts.get(word[at:], 0)), at)
            for at in range(3, len(word) - 2)
        ]
        count, at = max(pairs, default=(0, 0))
        return (word[:at], word[at:]) if count >= 5 else None
