"""The catalogue as arrays: filter masks and the popular list, both cached per model version."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bento.ports import CatalogueLike, Mask, PredictorLike
from bento.types import Filters

CACHED_FILTERS = 256
# Popular lists are kept this deep per filter; longer ones are worked out when asked for.
DEPTH = 4096


class _View(NamedTuple):
    """One filter's items: which pass, and the most popular of them (indices, best first)."""

    mask: Mask | None  # (V,) bool; None: every item passes
    top: NDArray[np.int64]  # (<= DEPTH,)
    passing: int


class Shelf:
    """Filters and popularity of one catalogue. Not thread-safe: use it from one event loop."""

    def __init__(self, predictor: PredictorLike) -> None:
        catalogue: CatalogueLike = predictor.catalogue
        self.catalogue = catalogue
        self.ids: list[str] = list(catalogue.items)
        count = len(self.ids)
        self.price = np.full(count, np.nan, dtype=np.float64)
        self.in_stock = np.zeros(count, dtype=np.bool_)
        self.has_product = np.zeros(count, dtype=np.bool_)
        members: dict[tuple[str, ...], list[int]] = {}
        for index, item in enumerate(self.ids):
            product = catalogue.product(item)
            if product is None:
                continue
            self.has_product[index] = True
            self.in_stock[index] = product.in_stock
            if product.price is not None:
                self.price[index] = product.price
            for depth in range(1, len(product.category) + 1):
                members.setdefault(product.category[:depth], []).append(index)
        self.members = {path: np.asarray(found) for path, found in members.items()}
        ranked = predictor.popular(count)
        found = [catalogue.index_of(scored.item) for scored in ranked]
        order = np.asarray([index for index in found if index is not None], dtype=np.int64)
        rest = np.ones(count, dtype=np.bool_)
        rest[order] = False
        self.order = np.concatenate([order, np.flatnonzero(rest)])
        self.popularity = np.zeros(count)
        self.popularity[order] = [
            s.score for s, i in zip(ranked, found, strict=True) if i is not None
        ]
        self._everything = _View(None, self.order[:DEPTH], count)
        self._views: OrderedDict[tuple[object, ...], _View] = OrderedDict()

    def view(self, filters: Filters | None) -> _View:
        """The mask and popular list for a filter; (V,) work the first time, then cached."""
        if filters is None:
            return self._everything
        path = tuple(filters.category) if filters.category else None
        key = (path, filters.price_min, filters.price_max, filters.in_stock)
        if key == (None, None, None, None):
            return self._everything
        known = self._views.get(key)
        if known is not None:
            self._views.move_to_end(key)
            return known
        mask = self._mask(filters, path)
        ranked = self.order[mask[self.order]]
        view = _View(mask, ranked[:DEPTH].copy(), int(ranked.size))
        self._views[key] = view
        if len(self._views) > CACHED_FILTERS:
            self._views.popitem(last=False)
        return view

    def _mask(self, filters: Filters, path: tuple[str, ...] | None) -> Mask:
        mask = np.ones(len(self.ids), dtype=np.bool_)
        if path is not None:
            mask[:] = False
            mask[self.members.get(path, np.empty(0, dtype=np.int64))] = True
        # A comparison with the NaN of an unknown price is false: such items do not pass.
        if filters.price_min is not None:
            mask &= self.price >= filters.price_min
        if filters.price_max is not None:
            mask &= self.price <= filters.price_max
        if filters.in_stock is not None:
            mask &= self.has_product & (self.in_stock == filters.in_stock)
        return mask

    def popular(self, view: _View, k: int, exclude: Collection[str]) -> list[tuple[str, float]]:
        """The k most popular items of a view that are not excluded."""
        ranked = view.top
        if k + len(exclude) > ranked.size and view.passing > ranked.size:
            ranked = self.order if view.mask is None else self.order[view.mask[self.order]]
        found: list[tuple[str, float]] = []
        for index in ranked:
            item = self.ids[index]
            if item in exclude:
                continue
            found.append((item, float(self.popularity[index])))
            if len(found) == k:
                break
        return found

    def answer(self, item: str, score: float, details: bool) -> dict[str, Any]:
        """The fields of one `Scored`, with what the catalogue knows of the item if asked."""
        product = self.catalogue.product(item) if details else None
        if product is None:
            return {"item_id": item, "score": score}
        return {
            "item_id": item,
            "score": score,
            "title": product.title,
            "brand": product.brand,
            "category": list(product.category),
            "price": product.price,
            "in_stock": product.in_stock,
        }
