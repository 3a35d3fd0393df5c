"""The queues' objects, recorded without a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pulumi_kubernetes as k8s
import pytest
import yaml

from infra import kueue
from infra.components.queue_controller import QueueController, QueueControllerArgs
from infra.components.queues import Queues, QueuesArgs, Share
from infra.components.queues_parts import DECIMAL, GIB, Flavour, quantity
from infra.naming import Identity
from infra.pods import Image
from local.tools.table import GROUPS
from tests.clouds.engine import Engine, build

IDENTITY = Identity(
    environment="local", owner="platform", cost_centre="cc-0000", data_class="internal"
)
PRIVATE = Flavour(
    name="private-gpu",
    gpus=64,
    cpus=512,
    memory_gib=4096,
    labels={"nvidia.com/gpu.present": "true"},
    taints=[{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}],
)
CLOUD = Flavour(name="cloud-gpu", gpus=16, cpus=128, memory_gib=1024, owned=False)
CPU = Flavour(name="private-cpu", cpus=4, memory_gib=16)
TEAMS = {"recommender": Share(gpus=32, borrow=16, weight=2), "research": Share(gpus=24)}


def queues(gpu: Sequence[Flavour] = (PRIVATE, CLOUD), **teams: Share) -> Engine:
    shares = teams or TEAMS
    return build(
        lambda: Queues(
            "queues",
            QueuesArgs(
                identity=IDENTITY,
                provider=k8s.Provider("private", kubeconfig="none"),
                gpu=gpu,
                cpu=CPU,
                teams=shares,
                namespaces={team: team for team in shares},
            ),
        )
    )


def quota(queue: dict[str, Any], flavour: str) -> dict[str, dict[str, str]]:
    """Resource -> its numbers in one flavour of a queue."""
    group = queue["spec"]["resourceGroups"][0]
    found = next(one for one in group["flavors"] if one["name"] == flavour)
    return {one["name"]: one for one in found["resources"]}


def test_a_queue_tries_the_private_gpus_before_the_cloud() -> None:
    made = queues().of("ClusterQueue")
    for team in TEAMS:
        group = made[f"queues-{team}-gpu"]["spec"]["resourceGroups"][0]
        assert [one["name"] for one in group["flavors"]] == ["private-gpu", "cloud-gpu"]


def test_a_team_owns_its_gpus_with_cpus_and_memory_in_proportion_and_borrows_up_to_its_limit() -> (
    None
):
    found = quota(queues().of("ClusterQueue")["queues-recommender-gpu"], "private-gpu")
    assert found["nvidia.com/gpu"]["nominalQuota"] == "32"
    assert found["nvidia.com/gpu"]["borrowingLimit"] == "16"
    assert found["cpu"]["nominalQuota"] == "256"
    assert found["memory"]["nominalQuota"] == "2Ti"
    assert found["memory"]["borrowingLimit"] == "1Ti"


@pytest.mark.parametrize(
    ("amount", "form", "written"),
    [
        (0, GIB, "0"), (3, GIB, "3Gi"), (1024, GIB, "1Ti"), (1536, GIB, "1536Gi"),
        (1024**2, GIB, "1Pi"), (0, DECIMAL, "0"), (512, DECIMAL, "512"), (2000, DECIMAL, "2k"),
        (2500, DECIMAL, "2500"),
    ],
)  # fmt: skip
def test_a_quantity_is_written_as_kueue_gives_it_back(
    amount: int, form: tuple[int, tuple[str, ...]], written: str
) -> None:
    assert quantity(amount, *form) == written


def test_a_team_without_a_limit_may_borrow_all_that_is_idle() -> None:
    found = quota(queues().of("ClusterQueue")["queues-research-gpu"], "private-gpu")
    assert "borrowingLimit" not in found["nvidia.com/gpu"]


def test_what_no_team_owns_and_the_cloud_belong_to_all() -> None:
    made = queues()
    cohort = made.of("Cohort")["queues-cohort-gpu"]
    assert quota(cohort, "private-gpu")["nvidia.com/gpu"]["nominalQuota"] == "8"
    assert quota(cohort, "cloud-gpu")["nvidia.com/gpu"]["nominalQuota"] == "16"
    for team in TEAMS:
        own = quota(made.of("ClusterQueue")[f"queues-{team}-gpu"], "cloud-gpu")
        assert own["nvidia.com/gpu"]["nominalQuota"] == "0"


def test_all_quotas_of_a_flavour_together_are_what_there_is() -> None:
    made = queues()
    everyone = [made.of("Cohort")["queues-cohort-gpu"], *(
        made.of("ClusterQueue")[f"queues-{team}-gpu"] for team in TEAMS
    )]  # fmt: skip
    for flavour in (PRIVATE, CLOUD):
        parts = [
            int(quota(one, flavour.name)["nvidia.com/gpu"]["nominalQuota"]) for one in everyone
        ]
        assert sum(parts) == flavour.gpus


def test_a_queue_takes_jobs_of_its_own_teams_namespace_only() -> None:
    for team in TEAMS:
        spec = queues().of("ClusterQueue")[f"queues-{team}-gpu"]["spec"]
        assert spec["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": team}


def test_a_job_without_a_queue_falls_into_one_without_gpus() -> None:
    made = queues()
    local = made.of("LocalQueue")["queues-research-cpu-local"]
    assert local["metadata"]["name"] == "default"
    cluster = made.of("ClusterQueue")["queues-research-cpu"]
    assert quota(cluster, "private-cpu")["nvidia.com/gpu"]["nominalQuota"] == "0"
    assert (
        quota(made.of("Cohort")["queues-cohort-cpu"], "private-cpu")["cpu"]["nominalQuota"] == "4"
    )


def test_a_flavour_sends_its_jobs_to_its_nodes_and_lets_them_in() -> None:
    spec = queues().of("ResourceFlavor")["queues-flavour-private-gpu"]["spec"]
    assert spec["nodeLabels"] == {"nvidia.com/gpu.present": "true"}
    assert spec["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Equal", "value": "present", "effect": "NoSchedule"}
    ]


def test_shares_that_are_more_than_there_is_are_refused_with_the_numbers() -> None:
    with pytest.raises(ValueError, match=r"teams own 80 GPUs \(a 40, b 40\), there are 64"):
        queues(a=Share(gpus=40), b=Share(gpus=40))


# --- the controller -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def upstream() -> kueue.Upstream:
    from local.tools.resolve import bring_files

    group = next(one for one in GROUPS if one.name == "kueue")
    return kueue.read(bring_files(group, print)["kueue/manifests"])


def controller(upstream: kueue.Upstream, **more: Any) -> Engine:
    return build(
        lambda: QueueController(
            "kueue",
            QueueControllerArgs(
                identity=IDENTITY,
                provider=k8s.Provider("private", kubeconfig="none"),
                upstream=upstream,
                image=Image(reference="registry.example/kueue@sha256:" + "0" * 64),
                command=["/manager"],
                api="https://10.77.0.1:6443",
                **more,
            ),
        )
    )


def test_every_kind_that_we_declare_is_served_in_the_version_that_we_write(
    upstream: kueue.Upstream,
) -> None:
    group, version = kueue.API.split("/")
    served = {
        crd["spec"]["names"]["kind"]
        for crd in upstream.crds
        if crd["spec"]["group"] == group
        and any(one["name"] == version and one["storage"] for one in crd["spec"]["versions"])
    }
    ours = {"ClusterQueue", "Cohort", "LocalQueue", "ResourceFlavor", "WorkloadPriorityClass"}
    assert ours <= served


def test_only_kinds_that_kueue_converts_are_converted_by_it(upstream: kueue.Upstream) -> None:
    """For others its authority is never given to the API server, whose readers would all fail."""
    strategies = {
        crd["spec"]["names"]["plural"]: crd["spec"]["conversion"]["strategy"]
        for crd in upstream.crds
        if len(crd["spec"]["versions"]) > 1
    }
    converted = {name for name, strategy in strategies.items() if strategy == "Webhook"}
    assert converted == {
        "clusterqueues", "cohorts", "localqueues", "multikueueclusters", "workloads",
    }  # fmt: skip
    assert {"resourceflavors", "admissionchecks"} <= strategies.keys() - converted


def test_webhooks_see_queued_namespaces_and_kueues_own_objects_only(
    upstream: kueue.Upstream,
) -> None:
    made = controller(upstream)
    entries = [
        entry
        for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
        for entry in made.one(kind)["webhooks"]
    ]
    assert len(entries) >= 8
    for entry in entries:
        resources = {one for rule in entry["rules"] for one in rule["resources"]}
        assert "pods" not in resources
        if resources & {"jobs"}:
            assert entry["namespaceSelector"] == {"matchLabels": {kueue.QUEUED: "true"}}


def test_the_controller_gets_no_right_over_kinds_that_it_does_not_queue(
    upstream: kueue.Upstream,
) -> None:
    role = controller(upstream).of("ClusterRole")["kueue-manager-role"]
    groups = {group for rule in role["rules"] for group in rule["apiGroups"]}
    assert "batch" in groups
    assert not groups & {"kubeflow.org", "ray.io", "apps", "trainer.kubeflow.org"}
    secrets = [rule for rule in role["rules"] if "secrets" in rule["resources"]]
    assert secrets == []


@pytest.mark.parametrize("replicas", [1, 2])
def test_two_controllers_never_rule_at_once(upstream: kueue.Upstream, replicas: int) -> None:
    made = controller(upstream, replicas=replicas)
    settings = yaml.safe_load(made.one("ConfigMap")["data"]["controller.yaml"])
    alone = made.one("Deployment")["spec"].get("strategy") == {"type": "Recreate"}
    assert settings["leaderElection"]["leaderElect"] is not alone


def test_a_gang_that_does_not_become_ready_gives_its_quota_back(upstream: kueue.Upstream) -> None:
    config = controller(upstream, pods_ready_seconds=120).one("ConfigMap")["data"]
    settings = yaml.safe_load(config["controller.yaml"])
    assert settings["waitForPodsReady"]["timeout"] == "120s"
    assert settings["manageJobsWithoutQueueName"] is True


def test_manifests_that_changed_since_they_were_pinned_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "manifests.yaml"
    file.write_text("kind: Namespace\n")
    with pytest.raises(kueue.KueueError, match=r"has SHA-256 \w+, the settings say 0000"):
        kueue.read(file, sha256="0" * 64)


@pytest.mark.parametrize(
    ("content", "told"),
    [("kind: Namespace\n", "lacks CRDs, the manager's role"), ("a: [", "is not YAML")],
)
def test_a_file_that_is_not_kueues_is_refused_by_what_it_lacks(
    tmp_path: Path, content: str, told: str
) -> None:
    file = tmp_path / "manifests.yaml"
    file.write_text(content)
    with pytest.raises(kueue.KueueError, match=told):
        kueue.read(file)


def test_a_release_file_gives_the_same_objects_as_the_module(
    upstream: kueue.Upstream, tmp_path: Path
) -> None:
    """The release's file has the final names; what we declare of either is the same."""
    rules = yaml.safe_load(
        yaml.safe_dump(kueue.manager_rules(upstream, train_jobs=True), sort_keys=False)
    )
    documents: list[dict[str, Any]] = [
        {"kind": "ClusterRole", "metadata": {"name": "kueue-manager-role"}, "rules": rules},
        *(
            {
                "kind": "CustomResourceDefinition",
                "metadata": {"name": crd["name"]},
                "spec": crd["spec"],
            }
            for crd in upstream.crds
        ),
        *(
            {"kind": kind, "metadata": {"name": f"kueue-{kind}"}, "webhooks": list(entries)}
            for kind, entries in upstream.webhooks.items()
        ),
    ]
    file = tmp_path / "manifests.yaml"
    file.write_text(yaml.safe_dump_all(documents))
    again = kueue.read(file)
    assert again.crds == upstream.crds
    for train_jobs in (True, False):
        assert kueue.manager_rules(again, train_jobs=train_jobs) == kueue.manager_rules(
            upstream, train_jobs=train_jobs
        )
