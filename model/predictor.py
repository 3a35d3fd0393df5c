"""The one class that serves a trained model: histories to ranked items, batch in, batch out.

Shapes: B histories, V items. Scores are natural-log probabilities of the network plus the fused
links, so only their order within one answer means anything. A `Predictor` is not locked: call it
from one thread at a time. Retrieval is exact: every item is scored.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from model.checkpoint import PRODUCTS, CheckpointError, Loaded, Manifest, load_model
from model.data.schema import Product
from model.metrics import mask_seen
from model.scoring import chunks, fused_scores
from model.topk import Best, best_of

Mask = NDArray[np.bool_]


class Scored(NamedTuple):
    """One recommended item; higher is better."""

    item: str
    score: float


class Catalogue:
    """Items by index, with their products where the model folder has them."""

    def __init__(self, items: list[str], products: dict[str, Product]) -> None:
        self.items = items
        self._products = products
        self._index = {item: number for number, item in enumerate(items)}

    def __len__(self) -> int:
        return len(self.items)

    def index_of(self, item: str) -> int | None:
        """The item's index, `None` if the model does not know it."""
        return self._index.get(item)

    def product(self, item: str) -> Product | None:
        """What is known of an item, `None` if nothing."""
        return self._products.get(item)


class Predictor:
    """A model folder in memory. Build it with `load`."""

    def __init__(self, loaded: Loaded, products: dict[str, Product]) -> None:
        self.manifest: Manifest = loaded.manifest
        self.catalogue = Catalogue(loaded.items, products)
        self._net, self._links = loaded.net, loaded.links
        self._keys: Tensor = loaded.net.keys().detach()
        self._popularity = loaded.popularity.double()
        total = max(1.0, float(self._popularity.sum()))
        self._log_share = ((self._popularity + 1) / (total + len(loaded.items))).log().float()

    @classmethod
    def load(cls, path: Path | str, *, device: str = "cpu", threads: int | None = None) -> Self:
        """Check and read a model folder; raises `CheckpointError`. `threads` is process-wide."""
        folder = Path(path)
        if threads is not None:
            torch.set_num_threads(threads)
        loaded = load_model(folder, device)
        return cls(loaded, _products(folder))

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        *,
        allowed: list[Mask | None] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> list[list[Scored]]:
        """The k best items after each history, oldest event first; fewer if fewer are left.

        Unknown items in a history are skipped; an empty history gets popular items. `allowed[b]`
        is a (V,) mask of items that may be shown, `exclude[b]` are further ids that may not.
        """
        if k < 1:
            raise ValueError(f"k is {k}; give at least 1")
        for name, given in (("allowed", allowed), ("exclude", exclude)):
            if given is not None and len(given) != len(histories):
                raise ValueError(
                    f"{name} has {len(given)} entries for {len(histories)} histories; give one each"
                )
        known = [self._indices(history) for history in histories]
        answers: list[list[Scored]] = []
        fusion = self.manifest.fusion
        for rows in chunks(len(known)):
            part = [known[r] for r in rows]
            scores = fused_scores(
                self._net, self._keys, part, self._links, fusion.weight, fusion.decay
            )
            for at, history in enumerate(part):
                if len(history) == 0:
                    scores[at] = self._log_share
            mask_seen(scores, part)
            for at, row in enumerate(rows):
                self._restrict(
                    scores[at],
                    allowed[row] if allowed is not None else None,
                    exclude[row] if exclude is not None else (),
                )
            answers += [self._named(best) for best in best_of(scores, k)]
        return answers

    def search(
        self,
        queries: Sequence[str],
        k: int = 10,
        *,
        histories: Sequence[Sequence[str]] | None = None,
        allowed: list[Mask | None] | None = None,
    ) -> list[list[Scored]]:
        """Products for text queries. Needs the search index, which this folder does not hold."""
        raise CheckpointError(
            f"model {self.manifest.version} was written without a search index "
            f"(asked for {len(queries)} queries, k {k}, "
            f"{'with' if histories else 'without'} histories, "
            f"{'with' if allowed else 'without'} masks)"
        )

    def popular(
        self, k: int, category: str | None = None, exclude: Collection[str] = ()
    ) -> list[Scored]:
        """The k items with most events, within a category (any step of its path) if given."""
        scores = self._log_share.clone()
        mask: Mask | None = None
        if category is not None:
            found = (self.catalogue.product(item) for item in self.catalogue.items)
            mask = np.array([p is not None and category in p.category for p in found], dtype=bool)
        self._restrict(scores, mask, exclude)
        return self._named(best_of(scores[None], k)[0])

    def _indices(self, history: Sequence[str]) -> NDArray[np.int64]:
        found = (self.catalogue.index_of(item) for item in history)
        return np.array([index for index in found if index is not None], dtype=np.int64)

    def _restrict(self, scores: Tensor, mask: Mask | None, exclude: Collection[str]) -> None:
        """Put items out of reach, in place: scores (V,)."""
        if mask is not None:
            if mask.shape != (len(self.catalogue),):
                raise ValueError(
                    f"a mask has shape {mask.shape}; give ({len(self.catalogue)},), one per item"
                )
            scores[torch.from_numpy(~mask)] = float("-inf")
        if exclude:
            scores[torch.from_numpy(self._indices(list(exclude)))] = float("-inf")

    def _named(self, best: Best) -> list[Scored]:
        items = self.catalogue.items
        return [Scored(items[place], score) for place, score in best]


def _products(folder: Path) -> dict[str, Product]:
    path = folder / PRODUCTS
    if not path.is_file():
        return {}
    found: dict[str, Product] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            product = Product.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            raise CheckpointError(
                f"{path} line {number} is not a product: {first['msg']}; train it again"
            ) from error
        found[product.id] = product
    return found
