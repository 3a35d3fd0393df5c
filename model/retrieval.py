"""Approximate retrieval: a graph index over item keys, beside the exact scan of the catalogue.

The k items of largest inner product with a state are found among a few thousand instead of all V
(HNSW, usearch). Inner products become angles by one more dimension (Bachrach et al. 2014): key k
turns into (k, sqrt(M^2 - |k|^2)) with M the longest key, a state into (s, 0); the order by cosine
is then the order by inner product. Candidates are scored exactly afterwards, so an answer can
only *miss* an item, never misplace one. How often it misses is measured on histories of the model's
own users (`recall`), and decides how far the graph is searched, and whether it is used (`widen`).

Shapes: V items, W width, B states, n candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from usearch.index import Index

from model.links import Links
from model.net import Recommender
from model.scoring import encode

FILE = "items.usearch"
RECALL, EXPANSION = "retrieval_recall@100", "retrieval_expansion"  # in a manifest's metrics
# Below, a scan costs no more than the graph where it counts, in batches (docs/model.md).
APPROXIMATE_ITEMS = 200_000
CONNECTIVITY = 24
EXPANSION_ADD = 160
EXPANSIONS = (320, 640, 1280, 2560)  # nodes that a search visits, tried in turn
ENOUGH = 0.95  # of the exact best items
# From here on an index is used however much it misses: a scan of so many for one history takes as
# long as a request may (drawn out from 300,000, docs/model.md), and best sellers would answer.
ALWAYS_ITEMS = 500_000

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class ItemIndex:
    """Item keys in a graph. Build it with `build`, or `open` a file of a model folder."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self.expansion = EXPANSIONS[0]

    @classmethod
    def build(cls, keys: Tensor, threads: int = 0) -> ItemIndex:
        """Index keys (V, W); 0 threads: all of the machine's."""
        rows = keys.detach().float().cpu().numpy()
        squares = (rows.astype(np.float64) ** 2).sum(1)
        extra = np.sqrt(np.maximum(squares.max() - squares, 0.0)).astype(np.float32)
        index = Index(
            ndim=rows.shape[1] + 1, metric="cos", dtype="f32", connectivity=CONNECTIVITY,
            expansion_add=EXPANSION_ADD,
        )  # fmt: skip
        index.add(np.arange(len(rows)), np.hstack([rows, extra[:, None]]), threads=threads)
        return cls(index)

    @classmethod
    def open(cls, path: Path, items: int, expansion: int = EXPANSIONS[0]) -> ItemIndex:
        """Map a saved index of so many items into memory; `ValueError` if the file is none."""
        try:
            index = Index.restore(str(path), view=True)
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"{path} is no index: {error}") from error
        if index is None or len(index) != items:
            raise ValueError(f"{path} is no index of {items} items")
        opened = cls(index)
        opened.expansion = expansion
        return opened

    def save(self, path: Path) -> None:
        """Write the index."""
        self._index.save(str(path))

    def __len__(self) -> int:
        return len(self._index)

    def nearest(self, states: Tensor, count: int) -> list[Ints]:
        """Items of about the largest inner products with each state, (B, W) -> B times (<= n,)."""
        rows = states.detach().float().cpu().numpy()
        asked = np.hstack([rows, np.zeros((len(rows), 1), np.float32)])
        self._index.expansion_search = max(self.expansion, 2 * count)
        found = cast("Any", self._index.search(asked, min(count, len(self))))
        if len(rows) == 1:
            return [np.asarray(found.keys, np.int64).reshape(-1)]
        counts = np.asarray(found.counts).reshape(-1)
        return [np.asarray(k[:n], np.int64) for k, n in zip(found.keys, counts, strict=True)]


def candidates(
    net: Recommender,
    keys: Tensor,
    index: ItemIndex,
    histories: Sequence[Ints],
    count: int,
    links: Links | None = None,
    weight: float = 0.0,
    decay: float = 0.0,
) -> list[tuple[Ints, Tensor]]:
    """About `count` items after each non-empty history, and all that it links to, with scores.

    Ascending items and their (n,) scores, which differ from `fused_scores` by a constant of the
    history: its log-sum over the catalogue, which would need the whole scan.
    """
    states = encode(net, histories)
    found: list[tuple[Ints, Tensor]] = []
    for row, items in enumerate(index.nearest(states, count)):
        linked, added = np.zeros(0, np.int64), np.zeros(0, np.float32)
        if links is not None and weight > 0:
            linked, added = links.strongest(histories[row], decay)
        chosen = np.union1d(items, linked)
        at = torch.from_numpy(chosen)
        scores = (keys[at.to(keys.device)].float() @ states[row]).cpu()
        places = torch.from_numpy(np.searchsorted(chosen, linked))
        scores[places] += weight * torch.from_numpy(added)
        found.append((chosen, scores))
    return found


def asked(k: int) -> int:
    """Candidates that the k best are chosen from."""
    return max(200, 4 * k)


def recall(keys: Tensor, states: Tensor, index: ItemIndex, k: int = 100) -> float:
    """Share of the exact k best items of each state that are among the candidates for them."""
    k = min(k, len(keys))
    exact = (states.float().cpu() @ keys.float().cpu().T).topk(k, dim=1).indices.numpy()
    found = index.nearest(states, asked(k))
    return float(
        np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(exact, found, strict=True)])
    )


def widen(keys: Tensor, states: Tensor, index: ItemIndex) -> dict[str, float]:
    """Search the graph as far as `ENOUGH` of the exact hundred best need, or as far as allowed;
    returns what a manifest's metrics say of it."""
    found = 0.0
    for expansion in EXPANSIONS:
        index.expansion = expansion
        found = recall(keys, states, index)
        if found >= ENOUGH:
            break
    return {RECALL: found, EXPANSION: float(index.expansion)}
