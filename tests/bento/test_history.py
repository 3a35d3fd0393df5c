"""Histories and the event log on a real nats-server."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nats as nats_client
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bento import embedded
from bento.history import HistoryStore, Kept, merge, pseudonym
from bento.settings import ServiceSettings
from bento.types import Event
from tests.bento.conftest import alive, running
from tests.bento.shop import shop

ITEMS = [product.id for product in shop().products]
NOW = datetime.now(UTC)


def event(number: int, item: str = ITEMS[0], user: str = "u1") -> dict:
    return {
        "event_id": f"event-{number:06d}",
        "user_id": user,
        "kind": "view",
        "time": (NOW + timedelta(milliseconds=number)).isoformat(),
        "item_id": item,
    }


def server_pid(settings: ServiceSettings) -> int:
    """The newest nats-server that the guardian says it started."""
    lines = (settings.state_dir / "nats" / "guardian.log").read_text().splitlines()
    return int([line for line in lines if line.startswith("nats-server ")
                and " on " in line][-1].split()[1])  # fmt: skip


async def logged(settings: ServiceSettings) -> list[str]:
    """Event ids of the log, in order, read by another client."""
    url, token = embedded.endpoint(settings)
    client = await nats_client.connect(url, token=token)
    jetstream = client.jetstream()
    info = await jetstream.stream_info("events")
    found = []
    for sequence in range(info.state.first_seq or 1, info.state.last_seq + 1):
        message = await jetstream.get_msg("events", sequence)
        assert b'"u1"' not in message.data, "the log holds a user id in the clear"
        found.append(message.headers["Nats-Msg-Id"])
    await client.close()
    return found


# An event id names one event, so it fixes the time.
kept = st.integers(0, 20).map(lambda n: Kept(f"event-{n:02d}", n * 7 % 10, "i"))


@given(st.lists(kept, max_size=8), st.lists(kept, max_size=8), st.integers(1, 5))
def test_merging_twice_changes_nothing_and_keeps_the_newest(
    old: list, new: list, keep: int
) -> None:
    once = merge(old, new, keep)
    assert merge(once, new, keep) == once
    assert len(once) <= keep
    assert [e.time_ms for e in once] == sorted(e.time_ms for e in once)


def test_an_event_posted_now_changes_the_next_recommendation(nats: ServiceSettings) -> None:
    async def run() -> None:
        async with running(nats.state_dir, store="required") as service:
            cold = await service.post("/recommend", {"user_id": "u1", "k": 5})
            assert cold["tier"] == "popular"
            assert cold["history_source"] == "store"
            for number, item in enumerate(ITEMS[:20]):
                posted = await service.post("/events", {"events": [event(number, item)]})
                assert posted["accepted"] == 1
                answer = await service.post("/recommend", {"user_id": "u1", "k": 5})
                assert answer["history_used"] == number + 1, "the event was not seen at once"
                assert item not in [found["item_id"] for found in answer["items"]]
            explicit = await service.post("/recommend", {"history": ITEMS[:20], "k": 5})
            assert explicit["items"] == answer["items"]

    asyncio.run(run())


def test_posting_a_batch_again_changes_nothing(nats: ServiceSettings) -> None:
    async def run() -> None:
        async with running(nats.state_dir, store="required") as service:
            batch = {"events": [event(n, ITEMS[n]) for n in range(30)]}
            assert (await service.post("/events", batch))["accepted"] == 30
            again = await service.post("/events", batch)
            assert (again["accepted"], again["duplicates"]) == (0, 30)
            answer = await service.post("/recommend", {"user_id": "u1"})
            assert answer["history_used"] == 30
        assert sorted(await logged(nats)) == [f"event-{n:06d}" for n in range(30)]

    asyncio.run(run())


def test_many_writers_of_one_history_lose_nothing(nats: ServiceSettings) -> None:
    async def run() -> None:
        stores = [HistoryStore(nats) for _ in range(3)]
        for store in stores:
            await store.connect()
        events = [Event.model_validate_json(_json(event(n, ITEMS[n]))) for n in range(30)]
        await asyncio.gather(*(stores[n % 3].append([e]) for n, e in enumerate(events)))
        assert await stores[0].recent("u1") == ITEMS[:30]
        for store in stores:
            await store.close()

    asyncio.run(run())


def _json(value: dict) -> str:
    import json

    return json.dumps(value)


def test_a_killed_store_loses_no_acknowledged_event_and_fails_no_request(
    nats: ServiceSettings,
) -> None:
    async def run() -> None:
        acknowledged: list[int] = []
        async with running(nats.state_dir, store="required") as service:
            stop = asyncio.Event()

            async def post() -> None:
                number = 0
                while not stop.is_set():
                    batch = {"events": [event(number, ITEMS[number % 100])]}
                    answer = await service.post("/events", batch)
                    assert answer["accepted"] + answer["duplicates"] == 1
                    acknowledged.append(number)
                    number += 1

            async def read() -> None:
                while not stop.is_set():
                    body = {"user_id": "u1", "k": 5}
                    answer = await service.post("/recommend", body)
                    assert len(answer["items"]) == 5
                    await asyncio.sleep(0.005)

            work = [asyncio.create_task(post()), asyncio.create_task(read())]
            for _ in range(3):
                await asyncio.sleep(0.7)
                before = server_pid(nats)
                os.kill(before, signal.SIGKILL)
                for _ in range(100):
                    if server_pid(nats) != before:
                        break
                    await asyncio.sleep(0.05)
            await asyncio.sleep(1.5)
            stop.set()
            await asyncio.gather(*work)
        assert len(acknowledged) > 30
        ids = await logged(nats)
        assert len(ids) == len(set(ids)), "an event stands in the log twice"
        missing = {f"event-{n:06d}" for n in acknowledged} - set(ids)
        assert not missing, f"{len(missing)} acknowledged events were lost"

    asyncio.run(run())


def test_without_its_store_a_service_answers_from_the_requests_history(tmp_path: Path) -> None:
    async def run() -> None:
        settings = {"store": "optional", "nats_url": "nats://127.0.0.1:1", "event_wait_s": 0.3}
        async with running(tmp_path, **settings) as service:
            answer = await service.post("/recommend", {"history": ITEMS[:3], "user_id": "u1"})
            assert answer["tier"] == "ranker"
            known = await service.post("/recommend", {"user_id": "u1"})
            assert known["history_source"] == "unavailable"
            assert known["tier"] == "popular"
            refused = await service.post("/events", {"events": [event(1)]}, status=503)
            assert "again" in refused["message"]

    asyncio.run(run())


def test_a_service_that_needs_its_store_is_not_ready_without_it(tmp_path: Path) -> None:
    async def run() -> None:
        given = {"store": "required", "nats_url": "nats://127.0.0.1:1", "wait_ready": False}
        async with running(tmp_path, **given) as service:
            await asyncio.sleep(0.5)
            assert service.runtime.engine.served is not None
            assert not service.runtime.ready()

    asyncio.run(run())


def test_a_service_stops_though_a_library_swallows_its_cancellation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swallowed: list[bool] = []

    async def connect(self: HistoryStore) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            if swallowed:
                raise
            swallowed.append(True)

    monkeypatch.setattr(HistoryStore, "connect", connect)

    async def run() -> None:
        given = {"store": "required", "nats_url": "nats://127.0.0.1:1", "wait_ready": False}
        async with asyncio.timeout(30), running(tmp_path, **given):
            await asyncio.sleep(0.1)

    asyncio.run(run())
    assert swallowed


def test_the_embedded_store_ends_with_its_service(tmp_path: Path) -> None:
    settings = ServiceSettings(state_dir=tmp_path)
    guardian = embedded.start(settings)
    server = server_pid(settings)
    assert alive(server)
    assert (tmp_path / "nats" / "endpoint.json").stat().st_mode & 0o077 == 0
    guardian.stdin.close()
    assert guardian.wait(15) == 0
    assert not alive(server)


def test_a_missing_server_is_named_with_what_to_do(tmp_path: Path) -> None:
    settings = ServiceSettings(state_dir=tmp_path, nats_server=tmp_path / "nats-server")
    with pytest.raises(embedded.StoreMissingError, match="not an executable file"):
        embedded.start(settings)


def test_a_user_is_stored_under_a_hash_of_fixed_length() -> None:
    assert len({pseudonym(f"u{n}") for n in range(1000)}) == 1000
    assert len(pseudonym("a" * 200)) == 32
