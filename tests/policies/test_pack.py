"""The rules inside the real engine, against a real API server."""

from __future__ import annotations

from collections.abc import Callable

from policies.engine import UNJUDGED
from policies.pack import Analyzer
from policies.rules import all_rules
from policies.settings import WAIVER_RULES
from policies.stacks import FOLDER
from tests.plugins.cluster import Cluster
from tests.policies.conftest import ROOT, Make

PACK = ("--policy-pack", str(ROOT / "policies"))
HARDENED = """{
    "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "runAsNonRoot": True,
    "runAsUser": 1000, "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}"""
PAIR = """
k8s.core.v1.ConfigMap(
    "first", metadata={"name": "first", "namespace": space}, data={"a": "b"}, opts=there
)
k8s.core.v1.Pod(
    "bad",
    metadata={"name": "bad", "namespace": space},
    spec={"containers": [{
        "name": "app", "image": "registry.local/app@sha256:" + "0" * 64,
        "securityContext": HARDENED,
    }], "hostPID": True},
    opts=ResourceOptions(provider=cluster, custom_timeouts={"create": "5s"}),
)
""".replace("HARDENED", HARDENED)


def objects(cluster: Cluster, space: str) -> list[str]:
    return [
        *cluster.names(f"/api/v1/namespaces/{space}/configmaps"),
        *cluster.names(f"/api/v1/namespaces/{space}/pods"),
    ]


def test_a_bad_change_is_refused_in_the_preview_before_anything_is_touched(
    project: Make, cluster: Cluster, space: str
):
    code, output = project(PAIR).attempt("up", "--yes", *PACK)
    assert code != 0, output
    assert "k8s-pod-host-pid" in output
    assert "hostPID is true" in output
    assert objects(cluster, space) == [], "the update must not have begun"


def test_without_a_preview_the_bad_resource_itself_is_never_sent(
    project: Make, cluster: Cluster, space: str
):
    bad = project(PAIR)
    code, output = bad.attempt("up", "--yes", "--skip-preview", *PACK)
    assert code != 0, output
    assert "k8s-pod-host-pid" in output
    assert "bad" not in objects(cluster, space)


def test_each_finding_is_told_once_and_by_the_rules_own_name(project: Make):
    _, output = project(PAIR).attempt("preview", *PACK)
    # the label, and the message of the violation
    assert output.count("hostPID is true") == 1, output


def test_a_level_from_the_engines_own_config_turns_a_refusal_into_advice(
    project: Make, pack_config: Callable[..., str]
):
    config = pack_config(all="advisory")
    code, output = project(PAIR).attempt("preview", *PACK, "--policy-pack-config", config)
    assert code == 0, output
    assert "[advisory]" in output
    assert "[mandatory]" not in output
    assert "hostPID is true" in output


def test_a_value_not_known_at_preview_is_told_as_unknown_and_does_not_refuse(
    project: Make, pack_config: Callable[..., str]
):
    body = """
first = k8s.core.v1.ConfigMap("first", metadata={"namespace": space}, data={"a": "b"}, opts=there)
k8s.core.v1.Service(
    "web",
    metadata={"name": "web", "namespace": space},
    spec={
        "type": first.metadata.uid.apply(lambda uid: "NodePort"),
        "ports": [{"port": 80}], "selector": {"a": "b"},
    },
    opts=there,
)
"""
    _, output = project(body).attempt("preview", *PACK)
    assert "unknown: " in output, output


def test_the_engine_is_told_every_rule_with_its_severity_and_settings():
    info = Analyzer(FOLDER).GetAnalyzerInfo(None, None)
    told = {policy.name: policy for policy in info.policies}
    assert set(told) == {rule.id for rule in all_rules()} | {UNJUDGED, *WAIVER_RULES}
    for rule in all_rules():
        assert set(told[rule.id].configSchema.properties) == set(rule.config), rule.id
        assert told[rule.id].remediation_steps == rule.remediation
