"""A training run that leaves for the cloud by the real mover: what its pods find there."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from infra.clouds.burst_mover import LEFT, QUEUE_LABEL, Rules, leaving, move
from infra.jobs_cloud import plan_site
from infra.program import deploy
from infra.settings import Settings, parse
from infra.site_settings import SettingsError
from infra.training_settings import TrainingRun
from infra.vault_login import policy_document
from tests.clouds.engine import Engine, Made, build
from tests.clouds.test_burst_mover import Cluster
from tests.infra.test_adopted_cloud import adopted_values

RULES = Rules(private_queue="gpu", cloud_queue="cloud")
STORE = "https://10.10.0.9:9000"
RUN: dict[str, Any] = {
    "name": "nightly", "sequences": "data/train.txt.gz", "workers": 2, "gpus": 8, "hours": 6,
    "may_leave": True, "input_gb": 12,
}  # fmt: skip
SPACE = "recommender"


def wanted(home: Path, endpoint: str = STORE, **run: Any) -> Settings:
    for key in ("access", "secret"):
        (home / f"{key}-key").write_text(f"the-{key}-key", encoding="utf-8")
    (home / "store-ca.pem").write_text("STORE CA", encoding="utf-8")
    store = {
        "endpoint": endpoint, "region": "here", "ca_file": "~/store-ca.pem",
        "access_key_file": "~/access-key", "secret_key_file": "~/secret-key",
    }  # fmt: skip
    values = adopted_values(home)
    values["hybrid-recommender:artefacts"] = json.dumps({"private": store})
    values["hybrid-recommender:training"] = json.dumps({**RUN, **run})
    return parse("prod", values)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        settings = wanted(folder)
        return build(lambda: deploy(settings))


def objects(made: Engine, site: str) -> dict[tuple[str, str], Made]:
    """(kind, name) of what one site's cluster holds for a pod of the team, or for all."""
    return {
        (one.short, one.inputs["metadata"]["name"]): one
        for one in made.made
        if one.type.startswith("kubernetes:")
        and f"::{site}::" in one.provider
        and one.inputs.get("metadata", {}).get("namespace", SPACE) in (SPACE, None)
    }


def run_of(made: Engine) -> dict[str, Any]:
    return next(one for name, one in made.of("Job").items() if name == "training-run")


def moved(made: Engine) -> dict[str, Any]:
    """The run's Job as the real mover puts it into the cloud's queue."""
    cluster = Cluster()
    job = json.loads(json.dumps(run_of(made)))
    job["metadata"] |= {"namespace": SPACE, "uid": "u1", "resourceVersion": "7"}
    job["spec"]["suspend"] = True  # as Kueue does with each new one
    name = job["metadata"]["name"]
    cluster.jobs[name] = job
    assert move(cluster, SPACE, name, RULES)
    return cluster.jobs[name]


def test_from_a_full_site_the_run_leaves(home: Path, made: Engine) -> None:
    settings, run = wanted(home), run_of(made)
    assert run["metadata"]["labels"][QUEUE_LABEL] == "gpu"
    now = datetime(2026, 11, 25, 12, tzinfo=UTC)

    def workload(name: str, template: Any, count: int, status: Any) -> dict[str, Any]:
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "controller": True}
        return {
            "metadata": {"name": name, "namespace": SPACE, "ownerReferences": [owner],
                         "creationTimestamp": "2026-11-25T11:00:00Z"},
            "spec": {"queueName": "gpu", "podSets": [{"count": count, "template": template}]},
            "status": status,
        }  # fmt: skip

    full = {
        "metadata": {"annotations": {"recsys/expected-hours": "48", "recsys/input-gb": "0"}},
        "spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "8"}}}]},
    }
    admitted = {
        "conditions": [{"type": "Admitted", "status": "True",
                        "lastTransitionTime": "2026-11-25T11:00:00Z"}],
        "admission": {"podSetAssignments": [{"flavors": {"nvidia.com/gpu": "private-gpu"}}]},
    }  # fmt: skip
    listed = {
        "items": [
            workload("full", full, 4, admitted),
            workload("nightly", run["spec"]["template"], 2, {}),
        ]
    }
    assert leaving(listed, plan_site(settings), RULES, now) == [(SPACE, "nightly")]


def test_a_run_in_the_cloud_has_the_store_and_the_state_of_the_run_at_home(made: Engine) -> None:
    home_job, job = run_of(made), moved(made)
    assert job["metadata"]["labels"][QUEUE_LABEL] == "cloud"
    assert job["metadata"]["annotations"][LEFT] == "u1"
    template = json.loads(json.dumps(job["spec"]["template"]))
    assert template["metadata"].pop("creationTimestamp") is None
    assert template == home_job["spec"]["template"], "not one word differs"
    command = job["spec"]["template"]["spec"]["containers"][0]["command"]
    for flag, value in (
        ("--endpoint", STORE), ("--bucket", "training"), ("--run-name", "nightly"),
        ("--sequences", RUN["sequences"]), ("--keys", "/secrets"),
    ):  # fmt: skip
        assert command[command.index(flag) + 1] == value


