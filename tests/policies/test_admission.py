"""The admission policies in a real API server say what the rules say."""

from __future__ import annotations

import copy
import json
import time
import urllib.error
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policies.admission import Scope, admission_policies, expressible
from policies.engine import Plan, judge
from policies.load import from_list
from policies.resource import Stack
from policies.rule import Context, Rule, Verdict
from policies.rules import all_rules
from tests.plugins.cluster import Cluster

CEL_RULES = expressible(all_rules())
# procMount Unmasked without a user namespace: the API server's own validation comes first.
REFUSED_BY_THE_SERVER_ITSELF = {"k8s-pod-proc-mount-on-host-users"}
LABEL = "policies.test/rule"
PATHS = {
    "Pod": "/api/v1/namespaces/{}/pods",
    "PodTemplate": "/api/v1/namespaces/{}/podtemplates",
    "ReplicationController": "/api/v1/namespaces/{}/replicationcontrollers",
    "Service": "/api/v1/namespaces/{}/services",
    "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "DaemonSet": "/apis/apps/v1/namespaces/{}/daemonsets",
    "ReplicaSet": "/apis/apps/v1/namespaces/{}/replicasets",
    "StatefulSet": "/apis/apps/v1/namespaces/{}/statefulsets",
    "Job": "/apis/batch/v1/namespaces/{}/jobs",
    "CronJob": "/apis/batch/v1/namespaces/{}/cronjobs",
}
PLURAL = {
    "ValidatingAdmissionPolicy": "validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": "validatingadmissionpolicybindings",
}
ADMISSION = "/apis/admissionregistration.k8s.io/v1"


def namespace(cluster: Cluster, name: str, rule: str) -> None:
    body = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {LABEL: rule}},
    }
    cluster.request(
        "PATCH",
        f"/api/v1/namespaces/{name}?fieldManager=test&force=true",
        body,
        "application/apply-patch+yaml",
    )


def ask(cluster: Cluster, verb: str, path: str, body: Mapping[str, Any]) -> tuple[int, str]:
    """The status and what the server says."""
    try:
        cluster.request(verb, path, body)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read()).get("message", "")
    return 201, ""


def send(cluster: Cluster, space: str, manifest: Mapping[str, Any], verb: str = "POST") -> str:
    """`accepted`, `refused` (by an admission policy), or `invalid` (no server would take it)."""
    path = PATHS[manifest["kind"]].format(space) + "?dryRun=All"
    code, text = ask(cluster, verb, path, manifest)
    if "ValidatingAdmissionPolicy" in text:
        return "refused"
    assert code in (201, 400, 403, 422), text
    return "accepted" if code == 201 else "invalid"


@pytest.fixture(scope="module")
def guarded(cluster: Cluster) -> Cluster:
    """Every policy is bound to the one namespace that carries its rule's name."""
    for rule in CEL_RULES:
        scope = Scope(labels={LABEL: rule.id})
        for made in admission_policies(Plan((rule,)), scope):
            code, text = ask(cluster, "POST", f"{ADMISSION}/{PLURAL[made['kind']]}", made)
            assert code == 201, f"{rule.id}: {text}"
        namespace(cluster, rule.id, rule.id)
    _wait_until_they_hold(cluster)
    return cluster


def _wait_until_they_hold(cluster: Cluster) -> None:
    """The API server compiles policies in the background: ask until each refuses what it must."""
    waiting = {rule.id: rule for rule in CEL_RULES if rule.id not in REFUSED_BY_THE_SERVER_ITSELF}
    end = time.monotonic() + 60
    while waiting:
        for name, rule in list(waiting.items()):
            answers = {send(cluster, name, sample) for sample in manifests(rule, refused=True)}
            assert "invalid" not in answers or len(answers) > 1, f"no sample of {name} is legal"
            if "refused" in answers:
                del waiting[name]
        assert time.monotonic() < end, f"never refused anything: {sorted(waiting)}"


def manifests(rule: Rule, *, refused: bool) -> Iterator[dict[str, Any]]:
    """Samples that can be sent as they are: one object, with a kind of its own."""
    for sample in rule.refused if refused else rule.allowed:
        for entry in [sample] if isinstance(sample, Mapping) else sample:
            properties = copy.deepcopy(dict(entry["properties"]))
            if properties.get("kind") in PATHS:
                properties["metadata"] = {**properties["metadata"], "namespace": rule.id}
                yield _complete(properties, rule)


def _complete(manifest: dict[str, Any], rule: Rule) -> dict[str, Any]:
    """What an API server demands and no rule reads."""
    for spec in _pod_specs(manifest):
        for name in ("containers", "initContainers"):
            for position, container in enumerate(spec.get(name) or ()):
                if isinstance(container, dict):
                    container.setdefault("name", f"c{position}")
                    container.setdefault("image", "app")
        if "windowsOptions" in json.dumps(spec):
            spec.setdefault("hostNetwork", True)  # what hostProcess needs to be legal
        if rule.id == "k8s-pod-proc-mount":
            spec.setdefault("hostUsers", False)  # else the server's own validation comes first
        if manifest["kind"] in ("Job", "CronJob"):
            spec.setdefault("restartPolicy", "Never")
    return manifest


