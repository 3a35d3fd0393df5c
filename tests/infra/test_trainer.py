"""Runs as TrainJobs: the same pods as a Job's, taken by Kubeflow Trainer's own CRDs.

The CRDs are those of the pinned module, in a real API server with its schema and CEL checks.
Trainer itself does not run here.
"""

from __future__ import annotations

import json
import time
import urllib.error
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra import kueue, trainer
from infra.definitions import needs
from infra.kueue import PRIORITY_LABEL, QUEUE_LABEL
from infra.program import deploy
from infra.settings import Settings, SettingsError
from local.paths import PROJECT
from local.tools.resolve import bring_files
from local.tools.table import GROUPS
from tests.clouds.engine import Engine, build
from tests.infra.test_adopted_cloud import adopted
from tests.infra.test_jobs import GPU_RUN, RUN, pod, training
from tests.plugins.cluster import Cluster
from tests.plugins.engine import Project

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
SPACE = f"/apis/{trainer.API}/namespaces/default"
PROGRAM = """
import os, sys
from pathlib import Path
sys.path.insert(0, {root!r})
import pulumi
import pulumi_kubernetes as k8s
from infra.components.training_start import start

cluster = k8s.Provider("cluster", kubeconfig=Path(os.environ["TEST_KUBECONFIG"]).read_text())
start("training", {metadata!r}, {spec!r}, pulumi.ResourceOptions(provider=cluster), by_trainer=True)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """An API server that knows Trainer's kinds."""
    made = Cluster(tmp_path_factory.mktemp("cluster"), controllers=True)
    group = next(one for one in GROUPS if one.name == "trainer")
    assert group.version == trainer.VERSION
    try:
        made.start()
        for file in sorted(bring_files(group, print)["trainer/crds"].glob(f"{trainer.GROUP}_*")):
            made.request("POST", CRDS, yaml.safe_load(file.read_text(encoding="utf-8")))
        end = time.monotonic() + 20
        while not (made.get(f"{SPACE}/trainjobs") and made.get(f"{SPACE}/trainingruntimes")):
            assert time.monotonic() < end, "the CRDs are not served"
            time.sleep(0.1)
        yield made
    finally:
        made.stop()


def objects(made: Engine) -> dict[str, dict[str, Any]]:
    return {kind: made.one(kind) for kind in ("TrainingRuntime", "TrainJob")}


def inner(runtime: dict[str, Any]) -> dict[str, Any]:
    """The Job within a runtime."""
    (only,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    return only


def taken(cluster: Cluster, one: dict[str, Any]) -> dict[str, Any]:
    """What the API server would keep of an object; unknown fields are refused."""
    plural = f"{one['kind'].lower()}s"
    there = {**one, "metadata": {**one["metadata"], "namespace": "default"}}
    return cluster.request("POST", f"{SPACE}/{plural}?fieldValidation=Strict&dryRun=All", there)


@pytest.mark.parametrize("run", [RUN, GPU_RUN], ids=["CPUs", "GPUs"])
def test_the_crds_take_what_we_write_and_drop_none_of_it(cluster: Cluster, run: Any) -> None:
    for kind, one in objects(training(run, trainer=True)).items():
        kept = taken(cluster, one)
        assert holds(kept["spec"], one["spec"]), kind


def holds(kept: Any, wanted: Any) -> bool:
    """Whether all that was wanted was kept; defaults may have come to it."""
    if isinstance(wanted, dict):
        return isinstance(kept, dict) and all(
            key in kept and holds(kept[key], value) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return len(kept) == len(wanted) and all(map(holds, kept, wanted))
    return kept == wanted


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("spec", "trainer", "nodes"), 2, "unknown field"),
        (("spec", "managedBy"), "somebody", "ManagedBy must be"),
        (("spec", "activeDeadlineSeconds"), 0, "greater than or equal to 1"),
        (("metadata", "name"), "1st", "RFC 1035"),
    ],
    ids=["a field", "a manager", "no deadline", "a name"],
)
def test_the_crds_are_real_a_wrong_object_is_refused(
    cluster: Cluster, path: tuple[str, ...], value: Any, told: str
) -> None:
    one = json.loads(json.dumps(training(RUN, trainer=True).one("TrainJob")))
    at = one
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    with pytest.raises(urllib.error.HTTPError) as refused:
        taken(cluster, one)
    assert told in refused.value.read().decode()


@pytest.mark.parametrize("run", [RUN, GPU_RUN], ids=["CPUs", "GPUs"])
def test_a_run_has_the_same_pods_with_and_without_trainer(run: Any) -> None:
    job = training(run).one("Job")
    made = objects(training(run, trainer=True))
    one = inner(made["TrainingRuntime"])["template"]["spec"]
    assert one["backoffLimit"] == job["spec"]["backoffLimit"]
    assert one["template"]["metadata"] == job["spec"]["template"]["metadata"]
    ours, theirs = (json.loads(json.dumps(pod(each))) for each in ({"spec": one}, job))
    worker = ours["containers"][0]
    assert worker.pop("name") == trainer.NODE
    assert theirs["containers"][0].pop("name") == "worker"
    named = f"{job['metadata']['name']}-0.training"
    leader = worker["command"].index("--leader") + 1
    assert worker["command"][leader] == named.replace("-0.", "-node-0-0.")
    worker["command"][leader] = named
    assert ours == theirs


