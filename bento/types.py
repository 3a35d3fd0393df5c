"""The service contract: what requests and answers hold, with bounds and examples.

Two models side by side come later: `tier` and `model_version` name what answered, so a second
model needs no new field in an answer, and requests ignore nothing (an unknown field is an error).
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

MAX_K = 500
MAX_HISTORY = 1000
MAX_EXCLUDE = 2000
MAX_EVENTS = 500

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:@/+=~-]{0,199}$"
# Anything printable: no C0/C1 control characters, no Unicode line separators.
TEXT_PATTERN = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"

ItemId = Annotated[str, Field(pattern=ID_PATTERN, examples=["B0001"])]
UserId = Annotated[str, Field(pattern=ID_PATTERN, examples=["u42"])]
EventId = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{7,127}$", examples=["0192f1c4-7d6e-7b1a"])
]
Words = Annotated[str, Field(min_length=1, max_length=256, pattern=TEXT_PATTERN)]


def _aware(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("has no time zone; write it with Z or an offset, 2026-01-31T12:00:00Z")
    return moment


Moment = Annotated[datetime, AfterValidator(_aware)]


class Strict(BaseModel):
    """No coercion between types, no unknown fields, no NaN."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Tier(StrEnum):
    """What produced an answer, best first."""

    RANKER = "ranker"
    SMALL_RANKER = "small_ranker"
    POPULAR = "popular"


class EventKind(StrEnum):
    """What a shopper did; `search` carries a query, the others an item."""

    SEARCH = "search"
    VIEW = "view"
    CART = "cart"
    PURCHASE = "purchase"
    RATING = "rating"


class Filters(Strict):
    """Which items may be answered; all given conditions must hold."""

    category: list[Words] | None = Field(
        default=None,
        min_length=1,
        max_length=8,
        description="Category path from the top; items at or below it pass.",
        examples=[["Garden", "Tools"]],
    )
    price_min: float | None = Field(default=None, ge=0, le=1e9, description="Lowest price.")
    price_max: float | None = Field(default=None, ge=0, le=1e9, description="Highest price.")
    in_stock: bool | None = Field(
        default=None, description="true: only items in stock; false: only items that are not."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        low, high = self.price_min, self.price_max
        if low is not None and high is not None and low > high:
            raise ValueError(f"price_min {low} is above price_max {high}; swap them")
        return self


class _Answerable(Strict):
    k: int = Field(
        default=10, ge=1, le=MAX_K, description="Items wanted; fewer come if fewer pass."
    )
    filters: Filters | None = Field(default=None, description="Conditions every item must meet.")
    exclude: list[ItemId] = Field(
        default_factory=list,
        max_length=MAX_EXCLUDE,
        description="Items never to answer; ids that the catalogue does not have are ignored.",
    )
    deadline_ms: int | None = Field(
        default=None,
        ge=5,
        le=10_000,
        description="Time the caller gives; a lower tier answers if the better one would be late.",
    )
    details: bool = Field(default=False, description="Add title, brand, category, price, stock.")


class RecommendRequest(_Answerable):
    """Items for a user, for an explicit history, or for both.

    An explicit history replaces the stored one. Neither: the popular list.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"user_id": "u42", "k": 5},
                {"history": ["i1", "i7"], "k": 3, "filters": {"in_stock": True}},
            ]
        }
    )

    user_id: UserId | None = Field(default=None, description="Whose stored history to use.")
    history: list[ItemId] | None = Field(
        default=None,
        max_length=MAX_HISTORY,
        description="Items of this user, oldest first; unknown ones are ignored and counted.",
    )
    context_item: ItemId | None = Field(
        default=None,
        description="The item being looked at now; must be in the catalogue; never answered.",
    )


class SearchRequest(_Answerable):
    """Products for a text query, ordered for the user if one is given."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"query": "red running shoes", "k": 5},
                {"query": "lamp", "user_id": "u42", "filters": {"price_max": 40.0}},
            ]
        }
    )

    query: Words = Field(
        description="What the shopper typed; text only, never interpreted.",
        examples=["red running shoes"],
    )
    user_id: UserId | None = Field(default=None, description="Whose stored history to use.")
    history: list[ItemId] | None = Field(
        default=None, max_length=MAX_HISTORY, description="Used instead of the stored history."
    )


class Scored(Strict):
    """One answered item. Scores order one answer; they do not compare across tiers or versions."""

    item_id: str = Field(description="Catalogue id.", examples=["i7"])
    score: float = Field(description="Higher is better.", examples=[3.25])
    title: str | None = Field(default=None, description="With `details`.")
    brand: str | None = Field(default=None, description="With `details`.")
    category: list[str] | None = Field(default=None, description="With `details`.")
    price: float | None = Field(default=None, description="With `details`.")
    in_stock: bool | None = Field(default=None, description="With `details`.")


class HistorySource(StrEnum):
    """Where the history came from."""

    REQUEST = "request"
    STORE = "store"
    NONE = "none"
    UNAVAILABLE = "unavailable"


