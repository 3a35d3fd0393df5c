"""The one event and the one product that every reader, importer and model of this project shares.

Units: `time` is Unix time in milliseconds (UTC), `price` is in the catalogue's own currency,
`position` counts from 0 at the top of a list. Ids are strings as the shop writes them.
Invalid values raise `pydantic.ValidationError`; readers turn it into a counted reject.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

MAX_TIME_MS = 4_102_444_800_000  # 2100-01-01: anything later is micro- or nanoseconds by mistake

Id = Annotated[
    str,
    # white space would break the sequence format, where it separates ids
    StringConstraints(min_length=1, max_length=200, pattern=r"^\S+$"),
]


class EventKind(StrEnum):
    """What a shopper did. `RATING` is an opinion given later, not proof of a visit."""

    SEARCH = "search"
    VIEW = "view"
    CART = "cart"
    PURCHASE = "purchase"
    RATING = "rating"


class Event(BaseModel):
    """One action of one user. A search carries a query; every other kind carries an item."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: Id
    time: int = Field(ge=0, le=MAX_TIME_MS, description="Unix time, milliseconds, UTC")
    kind: EventKind
    item: Id | None = None
    query: str | None = Field(default=None, min_length=1, max_length=500)
    session: Id | None = None
    position: int | None = Field(default=None, ge=0, description="rank shown at, from 0")
    value: float | None = Field(default=None, allow_inf_nan=False, description="the rating given")
    source: str = Field(default="unknown", min_length=1, max_length=100)

    @model_validator(mode="after")
    def _kind_has_its_subject(self) -> Self:
        if self.kind is EventKind.SEARCH:
            if self.query is None:
                raise ValueError("a search event has no query; give `query`")
        elif self.item is None:
            raise ValueError(f"a {self.kind.value} event has no item; give `item`")
        if self.kind is EventKind.RATING and self.value is None:
            raise ValueError("a rating event has no value; give `value`")
        return self


class Product(BaseModel):
    """One catalogue entry. `category` is a path, widest first; `attributes` are named values."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Id
    title: str = Field(min_length=1, max_length=2000)
    text: str = ""
    brand: str | None = None
    category: tuple[str, ...] = ()
    attributes: dict[str, str] = Field(default_factory=dict)
    price: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    in_stock: bool = True
    tags: tuple[str, ...] = ()
