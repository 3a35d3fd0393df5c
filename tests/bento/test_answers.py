"""What the service answers, in the ordinary and in the odd cases."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from bento.app import create_app
from bento.engine import MEMORY
from bento.guard import Guard
from bento.models import load
from tests.bento.conftest import Service, running
from tests.bento.shop import served, shop

ITEMS = [product.id for product in shop().products]


def ask(tmp_path: Path, talk: Callable[[Service], Awaitable[None]], **settings: object) -> None:
    async def run() -> None:
        async with running(tmp_path, **settings) as service:
            await talk(service)

    asyncio.run(run())


def test_an_explicit_history_is_ranked_and_never_answered_back(tmp_path: Path) -> None:
    history = next(iter(shop().sequences().values()))[:5]

    async def talk(service: Service) -> None:
        answer = await service.post("/recommend", {"history": history, "k": 7})
        assert answer["tier"] == "ranker"
        assert answer["model_version"] == "counts-1"
        assert answer["history_source"] == "request"
        assert answer["latency_ms"] > 0
        found = [item["item_id"] for item in answer["items"]]
        assert len(set(found)) == 7
        assert not set(found) & set(history), "seen items came back"
        scores = [item["score"] for item in answer["items"]]
        assert scores == sorted(scores, reverse=True)

    ask(tmp_path, talk)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"user_id": "nobody"},
        {"history": []},
        {"history": ["no-such-item", "nor-this"]},
    ],
)
def test_who_is_not_known_gets_the_popular_list_and_is_told(body: dict, tmp_path: Path) -> None:
    async def talk(service: Service) -> None:
        answer = await service.post("/recommend", {**body, "k": 3})
        best = [i for i, _ in served().predictor.sold.most_common(3)]
        assert [item["item_id"] for item in answer["items"]] == best
        assert answer["tier"] == "popular"
        assert "popular" in answer["note"]
        assert answer["history_used"] == 0
        assert answer["history_unknown"] == len(body.get("history", []))

    ask(tmp_path, talk)


def test_more_items_than_the_catalogue_has_gives_all_that_are_left(tmp_path: Path) -> None:
    async def talk(service: Service) -> None:
        answer = await service.post("/recommend", {"history": ITEMS[:2], "k": 500})
        found = {item["item_id"] for item in answer["items"]}
        assert found == set(ITEMS[2:])
        assert str(len(ITEMS) - 2) in answer["note"]

    ask(tmp_path, talk)


@pytest.mark.parametrize("body", [{"history": ITEMS[:3]}, {}])
def test_every_answered_item_passes_the_filters(body: dict, tmp_path: Path) -> None:
    top = shop().products[0].category[0]
    filters = {"category": [top], "price_min": 5.0, "price_max": 80.0, "in_stock": True}
    by_id = {product.id: product for product in shop().products}

    async def talk(service: Service) -> None:
        answer = await service.post("/recommend", {**body, "k": 200, "filters": filters})
        passing = {
            p.id
            for p in by_id.values()
            if p.category[0] == top and p.price and 5 <= p.price <= 80 and p.in_stock
        } - set(body.get("history", []))
        assert passing, "the synthetic shop must have such products for this test to say anything"
        assert {item["item_id"] for item in answer["items"]} == passing

    ask(tmp_path, talk)


@pytest.mark.parametrize("path", ["/recommend", "/search"])
def test_filters_that_leave_nothing_give_an_empty_answer_that_says_so(
    path: str, tmp_path: Path
) -> None:
    async def talk(service: Service) -> None:
        body = {"filters": {"category": ["No such aisle"]}}
        body |= {"query": "lamp"} if path == "/search" else {"history": ITEMS[:2]}
        answer = await service.post(path, body)
        assert answer["items"] == []
        assert answer["note"] == "no item passes the filters"

    ask(tmp_path, talk)


def test_excluded_items_and_the_context_item_are_not_answered(tmp_path: Path) -> None:
    async def talk(service: Service) -> None:
        first = await service.post("/recommend", {"context_item": ITEMS[4], "k": 5})
        assert first["tier"] == "ranker", "the context item alone is a history"
        found = [item["item_id"] for item in first["items"]]
        assert ITEMS[4] not in found
        second = await service.post(
            "/recommend", {"context_item": ITEMS[4], "k": 5, "exclude": [*found[:2], "unknown"]}
        )
        assert not {item["item_id"] for item in second["items"]} & set(found[:2])

    ask(tmp_path, talk)


def test_search_finds_the_product_by_its_title_with_details_on_request(tmp_path: Path) -> None:
    product = shop().products[3]

    async def talk(service: Service) -> None:
        answer = await service.post("/search", {"query": product.title, "details": True, "k": 3})
        best = answer["items"][0]
        assert best["title"] == product.title or best["score"] > 0
        assert best["category"]
        plain = await service.post("/search", {"query": product.title, "k": 3})
        assert set(plain["items"][0]) == {"item_id", "score"}

    ask(tmp_path, talk)


def test_events_without_a_store_are_refused_and_not_swallowed(tmp_path: Path) -> None:
    event = {
        "event_id": "event-0001",
        "user_id": "u1",
        "kind": "view",
        "time": datetime.now(UTC).isoformat(),
        "item_id": ITEMS[0],
    }

    async def talk(service: Service) -> None:
        answer = await service.post("/events", {"events": [event]}, status=503)
        assert answer["error"] == "unavailable"

    ask(tmp_path, talk)


def test_the_model_endpoint_tells_what_is_served(tmp_path: Path) -> None:
    async def talk(service: Service) -> None:
        found = (await service.client.get("/model")).json()
        assert found["model_version"] == "counts-1"
        assert found["items"] == len(ITEMS)
        assert found["tier"] == "ranker"
        assert found["tiers"] == ["ranker", "popular"]

    ask(tmp_path, talk)


def test_a_request_through_the_whole_framework_gets_the_same_answer(tmp_path: Path) -> None:
    """As with tracing on, where the guard calls no endpoint itself."""
    body = {"history": ITEMS[:3], "k": 4}

    async def talk(service: Service) -> None:
        near = await service.post("/recommend", body)
        app = create_app(service.runtime)
        transport = httpx.ASGITransport(app=Guard(app, service.runtime.admission))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            far = (await client.post("/recommend", json=body)).json()
            wrong = await client.post("/recommend", json={"k": "many"})
        volatile = {"latency_ms", "request_id"}
        assert {k: v for k, v in near.items() if k not in volatile} == {
            k: v for k, v in far.items() if k not in volatile
        }
        assert (wrong.status_code, wrong.json()["fields"][0]["field"]) == (422, "k")

    ask(tmp_path, talk)


def test_a_service_that_was_slow_for_a_while_gives_its_best_answers_again(tmp_path: Path) -> None:
    history = next(iter(shop().sequences().values()))[:5]
    query = {"query": shop().products[0].title}

    async def talk(service: Service) -> None:
        lanes = service.runtime.engine.lanes
        assert lanes is not None
        assert lanes.search is not None
        for _ in range(50):
            lanes.ranker.observe(1, 60.0)
            lanes.search.observe(1, 60.0)
        answer = await service.post("/recommend", {"history": history})
        assert answer["tier"] == "popular", "a minute is over the deadline"
        await service.post("/search", query, status=429)
        async with asyncio.timeout(60):
            while True:
                await asyncio.sleep(0.05)
                answer = await service.post("/recommend", {"history": history})
                found = await service.client.post("/search", json=query)
                if answer["tier"] == "ranker" and found.status_code == 200:
                    break

    ask(tmp_path, talk)


def test_what_requests_wait_for_each_other_counts_against_their_deadline(tmp_path: Path) -> None:
    history = next(iter(shop().sequences().values()))[:5]
    body = {"history": history, "deadline_ms": 1000}

    async def talk(service: Service) -> None:
        assert (await service.post("/recommend", body))["tier"] == "ranker"
        service.runtime.engine._wait = lambda: 0.6  # seconds, before it was seen and once more
        assert (await service.post("/recommend", body))["tier"] == "popular"
        await service.post(
            "/search", {"query": shop().products[0].title, "deadline_ms": 1000}, status=429
        )

    ask(tmp_path, talk)


def test_part_of_the_deadline_is_kept_back_while_the_popular_list_gives_most_answers(
    tmp_path: Path,
) -> None:
    history = next(iter(shop().sequences().values()))[:5]

    async def talk(service: Service) -> None:
        engine = service.runtime.engine
        assert engine.lanes is not None
        engine._wait = lambda: 0.0  # this client never leaves the loop its turn
        waiting = engine.lanes.ranker
        engine.batcher.delay = lambda lane: 0.7 if lane is waiting else 0.0  # seconds
        body = {"history": history, "deadline_ms": 1000}
        assert (await service.post("/recommend", body))["tier"] == "ranker"
        for _ in range(3 * MEMORY):
            answer = await service.post("/recommend", {**body, "deadline_ms": 500})
            assert answer["tier"] == "popular"
        assert (await service.post("/recommend", body))["tier"] == "popular", "now it is too near"
        for _ in range(3 * MEMORY):
            answer = await service.post("/recommend", {**body, "deadline_ms": 5000})
            assert answer["tier"] == "ranker"
        assert (await service.post("/recommend", body))["tier"] == "ranker"

    ask(tmp_path, talk)


def test_a_replaced_version_is_freed_though_the_collector_is_not_asked(
    tiny: Path, tmp_path: Path
) -> None:
    """What is served is kept out of the collector's sight: no cycle may hold an old version."""

    async def talk(service: Service) -> None:
        engine = service.runtime.engine
        gc.disable()
        try:
            version = load(tiny, None, "cpu", 1)
            before = gc.get_freeze_count()
            await engine.take_up(version)
            assert gc.get_freeze_count() > before, "what it made is out of the collector's sight"
            del version
            old = weakref.ref(engine.served.predictor)
            await engine.take_up(load(tiny, None, "cpu", 1))
            await asyncio.sleep(0.1)
            assert old() is None
        finally:
            gc.enable()

    ask(tmp_path, talk)