def _pod_specs(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if isinstance(value.get("containers"), list):
            yield value
        for inner in value.values():
            yield from _pod_specs(inner)


def verdict(rule: Rule, manifest: Mapping[str, Any]) -> Verdict:
    kind = f"{manifest['apiVersion']}/{manifest['kind']}"
    found = list(from_list([{"type": kind, "name": "x", "properties": manifest}]))
    context = Context(Stack(found), rule.defaults())
    return judge(rule, found[0], context)[0]


@pytest.mark.parametrize("rule", CEL_RULES, ids=lambda rule: rule.id)
def test_the_api_server_and_the_rule_agree_on_every_sample(rule: Rule, guarded: Cluster):
    answers: Counter[str] = Counter()
    for sample in (*manifests(rule, refused=True), *manifests(rule, refused=False)):
        answer = send(guarded, rule.id, sample)
        answers[answer] += 1
        if answer != "invalid":
            expected = "refused" if verdict(rule, sample) is Verdict.FAIL else "accepted"
            assert answer == expected, json.dumps(sample)
    if rule.id in REFUSED_BY_THE_SERVER_ITSELF:
        assert answers["invalid"], answers
        assert not answers["refused"], "take the rule out of that set"
    else:
        assert answers["refused"], answers
    assert answers["accepted"], answers


HARD: dict[str, Any] = {
    "privileged": [True, False, None],
    "allowPrivilegeEscalation": [True, False, None],
    "readOnlyRootFilesystem": [True, False, None],
    "runAsNonRoot": [True, False, None],
    "runAsUser": [0, 1000, 20000, None],
    "procMount": ["Default", "Unmasked", None],
    "capabilities": [
        {"drop": ["ALL"]}, {"drop": ["NET_RAW"]}, {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]},
        {"add": ["SYS_ADMIN"]}, {}, None,
    ],
    "seccompProfile": [
        {"type": "RuntimeDefault"}, {"type": "Unconfined"},
        {"type": "Localhost", "localhostProfile": "x"}, None,
    ],
    "seLinuxOptions": [{"type": "container_t"}, {"type": "spc_t"}, {"user": "root"}, None],
    "windowsOptions": [{"hostProcess": True}, {"hostProcess": False}, None],
}  # fmt: skip


