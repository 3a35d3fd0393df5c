"""Training settings computed from the data: the same rules for a sparse shop and a film archive.

Rules look at numbers only (events, users, items, typical length), never at a data set's name, so
that they hold for data nobody has seen. docs/model.md records the measurements behind them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from model.corpus import Corpus
from model.net import NetConfig
from model.settings import TrainConfig
from model.sizes import SIZES

FULL_SOFTMAX_ITEMS = 5_000  # above it, scores of the whole catalogue cost more than the network


def net_config(corpus: Corpus, size: str, **changes: Any) -> NetConfig:
    """The network for a corpus: shape from the size, length and dropout from the data."""
    shape = SIZES[size]
    # nine users of ten fit whole, within what attention on a CPU can bear
    wanted = int(np.quantile(corpus.lengths, 0.9))
    length = int(np.clip(wanted, 20, 200))
    per_item = len(corpus.events) / len(corpus.items)
    sparse = per_item < 50
    fields: dict[str, Any] = {
        "items": len(corpus.items),
        "width": shape.width,
        "layers": shape.layers,
        "heads": shape.heads,
        "ffn": shape.ffn,
        "max_length": max(length, 50) if sparse else length,
        # the fewer events an item has, the sooner its vector is learned by heart
        "dropout": 0.3 if sparse else 0.2,
        # with few events an item, bounded scores rank better than free ones (docs/model.md)
        "scores": "cosine" if sparse else "dot",
    }
    if corpus.features is not None:
        fields |= {
            "attribute_values": corpus.features.count,
            "attribute_links": len(corpus.features.values),
        }
    return NetConfig(**(fields | changes))


def train_config(corpus: Corpus, **changes: Any) -> TrainConfig:
    """How to train on a corpus."""
    tokens = float(np.minimum(corpus.lengths, 200).mean())
    fields: dict[str, Any] = {
        # about 1,500 events a step, whatever their spread over users
        "batch": int(np.clip(2 ** round(np.log2(1500 / tokens)), 8, 512)),
        # small catalogues afford the exact loss; 1,024 shared negatives cost a tenth at 12,000
        "negatives": 0 if len(corpus.items) <= FULL_SOFTMAX_ITEMS else 1024,
        "uniform": 1.0,
        "ema": 0.995,
    }
    return TrainConfig(**(fields | changes))
