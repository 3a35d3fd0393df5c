"""GPU sites, the GPU check and training, recorded without a cluster."""

from __future__ import annotations

from typing import Any

import pulumi_kubernetes as k8s
import pytest
import yaml

from infra.components.gpu_check import GpuCheck, GpuCheckArgs
from infra.components.gpu_site import GpuOperator, GpuSite, GpuSiteArgs, MigLayout
from infra.components.training import ArtefactStore, Run, Training, TrainingArgs
from infra.kueue import PRIORITY_LABEL, QUEUE_LABEL
from infra.naming import Identity
from infra.pods import Image
from infra.vault import Connection
from infra.workloads import VaultSite
from tests.clouds.engine import Engine, build, strings

IDENTITY = Identity(
    environment="local", owner="platform", cost_centre="cc-0000", data_class="internal"
)
IMAGE = Image(reference="registry.example/base@sha256:" + "0" * 64)
GPU = "nvidia.com/gpu"
TAINT = {"key": GPU, "operator": "Exists", "effect": "NoSchedule"}
KEYS = ("the-access-key", "the-secret-key")


def provider() -> k8s.Provider:
    return k8s.Provider("private", kubeconfig="none")


def site(operator: GpuOperator | None = None) -> Engine:
    return build(
        lambda: GpuSite(
            "gpu",
            GpuSiteArgs(
                identity=IDENTITY,
                provider=provider(),
                node_labels={"gpu": "yes"},
                operator=operator,
            ),
        )
    )


def check() -> dict[str, Any]:
    made = build(
        lambda: GpuCheck(
            "check",
            GpuCheckArgs(
                identity=IDENTITY,
                provider=provider(),
                namespace="recommender",
                queue="gpu",
                runtime_class="nvidia",
                image=IMAGE,
                tolerations=[TAINT],
            ),
        )
    )
    return made.one("Job")


VAULT = VaultSite(
    connection=Connection(address="https://10.0.0.1:8200", ca_file="", token_file=""),
    ca_pem="CA", site="private", team="recommender", mount="kv", mount_path="kv", login="jwt",
    login_path="jwt", pki="pki", pki_path="pki",
)  # fmt: skip


def training(run: Run | None = None, *, trainer: bool = False) -> Engine:
    return build(
        lambda: Training(
            "training",
            TrainingArgs(
                identity=IDENTITY,
                provider=provider(),
                namespace="recommender",
                vault=VAULT,
                store=ArtefactStore(
                    endpoint="https://10.0.0.2:9000",
                    region="r",
                    bucket="training",
                    access_key=KEYS[0],
                    secret_key=KEYS[1],
                    ca_pem="STORE CA",
                ),
                image=IMAGE,
                run=run,
                queues={"gpu": "gpu", "cpu": "default"},
                runtime_class="nvidia",
                tolerations=[TAINT],
                trainer=trainer,
            ),
        )
    )


def pod(job: dict[str, Any]) -> dict[str, Any]:
    return job["spec"]["template"]["spec"]


RUN = Run(name="r1", sequences="data/train.txt.gz", workers=3, least=2, hours=2)
GPU_RUN = Run(name="r2", sequences="s", workers=4, gpus=8, priority="urgent")


def test_serving_goes_before_training_and_training_before_batch() -> None:
    classes = site().of("PriorityClass")
    values = {each["metadata"]["name"]: each["value"] for each in classes.values()}
    assert values["serving"] > values["training"] > values["batch"]
    assert classes["gpu-batch"]["preemptionPolicy"] == "Never"


def test_the_gpu_runtime_sends_its_pods_to_nodes_with_a_gpu() -> None:
    runtime = site().one("RuntimeClass")
    assert runtime["handler"] == "nvidia"
    assert runtime["scheduling"] == {"nodeSelector": {"gpu": "yes"}}


def test_a_site_without_an_operator_gets_none_of_its_objects() -> None:
    kinds = {each.short for each in site().made}
    assert not kinds & {"ClusterPolicyPatch", "ConfigMap"}


