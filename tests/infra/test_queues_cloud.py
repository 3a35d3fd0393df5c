"""The cloud's queues at both ends and the way between them, recorded without a cluster."""

from __future__ import annotations

import json
from typing import Any

import pulumi_kubernetes as k8s

from infra import kueue
from infra.components.queue_agent import Worker, agent_of, kubeconfig
from infra.components.queue_mover import QueueMover, QueueMoverArgs
from infra.components.queue_worker import QueueWorker, QueueWorkerArgs
from infra.components.queues_cloud import CloudQueues, CloudQueuesArgs
from infra.components.queues_parts import Flavour
from infra.naming import Identity
from infra.pods import Image, VaultLogin
from tests.clouds.engine import Engine, build

IDENTITY = Identity(
    environment="local", owner="platform", cost_centre="cc-0000", data_class="internal"
)
IMAGE = Image(reference="registry.example/base@sha256:" + "0" * 64)
FLAVOUR = Flavour(
    name="cloud-gpu",
    gpus=24,
    cpus=24,
    memory_gib=24,
    labels={"gpu": "yes"},
    taints=[{"key": "nvidia.com/gpu", "value": "true", "effect": "NoSchedule"}],
    owned=False,
)
TEAMS = {"recommender": 2, "research": 1}


def provider() -> k8s.Provider:
    return k8s.Provider("there", kubeconfig="none")


def queues(*, sends: bool) -> Engine:
    return build(
        lambda: CloudQueues(
            "cloud",
            CloudQueuesArgs(
                identity=IDENTITY,
                provider=provider(),
                flavour=FLAVOUR,
                weights=TEAMS,
                namespaces={team: team for team in TEAMS},
                sends=sends,
            ),
        )
    )


def test_only_where_jobs_are_sent_from_does_a_queue_ask_the_other_cluster() -> None:
    here, there = queues(sends=True), queues(sends=False)
    for name, queue in here.of("ClusterQueue").items():
        assert queue["spec"]["admissionChecksStrategy"] == {"admissionChecks": [{"name": "cloud"}]}
        assert "admissionChecksStrategy" not in there.of("ClusterQueue")[name]["spec"]
    check = here.one("AdmissionCheck")["spec"]
    assert check["controllerName"] == "kueue.x-k8s.io/multikueue"
    assert check["parameters"]["name"] == here.one("MultiKueueConfig")["metadata"]["name"]
    assert here.one("MultiKueueConfig")["spec"]["clusters"] == ["cloud"]
    assert not there.of("MultiKueueCluster")


def test_a_queue_has_one_name_at_both_ends_and_one_ceiling() -> None:
    here, there = queues(sends=True), queues(sends=False)

    def local(made: Engine) -> set[tuple[str, str]]:
        found = made.of("LocalQueue").values()
        return {(one["metadata"]["namespace"], one["metadata"]["name"]) for one in found}

    assert local(here) == local(there) == {(team, "cloud") for team in TEAMS}
    quotas = [made.one("Cohort")["spec"]["resourceGroups"] for made in (here, there)]
    assert quotas[0] == quotas[1]
    assert quotas[0][0]["flavors"][0]["resources"][0]["nominalQuota"] == "24"


def test_where_jobs_arrive_the_flavour_leads_to_the_nodes() -> None:
    assert queues(sends=True).one("ResourceFlavor")["spec"] == {}
    spec = queues(sends=False).one("ResourceFlavor")["spec"]
    assert spec["nodeLabels"] == {"gpu": "yes"}
    assert spec["tolerations"][0]["value"] == "true"


def test_the_other_kueue_may_make_jobs_in_the_teams_namespaces_alone() -> None:
    made = build(
        lambda: QueueWorker(
            "worker",
            QueueWorkerArgs(
                identity=IDENTITY,
                provider=provider(),
                space=kueue.NAMESPACE,
                namespaces={team: team for team in TEAMS},
            ),
        )
    )
    everywhere = made.one("ClusterRoleBinding")["roleRef"]["name"]
    roles = {one["metadata"]["name"]: one["rules"] for one in made.of("ClusterRole").values()}
    verbs = {verb for rule in roles[everywhere] for verb in rule["verbs"]}
    assert verbs == {"get", "list", "watch"}
    places = {one["metadata"]["namespace"] for one in made.of("RoleBinding").values()}
    assert places == set(TEAMS)
    assert made.one("Secret")["metadata"]["annotations"]["pulumi.com/waitFor"]


def login() -> VaultLogin:
    return VaultLogin(
        address="https://10.0.0.1:8200",
        ca_pem="CA",
        auth="jwt",
        role="kueue",
        secrets={"cloud": "kv/data/x#token"},
        templates={"cloud": kubeconfig("https://10.9.0.1:6443", "Q0E=")},
    )


def test_the_token_comes_from_vault_into_a_file_and_no_manifest_holds_it() -> None:
    beside = agent_of(Worker(api="https://10.9.0.1:6443", login=login(), agent=IMAGE))
    wanted = json.loads(beside.files["agent.json"])
    assert wanted["secrets"] == {"cloud": "kv/data/x#token"}
    text = wanted["templates"]["cloud"]
    assert text.count("{}") == 1
    made = json.loads(text.replace("{}", "the-token"))
    assert made["users"][0]["user"] == {"token": "the-token"}
    assert "insecure-skip-tls-verify" not in text


def test_a_vault_that_is_away_holds_no_kueue_back() -> None:
    beside = agent_of(Worker(api="https://10.9.0.1:6443", login=login(), agent=IMAGE))
    (agent,) = beside.containers
    assert "startupProbe" not in agent
    assert "restartPolicy" not in agent, "that would make it an init container"
    assert agent_of(None).containers == ()


def test_the_mover_moves_jobs_of_the_teams_and_writes_one_note() -> None:
    made = build(
        lambda: QueueMover(
            "mover",
            QueueMoverArgs(
                every=15,
                identity=IDENTITY,
                provider=provider(),
                space=kueue.NAMESPACE,
                namespaces={team: team for team in TEAMS},
                image=IMAGE,
                python="python3",
                folder=None,
                api="https://10.0.0.1:6443",
                site="{}",
                private_queue="gpu",
                cloud_queue="cloud",
            ),
        )
    )
    rights: dict[str, list[dict[str, Any]]] = {
        one["metadata"]["namespace"]: one["rules"] for one in made.of("Role").values()
    }
    assert set(rights) == {kueue.NAMESPACE, *TEAMS}
    assert rights[kueue.NAMESPACE][0]["resourceNames"] == ["leaving"]
    assert {one["resources"][0] for team in TEAMS for one in rights[team]} == {"jobs"}
    everywhere = made.one("ClusterRole")["rules"]
    assert {verb for rule in everywhere for verb in rule["verbs"]} == {"get", "list"}
    assert made.one("Deployment")["spec"]["strategy"] == {"type": "Recreate"}
