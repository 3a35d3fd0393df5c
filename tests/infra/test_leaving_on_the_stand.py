"""Jobs that leave the private site: two real Kueues, the mover, Karpenter; simulated GPU nodes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from local.kube import Client
from local.leaving import CLAIMS, KUEUE, Sites, Work
from local.overflow import LABEL
from local.paths import PROJECT
from tests.conftest import RunningStand
from tests.stack import Stack

pytestmark = pytest.mark.stand
TEAM = "research"


def until(what: str, seen: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


def submit(sites: Sites, pods: int, gpus: int, seconds: int, *, may_leave: bool) -> str:
    return sites.submit(Work(pods=pods, gpus=gpus, seconds=seconds, may_leave=may_leave))


def clean(sites: Sites) -> None:
    for job in sites.private.items(sites.jobs):
        where = f"{sites.jobs}/{job['metadata']['name']}"
        sites.private.delete(f"{where}?propagationPolicy=Background")
    until("copies are left in the cloud", lambda: not sites.cloud.items(sites.jobs))
    for claim in sites.claims():
        sites.cloud.delete(f"{CLAIMS}/{claim['metadata']['name']}")
    until("nodes are left", lambda: not sites.rented())


def reached(private: Client) -> bool:
    """Whether the private Kueue has its connection to the cloud's cluster."""
    way = private.get(f"{KUEUE}/multikueueclusters/cloud")
    conditions = (way.get("status") or {}).get("conditions") or []
    return any(one["type"] == "Active" and one["status"] == "True" for one in conditions)


@pytest.fixture
def sites(stand: RunningStand, deployed: Stack) -> Iterator[Sites]:
    del deployed
    if not stand.rooted:
        pytest.skip("no root here: no real node runs Kueue, and there is no link")
    made = Sites(stand.client("private"), stand.client("cloud"), TEAM)
    clean(made)
    yield made
    clean(made)


def test_the_private_kueue_reaches_the_clouds_with_the_token_from_vault(sites: Sites) -> None:
    until("the cloud's cluster is not active", lambda: reached(sites.private))


def test_nothing_leaves_while_the_private_site_has_room(sites: Sites) -> None:
    job = submit(sites, 1, 8, 40, may_leave=True)
    until("it does not run here", lambda: sites.running(sites.private, job))
    time.sleep(12)  # more than two looks of the mover
    assert not sites.left(job)
    assert sites.rented() == []


def test_from_a_full_site_a_job_runs_in_the_cloud_and_again_when_its_node_is_reclaimed(
    sites: Sites,
) -> None:
    full = submit(sites, 8, 8, 900, may_leave=False)
    until("the site is not full", lambda: len(sites.running(sites.private, full)) == 8)
    stays = submit(sites, 1, 8, 5, may_leave=False)
    assert sites.rented() == []
    job = submit(sites, 1, 8, 30, may_leave=True)
    until("it does not leave", lambda: sites.left(job))
    until("it does not run in the cloud", lambda: sites.running(sites.cloud, job))
    lost = sites.running(sites.cloud, job)[0]
    assert lost in sites.rented()

    def claims() -> list[str]:
        found = sites.claims()
        return [one["metadata"]["name"] for one in found if one["status"].get("nodeName") == lost]

    until("its node's claim does not name it", claims)
    sites.cloud.delete(f"{CLAIMS}/{claims()[0]}")
    until("it does not run again", lambda: sites.running(sites.cloud, job) not in ([], [lost]))
    until("its end is not told here", lambda: sites.job(job)["status"].get("succeeded") == 1)
    assert sites.running(sites.private, job) == []
    assert not sites.left(stays), "it did not say that it may"
    until("the copy stays", lambda: not sites.copied(job))


def overflow(stand: RunningStand) -> subprocess.Popen[str]:
    """What `make up` ends with, started."""
    return subprocess.Popen(
        [sys.executable, "-m", "local.overflow"],
        cwd=PROJECT, env={**os.environ, "STAND_STATE": str(stand.state)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def left_behind(sites: Sites) -> list[str]:
    """The demonstration's jobs at both sites."""
    query = f"/apis/batch/v1/jobs?labelSelector={LABEL}"
    return [
        one["metadata"]["name"]
        for client in (sites.private, sites.cloud)
        for one in client.items(query)
    ]


def test_the_demonstration_shows_each_step_of_a_job_that_overflows_and_removes_its_own_jobs_alone(
    stand: RunningStand, sites: Sites
) -> None:
    others = submit(sites, 1, 8, 600, may_leave=False)
    until("it does not run here", lambda: sites.running(sites.private, others))
    shown = overflow(stand)
    text, _ = shown.communicate(timeout=300)
    assert shown.returncode == 0, text
    steps = [
        r"one job takes what was free, 56 of the private site's 64 simulated GPUs",
        r"queued, 2 workers of 8 GPUs",
        r"research/job-overflow-train-\S+ +16 +2x g6.48xlarge spot",
        r"left: ",
        r"sent over the link",
        r"Karpenter ordered a simulated node: \S+ \(g6.48xlarge, spot\)",
        r"Karpenter ordered a simulated node: \S+ \(g6.48xlarge, spot\)",
        r"a worker runs on \S+ \(g6.48xlarge, spot\)",
        r"a worker runs on \S+ \(g6.48xlarge, spot\)",
        r"done: ",
        r"the copy in the cloud is gone",
        r"still up: 2 simulated nodes",
        r"its jobs are removed",
    ]
    at = 0
    for step in steps:
        found = re.compile(step).search(text, at)
        assert found, f"{step} is not told, or not in its turn:\n{text}"
        at = found.end()
    assert left_behind(sites) == []
    assert sites.running(sites.private, others), "the job of others is as it was"


def test_a_killed_demonstration_is_cleaned_up_by_the_next_and_an_interrupted_one_by_itself(
    stand: RunningStand, sites: Sites
) -> None:
    for how in (signal.SIGKILL, signal.SIGINT):
        shown = overflow(stand)
        assert shown.stdout is not None
        lines: list[str] = []
        while not any("queued" in line for line in lines):
            line = shown.stdout.readline()
            assert line, "".join(lines)
            lines.append(line)
        assert len([name for name in left_behind(sites) if "fill" in name]) == 1
        shown.send_signal(how)
        text, _ = shown.communicate(timeout=120)
        assert shown.returncode == (1 if how is signal.SIGINT else -how), text
        assert "Traceback" not in text
        assert ("its jobs are removed" in text) is (how is signal.SIGINT)
    assert left_behind(sites) == []
