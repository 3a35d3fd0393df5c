"""Jobs that leave the private site: two real Kueues, the mover, Karpenter; simulated GPU nodes."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from infra.clouds.burst_jobs import HOURS, INPUT_GB
from infra.clouds.burst_mover import LEFT, MAY_LEAVE
from infra.kueue import QUEUE_LABEL
from local.gpu import RUNS_FOR
from local.kube import Client
from tests.conftest import RunningStand
from tests.stack import Stack

pytestmark = pytest.mark.stand
GPU = "nvidia.com/gpu"
TEAM = "research"
JOBS = f"/apis/batch/v1/namespaces/{TEAM}/jobs"
CLAIMS = "/apis/karpenter.sh/v1/nodeclaims"


def until(what: str, seen: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


class Sites:
    """Jobs of one team, submitted at the private site, wherever they run."""

    def __init__(self, stand: RunningStand) -> None:
        self.private, self.cloud = stand.client("private"), stand.client("cloud")

    def submit(self, pods: int, gpus: int, seconds: int, *, may_leave: bool) -> str:
        name = f"j-{secrets.token_hex(4)}"
        size = {"cpu": "1", "memory": "1Gi", GPU: str(gpus)}
        marks = {RUNS_FOR: f"{seconds}s", HOURS: "2", INPUT_GB: "0"}
        work = {"name": "work", "image": "none.internal/work:1",
                "resources": {"requests": size, "limits": size}}  # fmt: skip
        template = {
            "metadata": {"annotations": marks | ({MAY_LEAVE: "true"} if may_leave else {})},
            "spec": {"restartPolicy": "Never", "containers": [work]},
        }
        job: dict[str, Any] = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name, "labels": {QUEUE_LABEL: "gpu"}},
            "spec": {"parallelism": pods, "completions": pods, "template": template},
        }
        self.private.request("POST", JOBS, job)
        return name

    def running(self, client: Client, job: str) -> list[str]:
        """Nodes that run a job's pods at one site."""
        query = f"labelSelector=batch.kubernetes.io/job-name%3D{job}"
        return [
            pod["spec"]["nodeName"]
            for pod in client.items(f"/api/v1/namespaces/{TEAM}/pods?{query}")
            if pod["status"].get("phase") == "Running"
        ]

    def job(self, name: str) -> dict[str, Any]:
        """As the private site tells it; nothing while it is between its two queues."""
        return self.private.find(f"{JOBS}/{name}") or {"metadata": {}, "status": {}}

    def left(self, name: str) -> bool:
        return LEFT in (self.job(name)["metadata"].get("annotations") or {})

    def rented(self) -> list[str]:
        found = self.cloud.items("/api/v1/nodes?labelSelector=karpenter.sh/nodepool")
        return [node["metadata"]["name"] for node in found]

    def clean(self) -> None:
        for job in self.private.items(JOBS):
            where = f"{JOBS}/{job['metadata']['name']}"
            self.private.delete(f"{where}?propagationPolicy=Background")
        until("copies are left in the cloud", lambda: not self.cloud.items(JOBS))
        for claim in self.cloud.items(CLAIMS):
            self.cloud.delete(f"{CLAIMS}/{claim['metadata']['name']}")
        until("nodes are left", lambda: not self.rented())


@pytest.fixture
def sites(stand: RunningStand, deployed: Stack) -> Iterator[Sites]:
    del deployed
    if not stand.rooted:
        pytest.skip("no root here: no real node runs Kueue, and there is no link")
    made = Sites(stand)
    made.clean()
    yield made
    made.clean()


def test_the_private_kueue_reaches_the_clouds_with_the_token_from_vault(sites: Sites) -> None:
    where = "/apis/kueue.x-k8s.io/v1beta2/multikueueclusters/cloud"

    def active() -> bool:
        conditions = (sites.private.get(where).get("status") or {}).get("conditions") or []
        return any(one["type"] == "Active" and one["status"] == "True" for one in conditions)

    until("the cloud's cluster is not active", active)


def test_nothing_leaves_while_the_private_site_has_room(sites: Sites) -> None:
    job = sites.submit(1, 8, 40, may_leave=True)
    until("it does not run here", lambda: sites.running(sites.private, job))
    time.sleep(20)  # more than one look of the mover
    assert not sites.left(job)
    assert sites.rented() == []


def test_from_a_full_site_a_job_runs_in_the_cloud_and_again_when_its_node_is_reclaimed(
    sites: Sites,
) -> None:
    full = sites.submit(8, 8, 900, may_leave=False)
    until("the site is not full", lambda: len(sites.running(sites.private, full)) == 8)
    stays = sites.submit(1, 8, 5, may_leave=False)
    assert sites.rented() == []
    job = sites.submit(1, 8, 30, may_leave=True)
    until("it does not leave", lambda: sites.left(job))
    until("it does not run in the cloud", lambda: sites.running(sites.cloud, job))
    lost = sites.running(sites.cloud, job)[0]
    assert lost in sites.rented()
    claim = next(
        one["metadata"]["name"]
        for one in sites.cloud.items(CLAIMS)
        if one["status"].get("nodeName") == lost
    )
    sites.cloud.delete(f"{CLAIMS}/{claim}")
    until("it does not run again", lambda: sites.running(sites.cloud, job) not in ([], [lost]))
    until("its end is not told here", lambda: sites.job(job)["status"].get("succeeded") == 1)
    assert sites.running(sites.private, job) == []
    assert not sites.left(stays), "it did not say that it may"
    until("the copy stays", lambda: sites.cloud.find(f"{JOBS}/{job}") is None)
