"""From a valid request to an answer: history, tier, batch, and what to do when time runs out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from bento import metrics
from bento.batcher import Batcher, LateError
from bento.errors import NotReadyError, RefusedError, field_refused
from bento.history import HistoryStore, StoreAwayError
from bento.lanes import Lanes, RankJob, SearchJob, Served, lanes_of, settle, warm
from bento.ports import ScoredItem
from bento.settings import ServiceSettings
from bento.types import (
    Answer,
    Event,
    EventsAnswer,
    HistorySource,
    RecommendRequest,
    SearchRequest,
    Tier,
)

log = logging.getLogger("bento.engine")

# A tier is chosen if its expected time, with this safety factor, fits what is left.
SAFETY = 1.25
# A request waited in its socket before the service saw it, and its answer waits to be sent.
UNSEEN_TURNS = 2
# Share of a deadline that is kept back while most answers come from a lower tier, so that what
# waits for the ranker in vain still has one in time; and the answers that "while" looks back on.
SPARE, MEMORY = 0.3, 200
# Share of the default deadline that one batch may take: two batches in a row still fit.
BATCH_SHARE = 0.35


class History(NamedTuple):
    """Known items of a user, oldest first, and how they were found."""

    items: list[str]
    unknown: int
    source: HistorySource


class Engine:
    """Answers requests with the version in use. Use it from one event loop."""

    def __init__(
        self,
        settings: ServiceSettings,
        store: HistoryStore | None,
        wait: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.settings = settings
        self._wait = wait  # seconds for a turn of the event loop, under the load of now
        self._lower = 0.0  # share of the last answers that a lower tier had to give
        self.store = store
        self.batcher = Batcher(
            settings.deadline_ms / 1000 * BATCH_SHARE,
            on_batch=lambda name, size: metrics.child(metrics.BATCH_SIZE, name).observe(size),
        )
        self.served: Served | None = None
        self.lanes: Lanes | None = None

    async def take_up(self, served: Served) -> None:
        """Serve this version from now on; requests under way finish on the one they began with."""
        lanes = lanes_of(served, self.settings.max_batch)
        await asyncio.to_thread(warm, served, lanes)
        old = self.served
        self.served, self.lanes = served, lanes
        # The old version's queues stay until they are empty.
        waiting = [lane for lane in self.batcher.lanes if lane.queue]
        self.batcher.lanes = [*waiting, *lanes.in_order()]
        if old is not None:
            metrics.MODEL_INFO.labels(old.version).set(0)
        settle(first=old is None)
        metrics.MODEL_INFO.labels(served.version).set(1)
        metrics.MODEL_LOADED.set(served.loaded_at.timestamp())
        metrics.MODEL_CREATED.set(served.predictor.manifest.created.timestamp())
        log.info("model taken up", extra={"model_version": served.version})

    def _using(self) -> tuple[Served, Lanes]:
        if self.served is None or self.lanes is None:
            raise NotReadyError("the model is still loading", retry_after_s=2)
        return self.served, self.lanes

    def tier_now(self) -> Tier:
        """The tier that a request with the default deadline would get."""
        _, lanes = self._using()
        left = self.settings.deadline_ms / 1000
        for tier, lane in lanes.ranked():
            if self.batcher.delay(lane) * SAFETY <= left:
                return tier
        return Tier.POPULAR

    def _deadline(self, request: RecommendRequest | SearchRequest, began: float) -> float:
        """When the answer must be there, so that its client has it in time (perf_counter)."""
        given = (request.deadline_ms or self.settings.deadline_ms) / 1000
        return began + given * (1 - SPARE * self._lower) - UNSEEN_TURNS * self._wait()

    async def _history(
        self, served: Served, given: list[str] | None, user_id: str | None
    ) -> History:
        if given is not None:
            found, source = given, HistorySource.REQUEST
        elif user_id is None or self.store is None:
            found, source = [], HistorySource.NONE
        else:
            try:
                found, source = await self.store.recent(user_id), HistorySource.STORE
            except StoreAwayError:
                found, source = [], HistorySource.UNAVAILABLE
        index_of = served.shelf.catalogue.index_of
        known = [item for item in found if index_of(item) is not None]
        return History(known, len(found) - len(known), source)

    async def recommend(self, request: RecommendRequest, began: float, request_id: str) -> Answer:
        """Answer a recommend request; `began` is its arrival on the perf_counter clock."""
        served, lanes = self._using()
        index_of = served.shelf.catalogue.index_of
        if request.context_item is not None and index_of(request.context_item) is None:
            raise field_refused(
                "context_item", "is not in the catalogue; leave it out or correct it",
                request.context_item,
            )  # fmt: skip
        history = await self._history(served, request.history, request.user_id)
        items = history.items
        if request.context_item is not None:
            items = [*items, request.context_item]
        metrics.child(metrics.USERS, "known" if items else "cold").inc()
        view = served.shelf.view(request.filters)
        excluded = frozenset(request.exclude)
        deadline = self._deadline(request, began)
        note: str | None = None
        tier, ranked = Tier.POPULAR, None
        if view.passing == 0:
            note, ranked = "no item passes the filters", []
        elif not items:
            note = "no known history: the popular list answers"
        else:
            job = RankJob(items, request.k, view.mask, excluded)
            tier, ranked = await self._ranked(lanes, job, deadline)
            if ranked is None:
                note = "too little time left: the popular list answers"
        if ranked is None:
            pairs = served.shelf.popular(view, request.k, excluded | frozenset(items))
        else:
            pairs = [(scored.item, scored.score) for scored in ranked]
        if note is None and len(pairs) < request.k:
            note = f"only {len(pairs)} items are left after filters, exclusions and the history"
        return self._answer(
            "recommend", served, pairs, tier, history, note, began, request_id, request.details
        )

    async def _ranked(
        self, lanes: Lanes, job: RankJob, deadline: float
    ) -> tuple[Tier, Sequence[ScoredItem] | None]:
        """The best tier that is in time, with its items; POPULAR and None if none is."""
        reason = "load"
        for tier, lane in lanes.ranked():
            left = deadline - time.perf_counter()
            if self.batcher.delay(lane) * SAFETY > left:
                self.batcher.probe(lane, job)
                continue
            try:
                answer = await self.batcher.submit(lane, job, deadline)
            except LateError:
                reason = "deadline"
            except Exception:
                # A model that fails must not fail the shopper: the tier below answers.
                log.exception("model call failed", extra={"lane": lane.name})
                reason = "error"
            else:
                lower = tier is not Tier.RANKER
                if lower:
                    metrics.child(metrics.DEGRADED, tier, reason).inc()
                self._lower += (lower - self._lower) / MEMORY
                return tier, answer
        self._lower += (1 - self._lower) / MEMORY
        metrics.child(metrics.DEGRADED, Tier.POPULAR, reason).inc()
        return Tier.POPULAR, None

    async def search(self, request: SearchRequest, began: float, request_id: str) -> Answer:
        """Answer a search request; refuses (503) when it would be late, as popular items are no
        answer to a query."""
        served, lanes = self._using()
        lane = lanes.search
        if lane is None:
            raise NotReadyError("this model was bundled without a search index", retry_after_s=60)
        history = await self._history(served, request.history, request.user_id)
        view = served.shelf.view(request.filters)
        note: str | None = None
        pairs: list[tuple[str, float]] = []
        if view.passing == 0:
            note = "no item passes the filters"
        else:
            deadline = self._deadline(request, began)
            delay = self.batcher.delay(lane)
            wanted = request.k + len(request.exclude)
            job = SearchJob(request.query, history.items, wanted, view.mask)
            if delay * SAFETY > deadline - time.perf_counter():
                self.batcher.probe(lane, job)
                raise RefusedError("search is overloaded", retry_after_s=max(1, round(delay)))
            try:
                found = await self.batcher.submit(lane, job, deadline)
            except LateError:
                raise RefusedError("search is overloaded", retry_after_s=1) from None
            excluded = frozenset(request.exclude)
            pairs = [(s.item, s.score) for s in found if s.item not in excluded][: request.k]
            if not pairs:
                note = "nothing matches the query"
        return self._answer(
            "search", served, pairs, Tier.RANKER, history, note, began, request_id, request.details
        )

    async def events(self, events: Sequence[Event], began: float, request_id: str) -> EventsAnswer:
        """Store a batch of events; the answer means they are on disk."""
        served, _ = self._using()
        now = datetime.now(UTC).timestamp()
        index_of = served.shelf.catalogue.index_of
        oldest = now - self.settings.event_max_age_days * 86_400
        for number, event in enumerate(events):
            at = event.time.timestamp()
            if not oldest <= at <= now + 300:
                raise field_refused(
                    f"events[{number}].time",
                    f"must lie between {self.settings.event_max_age_days:g} days ago and "
                    "5 minutes from now",
                    event.time.isoformat(),
                )
            if event.item_id is not None and index_of(event.item_id) is None:
                raise field_refused(
                    f"events[{number}].item_id", "is not in the catalogue", event.item_id
                )
        if self.store is None:
            raise NotReadyError("this service runs without an event store", retry_after_s=60)
        try:
            stored = await self.store.append(events)
        except StoreAwayError:
            metrics.child(metrics.EVENTS, "refused").inc(len(events))
            raise NotReadyError(
                "the event store is away; post the same batch again", retry_after_s=2
            ) from None
        metrics.child(metrics.EVENTS, "accepted").inc(stored.accepted)
        metrics.child(metrics.EVENTS, "duplicate").inc(stored.duplicates)
        took = time.perf_counter() - began
        metrics.child(metrics.LATENCY_SECONDS, "events", "").observe(took)
        return EventsAnswer(
            accepted=stored.accepted,
            duplicates=stored.duplicates,
            latency_ms=round(took * 1000, 3),
            request_id=request_id,
        )

    def _answer(
        self,
        endpoint: str,
        served: Served,
        pairs: list[tuple[str, float]],
        tier: Tier,
        history: History,
        note: str | None,
        began: float,
        request_id: str,
        details: bool,
    ) -> Answer:
        took = time.perf_counter() - began
        metrics.child(metrics.LATENCY_SECONDS, endpoint, tier).observe(took)
        if pairs:
            metrics.child(metrics.TOP_SCORE, tier).observe(pairs[0][1])
        else:
            metrics.child(metrics.EMPTY, endpoint).inc()
        # validated as a whole: one call into pydantic's core instead of one for each item
        return Answer.model_validate({
            "items": [served.shelf.answer(item, score, details) for item, score in pairs],
            "tier": tier,
            "model_version": served.version,
            "latency_ms": round(took * 1000, 3),
            "request_id": request_id,
            "history_source": history.source,
            "history_used": len(history.items),
            "history_unknown": history.unknown,
            "note": note,
        })  # fmt: skip