class Answer(Strict):
    """Items, best first, and what is needed to judge them."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "items": [{"item_id": "i9", "score": 2.5}],
                    "tier": "ranker",
                    "model_version": "20260101T000000-0123abcd",
                    "latency_ms": 4.2,
                    "request_id": "6f1d0f6b0a9c4b7e",
                    "history_source": "request",
                    "history_used": 2,
                    "history_unknown": 0,
                    "note": None,
                }
            ]
        }
    )

    items: list[Scored] = Field(description="Best first; ties by catalogue order.")
    tier: Tier = Field(description="What answered: ranker, small_ranker or popular.")
    model_version: str = Field(description="Version of the model behind the answer.")
    latency_ms: float = Field(description="Time inside the service.")
    request_id: str = Field(description="Also in the X-Request-Id header and every log line.")
    history_source: HistorySource = Field(description="Where the history came from.")
    history_used: int = Field(description="Known items of the history that the model saw.")
    history_unknown: int = Field(description="Items of the history that the catalogue lacks.")
    note: str | None = Field(
        description="Why the answer is short or not the ranker's; null when nothing is unusual."
    )


class Event(Strict):
    """Something a shopper did."""

    event_id: EventId = Field(
        description="Unique per event; posting the same id again changes nothing."
    )
    user_id: UserId = Field(description="Who did it (stored under a one-way hash).")
    kind: EventKind = Field(description="What was done.")
    time: Moment = Field(
        description="When, ISO 8601 with time zone; at most five minutes in the future.",
        examples=["2026-01-31T12:00:00Z"],
    )
    item_id: ItemId | None = Field(
        default=None, description="Required for every kind but `search`; must be in the catalogue."
    )
    query: Words | None = Field(default=None, description="Required for `search`, refused else.")
    rating: float | None = Field(default=None, ge=0, le=5, description="Only with `rating`.")
    session_id: EventId | None = Field(default=None, description="Visit it belongs to.")
    position: int | None = Field(
        default=None, ge=0, le=100_000, description="Rank in the list it was chosen from."
    )
    source: Words | None = Field(default=None, description="Page or list it came from.")

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.kind is EventKind.SEARCH:
            if self.query is None:
                raise ValueError("query is missing; a search event needs it")
        elif self.item_id is None:
            raise ValueError(f"item_id is missing; a {self.kind} event needs it")
        elif self.query is not None:
            raise ValueError(f"query is given; only a search event has one, this is {self.kind}")
        if self.rating is not None and self.kind is not EventKind.RATING:
            raise ValueError(f"rating is given; only a rating event has one, this is {self.kind}")
        return self


class EventsRequest(Strict):
    """A batch of events; taken as a whole or refused as a whole."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "events": [
                        {
                            "event_id": "0192f1c4-7d6e-7b1a",
                            "user_id": "u42",
                            "kind": "view",
                            "time": "2026-01-31T12:00:00Z",
                            "item_id": "i7",
                        }
                    ]
                }
            ]
        }
    )

    events: list[Event] = Field(min_length=1, max_length=MAX_EVENTS, description="In any order.")


class EventsAnswer(Strict):
    """Given only when every event of the batch is stored."""

    accepted: int = Field(description="Events newly stored.", examples=[1])
    duplicates: int = Field(description="Events the log already had.", examples=[0])
    latency_ms: float = Field(description="Time inside the service.", examples=[3.1])
    request_id: str = Field(examples=["6f1d0f6b0a9c4b7e"], description="As in X-Request-Id.")


class ModelAnswer(Strict):
    """What is being served."""

    # `model_` is pydantic's own prefix; these fields are the contract's names.
    model_config = ConfigDict(protected_namespaces=())

    model_version: str = Field(description="Version in every answer.")
    data_fingerprint: str = Field(description="Hash of the data it was trained on.")
    size: str = Field(description="Model size by name.", examples=["tiny"])
    created: str = Field(description="When it was trained.")
    items: int = Field(description="Catalogue size.")
    metrics: dict[str, Any] = Field(description="Evaluation as recorded with the checkpoint.")
    tier: Tier = Field(description="The tier that answers right now.")
    tiers: list[Tier] = Field(description="Tiers this process can use.")
    loaded_at: str = Field(description="When this process took the version up.")
    bento: str | None = Field(description="Tag of the bento, null when run from source.")


class FieldError(Strict):
    """One thing wrong with a request."""

    field: str = Field(description="Path of the field, `events[3].time`, or `body`.")
    message: str = Field(description="The rule and what to write instead.")
    found: str | None = Field(default=None, description="What was found, shortened.")


class ErrorAnswer(Strict):
    """Every answer with a status of 400 or above."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": "invalid_request",
                    "message": "1 field refused",
                    "fields": [
                        {
                            "field": "k",
                            "message": "Input should be less than or equal to 500",
                            "found": "9999",
                        }
                    ],
                    "request_id": "6f1d0f6b0a9c4b7e",
                }
            ]
        }
    )

    error: str = Field(description="Kind of error, stable for programs.")
    message: str = Field(description="One line for people.")
    fields: list[FieldError] = Field(description="Each field refused; empty if none is at fault.")
    request_id: str = Field(description="As in X-Request-Id and the log.")
