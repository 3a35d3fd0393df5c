"""Malformed requests by the thousand, killed workers and refusals, on `bentoml serve` itself.

MALFORMED_REQUESTS=10000 sends as many as the promise is about; without it a share, for time.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from bento.client import RecommenderClient
from tests.bento.malformed import Bad, stream
from tests.bento.process import Served, serving
from tests.bento.test_serve import items_of, until

REQUESTS = int(os.environ.get("MALFORMED_REQUESTS", "2000"))
WARM = REQUESTS // 10
GROWTH = 0.05


async def _send(url: str, requests: list[Bad]) -> Counter[int]:
    """Send them over eight connections; every answer must be a 4xx that names the field."""
    seen: Counter[int] = Counter()
    waiting = iter(requests)

    async def work(client: httpx.AsyncClient) -> None:
        for bad in waiting:
            answer = await client.post(bad.path, content=bad.body, headers=bad.headers)
            for _ in range(100):
                if answer.status_code != 429:
                    break
                await asyncio.sleep(0.2)  # refused early on a busy machine: not yet looked at
                answer = await client.post(bad.path, content=bad.body, headers=bad.headers)
            shown = f"{bad.path} {bad.body[:120]!r} {bad.headers}: {answer.text[:300]}"
            assert 400 <= answer.status_code < 500, shown
            assert answer.status_code != 429, shown
            named = [fault["field"] for fault in answer.json()["fields"]]
            assert any(field.startswith(bad.field) for field in named), shown
            seen[answer.status_code] += 1

    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client:
        await asyncio.gather(*(work(client) for _ in range(8)))
    return seen


@pytest.mark.slow
def test_malformed_requests_by_the_thousand_leave_the_same_process_with_the_same_memory(
    tiny: Path, tmp_path: Path
) -> None:
    requests = list(stream(seed=2, count=REQUESTS, known=items_of(tiny)[0]))
    settings: dict[str, Any] = {
        "model_dir": tiny,
        "store": "off",
        "log_level": "warning",
        "deadline_ms": 10_000,
    }
    with serving(tmp_path / "state", **settings) as served:
        (worker,) = served.workers()
        # What grows once is no leak: buffers for the largest bodies, caches, arenas.
        asyncio.run(_send(served.url, requests[:WARM]))
        before = worker.memory_info().rss
        seen = asyncio.run(_send(served.url, requests[WARM:]))
        after = worker.memory_info().rss
        (same,) = served.workers()
        assert same.pid == worker.pid, "the worker was replaced"
        good = served.client.post("/recommend", json={"history": items_of(tiny)[:2]})
        assert good.status_code == 200
    assert sum(seen.values()) == REQUESTS - WARM
    assert set(seen) == {400, 413, 415, 422}
    assert after <= before * (1 + GROWTH), f"{before / 2**20:.0f} to {after / 2**20:.0f} MiB"


@pytest.mark.slow
def test_killed_workers_cost_a_client_at_most_one_request_in_a_thousand(
    tiny: Path, tmp_path: Path
) -> None:
    history = items_of(tiny)[:3]
    asked: Counter[str] = Counter()
    stop = threading.Event()
    settings: dict[str, Any] = {
        "model_dir": tiny,
        "store": "off",
        "workers": 2,
        "log_level": "warning",
        "deadline_ms": 10_000,
    }
    with serving(tmp_path / "state", **settings) as served:

        def shopper() -> None:
            with RecommenderClient(served.url, timeout_s=60, tries=5) as client:
                while not stop.is_set():
                    try:
                        answer = client.recommend(history=history, k=3, deadline_ms=10_000)
                    except Exception as error:  # noqa: BLE001  any kind is counted as an error
                        asked[type(error).__name__] += 1
                    else:
                        asked["answered" if answer.items else "empty"] += 1

        threads = [threading.Thread(target=shopper) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(2):
                until("a thousand answers", 300, lambda seen=asked["answered"]:
                      asked["answered"] > seen + 1000)  # fmt: skip
                until("two workers", 300, lambda: len(served.workers()) == 2)
                victim = served.workers()[0]
                os.kill(victim.pid, signal.SIGKILL)
                until("the other worker answers", 600, lambda seen=asked["answered"]:
                      asked["answered"] > seen + 100)  # fmt: skip
                until("a new worker", 300, lambda dead=victim.pid: _two_without(served, dead))
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    failed = sum(count for kind, count in asked.items() if kind != "answered")
    assert failed <= 0.001 * asked["answered"], asked


def _two_without(served: Served, dead: int) -> bool:
    pids = [worker.pid for worker in served.workers()]
    return len(pids) == 2 and dead not in pids


@pytest.mark.slow
def test_a_refusal_says_when_to_come_back(tiny: Path, tmp_path: Path) -> None:
    body = {"history": items_of(tiny)[:3], "deadline_ms": 10_000}
    with (
        serving(tmp_path / "state", model_dir=tiny, store="off", max_in_flight=1) as served,
        httpx.Client(base_url=served.url, timeout=60, trust_env=False) as client,
    ):
        seen: list[httpx.Response] = []
        stop = threading.Event()

        def ask() -> None:
            with httpx.Client(base_url=served.url, timeout=60, trust_env=False) as own:
                while not stop.is_set():
                    seen.append(own.post("/recommend", json=body))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 60
        while not any(answer.status_code == 429 for answer in seen) and time.monotonic() < end:
            time.sleep(0.1)
        stop.set()
        for thread in threads:
            thread.join()
        assert client.get("/livez").status_code == 200
    refused = [answer for answer in seen if answer.status_code == 429]
    assert refused, Counter(answer.status_code for answer in seen)
    assert int(refused[0].headers["retry-after"]) >= 1
    assert refused[0].json()["error"] == "overloaded"
    assert {answer.status_code for answer in seen} <= {200, 429}
    assert refused[0].json()["request_id"] == refused[0].headers["x-request-id"]
