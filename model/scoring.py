"""Scores of the whole catalogue for many histories: the network, and the links where fused.

Shapes: B histories of item indices, oldest first, V items -> (B, V). An empty history gets the
popularity of the items instead of the network: there is nothing to encode.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.batches import latest
from model.links import Links
from model.metrics import mask_seen, rank_of
from model.net import Recommender
from model.packing import pack

CHUNK = 512  # histories scored together, at most
CELLS = 16_000_000  # scores held at a time: 64 MB


@torch.no_grad()
def encode(net: Recommender, histories: Sequence[NDArray[np.int64]]) -> Tensor:
    """Final states (B, W) of non-empty histories, in their own order."""
    device = net.item.weight.device
    batch = pack([latest(h, net.config.max_length) for h in histories], net.config.max_length)
    batch = batch.to(device)
    states = net.encode(batch, net.rows(batch.items), last=True)
    back = torch.from_numpy(np.argsort(batch.order)).to(device)
    return states.index_select(0, back).float()


@torch.no_grad()
def network_scores(
    net: Recommender, keys: Tensor, histories: Sequence[NDArray[np.int64]]
) -> Tensor:
    """Log-probabilities over the catalogue, (B, V) on the CPU; zeros for an empty history.

    Normalised, so that the fused links weigh the same for a sure and an unsure user.
    """
    filled = [k for k, h in enumerate(histories) if len(h)]
    if not filled:
        return torch.zeros(len(histories), len(keys))
    states = encode(net, [histories[k] for k in filled])
    found = torch.log_softmax(states @ keys.T, dim=1).float().cpu()
    if len(filled) == len(histories):
        return found
    scores = torch.zeros(len(histories), len(keys))
    scores[filled] = found
    return scores


def fused_scores(
    net: Recommender,
    keys: Tensor,
    histories: Sequence[NDArray[np.int64]],
    links: Links | None = None,
    weight: float = 0.0,
    decay: float = 0.0,
) -> Tensor:
    """`network_scores` plus `weight` times the links' scores."""
    scores = network_scores(net, keys, histories)
    if links is not None and weight > 0:
        links.add(scores, histories, decay, weight)
    return scores


def ranks(
    net: Recommender,
    histories: Sequence[NDArray[np.int64]],
    targets: NDArray[np.int64],
    links: Links | None = None,
    weight: float = 0.0,
    decay: float = 0.0,
) -> NDArray[np.int64]:
    """Full-catalogue rank of each history's target, seen items removed; see `metrics.rank_of`."""
    keys = net.keys().detach()
    found: list[NDArray[np.int64]] = []
    for rows in chunks(len(histories), len(keys)):
        part = [histories[k] for k in rows]
        scores = mask_seen(fused_scores(net, keys, part, links, weight, decay), part)
        found.append(rank_of(scores, targets[rows.start : rows.stop]))
    return np.concatenate(found)


def chunks(count: int, items: int) -> Iterator[range]:
    """0 … count - 1 in runs whose scores of `items` items fit in memory."""
    size = max(1, min(CHUNK, CELLS // max(1, items)))
    for first in range(0, count, size):
        yield range(first, min(first + size, count))
