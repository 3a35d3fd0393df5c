"""What the service needs from a model; `model.predictor.Predictor` provides it.

A protocol keeps the event loop's code free of torch, and lets two models stand side by side later.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


class ScoredItem(Protocol):
    """One item with its score; higher is better."""

    @property
    def item(self) -> str: ...
    @property
    def score(self) -> float: ...


class ProductLike(Protocol):
    """What the catalogue knows of a product."""

    @property
    def title(self) -> str: ...
    @property
    def brand(self) -> str | None: ...
    @property
    def category(self) -> tuple[str, ...]: ...
    @property
    def price(self) -> float | None: ...
    @property
    def in_stock(self) -> bool: ...


class CatalogueLike(Protocol):
    """Items by index, 0 to n - 1."""

    @property
    def items(self) -> Sequence[str]: ...
    def index_of(self, item: str, /) -> int | None: ...
    def product(self, item: str, /) -> ProductLike | None: ...


class ManifestLike(Protocol):
    """What is recorded with a checkpoint."""

    @property
    def version(self) -> str: ...
    @property
    def data_fingerprint(self) -> str: ...
    @property
    def size(self) -> str: ...
    @property
    def created(self) -> datetime: ...
    @property
    def item_count(self) -> int: ...
    @property
    def metrics(self) -> dict[str, Any]: ...


class PredictorLike(Protocol):
    """Batch in, batch out; one thread at a time."""

    @property
    def manifest(self) -> ManifestLike: ...
    @property
    def catalogue(self) -> CatalogueLike: ...

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        k: int = 10,
        *,
        allowed: list[Mask | None] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> Sequence[Sequence[ScoredItem]]: ...

    def search(
        self,
        queries: Sequence[str],
        k: int = 10,
        *,
        histories: Sequence[Sequence[str]] | None = None,
        allowed: list[Mask | None] | None = None,
    ) -> Sequence[Sequence[ScoredItem]]: ...

    def popular(
        self, k: int, category: str | None = None, exclude: Collection[str] = ()
    ) -> Sequence[ScoredItem]: ...
