"""Vectors for items that nobody has touched yet, from what is written about them.

Words of title and text, pairs of title words, brand, categories, tags and attributes are hashed
into `DIMENSIONS` places (weights: inverse document frequency, rows of length 1), and a ridge
regression in closed form maps them to the item vectors that training learned:
B = argmin sum_v n_v |x_v B - t_v|^2 + l2 |B|^2, n_v = log(1 + events of v). The strength of `l2` is
chosen on a tenth of the touched items. A cold item takes x B, scaled to the usual length.

Shapes: V items, D hashed places, W width.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.corpus import values_of
from model.net import Recommender

DIMENSIONS = 4096
FITTED_ITEMS = 50_000  # more say little new, and each costs D^2
STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0)
TEXT_WORDS = 150
LEAST_ITEMS = 50  # with fewer touched items there is nothing to learn a map from
CHUNK = 4096

_WORD = re.compile(r"\w+")
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ColdStart:
    """What was filled in; `cosine` is the mean to the true vectors of items left out of the fit."""

    items: int
    strength: float
    cosine: float


def words(row: dict[str, Any]) -> list[str]:
    """Every feature of an item row as one string each, without repeats."""
    title = _WORD.findall(str(row.get("title") or "").lower())
    text = " ".join(str(row.get(key) or "") for key in ("text", "description"))
    found = [f"title={word}" for word in title]
    found += [f"pair={a} {b}" for a, b in pairwise(title)]
    body = _WORD.findall(text.lower())[:TEXT_WORDS]
    found += [f"text={word}" for word in [*title, *body]]
    return list(dict.fromkeys([*found, *values_of(row)]))


class Hashed:
    """Hashed rows of items: `dense` makes the (n, D) matrix of some of them."""

    def __init__(self, bags: Sequence[Sequence[str]], dimensions: int = DIMENSIONS) -> None:
        self.dimensions = dimensions
        places = [
            np.unique(np.fromiter((zlib.crc32(w.encode()) % dimensions for w in bag), np.int64))
            for bag in bags
        ]
        self._places = places
        seen = np.bincount(np.concatenate([np.zeros(0, np.int64), *places]), minlength=dimensions)
        self._weight = np.log((1 + len(bags)) / (1 + seen)) + 1

    def __getitem__(self, items: Ints) -> Tensor:
        rows = torch.zeros(len(items), self.dimensions)
        for at, item in enumerate(items):
            places = self._places[item]
            if len(places):
                weight = self._weight[places]
                rows[at, torch.from_numpy(places)] = torch.from_numpy(
                    (weight / np.linalg.norm(weight)).astype(np.float32)
                )
        return rows

    def filled(self) -> NDArray[np.bool_]:
        """Which items have any feature at all."""
        return np.array([len(p) > 0 for p in self._places], dtype=bool)


def fill_cold_items(
    net: Recommender, rows: Sequence[dict[str, Any]], index: dict[str, int], events: Ints,
    seed: int = 0,
) -> ColdStart | None:  # fmt: skip
    """Give items without events a vector from their row, in place; `None` if none can get one.

    `rows` are item descriptions, `index` numbers the items, `events` (V,) counts their events.
    """
    bags: list[list[str]] = [[] for _ in range(len(index))]
    for row in rows:
        place = index.get(str(row["item_id"]))
        if place is not None:
            bags[place] = words(row)
    hashed = Hashed(bags)
    filled = hashed.filled()
    cold = np.flatnonzero((events == 0) & filled)
    warm = np.flatnonzero((events > 0) & filled)
    if not len(cold) or len(warm) < LEAST_ITEMS:
        return None
    rng = np.random.default_rng([seed, 5])
    warm = rng.permutation(warm)[:FITTED_ITEMS]
    weight = torch.from_numpy(np.log1p(events).astype(np.float32))
    with torch.no_grad():
        table = net.table().detach().float().cpu()
        matrix, strength, cosine = _fit(hashed, table, weight, warm)
        length = table[torch.from_numpy(warm)].norm(dim=1).median()
        for part in _chunks(cold):
            vectors = hashed[part] @ matrix
            vectors *= length / vectors.norm(dim=1, keepdim=True).clamp(min=1e-6)
            at = torch.from_numpy(part).to(net.item.weight.device)
            # the table adds the attributes' vectors again
            rest = net.rows(at) - net.item(at)
            net.item.weight[at] = vectors.to(at.device, net.item.weight.dtype) - rest
    return ColdStart(len(cold), strength, cosine)


def _fit(hashed: Hashed, table: Tensor, weight: Tensor, warm: Ints) -> tuple[Tensor, float, float]:
    """The map (D, W), its strength, and the mean cosine on a tenth left out of the choice."""
    left, kept = warm[: len(warm) // 10], warm[len(warm) // 10 :]
    gram, right = _sums(hashed, table, weight, kept)
    inputs, truth = hashed[left], table[torch.from_numpy(left)]
    best = (STRENGTHS[0], -1.0)
    for strength in STRENGTHS:
        guess = inputs @ _solve(gram, right, strength)
        cosine = torch.cosine_similarity(guess, truth, dim=1).mean().item()
        best = max(best, (strength, cosine), key=lambda one: one[1])
    more_gram, more_right = _sums(hashed, table, weight, left)
    return _solve(gram + more_gram, right + more_right, best[0]), *best


def _sums(hashed: Hashed, table: Tensor, weight: Tensor, items: Ints) -> tuple[Tensor, Tensor]:
    gram = torch.zeros(hashed.dimensions, hashed.dimensions)
    right = torch.zeros(hashed.dimensions, table.shape[1])
    for part in _chunks(items):
        rows, at = hashed[part], torch.from_numpy(part)
        weighted = rows * weight[at][:, None]
        gram.addmm_(rows.T, weighted)
        right.addmm_(weighted.T, table[at])
    return gram, right


def _solve(gram: Tensor, right: Tensor, strength: float) -> Tensor:
    ridge = gram.clone()
    ridge.diagonal().add_(strength)
    return torch.cholesky_solve(right, torch.linalg.cholesky(ridge))


def _chunks(items: Ints) -> Iterator[Ints]:
    for first in range(0, len(items), CHUNK):
        yield items[first : first + CHUNK]
