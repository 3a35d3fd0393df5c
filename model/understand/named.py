"""Labels that a text says in so many words: "Scotch" in "Scotch Magic Tape, 3/4 in.".

A brand is often how a title begins. Among thousands of hashed features of a long description that
is one, so where a label is named becomes evidence of its own; how much it weighs is chosen on
products that the tagger has not learned. Shapes: B texts, L labels.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

WORD = re.compile(r"[^\W_]+")
_APOSTROPHE = re.compile(r"['`\u2018\u2019]")
HEAD = 16  # words, about a title
PLACES = 3  # at the start, in the head, later
STEPS = (0.0, 1.0, 2.0, 4.0, 8.0)  # what a place may add to a label's logit

Weights = tuple[float, ...]


def words_of(text: str) -> list[str]:
    """Lower-case words; "Elmer's" is "elmers"."""
    return WORD.findall(_APOSTROPHE.sub("", text.lower()))


class Names:
    """Finds the labels of a fixed list in texts."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._by_first: dict[str, list[tuple[list[str], int]]] = {}
        for place, label in enumerate(labels):
            if words := words_of(label):
                self._by_first.setdefault(words[0], []).append((words, place))
        for found in self._by_first.values():
            found.sort(key=lambda entry: -len(entry[0]))  # "3M Scotch" before "3M"

    def found(self, text: str) -> Iterator[tuple[int, int]]:
        """(label, place) of each label that the text names, at its first mention."""
        words = words_of(text)
        seen: set[int] = set()
        for at, word in enumerate(words):
            longest = 0
            for named, label in self._by_first.get(word, ()):
                if len(named) < longest:
                    break  # part of a longer name at the same word
                if words[at : at + len(named)] == named:
                    longest = len(named)
                    if label not in seen:
                        seen.add(label)
                        yield label, 0 if at == 0 else 1 if at < HEAD else 2

    def add(self, logits: Tensor, texts: Sequence[str], weights: Weights) -> Tensor:
        """logits (B, L) with what the names in the texts add, in place."""
        for row, text in enumerate(texts):
            for label, place in self.found(text):
                logits[row, label] += weights[place]
        return logits


def choose(
    names: Names, logits: Tensor, texts: Sequence[str], quality: Callable[[Tensor], float]
) -> Weights:
    """The least weights of best quality; a mention further on never weighs more."""
    tried = (
        w for w in itertools.product(STEPS, repeat=PLACES) if list(w) == sorted(w, reverse=True)
    )
    return max(tried, key=lambda w: (quality(names.add(logits.clone(), texts, w)), -sum(w)))