def test_of_the_operators_policy_we_own_what_was_asked_and_no_more() -> None:
    operator = GpuOperator(
        driver_installed=True,
        mig="mixed",
        mig_layouts=[MigLayout(name="sevenths", slices={"1g.10gb": 7})],
        time_slices=4,
    )
    made = site(operator)
    policy = next(each for each in made.made if each.type.startswith("kubernetes:nvidia.com"))
    assert policy.inputs["metadata"]["name"] == "cluster-policy"
    spec = policy.inputs["spec"]
    assert set(spec) == {"driver", "toolkit", "mig", "migManager", "devicePlugin"}
    assert spec["driver"] == {"enabled": False}
    files = made.of("ConfigMap")
    layouts = yaml.safe_load(files["gpu-mig-layouts"]["data"]["config.yaml"])["mig-configs"]
    assert layouts["sevenths"][0]["mig-devices"] == {"1g.10gb": 7}
    shared = yaml.safe_load(files["gpu-gpu-sharing"]["data"]["shared"])
    assert shared["sharing"]["timeSlicing"]["resources"] == [{"name": GPU, "replicas": 4}]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: GpuOperator(driver_installed=True, time_slices=0), "time_slices is 0"),
        (
            lambda: GpuOperator(
                driver_installed=True, mig_layouts=[MigLayout(name="a", slices={"1g": 1})]
            ),
            "mig is none",
        ),
        (lambda: MigLayout(name="a", slices={"1g": 0}), "give counts above 0"),
        (lambda: Run(name="r", sequences="s", workers=2, least=3), r"least is 3; give 1 to .*2"),
    ],
    ids=["no slice", "layouts without MIG", "an empty layout", "more than all workers"],
)
def test_a_wrong_value_is_refused_with_the_rule(wrong: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        wrong()


def test_the_gpu_check_waits_in_the_queue_for_one_gpu_and_goes_by_itself() -> None:
    job = check()
    assert job["metadata"]["labels"][QUEUE_LABEL] == "gpu"
    assert job["spec"]["ttlSecondsAfterFinished"] > 0
    spec = pod(job)
    assert spec["runtimeClassName"] == "nvidia"
    assert spec["tolerations"] == [TAINT]
    assert spec["containers"][0]["resources"]["limits"][GPU] == "1"
    assert spec["automountServiceAccountToken"] is False


def test_without_a_run_nothing_runs_and_what_a_run_needs_is_there() -> None:
    made = training()
    kinds = {each.short for each in made.made}
    assert {"ServiceAccount", "NetworkPolicy", "ConfigMap"} <= kinds
    assert not kinds & {"Job", "Service"}


def test_the_stores_key_is_in_vault_and_nowhere_in_the_cluster() -> None:
    for each in training(RUN).made:
        if each.type.startswith("kubernetes:"):
            found = {text for _, text in strings(each.inputs)}
            assert not any(key in text for key in KEYS for text in found), each.name


def test_a_pod_of_a_run_talks_to_its_peers_vault_the_store_and_nobody_else() -> None:
    policy = training(RUN).one("NetworkPolicy")["spec"]
    own = {"podSelector": policy["podSelector"]}
    assert policy["ingress"] == [{"from": [own]}]
    assert policy["egress"][0] == {"to": [own]}
    blocks = [
        to["ipBlock"]["cidr"] for one in policy["egress"] for to in one["to"] if "ipBlock" in to
    ]
    assert blocks == ["10.0.0.1/32", "10.0.0.2/32"]
    assert len(policy["egress"]) == 3


def test_a_run_without_gpus_is_an_indexed_job_in_the_default_queue() -> None:
    made = training(RUN)
    job = made.one("Job")
    assert job["metadata"]["labels"][QUEUE_LABEL] == "default"
    spec = job["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 3, 3)
    assert spec["activeDeadlineSeconds"] == 7200
    work = pod(job)["containers"][0]
    assert GPU not in work["resources"]["limits"]
    assert "runtimeClassName" not in pod(job)
    command = work["command"]
    assert command[command.index("--workers") + 1] == "2:3"
    assert command[command.index("--leader") + 1] == f"{job['metadata']['name']}-0.training"
    peers = made.one("Service")
    assert peers["spec"]["clusterIP"] == "None"
    assert peers["metadata"]["name"] == pod(job)["subdomain"]


def test_a_run_with_gpus_asks_for_whole_ones_through_the_gpu_queue() -> None:
    job = training(GPU_RUN).one("Job")
    assert job["metadata"]["labels"][QUEUE_LABEL] == "gpu"
    assert job["metadata"]["labels"][PRIORITY_LABEL] == "urgent"
    spec = pod(job)
    size = spec["containers"][0]["resources"]
    assert size["limits"][GPU] == size["requests"][GPU] == "8"
    assert TAINT in spec["tolerations"]
    assert spec["runtimeClassName"] == "nvidia"
    command = spec["containers"][0]["command"]
    assert command[command.index("--processes") + 1] == "8"


def test_a_lost_node_is_given_up_within_a_minute() -> None:
    spec = pod(training(RUN).one("Job"))
    waits = {
        each["key"]: each["tolerationSeconds"]
        for each in spec["tolerations"]
        if each.get("effect") == "NoExecute"
    }
    assert set(waits) == {"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"}
    assert max(waits.values()) < 60
