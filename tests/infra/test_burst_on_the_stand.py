"""The cloud's GPU nodes on the stand: the real Karpenter, the program's pools, simulated nodes."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from local.gpu import RUNS_FOR
from local.kube import Client, Json
from local.paths import PROJECT
from tests.conftest import RunningStand
from tests.stack import Stack

pytestmark = pytest.mark.stand
GPU = "nvidia.com/gpu"
SPACE = "burst-test"
CLAIMS = "/apis/karpenter.sh/v1/nodeclaims"
CAPACITY = "karpenter.sh/capacity-type"


def pool() -> dict[str, Any]:
    """The one pool of the stack's settings."""
    settings = yaml.safe_load((PROJECT / "Pulumi.local.yaml").read_text(encoding="utf-8"))
    (found,) = settings["config"]["hybrid-recommender:cloud-pools"]
    return found


class Cloud:
    """Jobs that ask the cloud site for GPUs, and the nodes that come for them."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.jobs = f"/apis/batch/v1/namespaces/{SPACE}/jobs"
        self.peak: dict[str, int] = {}
        """GPUs seen at once, by how they were bought."""

    def submit(self, gpus: int, seconds: int) -> str:
        name = f"j-{secrets.token_hex(4)}"
        size = {"cpu": "1", GPU: str(gpus)}
        container = {"name": "work", "image": "none.internal/work:1",
                     "resources": {"requests": size, "limits": size}}  # fmt: skip
        template = {
            "metadata": {"annotations": {RUNS_FOR: f"{seconds}s"}},
            "spec": {
                "restartPolicy": "Never",
                "tolerations": [{"key": GPU, "operator": "Exists"}],
                "containers": [container],
            },
        }
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
               "spec": {"template": template}}  # fmt: skip
        self.client.request("POST", self.jobs, job)
        return name

    def done(self, name: str) -> bool:
        return self.client.get(f"{self.jobs}/{name}")["status"].get("succeeded") == 1

    def running_on(self, name: str) -> str | None:
        """The node that runs a job's pod now."""
        query = f"labelSelector=batch.kubernetes.io/job-name%3D{name}"
        for pod in self.client.items(f"/api/v1/namespaces/{SPACE}/pods?{query}"):
            if pod["status"].get("phase") == "Running" and (
                "deletionTimestamp" not in pod["metadata"]
            ):
                return str(pod["spec"]["nodeName"])
        return None

    def nodes(self) -> dict[str, Json]:
        """Nodes that Karpenter ordered; every look takes down how many GPUs they have."""
        found = self.client.items("/api/v1/nodes?labelSelector=karpenter.sh/nodepool")
        held: dict[str, int] = {}
        for node in found:
            kind = node["metadata"]["labels"][CAPACITY]
            held[kind] = held.get(kind, 0) + int(node["status"]["allocatable"][GPU])
        for kind, gpus in held.items():
            self.peak[kind] = max(self.peak.get(kind, 0), gpus)
        return {node["metadata"]["name"]: node for node in found}

    def bought(self, node: str) -> str:
        return str(self.nodes()[node]["metadata"]["labels"][CAPACITY])

    def clean(self) -> None:
        for job in self.client.items(self.jobs):
            where = f"{self.jobs}/{job['metadata']['name']}"
            self.client.delete(f"{where}?propagationPolicy=Background")
        for claim in self.client.items(CLAIMS):
            self.client.delete(f"{CLAIMS}/{claim['metadata']['name']}")
        until("nodes are left", lambda: not self.nodes() and not self.client.items(CLAIMS))


def until(what: str, seen: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


@pytest.fixture
def cloud(stand: RunningStand, deployed: Stack) -> Iterator[Cloud]:
    del deployed
    client = stand.client("cloud")
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}}
    client.apply(f"/api/v1/namespaces/{SPACE}", space)
    made = Cloud(client)
    made.clean()
    yield made
    made.clean()
    client.delete(f"/api/v1/namespaces/{SPACE}")
    until("the namespace is left", lambda: client.find(f"/api/v1/namespaces/{SPACE}") is None)


def test_nodes_come_from_zero_for_a_job_and_go_back_to_zero_after_the_idle_time(
    cloud: Cloud,
) -> None:
    assert cloud.nodes() == {}
    job = cloud.submit(8, seconds=5)
    until("no node came", lambda: cloud.running_on(job))
    assert len(cloud.nodes()) == 1
    until("the job does not end", lambda: cloud.done(job))
    ended = time.monotonic()
    until("the idle node stays", lambda: not cloud.nodes(), 60 * pool()["idle-minutes"] + 120)
    assert time.monotonic() - ended > 60 * pool()["idle-minutes"] - 10


def test_spot_goes_first_then_on_demand_and_no_node_comes_above_the_ceiling(cloud: Cloud) -> None:
    most = {"spot": pool()["max-spot-gpus"], "on-demand": pool()["max-on-demand-gpus"]}
    full = sum(most.values()) // 8  # nodes under the ceiling
    first = cloud.submit(5, seconds=600)
    until("no node came", lambda: cloud.running_on(first))
    assert cloud.bought(cloud.running_on(first) or "") == "spot"
    # 5 of a node's 8 GPUs each: were only what pods ask counted, a fourth spot node would fit
    jobs = [first, *(cloud.submit(5, seconds=600) for _ in range(full + 1))]
    until("the pools are not full", lambda: sum(map(bool, map(cloud.running_on, jobs))) == full)
    for _ in range(40):
        cloud.nodes()
        time.sleep(0.5)
    assert cloud.peak == most
    assert sum(map(bool, map(cloud.running_on, jobs))) == full


@pytest.mark.parametrize("warned", [True, False], ids=["warned", "gone"])
def test_the_job_of_a_reclaimed_spot_node_runs_again_on_another(cloud: Cloud, warned: bool) -> None:
    job = cloud.submit(8, seconds=600)
    until("no node came", lambda: cloud.running_on(job))
    lost = cloud.running_on(job)
    assert lost is not None
    if warned:  # what Karpenter's interruption queue leads to
        claim = next(
            one["metadata"]["name"] for one in cloud.client.items(CLAIMS)
            if one["status"]["nodeName"] == lost
        )  # fmt: skip
        cloud.client.delete(f"{CLAIMS}/{claim}")
    else:  # the instance ends before anybody could drain it
        where = f"/api/v1/nodes/{lost}"
        none = {"metadata": {"finalizers": None}}
        cloud.client.request("PATCH", where, none, "application/merge-patch+json")
        cloud.client.delete(where)
    until("it does not run again", lambda: cloud.running_on(job) not in (None, lost), 240)
    until("the lost node stays", lambda: lost not in cloud.nodes())
