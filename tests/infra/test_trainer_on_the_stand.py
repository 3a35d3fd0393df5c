"""A run as a TrainJob on the stand: the real Kueue reads it, counts its pods and lets it go.

Trainer's own CRDs are there and Trainer is not: nobody makes pods of what Kueue has admitted.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra import trainer
from infra.kueue import API as KUEUE
from infra.kueue import QUEUE_LABEL
from local.kube import Client
from local.tools.resolve import bring_files
from local.tools.table import GROUPS
from tests.conftest import RunningStand
from tests.infra.test_leaving_on_the_stand import reached
from tests.local.test_stand import eventually
from tests.stack import Stack

pytestmark = [pytest.mark.stand, pytest.mark.slow]
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
# Kueue watches these; what is in them only Trainer would write
JOB_SETS: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
    "metadata": {"name": f"jobsets.{trainer.JOB_SETS}"},
    "spec": {
        "group": trainer.JOB_SETS, "scope": "Namespaced",
        "names": {"kind": "JobSet", "listKind": "JobSetList", "plural": "jobsets",
                  "singular": "jobset"},
        "versions": [{
            "name": trainer.JOB_SET_API.split("/")[1], "served": True, "storage": True,
            "schema": {"openAPIV3Schema": {"type": "object",
                                           "x-kubernetes-preserve-unknown-fields": True}},
        }],
    },
}  # fmt: skip


@pytest.fixture
def with_trainer(stand: RunningStand, deployed: Stack, tmp_path: Path) -> Iterator[str]:
    """The stand's description of itself, whose sites say that they have Trainer."""
    if not stand.rooted:
        pytest.skip("Kueue runs on a real node")
    described = stand.endpoints
    for site in described["sites"].values():
        site["trainer"] = True
    file = tmp_path / "endpoints.json"
    file.write_text(json.dumps(described), encoding="utf-8")
    settings = deployed.project / "Pulumi.local.yaml"
    before = settings.read_text(encoding="utf-8")
    yield str(file)
    settings.write_text(before, encoding="utf-8")
    # the run goes while its Kueue still knows its kind
    deployed.up(check=False, HYBRID_RECOMMENDER_ENDPOINTS=str(file))
    deployed.up()
    for one in definitions():
        for site in described["sites"]:
            stand.client(site).delete(f"{CRDS}/{one['metadata']['name']}")


def definitions() -> list[dict[str, Any]]:
    group = next(one for one in GROUPS if one.name == "trainer")
    files = bring_files(group, print)["trainer/crds"].glob(f"{trainer.GROUP}_*.yaml")
    return [JOB_SETS, *(yaml.safe_load(file.read_text(encoding="utf-8")) for file in files)]


def workload_of(client: Client, name: str) -> dict[str, Any] | None:
    found = client.items(f"/apis/{KUEUE}/namespaces/recommender/workloads")
    mine = [
        one
        for one in found
        if any(owner["name"] == name for owner in one["metadata"].get("ownerReferences", ()))
    ]
    return mine[0] if mine else None


def test_a_run_is_refused_without_trainer_and_admitted_by_kueue_with_it(
    stand: RunningStand, deployed: Stack, with_trainer: str
) -> None:
    name, client = f"t-{secrets.token_hex(3)}", stand.client("private")
    file = deployed.project / "Pulumi.local.yaml"
    wanted = yaml.safe_load(file.read_text(encoding="utf-8"))
    wanted["config"]["hybrid-recommender:training"] = {
        "name": name, "sequences": "data/none.txt", "workers": 2, "cpu": "500m",
        "memory": "1Gi", "hours": 1,
    }  # fmt: skip
    file.write_text(yaml.safe_dump(wanted), encoding="utf-8")

    before = deployed.ids()
    refused = deployed.up(check=False, HYBRID_RECOMMENDER_ENDPOINTS=with_trainer)
    for kind in ("TrainJob", "TrainingRuntime", "JobSet"):
        assert f"does not know {kind} (" in refused.stdout + refused.stderr
    assert deployed.ids() == before

    for one in definitions():
        for site in (client, stand.client("cloud")):
            site.request("POST", CRDS, one)
    deployed.up(HYBRID_RECOMMENDER_ENDPOINTS=with_trainer)
    path = f"/apis/{trainer.API}/namespaces/recommender/trainjobs/training-{name}"
    job = client.get(path)
    assert job["metadata"]["labels"][QUEUE_LABEL] == "default"
    eventually(lambda: client.get(path)["spec"]["suspend"] is False, 60, "Kueue lets it go")

    workload = workload_of(client, f"training-{name}")
    assert workload is not None
    (pods,) = workload["spec"]["podSets"]
    assert (pods["name"], pods["count"]) == (trainer.NODE, 2)
    given = workload["status"]["admission"]["podSetAssignments"][0]["resourceUsage"]
    assert given["memory"] == "2176Mi", "two workers of 1 GiB, each with its agent's 64 MiB"
    (patch,) = client.get(path)["spec"]["runtimePatches"]
    assert patch["manager"] == "kueue.x-k8s.io/manager"
    eventually(lambda: reached(client), 60, "the other jobs can leave for the cloud")
    assert deployed.up("--expect-no-changes", HYBRID_RECOMMENDER_ENDPOINTS=with_trainer)
