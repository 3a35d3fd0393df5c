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


def test_the_limit_of_requests_under_way_needs_no_lateness() -> None:
    assert asyncio.run(refused(2, late=False, limit=2)) == "too many requests are under way"
