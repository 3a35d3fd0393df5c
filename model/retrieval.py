"""Approximate retrieval: keys at four bits a dimension, scanned whole, beside the exact scan.

Each dimension of an item's key becomes one of 16 learned levels (product quantisation, Jegou et al.
2011), and a state's inner product with all of them is summed from 16-entry tables that stay in the
processor's registers (André et al. 2015; faiss `IndexPQFastScan`). That costs a fraction of the
exact scan, for one state as for many, and unlike a graph it depends on no structure among the keys.
Candidates are scored exactly afterwards, so an answer can only *miss* an item, never misplace one.
How often it misses is measured on histories of the model's own users (`recall`), and decides how
many candidates are taken (`widen`).

Shapes: V items, W width, B states, n candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.links import Links
from model.net import Recommender
from model.scoring import encode

FILE = "items.faiss"
RECALL, CANDIDATES = "retrieval_recall@100", "retrieval_candidates"  # in a manifest's metrics
# Below, a scan costs no more than the index where it counts, in batches (docs/model.md).
APPROXIMATE_ITEMS = 100_000
CODES = 128  # for an item, at most, of four bits each: what a scan reads
LEVELS = 16  # of a code
SAMPLE = 100_000  # keys that the levels are learned from
ENOUGH = 0.99  # of the exact best items
NARROW = 8  # a mask that leaves a share of the catalogue no larger than this part: those are scored
FEWEST = 400  # candidates that are scored exactly, doubled until ENOUGH are found

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


class ItemIndex:
    """Item keys at four bits a dimension. `build` it, or `open` a model folder's file."""

    def __init__(self, index: faiss.IndexPQFastScan) -> None:
        self._index = index
        self.candidates = FEWEST

    @classmethod
    def build(cls, keys: Tensor) -> ItemIndex:
        """Index keys (V, W), on one thread: seconds for a million, and the same every time."""
        faiss.omp_set_num_threads(1)
        rows = np.ascontiguousarray(keys.detach().float().cpu().numpy())
        items, width = rows.shape
        codes = max(n for n in range(1, min(width, CODES) + 1) if width % n == 0)
        index = faiss.IndexPQFastScan(width, codes, 4, faiss.METRIC_INNER_PRODUCT)
        rng = np.random.default_rng(0)
        few = rng.choice(items, min(max(items, LEVELS), SAMPLE), replace=items < LEVELS)
        index.train(rows[np.sort(few)])
        index.add(rows)
        return cls(index)

    @classmethod
    def open(cls, path: Path, items: int, candidates: int = FEWEST) -> ItemIndex:
        """Read a saved index of so many items; `ValueError` if the file is none."""
        try:
            index = faiss.read_index(str(path))
        except RuntimeError as error:
            raise ValueError(f"{path} is no index: {error}") from error
        if not isinstance(index, faiss.IndexPQFastScan) or index.ntotal != items:
            raise ValueError(f"{path} is no index of {items} items")
        opened = cls(index)
        opened.candidates = candidates
        return opened

    def save(self, path: Path) -> None:
        """Write the index."""
        faiss.write_index(self._index, str(path))

    def __len__(self) -> int:
        return self._index.ntotal

    def nearest(self, states: Tensor, count: int) -> Ints:
        """Items of about the largest inner products with each state, (B, W) -> (B, n)."""
        rows = np.ascontiguousarray(states.detach().float().cpu().numpy())
        faiss.omp_set_num_threads(torch.get_num_threads())
        found = self._index.search(rows, min(count, len(self)))[1]
        return np.asarray(found, np.int64)


class Found(NamedTuple):
    """Ascending items and their scores, (n,) each; `whole` if no other item may be shown.

    Scores differ from `fused_scores` by a constant of the history: its log-sum over the catalogue,
    which would need the whole scan.
    """

    items: Ints
    scores: Tensor
    whole: bool


def candidates(
    net: Recommender,
    keys: Tensor,
    index: ItemIndex,
    histories: Sequence[Ints],
    count: int,
    allowed: Sequence[Mask | None],
    links: Links | None = None,
    weight: float = 0.0,
    decay: float = 0.0,
) -> list[Found]:
    """About `count` items after each non-empty history, and all that it links to, with scores.

    What a mask (V,) of `allowed` bars is left out; where it leaves few items, those are all scored.
    """
    states = encode(net, histories)
    narrow = [mask is not None and mask.sum() * NARROW <= len(mask) for mask in allowed]
    broad = [row for row, few in enumerate(narrow) if not few]
    near = iter(index.nearest(states[broad], count)) if broad else iter(())
    found: list[Found] = []
    for row, mask in enumerate(allowed):
        items = np.flatnonzero(mask) if mask is not None and narrow[row] else next(near)
        linked, added = np.zeros(0, np.int64), np.zeros(0, np.float32)
        if links is not None and weight > 0:
            linked, added = links.strongest(histories[row], decay)
        if mask is not None:
            items, added, linked = items[mask[items]], added[mask[linked]], linked[mask[linked]]
        chosen = np.union1d(items, linked)
        at = torch.from_numpy(chosen)
        scores = (keys[at.to(keys.device)].float() @ states[row]).cpu()
        places = torch.from_numpy(np.searchsorted(chosen, linked))
        scores[places] += weight * torch.from_numpy(added)
        found.append(Found(chosen, scores, narrow[row]))
    return found


def recall(keys: Tensor, states: Tensor, index: ItemIndex, k: int = 100) -> float:
    """Share of the exact k best items of each state that are among the candidates for them."""
    k = min(k, len(keys))
    table = keys.float().cpu()
    # a few states at a time: scores of all, over ten million items, would be gigabytes
    best = [(part @ table.T).topk(k, dim=1).indices for part in states.float().cpu().split(16)]
    exact = torch.cat(best).numpy()
    found = index.nearest(states, index.candidates)
    return float(
        np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(exact, found, strict=True)])
    )


def widen(keys: Tensor, states: Tensor, index: ItemIndex) -> dict[str, float]:
    """Take as many candidates as `ENOUGH` of the exact hundred best need; returns what a
    manifest's metrics say of it."""
    index.candidates = FEWEST
    while (found := recall(keys, states, index)) < ENOUGH and index.candidates < len(index):
        index.candidates *= 2
    return {RECALL: found, CANDIDATES: float(index.candidates)}
