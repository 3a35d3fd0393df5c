"""Overload, on `bentoml serve` itself."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from benchmarks.load import bodies_of, closed_loop, open_loop
from tests.bento.process import Served, serving
from tests.bento.test_serve import items_of, until


@pytest.mark.slow
def test_at_twice_its_capacity_the_service_refuses_early_and_is_normal_again(
    tiny: Path, tmp_path: Path
) -> None:
    items = items_of(tiny)
    settings = {"model_dir": tiny, "store": "off", "log_level": "warning", "max_batch": 1}
    with serving(tmp_path / "state", **settings) as served:
        patient = bodies_of(items, deadline_ms=10_000)
        capacity = closed_loop(served.url, patient, 8, 4).rate
        hurried = bodies_of(items, deadline_ms=200)
        heavy = open_loop(served.url, hurried, 2 * capacity, 10)
        assert not heavy.wrong, f"only 200, 429 and 503 are answers to overload: {heavy.wrong}"
        answered = [*heavy.full, *heavy.lower]
        assert answered, "some must be answered all the same"
        less = heavy.refused or heavy.lower
        assert less, "twice the capacity must be refused or answered by a lower tier"
        refused = httpx.get(f"{served.url}/metrics", timeout=60, trust_env=False).text
        assert "recommender_refused_total" in refused
        until("full answers at a light load", 60, lambda: _light(served, patient))


def _light(served: Served, bodies: list[bytes]) -> bool:
    calm = open_loop(served.url, bodies, 5, 2)
    return not calm.wrong and calm.share >= 0.99
