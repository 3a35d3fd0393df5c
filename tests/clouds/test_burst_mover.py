"""Jobs that leave: which ones, and that none is ever lost on the way."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from infra.clouds.burst import Capacity
from infra.clouds.burst_jobs import HOURS, INPUT_GB
from infra.clouds.burst_mover import (
    LEFT,
    MAY_LEAVE,
    QUEUE_LABEL,
    ApiError,
    Rules,
    leaving,
    look,
    main,
    move,
)
from infra.clouds.burst_plan import Offer, Site

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
RULES = Rules(private_queue="gpu", cloud_queue="cloud")
SITE = Site(
    private_flavor="private-gpu",
    private_gpus=8,
    link_mbps=1000,
    node_minutes=3,
    idle_minutes=1,
    usd_per_hour_saved=100,
    ceilings={"training-spot": 8, "training-on-demand": 8},
    offers=tuple(
        Offer(pool="training", instance_type="g6.48xlarge", capacity=each, gpus=8, usd_per_hour=usd)
        for each, usd in ((Capacity.SPOT, 6.0), (Capacity.ON_DEMAND, 13.0))
    ),
)


def workload(
    name: str, *, queue: str = "gpu", runs: bool = False, hours: str | None = "2", may: bool = True
) -> dict[str, Any]:
    marks = {MAY_LEAVE: "true"} if may else {}
    marks |= {HOURS: hours, INPUT_GB: "0"} if hours else {}
    size = {"limits": {"nvidia.com/gpu": "8"}}
    since = {"type": "QuotaReserved", "status": "True", "lastTransitionTime": NOW.isoformat()}
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": f"{name}-job", "controller": True}
    flavour = {"podSetAssignments": [{"flavors": {"nvidia.com/gpu": "private-gpu"}}]}
    return {
        "metadata": {"namespace": "research", "name": name, "ownerReferences": [owner],
                     "creationTimestamp": f"2026-11-26T11:0{name[-1]}:00Z"},
        "spec": {
            "queueName": queue,
            "podSets": [
                {
                    "count": 1,
                    "template": {
                        "metadata": {"annotations": marks},
                        "spec": {"containers": [{"resources": size}]},
                    },
                }
            ],
        },
        "status": {"conditions": [since], "admission": flavour} if runs else {},
    }  # fmt: skip


def gone(*workloads: dict[str, Any]) -> list[str]:
    return [name for _, name in leaving({"items": list(workloads)}, SITE, RULES, NOW)]


def test_nothing_leaves_while_the_private_gpus_are_free() -> None:
    assert gone(workload("w1")) == []


def test_what_waits_behind_a_full_site_leaves_when_it_pays() -> None:
    assert gone(workload("w1", runs=True), workload("w2")) == ["w2-job"]
    short = gone(workload("w1", runs=True, hours="0.02"), workload("w2"))
    assert short == [], "it starts here in a minute"


def test_a_job_that_did_not_say_that_it_may_leave_stays_and_keeps_its_place() -> None:
    full = workload("w1", runs=True)
    assert gone(full, workload("w2", may=False)) == []
    assert gone(full, workload("w2", hours=None)) == []
    assert gone(full, workload("w2", hours="long"), workload("w3")) == ["w3-job"]
    assert gone(full, workload("w2", may=False), workload("w3")) == ["w3-job"]


def test_no_more_leave_than_the_ceiling_holds_with_those_that_left_before() -> None:
    full = workload("w1", runs=True)
    waiting = [workload(f"w{number}") for number in range(2, 6)]
    assert gone(full, *waiting) == ["w2-job", "w3-job"]
    assert gone(full, workload("w6", queue="cloud"), *waiting) == ["w2-job"]
    both = [workload("w6", queue="cloud"), workload("w7", queue="cloud")]
    assert gone(full, *both, *waiting) == []


def test_what_it_would_do_is_shown_by_its_own_rules_and_nothing_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "site.json"
    file.write_text(SITE.model_dump_json(), encoding="utf-8")
    full = workload("w1", runs=True, hours="1e6")  # for as long as this test is run
    queue = [full, workload("w2"), workload("w3", hours=None)]
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps({"items": queue})))
    assert main(["--site", str(file), "--show"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"research/w2 +8 +1x g6.48xlarge spot", shown)
    assert re.search(r"research/w3 +8 +waits", shown), "others' jobs need not say anything"
    monkeypatch.setattr("sys.stdin", io.StringIO("no JSON"))
    assert main(["--site", str(file), "--show"]) == 1
    assert "burst mover: standard input: " in capsys.readouterr().err


class PowerCutError(Exception):
    """The mover's process ends here."""


