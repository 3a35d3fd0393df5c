"""Kueue's real controller on the stand: gangs, borrowed GPUs, quotas. The GPUs are simulated."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from infra.kueue import QUEUE_LABEL
from local.gpu import RUNS_FOR
from local.kube import Client
from local.queues import queues
from tests.conftest import RunningStand
from tests.stack import Stack

pytestmark = pytest.mark.stand
GPU = "nvidia.com/gpu"
BATCH = "/apis/batch/v1/namespaces"


def job(pods: int, gpus: int, seconds: int, queue: str = "gpu") -> dict[str, Any]:
    """A Job of equal pods that all run at once, each so long on its simulated node."""
    size = {"cpu": "1", "memory": "1Gi", GPU: str(gpus)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"j-{secrets.token_hex(4)}", "labels": {QUEUE_LABEL: queue}},
        "spec": {
            "parallelism": pods,
            "completions": pods,
            "template": {
                "metadata": {"annotations": {RUNS_FOR: f"{seconds}s"}},
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [
                        {
                            "name": "work",
                            "image": "none.internal/work:1",
                            "resources": {"requests": size, "limits": size},
                        }
                    ],
                },
            },
        },
    }


class Site:
    """Jobs of the private site's teams."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.made: list[str] = []

    def submit(self, team: str, wanted: dict[str, Any]) -> str:
        made = self.client.request("POST", f"{BATCH}/{team}/jobs", wanted)
        path = f"{BATCH}/{team}/jobs/{made['metadata']['name']}"
        self.made.append(path)
        return path

    def pods(self, path: str) -> int:
        """Pods of a job that are running now."""
        team, name = path.split("/")[-3], path.split("/")[-1]
        found = self.client.items(
            f"/api/v1/namespaces/{team}/pods?labelSelector=batch.kubernetes.io/job-name%3D{name}"
        )
        return sum(
            pod["status"].get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
            for pod in found
        )

    def waits(self, path: str) -> bool:
        return bool(self.client.get(path)["spec"].get("suspend")) and self.pods(path) == 0

    def clean(self) -> None:
        for path in self.made:
            self.client.delete(f"{path}?propagationPolicy=Background")
        until("jobs are left", lambda: all(self.client.find(path) is None for path in self.made))


def until(what: str, seen: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


@pytest.fixture
def site(stand: RunningStand, deployed: Stack) -> Iterator[Site]:
    del deployed
    made = Site(stand.client("private"))
    yield made
    made.clean()


def test_the_gpu_check_went_through_the_queue_and_ended(site: Site) -> None:
    found = site.client.get(f"{BATCH}/recommender/jobs/gpu-check")
    assert found["status"]["succeeded"] == 1
    workloads = site.client.items("/apis/kueue.x-k8s.io/v1beta2/namespaces/recommender/workloads")
    assert any(one["metadata"]["name"].startswith("job-gpu-check") for one in workloads)


def test_a_gang_of_64_gpus_is_admitted_whole_or_not_at_all(site: Site) -> None:
    holder = site.submit("recommender", job(1, 1, 600))
    until("the holder does not run", lambda: site.pods(holder) == 1)
    gang = site.submit("research", job(8, 8, 600))
    time.sleep(5)
    assert site.waits(gang), "63 GPUs are free and the gang of 64 has started"
    site.client.delete(f"{holder}?propagationPolicy=Background")
    until("the gang is not whole", lambda: site.pods(gang) == 8)


def test_a_borrowed_gpu_goes_back_to_the_team_that_owns_it(site: Site) -> None:
    borrower = site.submit("research", job(8, 8, 600))
    until("nothing was borrowed", lambda: site.pods(borrower) == 8)
    owner = site.submit("recommender", job(4, 8, 600))
    until("the owner does not get its GPUs", lambda: site.pods(owner) == 4)
    assert site.waits(borrower), "the borrower keeps a part of its gang"


def test_a_gpu_job_without_a_queue_waits_for_one(site: Site) -> None:
    wanted = job(1, 1, 5)
    del wanted["metadata"]["labels"]
    path = site.submit("research", wanted)
    time.sleep(5)
    assert site.waits(path), "it runs beside the quotas"


@pytest.mark.slow
def gpus_held(client: Client) -> int:
    """By the workloads of one moment: two queues' own sums are of two, and lag behind besides."""
    kueue = "/apis/kueue.x-k8s.io/v1beta2"
    kinds = ("localqueues", "clusterqueues", "workloads")
    local, cluster, workloads = (client.items(f"{kueue}/{kind}") for kind in kinds)
    return sum(queue.used for queue in queues(local, cluster, workloads))


def test_two_hundred_jobs_never_hold_more_than_the_quota(site: Site) -> None:
    for number in range(200):
        site.submit(("recommender", "research")[number % 2], job(1, 4, 1))
    peak, ended = 0, 0
    deadline = time.monotonic() + 400
    while ended < len(site.made):
        assert time.monotonic() < deadline, f"{ended} of {len(site.made)} jobs ended"
        held = gpus_held(site.client)
        peak = max(peak, held)
        assert held <= 64
        ended = sum(
            one["status"].get("succeeded", 0)
            for team in ("recommender", "research")
            for one in site.client.items(f"{BATCH}/{team}/jobs")
            if f"{BATCH}/{team}/jobs/{one['metadata']['name']}" in site.made
        )
        time.sleep(0.5)
    assert peak > 0
