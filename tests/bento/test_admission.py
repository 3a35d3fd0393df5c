"""Early refusal: a late event loop counts only with requests waiting behind it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import nullcontext

import pytest

from bento.guard import FEW, GRAVE, Admission


def compute(seconds: float) -> None:
    """Hold the loop by work of this thread."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


async def refused(
    in_flight: int, hold: Callable[[float], None] = compute, seconds: float = 0.2, *,
    times: int = 4, limit: int = 64, loading: bool = False,
) -> str | None:  # fmt: skip
    """The message of the refusal on a loop that was held so many times in a row."""
    admission = Admission(limit, max_lag_s=0.1)
    admission.start()
    try:
        await asyncio.sleep(0.05)  # a few ticks
        admission.busy = 1.0 if hold is compute else 0.0
        with admission.loading() if loading else nullcontext():
            for number in range(times):
                if number:
                    await asyncio.sleep(0.001)  # one tick between, which is late by then
                hold(seconds)
            admission.in_flight = in_flight
            refusal = admission.refuse()
    finally:
        admission.stop()
    return str(refusal) if refusal else None


@pytest.mark.parametrize("in_flight", [1, FEW])
def test_a_lone_shopper_on_a_starved_machine_is_answered(in_flight: int) -> None:
    assert asyncio.run(refused(in_flight)) is None


def test_a_late_loop_with_a_queue_behind_it_refuses() -> None:
    assert asyncio.run(refused(FEW + 1)) == "the service is overloaded"


@pytest.mark.parametrize(("times", "refusal"), [(1, None), (3, "the service is overloaded")])
def test_while_a_model_is_loaded_one_pause_refuses_nobody_and_several_do(
    times: int, refusal: str | None
) -> None:
    assert asyncio.run(refused(FEW + 1, times=times, loading=True)) == refusal
    assert asyncio.run(refused(FEW + 1, times=times)) == "the service is overloaded"


@pytest.mark.parametrize(
    ("seconds", "refusal"), [(0.2, None), (0.2 * GRAVE, "the service is overloaded")]
)
def test_a_loop_that_others_make_late_refuses_only_when_it_is_very_late(
    seconds: float, refusal: str | None
) -> None:
    """A neighbour that starts takes the processor for a while: refusing would not bring it back."""
    assert asyncio.run(refused(FEW + 1, time.sleep, seconds)) == refusal


@pytest.mark.parametrize(("begun", "refusal"), [(FEW, None), (FEW + 1, "overloaded")])
def test_requests_that_ended_where_they_began_are_load_as_well(
    begun: int, refusal: str | None
) -> None:
    """The popular list answers within one turn of the loop: never two of them are under way."""

    async def one_after_the_other() -> str | None:
        admission = Admission(64, max_lag_s=0.025)
        admission.start()
        try:
            await asyncio.sleep(0.05)
            admission.busy = 1.0
            for _ in range(begun - 1):
                admission.begin()
                compute(0.08 / FEW)
                admission.end()
            admission.begin()
            found = admission.refuse()
        finally:
            admission.stop()
        return found.code if found else None

    assert asyncio.run(one_after_the_other()) == refusal


def test_the_limit_of_requests_under_way_needs_no_lateness() -> None:
    assert asyncio.run(refused(2, times=0, limit=2)) == "too many requests are under way"