class Cluster:
    """An API server's jobs and notes; cuts the mover's power at a chosen request."""

    def __init__(self, *, cut: int = -1, answered: bool = False) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.notes: dict[str, str] = {}
        self.workloads: list[dict[str, Any]] = []
        self.calls, self.cut, self.answered, self.uids = 0, cut, answered, 0

    def add(self, name: str, **spec: Any) -> dict[str, Any]:
        self.uids += 1
        job = {
            "metadata": {
                "namespace": "research", "name": name, "uid": f"u{self.uids}",
                "resourceVersion": "7", "labels": {QUEUE_LABEL: "gpu", "mine": "yes"},
            },
            "spec": {
                "suspend": True, "completions": 3, "selector": {"matchLabels": {"a": "b"}},
                "template": {
                    "metadata": {"labels": {"batch.kubernetes.io/job-name": name, "app": "x"}},
                    "spec": {"containers": []},
                },
                **spec,
            },
        }  # fmt: skip
        self.jobs[name] = job
        return job

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        self.calls += 1
        if self.calls == self.cut and not self.answered:
            raise PowerCutError
        answer = self._answer(method, path, body)
        if self.calls == self.cut:
            raise PowerCutError
        return answer

    def _answer(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        if path.endswith("/workloads"):
            return {"items": self.workloads}
        if "/configmaps/" in path:
            for key, text in (body or {}).get("data", {}).items():
                self.notes.pop(key, None)
                if text is not None:
                    self.notes[key] = text
            return {"data": dict(self.notes)}
        name = path.rsplit("/", 1)[-1]
        if method == "POST":
            assert body is not None
            name = body["metadata"]["name"]
            if name in self.jobs:
                raise ApiError(409, "exists")
            self.uids += 1
            made = json.loads(json.dumps(body))
            made["metadata"] |= {"uid": f"u{self.uids}", "resourceVersion": "1"}
            self.jobs[name] = made
            return made
        if name not in self.jobs:
            raise ApiError(404, "none")
        if method == "DELETE":
            assert body is not None
            now = self.jobs[name]["metadata"]
            if any(now[key] != value for key, value in body["preconditions"].items()):
                raise ApiError(409, "changed")
            return self.jobs.pop(name)
        return self.jobs[name]


def test_a_moved_job_is_the_same_job_in_the_clouds_queue() -> None:
    cluster = Cluster()
    uid = cluster.add("train")["metadata"]["uid"]
    assert move(cluster, "research", "train", RULES)
    job = cluster.jobs["train"]
    assert job["metadata"]["labels"] == {QUEUE_LABEL: "cloud", "mine": "yes"}
    assert job["metadata"]["annotations"][LEFT] == uid
    assert "selector" not in job["spec"]
    assert job["spec"]["completions"] == 3
    assert job["spec"]["suspend"] is True
    assert job["spec"]["template"]["metadata"]["labels"] == {"app": "x"}
    assert cluster.notes == {}


def test_a_job_that_starts_in_the_last_moment_stays() -> None:
    cluster = Cluster()
    cluster.add("train", suspend=False)
    assert not move(cluster, "research", "train", RULES)
    job = cluster.add("other")
    real = cluster.call

    def started(method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        if method == "DELETE":
            job["metadata"]["resourceVersion"] = "8"
        return real(method, path, body)

    cluster.call = started  # type: ignore[method-assign]
    assert not move(cluster, "research", "other", RULES)
    assert cluster.jobs["other"]["metadata"]["labels"][QUEUE_LABEL] == "gpu"
    assert cluster.notes == {}


@pytest.mark.parametrize("answered", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("cut", range(1, 8))
def test_a_mover_that_ends_at_any_request_loses_no_job(cut: int, answered: bool) -> None:
    cluster = Cluster(cut=cut, answered=answered)
    cluster.add("train")
    try:
        move(cluster, "research", "train", RULES)
    except PowerCutError:
        cluster.cut = -1
    look(cluster, SITE, RULES)
    assert list(cluster.jobs) == ["train"]
    assert cluster.notes == {}
    assert cluster.jobs["train"]["metadata"]["labels"][QUEUE_LABEL] in ("gpu", "cloud")


def test_a_job_that_its_owner_removes_is_not_made_again() -> None:
    cluster = Cluster()
    cluster.add("train")
    assert move(cluster, "research", "train", RULES)
    del cluster.jobs["train"]
    look(cluster, SITE, RULES)
    assert cluster.jobs == {}


def test_it_ends_at_once_when_it_is_told_to_as_the_first_process_of_its_pod(tmp_path: Path) -> None:
    file = tmp_path / "site.json"
    file.write_text(SITE.model_dump_json(), encoding="utf-8")
    mover = subprocess.Popen(
        [sys.executable, "-m", "infra.clouds.burst_mover", "--site", str(file)],
        env={**os.environ, "KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert mover.stderr is not None
    assert "looking again" in mover.stderr.readline()
    mover.terminate()
    assert mover.wait(10) == 0, "a signal that nobody handles never reaches a first process"