def test_everything_that_its_pods_name_is_in_the_cloud_under_that_name(made: Engine) -> None:
    pod = moved(made)["spec"]["template"]["spec"]
    there = objects(made, "cloud")
    assert ("ServiceAccount", pod["serviceAccountName"]) in there
    assert ("PriorityClass", pod["priorityClassName"]) in there
    assert ("RuntimeClass", pod["runtimeClassName"]) in there
    files = {one["configMap"]["name"] for one in pod["volumes"] if "configMap" in one}
    assert files
    for name in files:
        assert ("ConfigMap", name) in there
    peers = there["Service", pod["subdomain"]].inputs["spec"]
    assert peers["clusterIP"] == "None", "workers find each other by name"
    assert (
        peers["selector"].items() <= moved(made)["spec"]["template"]["metadata"]["labels"].items()
    )
    assert not [one for kind, one in there if kind == "Job" and one == "training-nightly"], (
        "the copy is Kueue's"
    )


def test_its_key_comes_from_vault_by_the_clouds_own_login_and_is_the_same_key(
    made: Engine,
) -> None:
    files = objects(made, "cloud")["ConfigMap", "training-files"].inputs["data"]
    agent = json.loads(files["agent.json"])
    at_home = json.loads(objects(made, "private")["ConfigMap", "training-files"].inputs["data"]
                         ["agent.json"])  # fmt: skip
    assert set(agent["secrets"]) == set(at_home["secrets"]) == {"access-key", "secret-key"}
    assert agent["secrets"]["access-key"].endswith("/cloud/recommender/training#access-key")
    assert agent["auth"] == at_home["auth"].removesuffix("private") + "cloud"
    assert files["store-ca.crt"] == "STORE CA"
    keys = {
        one["path"]: one["data"] for one in made.of("KvSecret").values()
        if one["path"].endswith("/training")
    }  # fmt: skip
    assert set(keys) == {"private/recommender/training", "cloud/recommender/training"}
    assert keys["cloud/recommender/training"] == keys["private/recommender/training"]
    role = next(one for name, one in made.of("JwtRole").items() if name == "cloud-training-login")
    assert role["subject"] == "system:serviceaccount:recommender:training"
    rules = policy_document({agent["secrets"]["access-key"].partition("#")[0]: ["read"]})
    assert made.of("Policy")["cloud-training-policy"]["document"] == rules, "and no other"


def test_its_pods_reach_the_store_over_the_link(made: Engine) -> None:
    traffic = objects(made, "cloud")["NetworkPolicy", "training"].inputs["spec"]
    blocks = [
        to["ipBlock"]["cidr"]
        for rule in traffic["egress"]
        for to in rule.get("to", [])
        if "ipBlock" in to
    ]
    assert "10.10.0.9/32" in blocks
    opened = {
        one["cidrIpv4"] for one in made.of("SecurityGroupEgressRule").values()
        if one.get("fromPort") == one.get("toPort") == 9000
    }  # fmt: skip
    assert "10.10.0.0/20" in opened


def test_a_reclaimed_node_costs_a_pod_and_not_the_run(made: Engine) -> None:
    spec = moved(made)["spec"]
    pod = spec["template"]["spec"]
    assert (spec["completionMode"], pod["restartPolicy"]) == ("Indexed", "Never")
    assert spec["backoffLimit"] == 6 * 2 + 6 * 2, "one spot node an hour for each worker, and room"
    assert "podFailurePolicy" not in spec, "a pod of a dead node is replaced before it is gone"
    gone = {one["key"] for one in pod["tolerations"] if one.get("tolerationSeconds")}
    assert gone == {"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"}
    assert spec["completions"] == spec["parallelism"] == 2


def test_a_run_that_stays_at_home_leaves_nothing_in_the_cloud(home: Path) -> None:
    settings = wanted(home, may_leave=False)
    made = build(lambda: deploy(settings))
    annotations = run_of(made)["spec"]["template"]["metadata"]["annotations"]
    assert "recsys/may-leave" not in annotations
    assert ("ServiceAccount", "training") not in objects(made, "cloud")
    assert "cloud/recommender/training" not in {one["path"] for one in made.of("KvSecret").values()}


def test_a_run_that_could_not_leave_is_refused_with_the_reason(home: Path) -> None:
    with pytest.raises(SettingsError, match=r"training is .*gpus 0; only jobs that ask for GPUs"):
        wanted(home, gpus=0)
    away = wanted(home, endpoint="https://10.99.0.9:9000")
    with pytest.raises(SettingsError, match=r"10\.99\.0\.9:9000, which is not in the private"):
        build(lambda: deploy(away))
    named = wanted(home, endpoint="https://store.shop.internal")
    assert build(lambda: deploy(named)).of("Job")
    settings = wanted(home)
    alone = settings.model_copy(
        update={"sites": {"private": settings.sites["private"]}, "traffic": None}
    )
    with pytest.raises(SettingsError, match="may_leave is true for run nightly, but no job can"):
        build(lambda: deploy(alone))
    by_trainer = settings.sites["private"].model_copy(update={"trainer": True})
    also = settings.sites["cloud"].model_copy(update={"trainer": True})
    sites = {"private": by_trainer, "cloud": also}
    with pytest.raises(SettingsError, match="makes it a TrainJob, and only Jobs leave"):
        build(lambda: deploy(settings.model_copy(update={"sites": sites})))


def test_a_run_says_what_it_reads_over_the_link(made: Engine) -> None:
    marks = run_of(made)["spec"]["template"]["metadata"]["annotations"]
    assert (marks["recsys/expected-hours"], marks["recsys/input-gb"]) == ("6", "12")
    assert TrainingRun(name="r", sequences="s").may_leave is False, "data goes nowhere unasked"
