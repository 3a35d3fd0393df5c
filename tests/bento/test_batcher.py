"""How large batches are: what a call costs, on a machine whose speed changes."""

from __future__ import annotations

import asyncio
import gc
import math
import time
from collections.abc import Sequence

import pytest

from bento.batcher import Batcher, Lane, LateError

TARGET = 0.017
SIZES = (1, 2, 4, 8, 16, 32)


def lane(seconds: dict[int, float]) -> Lane[int, int]:
    """A lane whose calls were measured to take so long."""
    made: Lane[int, int] = Lane("ranker", list, 64)
    for size, took in seconds.items():
        made.observe(size, took)
    return made


FLAT = {size: 0.0012 + 0.0003 * size for size in SIZES}  # rows are cheap, calls are not
STEEP = {size: 0.02 * size for size in SIZES}  # a call costs its rows


def test_a_batch_is_as_large_as_the_target_allows() -> None:
    assert lane(FLAT).limit(TARGET) == 32
    assert lane(FLAT).limit(1.0) == 64


def test_a_busy_machine_does_not_shrink_batches_whose_rows_are_cheap() -> None:
    busy = lane(FLAT)
    for _ in range(50):
        busy.observe(4, 20 * FLAT[4])
    assert busy.cost(16) > TARGET
    assert busy.cost(16) == pytest.approx(20 * FLAT[16], rel=0.3)
    assert busy.limit(TARGET) >= 8


def test_a_batch_over_the_target_is_not_made_where_it_saves_nothing() -> None:
    assert lane(STEEP).limit(TARGET) == 1


def test_large_batches_come_back_with_the_machine_though_only_small_ones_were_made() -> None:
    changing = lane({size: 0.003 + 0.0008 * size for size in SIZES})
    before = changing.limit(TARGET)
    for _ in range(50):
        changing.observe(16, 10 * 0.0158)
    assert changing.limit(TARGET) < before
    for _ in range(50):
        changing.observe(1, 0.0038)
    assert changing.limit(TARGET) == before


def test_one_pause_of_the_machine_is_not_taken_for_its_speed() -> None:
    paused = lane(FLAT)
    paused.observe(1, 3.0)
    assert paused.cost(1) < 2 * FLAT[1]


def test_requests_that_are_on_their_way_through_the_loop_join_the_batch() -> None:
    made: list[int] = []

    def run(jobs: Sequence[int]) -> Sequence[int]:
        made.append(len(jobs))
        return jobs

    async def ask(batcher: Batcher, lane: Lane[int, int], turns: int) -> int:
        for _ in range(turns):  # a body that is read, a request that is checked
            await asyncio.sleep(0)
        return await batcher.submit(lane, turns, deadline=float("inf"))

    async def all_of_them() -> list[int]:
        batcher = Batcher(TARGET)
        only: Lane[int, int] = Lane("ranker", run, 64)
        batcher.lanes = [only]
        batcher.start()
        try:
            return await asyncio.gather(*(ask(batcher, only, turns) for turns in range(8)))
        finally:
            await batcher.stop()

    assert asyncio.run(all_of_them()) == list(range(8))
    assert made == [8]


def test_a_lane_that_was_left_looking_slow_is_measured_again_though_nobody_may_use_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bento.batcher.STALE_S", 0.0)
    slow = lane(FLAT)
    for _ in range(50):
        slow.observe(1, 1.0)
    assert slow.cost(1) > 0.5

    async def probed() -> None:
        batcher = Batcher(TARGET)
        batcher.lanes = [slow]
        batcher.start()
        try:
            for _ in range(200):
                batcher.probe(slow, 1)
                await asyncio.sleep(0.002)
        finally:
            await batcher.stop()

    asyncio.run(probed())
    assert slow.cost(1) < 0.05


def test_a_lane_in_use_or_measured_just_now_is_not_measured_for_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bento.batcher.STALE_S", 3600.0)

    async def waiting(prepare: Lane[int, int]) -> int:
        batcher = Batcher(TARGET)
        batcher.lanes = [prepare]
        for _ in range(3):
            batcher.probe(prepare, 1)
        return len(prepare.queue)

    known = lane(FLAT)
    assert asyncio.run(waiting(known)) == 0, "measured just now"
    known.measured = -math.inf
    assert asyncio.run(waiting(known)) == 1, "one is enough"


def test_an_error_that_nobody_waits_for_is_logged_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("bento.batcher.STALE_S", 0.0)
    told: list[object] = []

    def broken(jobs: Sequence[int]) -> Sequence[int]:
        if 0 in jobs:
            raise RuntimeError("made to fail by the test")
        return jobs

    async def both() -> int:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: told.append(what))
        batcher = Batcher(TARGET)
        only: Lane[int, int] = Lane("ranker", broken, 64)
        batcher.lanes = [only]
        batcher.start()
        try:
            batcher.probe(only, 0)
            await asyncio.sleep(0.02)
            return await batcher.submit(only, 7, deadline=float("inf"))
        finally:
            await batcher.stop()

    assert asyncio.run(both()) == 7
    gc.collect()
    assert told == []
    assert [one.message for one in caplog.records] == ["model call failed"]


def test_what_would_end_after_its_deadline_is_not_computed() -> None:
    computed: list[int] = []

    def run(jobs: Sequence[int]) -> Sequence[int]:
        computed.extend(jobs)
        return jobs

    async def two() -> list[int | BaseException]:
        batcher = Batcher(TARGET)
        known: Lane[int, int] = Lane("ranker", run, 64)
        known.observe(1, 0.5)
        batcher.lanes = [known]
        batcher.start()
        now = time.perf_counter()
        try:
            return await asyncio.gather(
                batcher.submit(known, 1, now + 0.4),
                batcher.submit(known, 2, now + 3600),
                return_exceptions=True,
            )
        finally:
            await batcher.stop()

    late, answered = asyncio.run(two())
    assert isinstance(late, LateError)
    assert answered == 2
    assert computed == [2]
