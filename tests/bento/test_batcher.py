"""How large batches are: what a call costs, on a machine whose speed changes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from bento.batcher import Batcher, Lane

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