def _fields(options: Mapping[str, list[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    chosen = st.fixed_dictionaries({name: st.sampled_from(each) for name, each in options.items()})
    return chosen.map(lambda made: {key: value for key, value in made.items() if value is not None})


_context = _fields({name: [None, None, *values] for name, values in HARD.items()})
_images = st.sampled_from(["app", "app:1", "registry.local/a@sha256:" + "0a" * 32])
_ports = st.sampled_from([None, [{"containerPort": 80}], [{"containerPort": 80, "hostPort": 80}]])
_probe = st.sampled_from(
    [None, {"httpGet": {"port": 80}}, {"httpGet": {"port": 80, "host": "10.0.0.1"}}]
)


@st.composite
def _container(draw: st.DrawFn, name: str) -> dict[str, Any]:
    made = {
        "name": name, "image": draw(_images), "securityContext": draw(_context),
        "ports": draw(_ports), "livenessProbe": None if name == "init" else draw(_probe),
    }  # fmt: skip
    return {key: value for key, value in made.items() if value is not None}


_POD_LEVEL = {
    "hostPID": [None, True, False],
    "hostIPC": [None, None, True],
    "hostNetwork": [None, None, True],
    "hostUsers": [None, None, True, False],
    "os": [None, None, None, {"name": "windows"}, {"name": "linux"}],
    "volumes": [
        None, [{"name": "v", "emptyDir": {}}], [{"name": "v", "hostPath": {"path": "/"}}],
        [{"name": "v", "nfs": {"server": "s", "path": "/"}}],
    ],
}  # fmt: skip
_POD_CONTEXT = {
    name: [None, None, *HARD[name]]
    for name in ("runAsNonRoot", "runAsUser", "seccompProfile", "seLinuxOptions", "windowsOptions")
} | {"sysctls": [None, None, [{"name": "kernel.msgmax", "value": "1"}],
                 [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]]}  # fmt: skip


def _legal(spec: dict[str, Any]) -> dict[str, Any]:
    """Mostly what an API server would take: without it nearly every mixture breaks some rule."""
    contexts = [c["securityContext"] for c in spec["containers"] + spec["initContainers"]]
    for context in contexts:
        strong = context.get("privileged") or "SYS_ADMIN" in json.dumps(context)
        if strong and context.get("allowPrivilegeEscalation") is False:
            del context["allowPrivilegeEscalation"]
        if context.get("procMount") == "Unmasked" and spec.get("hostUsers") is not False:
            del context["procMount"]
    everywhere = [spec.get("securityContext", {}), *contexts]
    if spec.get("hostUsers") is False or spec.get("os", {}).get("name") == "windows":
        for field in ("hostPID", "hostIPC", "hostNetwork"):
            spec.pop(field, None)
    if spec.get("os", {}).get("name") == "windows":
        spec.pop("hostUsers", None)
        for context in everywhere:
            for field in set(context) - {"windowsOptions", "runAsNonRoot"}:
                del context[field]
    else:
        for context in everywhere:
            if "windowsOptions" in context and not spec.get("hostNetwork"):
                del context["windowsOptions"]
    return spec


@st.composite
def workloads(draw: st.DrawFn) -> dict[str, Any]:
    """A Pod, Deployment or CronJob with any mixture of the fields that rules read."""
    spec = draw(_fields(_POD_LEVEL)) | {
        "containers": [draw(_container("app"))],
        "initContainers": draw(st.sampled_from([0, 0, 1])) * [draw(_container("init"))],
    }
    if context := draw(_fields(_POD_CONTEXT)):
        spec["securityContext"] = context
    if draw(st.integers(0, 9)):
        spec = _legal(copy.deepcopy(spec))
    kind = draw(st.sampled_from(["Pod", "Deployment", "CronJob"]))
    labels = {"app": "x"}
    if kind == "Pod":
        return {"apiVersion": "v1", "kind": kind, "metadata": {"name": "x"}, "spec": spec}
    template = {"metadata": {"labels": labels}, "spec": spec}
    if kind == "Deployment":
        inner: dict[str, Any] = {"selector": {"matchLabels": labels}, "template": template}
        return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "x"}, "spec": inner}
    spec["restartPolicy"] = "Never"
    inner = {"schedule": "0 3 * * *", "jobTemplate": {"spec": {"template": template}}}
    return {"apiVersion": "batch/v1", "kind": kind, "metadata": {"name": "x"}, "spec": inner}


POD_RULES = [rule for rule in CEL_RULES if "/Pod" in rule.applies]


@settings(
    max_examples=250, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(manifest=workloads(), rule=st.sampled_from(POD_RULES))
def test_the_api_server_and_the_rule_agree_on_generated_workloads(
    guarded: Cluster, manifest: dict[str, Any], rule: Rule
):
    manifest = copy.deepcopy(manifest)
    manifest["metadata"]["namespace"] = rule.id
    answer = send(guarded, rule.id, manifest)
    if answer != "invalid":
        expected = "refused" if verdict(rule, manifest) is Verdict.FAIL else "accepted"
        assert answer == expected, (rule.id, json.dumps(manifest))


def test_most_generated_workloads_are_ones_that_a_server_would_judge(guarded: Cluster):
    answers: Counter[str] = Counter()

    @settings(max_examples=100, deadline=None, database=None, derandomize=True)
    @given(manifest=workloads())
    def count(manifest: dict[str, Any]) -> None:
        manifest = copy.deepcopy(manifest)
        manifest["metadata"]["namespace"] = "k8s-pod-host-pid"
        answers[send(guarded, "k8s-pod-host-pid", manifest)] += 1

    count()
    assert answers["invalid"] < 0.5 * answers.total(), answers
    assert min(answers["refused"], answers["accepted"]) > 5, answers


def test_an_ephemeral_container_added_to_a_running_pod_is_judged_too(guarded: Cluster):
    space = "k8s-pod-privileged"
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "debugged"},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
    }
    path = f"/api/v1/namespaces/{space}/pods"
    guarded.request("POST", path, body)
    for privileged, expected in ((True, 422), (False, 201)):
        debug = {"name": "debug", "image": "app", "securityContext": {"privileged": privileged}}
        change = {**body, "spec": {**body["spec"], "ephemeralContainers": [debug]}}
        where = f"{path}/debugged/ephemeralcontainers?dryRun=All"
        code, text = ask(guarded, "PUT", where, change)
        assert code == expected, text
        assert ("privileged must not be true" in text) is privileged


def test_an_object_older_than_the_policy_can_lose_its_finalizer(guarded: Cluster):
    space = "k8s-pod-host-ipc"
    namespace(guarded, "older", "none-yet")
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "older", "finalizers": ["shop/held"]},
        "spec": {"hostIPC": True, "containers": [{"name": "app", "image": "app"}]},
    }
    made = guarded.request("POST", "/api/v1/namespaces/older/pods", pod)
    namespace(guarded, "older", space)  # now the rule holds there
    end = time.monotonic() + 30
    while send(guarded, "older", {**pod, "metadata": {"name": "newer"}}) != "refused":
        assert time.monotonic() < end, "the binding never took the new label"
        time.sleep(0.1)
    made["metadata"]["finalizers"] = []
    code, text = ask(guarded, "PUT", "/api/v1/namespaces/older/pods/older", made)
    assert code == 201, text


def test_an_advisory_rule_warns_and_a_mandatory_one_denies():
    rule = CEL_RULES[0]
    for plan, actions in (
        (Plan((rule,)), ["Deny"]),
        (Plan((rule,), advisory=frozenset({rule.id})), ["Warn", "Audit"]),
    ):
        assert admission_policies(plan)[1]["spec"]["validationActions"] == actions
