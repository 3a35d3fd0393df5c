"""The transformer behind `bentoml serve`: workers die, models change, logs stay clean."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.bento.process import Served, serving

SECRET_USER = "customer-4711-anna"
SECRET_QUERY = "gift for my sister Anna"


def items_of(bundle: Path) -> list[str]:
    return json.loads((bundle / "ranker" / "items.json").read_text())


class Load:
    """Steady requests from several connections until stopped; counts what came back."""

    def __init__(self, url: str, body: dict, threads: int = 4) -> None:
        self.seen: Counter[str] = Counter()
        self.versions: Counter[str] = Counter()
        self._url, self._body = url, body
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work) for _ in range(threads)]

    def _work(self) -> None:
        with httpx.Client(base_url=self._url, timeout=30, trust_env=False) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post("/recommend", json=self._body)
                except httpx.TransportError as error:
                    self.seen[type(error).__name__] += 1
                    continue
                self.seen[str(answer.status_code)] += 1
                if answer.status_code == 200:
                    self.versions[answer.json()["model_version"]] += 1
                time.sleep(0.002)  # leave CPU to the service

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def publish(link: Path, target: Path) -> None:
    """Move the link in one step, as an operator publishes a version."""
    fresh = link.with_suffix(".new")
    fresh.symlink_to(target)
    fresh.replace(link)


def until(what: str, seconds: float, true) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds:.0f} s: {what}")


def metric(served: Served, line: str) -> float:
    """Value of one line of /metrics by its name and labels, 0 if it is not there."""
    for found in httpx.get(f"{served.url}/metrics", timeout=30, trust_env=False).text.splitlines():
        if found.startswith(line + " "):
            return float(found.rsplit(" ", 1)[1])
    return 0.0


def test_a_new_model_is_taken_up_without_a_dropped_request_and_a_bad_one_not_at_all(
    tiny: Path, other: Path, tmp_path: Path
) -> None:
    link = tmp_path / "current"
    link.symlink_to(tiny)
    old, new = (json.loads((b / "bundle.json").read_text())["version"] for b in (tiny, other))
    body = {"history": items_of(tiny)[:3], "k": 5, "deadline_ms": 5000}
    settings = {"model_dir": link, "model_poll_s": 0.2, "store": "off", "workers": 2}
    with serving(tmp_path / "state", **settings) as served:
        with Load(served.url, body) as load:
            until("answers of the old version", 30, lambda: load.versions[old] > 50)
            publish(link, other)
            until("answers of the new version", 60, lambda: load.versions[new] > 200)
            until("every worker on the new version", 60, lambda: served.versions() == {new})
        assert set(load.seen) == {"200"}, f"requests were dropped: {load.seen}"
        assert set(load.versions) == {old, new}

        damaged = tmp_path / "damaged"
        shutil.copytree(tiny, damaged)
        with (damaged / "ranker" / "model.safetensors").open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last[0] ^ 1]))
        publish(link, damaged)
        line = 'recommender_model_swaps_total{outcome="refused"}'
        until("both workers refuse the damaged model", 60, lambda: metric(served, line) >= 2)
        assert served.versions() == {new}, "a damaged model must not replace a good one"
        assert any("damaged" in text and "digest" in text for text in served.lines())


def test_logs_are_json_with_request_ids_and_without_personal_data(
    tiny: Path, tmp_path: Path
) -> None:
    item = items_of(tiny)[7]
    with serving(tmp_path / "state", model_dir=tiny) as served:
        served.client.headers["x-forwarded-for"] = "203.0.113.77"
        event = {
            "event_id": "event-secret-1", "user_id": SECRET_USER, "kind": "view", "item_id": item,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }  # fmt: skip
        ids = []
        for path, body, status in (
            ("/events", {"events": [event]}, 200),
            ("/recommend", {"user_id": SECRET_USER, "k": 3}, 200),
            ("/recommend", {"user_id": SECRET_USER, "k": -3}, 422),
            ("/search", {"query": SECRET_QUERY, "user_id": SECRET_USER}, None),
            (f"/{SECRET_USER}", {}, 404),
        ):
            answer = served.client.post(path, json=body)
            assert status in (None, answer.status_code), answer.text
            ids.append(answer.headers["x-request-id"])
        recent = served.client.post("/recommend", json={"user_id": SECRET_USER, "k": 3}).json()
        assert recent["history_used"] == 1, "the event must change the next recommendation"
    text = "\n".join(served.lines())
    for secret in (SECRET_USER, "Anna", "event-secret-1", "203.0.113.77"):
        assert secret not in text, f"{secret} stands in the log"
    logged = [json.loads(line) for line in served.lines() if line.startswith("{")]
    of_requests = {line["request_id"]: line for line in logged if line["message"] == "request"}
    assert set(ids) <= set(of_requests), "each request has its line with its id"
    assert all("request_id" in line and "level" in line for line in logged)


def test_metrics_tell_latency_by_endpoint_and_tier_batches_queue_age_and_cold_users(
    tiny: Path, tmp_path: Path
) -> None:
    with serving(tmp_path / "state", model_dir=tiny, store="off") as served:
        served.client.post("/recommend", json={"history": items_of(tiny)[:2], "deadline_ms": 5000})
        served.client.post("/recommend", json={"user_id": "nobody"})
        served.client.post("/recommend", json={"filters": {"category": ["no such"]}})
        one = 'recommender_latency_seconds_count{endpoint="recommend",tier="%s"}'
        assert metric(served, one % "ranker") == 1
        assert metric(served, one % "popular") == 2
        assert metric(served, 'recommender_users_total{state="cold"}') == 2
        assert metric(served, 'recommender_empty_answers_total{endpoint="recommend"}') == 1
        assert metric(served, 'recommender_batch_size_count{lane="ranker"}') == 1
        assert metric(served, 'recommender_top_score_count{tier="ranker"}') == 1
        assert metric(served, "recommender_model_created_timestamp_seconds") > 1.7e9
        text = served.client.get("/metrics").text
        for name in ("queue_depth", "in_flight", "loop_lag_seconds", "model_info", "refused_total"):
            assert f"recommender_{name}" in text


@pytest.mark.parametrize("tracing", [False, True])
def test_only_a_traced_recommendation_passes_the_frameworks_middleware(
    tracing: bool, tiny: Path, tmp_path: Path
) -> None:
    """It counts what passes it."""
    with serving(tmp_path / "state", model_dir=tiny, store="off", tracing=tracing) as served:
        answer = served.client.post("/recommend", json={"user_id": "nobody"})
        assert answer.status_code == 200
        assert answer.headers["x-request-id"] == answer.json()["request_id"]
        assert served.client.get("/model").status_code == 200
        passed = served.client.get("/metrics").text.splitlines()
        counts = [one for one in passed if one.startswith("bentoml_service_request_total")]
        assert any('endpoint="/model"' in one for one in counts)
        assert any('endpoint="/recommend"' in one for one in counts) == tracing
