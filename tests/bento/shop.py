"""A small real recommender (what follows what, counted) on the synthetic shop.

It answers truly, needs no training, and lets a test make it slow or broken: what these tests are
about is the service around a model. The transformer itself is served in test_serve.py.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

from bento.lanes import Served
from bento.shelf import Shelf
from model.data.schema import Product
from model.data.synthetic import Shop, make_shop


class Pick(NamedTuple):
    item: str
    score: float


class Manifest(NamedTuple):
    version: str
    item_count: int
    data_fingerprint: str = "0" * 16
    size: str = "counts"
    created: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    metrics: dict[str, Any] = {}  # noqa: RUF012


class Catalogue:
    def __init__(self, products: Sequence[Product]) -> None:
        self.items = [product.id for product in products]
        self._index = {item: index for index, item in enumerate(self.items)}
        self._products = {product.id: product for product in products}

    def index_of(self, item: str) -> int | None:
        return self._index.get(item)

    def product(self, item: str) -> Product | None:
        return self._products.get(item)


class Counts:
    """Scores an item by how often it followed the last items of the history."""

    def __init__(self, shop: Shop, version: str = "counts-1") -> None:
        self.catalogue = Catalogue(shop.products)
        self.manifest = Manifest(version, len(shop.products))
        self.sold: Counter[str] = Counter()
        self.follows: dict[str, Counter[str]] = defaultdict(Counter)
        for sequence in shop.sequences().values():
            self.sold.update(sequence)
            for before, after in pairwise(sequence):
                self.follows[before][after] += 1
        self.delay_s = 0.0
        self.broken = False
        self.sizes: list[int] = []
        self.lock = threading.Lock()

    def recommend(self, histories, k=10, *, allowed=None, exclude=None):
        assert self.lock.acquire(blocking=False), "the predictor was called by two threads at once"
        try:
            time.sleep(self.delay_s)
            if self.broken:
                raise RuntimeError("made to fail by the test")
            self.sizes.append(len(histories))
            rows = zip(
                histories,
                allowed or [None] * len(histories),
                exclude or [()] * len(histories),
                strict=True,
            )
            return [self._row(h, k, mask, skip) for h, mask, skip in rows]
        finally:
            self.lock.release()

    def _row(self, history, k, mask, skip):
        scores: Counter[str] = Counter()
        for age, item in enumerate(reversed(history[-5:])):
            for after, count in self.follows[item].items():
                scores[after] += count * 100 / (1 + age)
        ranked = sorted(
            self.catalogue.items,
            key=lambda i: (-scores[i], -self.sold[i], self.catalogue.index_of(i)),
        )
        seen = {*history, *skip}
        kept = [
            Pick(item, float(scores[item]))
            for item in ranked
            if item not in seen and (mask is None or mask[self.catalogue.index_of(item)])
        ]
        return kept[:k]

    def search(self, queries, k=10, *, histories=None, allowed=None):
        time.sleep(self.delay_s)
        answers = []
        for query, mask in zip(queries, allowed or [None] * len(queries), strict=True):
            words = set(query.lower().split())
            found = []
            for index, item in enumerate(self.catalogue.items):
                product = self.catalogue.product(item)
                hits = len(words & set(product.title.lower().split()))
                if hits and (mask is None or mask[index]):
                    found.append(Pick(item, float(hits)))
            answers.append(sorted(found, key=lambda p: -p.score)[:k])
        return answers

    def popular(
        self, k: int, category: str | None = None, exclude: Collection[str] = ()
    ) -> list[Pick]:
        return [Pick(i, float(n)) for i, n in self.sold.most_common() if i not in exclude][:k]


@cache
def shop() -> Shop:
    return make_shop(seed=7, users=60, items=120)


def served(version: str = "counts-1", *, small: bool = False) -> Served:
    predictor = Counts(shop(), version)
    return Served(
        predictor=predictor,
        small=Counts(shop(), version + "-small") if small else None,
        shelf=Shelf(predictor),
        searchable=True,
        bundle_digest="",
    )
