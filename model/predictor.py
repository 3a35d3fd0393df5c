"""The one class that serves a trained model: histories to ranked items, batch in, batch out.

Shapes: B histories, V items. Scores are natural-log probabilities of the network plus the fused
links, so only their order within one answer means anything. A `Predictor` is not locked: call it
from one thread at a time. Retrieval is exact (every item is scored) or, where the folder holds an
index of a large catalogue, approximate (`model.retrieval`); then a score lacks its normalisation.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from model.checkpoint import PRODUCTS, Loaded, Manifest, load_model
from model.data.schema import Product
from model.device import check_device
from model.folder import CheckpointError
from model.metrics import mask_seen
from model.retrieval import CANDIDATES, FEWEST, FILE, ItemIndex, Mask, candidates
from model.scoring import CHUNK, chunks, fused_scores
from model.topk import Best, best_of

if TYPE_CHECKING:
    from model.search.index import SearchIndex

Retrieval = Literal["auto", "exact", "approximate"]
SEARCH = "search"  # the folder of the index inside a model's folder


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

    def __init__(
        self,
        loaded: Loaded,
        products: dict[str, Product],
        index: ItemIndex | None = None,
        search: SearchIndex | None = None,
    ) -> None:
        self.manifest: Manifest = loaded.manifest
        self.catalogue = Catalogue(loaded.items, products)
        self._net, self._links = loaded.net, loaded.links
        self._keys: Tensor = loaded.net.keys().detach()
        self.index = index  # `None`: exact retrieval
        self._popularity = loaded.popularity.double()
        total = max(1.0, float(self._popularity.sum()))
        self._search = search
        ids = search.catalogue.ids if search is not None else []
        found = (self.catalogue.index_of(item) for item in ids)
        # (searched products,) the model's index of each, -1 for one that the model does not know
        self._searched = np.array([-1 if at is None else at for at in found], dtype=np.int64)
        self._all_searched = bool((self._searched >= 0).all())
        self._log_share = ((self._popularity + 1) / (total + len(loaded.items))).log().float()

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        device: str = "cpu",
        threads: int | None = None,
        retrieval: Retrieval = "auto",
    ) -> Self:
        """Check and read a model folder; raises `CheckpointError`. `threads` is process-wide.

        A `device` that is not there raises `DataError`.

        `retrieval`: auto takes the index that training wrote for a large catalogue, if it did;
        approximate makes one in memory where there is none.
        """
        folder = Path(path)
        if threads is not None:
            torch.set_num_threads(threads)
        loaded = load_model(folder, check_device(device))
        index: ItemIndex | None = None
        if retrieval != "exact" and FILE in loaded.manifest.files:
            try:
                told = loaded.manifest.metrics.get(CANDIDATES, FEWEST)
                index = ItemIndex.open(folder / FILE, len(loaded.items), int(told))
            except ValueError as error:
                raise CheckpointError(f"{error}; train it again") from error
        elif retrieval == "approximate":
            index = ItemIndex.build(loaded.net.keys())
        search: SearchIndex | None = None
        if (folder / SEARCH).is_dir():
            from model.search.index import SearchIndex  # a model without it starts sooner

            search = SearchIndex.load(folder / SEARCH)
        return cls(loaded, _products(folder), index, search)

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
        masks = allowed if allowed is not None else [None] * len(known)
        barred = exclude if exclude is not None else [()] * len(known)
        answers: list[list[Scored]] = [[] for _ in known]
        rest = list(range(len(known)))
        if self.index is not None:
            rest = self._approximate(self.index, known, k, masks, barred, answers)
        fusion = self.manifest.fusion
        for rows in chunks(len(rest), len(self.catalogue)):
            users = [rest[r] for r in rows]
            part = [known[u] for u in users]
            scores = fused_scores(
                self._net, self._keys, part, self._links, fusion.weight, fusion.decay
            )
            for at, history in enumerate(part):
                if len(history) == 0:
                    scores[at] = self._log_share
            mask_seen(scores, part)
            for at, user in enumerate(users):
                self._restrict(scores[at], masks[user], barred[user])
            for user, best in zip(users, best_of(scores, k), strict=True):
                answers[user] = self._named(best)
        return answers

    def _approximate(
        self,
        index: ItemIndex,
        known: list[NDArray[np.int64]],
        k: int,
        masks: Sequence[Mask | None],
        barred: Sequence[Collection[str]],
        answers: list[list[Scored]],
    ) -> list[int]:
        """Fill the answers that candidates suffice for; the rest need the whole catalogue."""
        rest = [user for user, history in enumerate(known) if len(history) == 0]
        filled = [user for user, history in enumerate(known) if len(history)]
        fusion = self.manifest.fusion
        for first in range(0, len(filled), CHUNK):
            users = filled[first : first + CHUNK]
            part = [known[u] for u in users]
            spare = max(len(known[u]) + len(barred[u]) for u in users)
            count = max(index.candidates, 4 * k) + spare
            given = [masks[u] for u in users]
            for mask in given:
                if mask is not None:
                    self._check_mask(mask)
            found = candidates(
                self._net, self._keys, index, part, count, given, self._links,
                fusion.weight, fusion.decay,
            )  # fmt: skip
            for user, (items, scores, whole) in zip(users, found, strict=True):
                open_ = ~np.isin(items, known[user])
                if barred[user]:
                    open_ &= ~np.isin(items, self._indices(list(barred[user])))
                if open_.sum() < k and not whole:
                    rest.append(user)
                    continue
                if not open_.any():
                    continue
                (best,) = best_of(scores[torch.from_numpy(open_)][None], k)
                kept = items[open_]
                answers[user] = self._named([(int(kept[place]), score) for place, score in best])
        return rest

    def search(
        self,
        queries: Sequence[str],
        k: int = 10,
        *,
        histories: Sequence[Sequence[str]] | None = None,
        allowed: list[Mask | None] | None = None,
    ) -> list[list[Scored]]:
        """The k best products for each query, best first; none if it has no letter or digit.

        `histories[b]` (oldest event first) mixes in what the user looked at lately; `allowed[b]`
        is a (V,) mask of items that may be shown. Raises `CheckpointError` if the model folder
        holds no search index.
        """
        if self._search is None:
            raise CheckpointError(
                f"model {self.manifest.version} was written without a search index; add one with "
                "`python -m model.search train --model FOLDER`"
            )
        if k < 1:
            raise ValueError(f"k is {k}; give at least 1")
        for name, given in (("allowed", allowed), ("histories", histories)):
            if given is not None and len(given) != len(queries):
                raise ValueError(
                    f"{name} has {len(given)} entries for {len(queries)} queries; give one each"
                )
        at = self._searched
        masks: list[Mask | None] = []
        for mask in allowed if allowed is not None else [None] * len(queries):
            if mask is not None:
                self._check_mask(mask)
                masks.append((at >= 0) & mask[at])
            else:
                masks.append(None if self._all_searched else at >= 0)
        prior = self._tastes(histories) if histories is not None else None
        found = self._search.search(queries, k, prior=prior, allowed=masks)
        return [[Scored(hit.item, hit.score) for hit in one] for one in found]

    def _tastes(self, histories: Sequence[Sequence[str]]) -> list[NDArray[np.float32] | None]:
        """What each history makes of the searched products; `None` for an unknown one."""
        known = [self._indices(history) for history in histories]
        tastes: list[NDArray[np.float32] | None] = [None] * len(known)
        rows = [row for row, history in enumerate(known) if len(history)]
        fusion = self.manifest.fusion
        for part in chunks(len(rows), len(self.catalogue)):
            histories_of = [known[rows[at]] for at in part]
            scores = fused_scores(
                self._net, self._keys, histories_of, self._links, fusion.weight, fusion.decay
            ).numpy(force=True)
            for at, row in zip(part, scores, strict=True):
                tastes[rows[at]] = np.where(self._searched >= 0, row[self._searched], np.nan)
        return tastes

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
            self._check_mask(mask)
            scores[torch.from_numpy(~mask)] = float("-inf")
        if exclude:
            scores[torch.from_numpy(self._indices(list(exclude)))] = float("-inf")

    def _check_mask(self, mask: Mask) -> None:
        if mask.shape != (len(self.catalogue),):
            raise ValueError(
                f"a mask has shape {mask.shape}; give ({len(self.catalogue)},), one per item"
            )

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
