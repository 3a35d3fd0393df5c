"""Item-to-item links: which items follow from one item, learned in closed form.

EASE (Steck 2019): B = argmin |X - X B|^2 + l2 |B|^2 with a zero diagonal, for binary user-item X.
A history's score of item v is the sum over its events, the latest first with weight 1 and each
older one `exp(-decay)` less, of B[event, v]. Only each item's `top` strongest links are kept, so
serving costs `top` additions an event. Over `EXACT_ITEMS` items the V x V inverse no longer fits
comfortably; there a link is the shrunk cosine of two items' co-occurrence counts.

Shapes: V items, K links an item; `items` and `weights` are (V, K).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.corpus import Corpus

EXACT_ITEMS = 16_000  # 16,000^2 floats: 1 GB, and about two minutes of two cores
RECENT = 100  # events of a history that take part
CELLS = 64_000_000  # links kept in all: 512 MB


@dataclass(frozen=True)
class Links:
    """The strongest links of every item; `weights` are 0 where an item has fewer."""

    items: Tensor  # (V, K) int64
    weights: Tensor  # (V, K) float32

    def score(self, histories: Sequence[NDArray[np.int64]], decay: float) -> Tensor:
        """Dense scores (B, V) of B histories."""
        return self.add(torch.zeros(len(histories), len(self.items)), histories, decay)

    def add(
        self,
        scores: Tensor,
        histories: Sequence[NDArray[np.int64]],
        decay: float,
        weight: float = 1.0,
    ) -> Tensor:
        """Add `weight` times the histories' scores to scores (B, V), in place."""
        count = len(self.items)
        recent = [history[-RECENT:] for history in histories]
        lengths = [len(items) for items in recent]
        if sum(lengths):
            # all rows in one addition: called once per history, the calls cost more than the sums
            events = torch.from_numpy(np.concatenate(recent))
            age = torch.from_numpy(np.concatenate([np.arange(n - 1, -1, -1) for n in lengths]))
            row = torch.from_numpy(np.repeat(np.arange(len(histories)), lengths))
            weights = self.weights[events] * torch.exp(-decay * age)[:, None]
            places = self.items[events] + row[:, None] * count
            scores.view(-1).index_add_(0, places.flatten(), weights.flatten(), alpha=weight)
        return scores

    def strongest(
        self, history: NDArray[np.int64], decay: float
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Every item that a history links to, ascending, and its score: `score` without zeros."""
        recent = torch.from_numpy(np.ascontiguousarray(history[-RECENT:]))
        age = torch.arange(len(recent) - 1, -1, -1)
        weights = (self.weights[recent] * torch.exp(-decay * age)[:, None]).flatten().numpy()
        items, place = np.unique(self.items[recent].flatten().numpy(), return_inverse=True)
        return items, np.bincount(place, weights, minlength=len(items)).astype(np.float32)


def learn_links(
    corpus: Corpus, l2: float = 100.0, top: int = 256, say: Callable[[str], None] | None = None
) -> Links:
    """Links of a corpus: EASE where the catalogue allows it, else shrunk cosine."""
    count = len(corpus.items)
    top = min(top, count, max(16, CELLS // count))
    if count > EXACT_ITEMS:
        if say is not None:
            say(f"{count} items are over {EXACT_ITEMS}: links from co-occurrence, not EASE")
        return _cosine_links(corpus, top)
    gram = _co_occurrence(corpus)
    gram.diagonal().add_(l2)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    del gram
    weights = inverse / -inverse.diagonal()[None]
    del inverse
    weights.fill_diagonal_(0)
    strongest = weights.abs().topk(top, dim=1).indices
    return Links(strongest, weights.gather(1, strongest))


def _distinct(corpus: Corpus, longest: int) -> list[NDArray[np.int64]]:
    return [np.unique(corpus.sequence(u)[-longest:]) for u in range(len(corpus))]


def _co_occurrence(corpus: Corpus, longest: int = 1000) -> Tensor:
    """How many users have both items, (V, V), by whichever way touches fewer numbers."""
    count = len(corpus.items)
    baskets = _distinct(corpus, longest)
    pairs = sum(len(b) ** 2 for b in baskets)
    gram = torch.zeros(count, count)
    if pairs > 2e8:
        for first in range(0, len(baskets), 1024):
            chunk = baskets[first : first + 1024]
            seen = torch.zeros(len(chunk), count)
            for row, basket in enumerate(chunk):
                seen[row, torch.from_numpy(basket)] = 1.0
            gram.addmm_(seen.T, seen)
        return gram
    flat = gram.view(-1)
    pending: list[NDArray[np.int64]] = []
    waiting = 0
    for basket in baskets:
        pending.append((basket[:, None] * count + basket[None]).ravel())
        waiting += len(pending[-1])
        if waiting > 4_000_000:
            _add_ones(flat, pending)
            pending, waiting = [], 0
    _add_ones(flat, pending)
    return gram


def _add_ones(flat: Tensor, places: list[NDArray[np.int64]]) -> None:
    if places:
        at = torch.from_numpy(np.concatenate(places))
        flat.index_add_(0, at, torch.ones(len(at)))


def _cosine_links(corpus: Corpus, top: int, window: int = 10, shrink: float = 10.0) -> Links:
    """Shrunk cosine of co-occurrence within `window` events; memory grows with the pairs seen."""
    count = len(corpus.items)
    keys: list[NDArray[np.int64]] = []
    user_of = np.repeat(np.arange(len(corpus)), corpus.lengths)
    for gap in range(1, window + 1):
        same = user_of[gap:] == user_of[:-gap]
        a, b = corpus.events[:-gap][same], corpus.events[gap:][same]
        keys += [a * count + b, b * count + a]
    pair, together = np.unique(np.concatenate(keys), return_counts=True)
    left, right = pair // count, pair % count
    apart = left != right
    left, right, together = left[apart], right[apart], together[apart]
    seen = np.maximum(corpus.popularity(), 1)
    weight = together / (np.sqrt(seen[left] * seen[right]) + shrink)
    order = np.lexsort((right, -weight, left))
    left, right, weight = left[order], right[order], weight[order]
    rank = np.arange(len(left)) - np.searchsorted(left, left)
    kept = rank < top
    items = np.zeros((count, top), np.int64)
    weights = np.zeros((count, top), np.float32)
    items[left[kept], rank[kept]] = right[kept]
    weights[left[kept], rank[kept]] = weight[kept]
    return Links(torch.from_numpy(items), torch.from_numpy(weights))
