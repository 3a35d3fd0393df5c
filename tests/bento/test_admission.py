"""Early refusal: a late event loop counts only with requests waiting behind it."""

from __future__ import annotations

import asyncio
import time

import pytest

from bento.guard import FEW, Admission


async def refused(in_flight: int, *, late: bool, limit: int = 64) -> str | None:
    """The message of the refusal on a loop that was just held for 80 ms, or on one that runs."""
    admission = Admission(limit, max_lag_s=0.025)
    admission.start()
    try:
        await asyncio.sleep(0.05)  # a few ticks
        if late:
            time.sleep(0.08)
        admission.in_flight = in_flight
        refusal = admission.refuse()
    finally:
        admission.stop()
    return str(refusal) if refusal else None


@pytest.mark.parametrize("in_flight", [1, FEW])
def test_a_lone_shopper_on_a_starved_machine_is_answered(in_flight: int) -> None:
    assert asyncio.run(refused(in_flight, late=True)) is None


def test_a_late_loop_with_a_queue_behind_it_refuses() -> None:
    assert asyncio.run(refused(FEW + 1, late=True)) == "the service is overloaded"


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
            for _ in range(begun - 1):
                admission.begin()
                time.sleep(0.08 / FEW)
                admission.end()
            admission.begin()
            found = admission.refuse()
        finally:
            admission.stop()
        return found.code if found else None

    assert asyncio.run(one_after_the_other()) == refusal


def test_the_limit_of_requests_under_way_needs_no_lateness() -> None:
    assert asyncio.run(refused(2, late=False, limit=2)) == "too many requests are under way"
