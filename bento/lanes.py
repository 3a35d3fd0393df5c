"""One model version in use, and the queues in front of its batch functions."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from bento.batcher import Lane
from bento.ports import Mask, PredictorLike, ScoredItem
from bento.shelf import Shelf
from bento.types import Tier

WARM_SIZES = (1, 2, 4, 8, 16, 32)
WARM_CALLS = 3  # the quickest counts: what else the machine does is measured later


class RankJob(NamedTuple):
    """One row of a recommend batch."""

    history: list[str]
    k: int
    allowed: Mask | None
    exclude: frozenset[str]


class SearchJob(NamedTuple):
    """One row of a search batch."""

    query: str
    history: list[str]
    k: int
    allowed: Mask | None


@dataclass(frozen=True)
class Served:
    """One model version in use: immutable, replaced as a whole."""

    predictor: PredictorLike
    small: PredictorLike | None
    shelf: Shelf
    searchable: bool
    bundle_digest: str
    loaded_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def version(self) -> str:
        return self.predictor.manifest.version


def _rank(predictor: PredictorLike, jobs: Sequence[RankJob]) -> list[Sequence[ScoredItem]]:
    """One model call for jobs of any k: rows are cut to their own length afterwards."""
    answers = predictor.recommend(
        [job.history for job in jobs],
        max(job.k for job in jobs),
        allowed=[job.allowed for job in jobs],
        exclude=[job.exclude for job in jobs],
    )
    return [answer[: job.k] for job, answer in zip(jobs, answers, strict=True)]


def _search(predictor: PredictorLike, jobs: Sequence[SearchJob]) -> list[Sequence[ScoredItem]]:
    answers = predictor.search(
        [job.query for job in jobs],
        max(job.k for job in jobs),
        histories=[job.history for job in jobs],
        allowed=[job.allowed for job in jobs],
    )
    return [answer[: job.k] for job, answer in zip(jobs, answers, strict=True)]


class Lanes(NamedTuple):
    """The queues of one model version."""

    ranker: Lane[RankJob, Sequence[ScoredItem]]
    small: Lane[RankJob, Sequence[ScoredItem]] | None
    search: Lane[SearchJob, Sequence[ScoredItem]] | None

    def ranked(self) -> list[tuple[Tier, Lane[RankJob, Sequence[ScoredItem]]]]:
        """What answers a recommend request, the best first."""
        best = [(Tier.RANKER, self.ranker)]
        return best if self.small is None else [*best, (Tier.SMALL_RANKER, self.small)]

    def in_order(self) -> list[Lane[Any, Any]]:
        """Cheapest first: the small ranker exists for when time is short."""
        return [lane for lane in (self.small, self.search, self.ranker) if lane is not None]


def lanes_of(served: Served, max_batch: int) -> Lanes:
    """Queues for a version; warm them before use."""

    def rank(predictor: PredictorLike) -> Callable[[Sequence[RankJob]], list[Sequence[ScoredItem]]]:
        return lambda jobs: _rank(predictor, jobs)

    def search(jobs: Sequence[SearchJob]) -> list[Sequence[ScoredItem]]:
        return _search(served.predictor, jobs)

    return Lanes(
        ranker=Lane("ranker", rank(served.predictor), max_batch),
        small=None if served.small is None else Lane("small_ranker", rank(served.small), max_batch),
        search=Lane("search", search, max_batch) if served.searchable else None,
    )


def warm(served: Served, lanes: Lanes) -> None:
    """Run every lane at growing batch sizes: pays one-off costs, and measures what a call takes.

    Runs on the compute thread. Raises whatever the model raises: such a version is not served.
    """
    ids = served.shelf.ids
    history = [ids[i * len(ids) // 10] for i in range(min(10, len(ids)))]

    def measure(lane: Lane[Any, Any], job: Any) -> None:
        for size in [s for s in WARM_SIZES if s <= lane.max_batch]:
            jobs = [job] * size
            lane.run(jobs)
            took: list[float] = []
            for _ in range(WARM_CALLS):
                began = time.perf_counter()
                lane.run(jobs)
                took.append(time.perf_counter() - began)
            lane.observe(size, min(took))

    row = RankJob(history, 10, None, frozenset())
    measure(lanes.ranker, row)
    if lanes.small is not None:
        measure(lanes.small, row)
    if lanes.search is not None:
        product = served.shelf.catalogue.product(ids[0])
        words = product.title if product else "item"
        measure(lanes.search, SearchJob(words, history, 10, None))


def settle(*, first: bool) -> None:
    """Take what stays (modules, model, catalogue) out of the garbage collector's sight.

    A full collection looks at all of it, for longer than a request may take, and load makes one
    every second or two. Afterwards it looks at the requests under way alone. Garbage is
    looked for before the first version only, as later ones come while requests are answered; a
    version that is replaced holds no cycles and goes without the collector.
    """
    if first:
        gc.collect()
    gc.freeze()