def test_the_train_job_waits_in_the_same_queue_as_many_workers_as_long() -> None:
    for run, queue in ((RUN, "default"), (GPU_RUN, "gpu")):
        made = training(run, trainer=True)
        assert not made.of("Job")
        one = objects(made)
        marks = one["TrainJob"]["metadata"]["labels"]
        assert (marks[QUEUE_LABEL], marks[PRIORITY_LABEL]) == (queue, run.priority)
        assert QUEUE_LABEL not in one["TrainingRuntime"]["metadata"]["labels"]
        spec = one["TrainJob"]["spec"]
        assert spec["trainer"] == {"numNodes": run.workers}
        assert spec["activeDeadlineSeconds"] == run.hours * 3600
        assert spec["runtimeRef"]["name"] == one["TrainingRuntime"]["metadata"]["name"]


def test_the_longest_name_of_a_run_leaves_room_for_its_pods_host_names() -> None:
    run = replace(RUN, name="r" * 40)
    made = training(run, trainer=True).one("TrainJob")["metadata"]["name"]
    assert len(f"{trainer.job_name(made)}-63") <= 63


def test_other_pods_are_another_train_job_and_the_same_ones_are_left_alone(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kubeconfig").write_text(cluster.kubeconfig)
    monkeypatch.setenv("TEST_KUBECONFIG", str(tmp_path / "kubeconfig"))
    job = training(RUN).one("Job")
    metadata = {**job["metadata"], "namespace": "default"}
    project = Project(tmp_path / "project", "")

    def up(workers: int, image: str) -> str:
        spec = json.loads(json.dumps(job["spec"]))
        spec["completions"] = workers
        pod({"spec": spec})["containers"][0]["image"] = image
        program = PROGRAM.format(root=str(PROJECT), metadata=metadata, spec=spec)
        project.write(program)
        project.up()
        made = cluster.request("GET", f"{SPACE}/trainjobs/{metadata['name']}")
        assert made["spec"]["trainer"]["numNodes"] == workers
        return str(made["metadata"]["uid"])

    first = up(2, "a:1")
    assert up(2, "a:1") == first
    second = up(3, "a:1")
    assert second != first, "a TrainJob's workers cannot be changed"
    assert up(3, "a:2") != second, "a TrainJob that runs does not look at its runtime again"


def with_trainer(settings: Settings, *sites: str) -> Settings:
    """The settings of sites that have Trainer."""
    found = {
        name: one.model_copy(update={"trainer": name in sites})
        for name, one in settings.sites.items()
    }
    return settings.model_copy(update={"sites": found})


def test_trainer_at_home_alone_is_refused_where_jobs_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = with_trainer(adopted(tmp_path), "private")
    with pytest.raises(SettingsError, match=r"install Trainer's .* and set sites\.cloud\.trainer"):
        build(lambda: deploy(settings))


def test_where_a_site_has_trainer_its_kueue_queues_train_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = adopted(tmp_path)
    assert not list(needs(settings))
    settings = with_trainer(settings, "private", "cloud")
    assert [(one.site, one.kind, one.api) for one in needs(settings)] == [
        (site, kind, api)
        for site in ("private", "cloud")
        for kind, api in (
            ("TrainJob", "trainer.kubeflow.org/v1alpha1"),
            ("TrainingRuntime", "trainer.kubeflow.org/v1alpha1"),
            ("JobSet", "jobset.x-k8s.io/v1alpha2"),
        )
    ]
    made = build(lambda: deploy(settings))
    texts = {
        name: one["data"]["controller.yaml"]
        for name, one in made.of("ConfigMap").items()
        if "controller.yaml" in one.get("data", {})
    }
    frameworks = {
        name: yaml.safe_load(text)["integrations"]["frameworks"] for name, text in texts.items()
    }
    both = ["batch/job", "trainer.kubeflow.org/trainjob"]
    assert frameworks == {"kueue-config": both, "cloud-kueue-config": both}
    watched = {"apiGroups": ["trainer.kubeflow.org"], "resources": ["trainjobs"],
               "verbs": ["get", "list", "watch"]}  # fmt: skip
    assert watched in made.of("ClusterRole")["cloud-worker-read"]["rules"]
    rules = made.of("ClusterRole")["kueue-manager-role"]["rules"]
    assert {"apiGroups": ["jobset.x-k8s.io"], "resources": ["jobsets"],
            "verbs": ["get", "list", "watch"]} in rules  # fmt: skip
    hooks = made.of("MutatingWebhookConfiguration")["kueue-mutating"]["webhooks"]
    (hook,) = (one for one in hooks if one["name"] == "mtrainjob.kb.io")
    assert hook["namespaceSelector"] == {"matchLabels": {kueue.QUEUED: "true"}}
