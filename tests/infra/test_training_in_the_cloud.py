"""A run leaves a full private site for the cloud's real node, and outlives its reclaim there.

The cloud's GPU nodes are simulated and run nothing, so its one real node passes for one of them: it
gets their label, two GPUs that nobody looks for, and a GPU runtime that is the common one. Queues,
mover, link, Vault, store and the training (on CPUs) are real.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from infra.kueue import PRIORITY_LABEL
from local.kube import Client
from local.leaving import Sites, Work
from model import artefacts
from model.artefacts import Store
from tests.conftest import RunningStand
from tests.infra.test_leaving_on_the_stand import clean
from tests.infra.test_training_on_the_stand import SEQUENCES, SPACE, log_of, store, until, workers
from tests.stack import Stack

pytestmark = [pytest.mark.stand, pytest.mark.slow]
__all__ = ["store"]
GPU = "nvidia.com/gpu"
MERGE = "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"
RUNTIME = "/apis/node.k8s.io/v1/runtimeclasses"
# what `use_runtime` changed: put back as drift, no new pod would start on the node
LENT = ("--exclude", "**kubernetes:node.k8s.io/v1:RuntimeClass::*")


def pass_for_gpu_node(cloud: Client, gpus: int | None) -> None:
    """Give the cloud's real node GPUs and their label; None takes both away."""
    (node,) = (
        one["metadata"]["name"]
        for one in cloud.items("/api/v1/nodes")
        if _runtime(one).startswith("containerd")
    )
    where = f"/api/v1/nodes/{node}"
    label = None if gpus is None else "true"
    cloud.request(
        "PATCH", where, {"metadata": {"labels": {"nvidia.com/gpu.present": label}}}, MERGE
    )
    there = None if gpus is None else str(gpus)
    status = {"status": {"capacity": {GPU: there}, "allocatable": {GPU: there}}}
    cloud.request("PATCH", f"{where}/status", status, MERGE)


def _runtime(node: dict[str, Any]) -> str:
    return str(node["status"].get("nodeInfo", {}).get("containerRuntimeVersion", ""))


def use_runtime(cloud: Client, handler: str) -> None:
    """The GPU runtime's class, made again by its maker's name: its handler cannot be changed."""
    where = f"{RUNTIME}/nvidia"
    found = cloud.get(where)
    made = {
        **{key: found[key] for key in ("apiVersion", "kind", "scheduling")},
        "metadata": {
            key: found["metadata"][key]
            for key in ("name", "labels", "annotations")
            if key in found["metadata"]
        },
        "handler": handler,
    }
    maker = quote(found["metadata"]["managedFields"][0]["manager"])
    cloud.delete(where)
    cloud.request("PATCH", f"{where}?fieldManager={maker}&force=true", made, APPLY)


@pytest.fixture
def cloud(stand: RunningStand, deployed: Stack) -> Iterator[Client]:
    """The cloud's API server, whose real node passes for a GPU node."""
    del deployed
    if not stand.rooted:
        pytest.skip("real nodes need root")
    made = stand.client("cloud")
    handler = made.get(f"{RUNTIME}/nvidia")["handler"]
    pass_for_gpu_node(made, 2)  # a pod that is reclaimed keeps its GPU until it is gone
    use_runtime(made, "runc")
    yield made
    use_runtime(made, handler)
    pass_for_gpu_node(made, None)


@pytest.fixture
def full(stand: RunningStand, cloud: Client) -> Iterator[Sites]:
    """Both sites, with every private GPU taken by another job of the team that will train."""
    private = stand.client("private")
    clean(Sites(private, cloud, "research"))  # the product team's namespace holds the stack's jobs
    sites = Sites(private, cloud, "recommender")
    # of the highest priority: the run may not take its place
    job = sites.submit(
        Work(pods=8, gpus=8, seconds=900, may_leave=False), labels={PRIORITY_LABEL: "urgent"}
    )
    until(cloud, "the site is full", lambda: len(sites.running(sites.private, job)) == 8, 60)
    yield sites
    sites.private.delete(f"{sites.jobs}/{job}?propagationPolicy=Background")


@pytest.fixture
def run(deployed: Stack, full: Sites) -> Iterator[str]:
    """A new run that may leave, in the stack's settings."""
    del full
    name = f"ring-{secrets.token_hex(3)}"
    file = deployed.project / "Pulumi.local.yaml"
    before = file.read_text(encoding="utf-8")
    wanted = yaml.safe_load(before)
    wanted["config"]["hybrid-recommender:training"] = {
        "name": name, "sequences": SEQUENCES, "size": "tiny", "workers": 1, "least": 1, "gpus": 1,
        "cpu": "300m", "memory": "1500Mi", "hours": 1, "may_leave": True,
        "flags": ["--epochs", "120", "--patience", "120", "--batch", "16", "--save-every", "20",
                  "--threads", "1", "--no-links", "--no-refit"],
    }  # fmt: skip
    file.write_text(yaml.safe_dump(wanted), encoding="utf-8")
    deployed.up()
    yield name
    file.write_text(before, encoding="utf-8")
    deployed.up()


def evict(client: Client, pod: dict[str, Any]) -> None:
    """What Karpenter does to the pods of a node that is reclaimed, at its last second."""
    name = pod["metadata"]["name"]
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": "recommender"},
        "deleteOptions": {"gracePeriodSeconds": 1},
    }
    client.request("POST", f"{SPACE}/pods/{name}/eviction", body)


def test_a_run_that_left_goes_on_from_its_saved_state_when_its_node_is_reclaimed(
    cloud: Client, full: Sites, store: Store, run: str, deployed: Stack
) -> None:
    job = f"training-{run}"
    until(cloud, "the run leaves", lambda: full.left(job), 60)

    def runs() -> bool:
        return workers(cloud).get("0", {}).get("status", {}).get("phase") == "Running"

    until(cloud, "it trains in the cloud", runs, 120)
    moved = full.job(job)["metadata"]["uid"]
    with ThreadPoolExecutor(1) as beside:
        refreshed = beside.submit(deployed.up, "--refresh", *LENT)
        goes_on(cloud, full, store, run)
        refreshed.result()
    assert full.job(job)["metadata"]["uid"] == moved, "a refresh took the moved job for another"


def goes_on(cloud: Client, full: Sites, store: Store, run: str) -> None:
    """Take its node from a run that trains in the cloud; returns when it has ended all the same."""
    job = f"training-{run}"
    until(cloud, "a state is stored at home", lambda: artefacts.newest_state(store, run), 240)
    lost = workers(cloud)["0"]
    evict(cloud, lost)
    state = artefacts.newest_state(store, run)
    assert artefacts.finished(store, run) is None, "it ended before its node was reclaimed"
    until(
        cloud,
        "it is started again",
        lambda: workers(cloud).get("0", lost)["metadata"]["uid"] != lost["metadata"]["uid"],
        60,
    )
    again = workers(cloud)["0"]
    assert again["spec"]["containers"] == lost["spec"]["containers"]

    def begun() -> list[str]:
        return [line for line in log_of(cloud, again).splitlines() if " begin with runs/" in line]

    # while it runs: with its end the copy goes, and its pods' logs with it
    until(cloud, "it goes on from a saved state", begun, 120)
    assert state is not None
    assert max(line.split()[-1] for line in begun()) >= state, "it went back behind a saved state"
    until(cloud, "the model is stored at home", lambda: artefacts.finished(store, run), 300)
    assert full.running(full.private, job) == [], "nothing of it ran at home"
    done = lambda: full.job(job)["status"].get("succeeded") == 1  # noqa: E731
    until(cloud, "its end is told at home", done, 60)
