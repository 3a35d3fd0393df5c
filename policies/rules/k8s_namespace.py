"""Kubernetes namespaces: what each must have beside it before a pod runs in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from policies.pods import WORKLOADS, Findings
from policies.resource import Resource
from policies.rule import Context, Option, Severity, rule
from policies.samples import deployment, manifest, pod, resource
from policies.selectors import (
    NAMESPACE,
    in_namespace,
    namespace_of,
    pod_labels,
    same_namespace,
    selects,
)
from policies.values import at, block, items, maps, raw, texts

NETWORK_POLICY = "networking.k8s.io/NetworkPolicy"
QUOTA, LIMITS = "/ResourceQuota", "/LimitRange"
_SYSTEM = ["default", "kube-system", "kube-public", "kube-node-lease"]
SYSTEM = {"system": Option(_SYSTEM, "array", "Namespaces that the cluster brings along.")}
_PSA = "pod-security.kubernetes.io/enforce"
_NAMESPACED = WORKLOADS | {
    "/Service", "/Secret", "/ServiceAccount", "/ConfigMap", "networking.k8s.io/Ingress",
    "rbac.authorization.k8s.io/Role", "rbac.authorization.k8s.io/RoleBinding",
    "/PersistentVolumeClaim",
}  # fmt: skip
_OWN = frozenset({("/ServiceAccount", "default"), ("/Service", "kubernetes"),
                  ("/ConfigMap", "kube-root-ca.crt")})  # fmt: skip


def _namespace(name: str = "shop", **labels: str) -> dict[str, Any]:
    meta = {"name": name, "labels": labels}
    return resource("v1/Namespace", name, apiVersion="v1", kind="Namespace", metadata=meta)


def _policy(*types: str, namespace: str = "shop", **more: Any) -> dict[str, Any]:
    spec = {"podSelector": {}, "policyTypes": list(types), **more}
    return manifest(
        "networking.k8s.io/v1", "NetworkPolicy", metadata={"namespace": namespace}, spec=spec
    )


@rule(
    "k8s-default-namespace",
    "Nothing lives in the default namespace",
    Severity.LOW,
    anchors="CKV_K8S_21, KSV-0110, CIS EKS 4.5.2",
    applies=_NAMESPACED,
    fix="Set metadata.namespace to a namespace of its own.",
    allowed=[
        pod(),
        manifest("v1", "ServiceAccount", "default", metadata={"namespace": "default"}),
    ],
    refused=[
        pod(metadata={"namespace": "default"}),
        resource("v1/Pod", apiVersion="v1", kind="Pod", metadata={"name": "a"}, spec={}),
        deployment(metadata={"namespace": "default"}),
    ],
)
def default_namespace(resource: Resource, _: Context) -> Findings:
    if namespace_of(resource) == "default" and (resource.kind, resource.object_name) not in _OWN:
        given = raw(resource.props, "metadata", "namespace")
        yield f"metadata.namespace is {given or 'absent, which means default'}"


@rule(
    "k8s-namespace-pod-security",
    "Every namespace enforces the restricted pod standard",
    Severity.HIGH,
    anchors="PSS restricted, CIS EKS 4.2.1",
    applies=[NAMESPACE],
    config={
        **SYSTEM,
        "privileged": Option(
            ["gpu-operator", "nvidia-device-plugin"], "array", "Namespaces that work on the node."
        ),
    },
    fix=f"Label the namespace {_PSA}: restricted.",
    allowed=[_namespace(**{_PSA: "restricted"}), _namespace("kube-system")],
    refused=[_namespace(), _namespace(**{_PSA: "baseline"})],
)
def pod_security(resource: Resource, context: Context) -> Findings:
    if resource.object_name in {*context["system"], *context["privileged"]}:
        return
    labels = at(resource.props, "metadata", "labels")
    level = at(labels, _PSA)
    if level != "restricted":
        yield f"the label {_PSA} is {level or 'absent'}"


def _denies(policy: Resource, direction: str) -> bool:
    """Whether a policy takes every pod and lets nothing through in one direction."""
    selector = at(policy.props, "spec", "podSelector")
    takes_all = selector in ({}, None) or not any(
        raw(selector, key) for key in ("matchLabels", "matchExpressions")
    )
    given = texts(policy.props, "spec", "policyTypes")
    types = given or ["Ingress", *(["Egress"] if at(policy.props, "spec", "egress") else [])]
    allows = list(items(policy.props, "spec", direction.lower()))
    return bool(takes_all and direction in types and not allows)


def _without(
    namespace: Resource, context: Context, siblings: Iterator[Resource], what: str
) -> Findings:
    """A finding unless there is a sibling; reads all, so that an unknown one is noticed last."""
    if namespace.object_name in context["system"]:
        return
    if next(siblings, None) is None:
        yield f"the namespace has no {what}"


@rule(
    "k8s-namespace-default-deny-ingress",
    "In every namespace nothing comes in unless a policy says so",
    Severity.HIGH,
    anchors="CIS EKS 4.3.2",
    applies=[NAMESPACE],
    config=SYSTEM,
    fix="Add a NetworkPolicy with podSelector {} and policyTypes [Ingress, Egress], no rules.",
    allowed=[[_namespace(), _policy("Ingress", "Egress")], _namespace("kube-system")],
    refused=[
        _namespace(),
        [_namespace(), _policy("Egress")],
        [_namespace(), _policy("Ingress", ingress=[{}])],
        [_namespace(), _policy("Ingress", podSelector={"matchLabels": {"app": "a"}})],
        [_namespace(), _policy("Ingress", namespace="other")],
    ],
)
def default_deny_ingress(resource: Resource, context: Context) -> Findings:
    policies = in_namespace(resource, context.stack, NETWORK_POLICY)
    denying = (policy for policy in policies if _denies(policy, "Ingress"))
    yield from _without(resource, context, denying, "NetworkPolicy that denies all ingress")


@rule(
    "k8s-namespace-default-deny-egress",
    "In every namespace nothing goes out unless a policy says so",
    Severity.HIGH,
    anchors="CIS EKS 4.3.2",
    applies=[NAMESPACE],
    config=SYSTEM,
    fix="Add a NetworkPolicy with podSelector {} and policyTypes [Ingress, Egress], no rules.",
    allowed=[[_namespace(), _policy("Ingress", "Egress")], _namespace("kube-system")],
    refused=[
        _namespace(),
        [_namespace(), _policy("Ingress")],
        [_namespace(), _policy("Egress", egress=[{}])],
    ],
)
def default_deny_egress(resource: Resource, context: Context) -> Findings:
    policies = in_namespace(resource, context.stack, NETWORK_POLICY)
    denying = (policy for policy in policies if _denies(policy, "Egress"))
    yield from _without(resource, context, denying, "NetworkPolicy that denies all egress")


@rule(
    "k8s-pod-network-policy",
    "A network policy stands before every pod",
    Severity.MEDIUM,
    anchors="CKV2_K8S_6, CIS EKS 4.3.2",
    applies=WORKLOADS - {"/PodTemplate"},
    fix="Add a NetworkPolicy whose podSelector takes the pod's labels.",
    allowed=[
        [deployment(), _policy("Ingress")],
        [deployment(), _policy("Ingress", podSelector={"matchLabels": {"app": "sample"}})],
    ],
    refused=[
        deployment(),
        [deployment(), _policy("Ingress", podSelector={"matchLabels": {"app": "other"}})],
        [deployment(), _policy("Ingress", namespace="other")],
    ],
)
def pod_network_policy(resource: Resource, context: Context) -> Findings:
    labels = pod_labels(resource)
    for policy in context.stack.of(NETWORK_POLICY):
        if same_namespace(resource, policy, context.stack) and selects(
            at(policy.props, "spec", "podSelector") or {}, labels
        ):
            return
    yield "no NetworkPolicy of its namespace selects the pod"


def _peers(policy: Resource) -> Iterator[Any]:
    for direction, side in (("ingress", "from"), ("egress", "to")):
        for entry in maps(policy.props, "spec", direction):
            yield from maps(entry, side)


@rule(
    "k8s-network-policy-selector",
    "A network policy says which pods it is about",
    Severity.MEDIUM,
    anchors="KSV-0038",
    applies=[NETWORK_POLICY, "extensions/NetworkPolicy"],
    fix="Set podSelector, or name peers by podSelector or namespaceSelector.",
    allowed=[_policy("Ingress")],
    refused=[manifest("networking.k8s.io/v1", "NetworkPolicy", spec={"policyTypes": ["Ingress"]})],
)
def network_policy_selector(resource: Resource, _: Context) -> Findings:
    keys = ("podSelector", "namespaceSelector")
    spec = block(resource.props, "spec")
    if not any(key in spec for key in keys) and not any(
        key in peer for peer in _peers(resource) for key in keys
    ):
        yield "neither the policy nor its peers have a podSelector or a namespaceSelector"


def _quota(**hard: str) -> dict[str, Any]:
    return manifest("v1", "ResourceQuota", spec={"hard": hard})


_HARD = {"requests.cpu": "8", "requests.memory": "32Gi", "limits.cpu": "16", "limits.memory": "1Ti"}


@rule(
    "k8s-namespace-quota",
    "Every namespace has a quota",
    Severity.MEDIUM,
    anchors="KSV-0040",
    applies=[NAMESPACE],
    config=SYSTEM,
    fix="Add a ResourceQuota with CPU, memory (and GPUs, where there are any).",
    allowed=[[_namespace(), _quota(**_HARD)], _namespace("kube-system")],
    refused=[_namespace(), [_namespace("other"), _quota(**_HARD)]],
)
def namespace_quota(resource: Resource, context: Context) -> Findings:
    quotas = in_namespace(resource, context.stack, QUOTA)
    yield from _without(resource, context, quotas, "ResourceQuota")


@rule(
    "k8s-quota-complete",
    "A namespace's quotas bound CPU and memory, requests and limits",
    Severity.LOW,
    anchors="KSV-0040",
    applies=[QUOTA],
    fix="Set requests.cpu, requests.memory, limits.cpu and limits.memory in spec.hard.",
    allowed=[
        _quota(**_HARD),
        _quota(**{"cpu": "8", "memory": "1Gi", "limits.cpu": "8", "limits.memory": "1Gi"}),
        [
            _quota(**_HARD),
            manifest("v1", "ResourceQuota", "gpu", spec={"hard": {"requests.nvidia.com/gpu": "1"}}),
        ],
    ],
    refused=[
        manifest("v1", "ResourceQuota", spec={}),
        _quota(**{"requests.cpu": "8"}),
        _quota(pods="10"),
    ],
)
def quota_complete(resource: Resource, context: Context) -> Findings:
    found: set[str] = set()
    for quota in context.stack.of(QUOTA):
        if quota is resource or same_namespace(resource, quota, context.stack):
            hard = at(quota.props, "spec", "hard")
            found |= set(hard) if isinstance(hard, dict) else set()
    found |= {f"requests.{short}" for short in ("cpu", "memory") if short in found}
    if missing := [key for key in _HARD if key not in found]:
        yield f"the quotas of the namespace do not bound {', '.join(missing)}"


_LIMIT = {"type": "Container", "max": {"cpu": "4"}, "min": {"cpu": "10m"},
          "default": {"cpu": "1"}, "defaultRequest": {"cpu": "100m"}}  # fmt: skip


def _limit_range(**limit: Any) -> dict[str, Any]:
    return manifest("v1", "LimitRange", spec={"limits": [limit]})


@rule(
    "k8s-namespace-limit-range",
    "Every namespace has defaults for containers that say nothing",
    Severity.LOW,
    anchors="KSV-0039",
    applies=[NAMESPACE],
    config=SYSTEM,
    fix="Add a LimitRange with default and defaultRequest for containers.",
    allowed=[[_namespace(), _limit_range(**_LIMIT)], _namespace("kube-system")],
    refused=[_namespace(), [_namespace("other"), _limit_range(**_LIMIT)]],
)
def namespace_limit_range(resource: Resource, context: Context) -> Findings:
    yield from _without(
        resource, context, in_namespace(resource, context.stack, LIMITS), "LimitRange"
    )


@rule(
    "k8s-limit-range-complete",
    "A LimitRange gives bounds and defaults",
    Severity.LOW,
    anchors="KSV-0039",
    applies=[LIMITS],
    fix="Set type, max, min, default and defaultRequest in one entry of spec.limits.",
    allowed=[_limit_range(**_LIMIT)],
    refused=[
        manifest("v1", "LimitRange", spec={}),
        _limit_range(type="Container", max={"cpu": "4"}),
    ],
)
def limit_range_complete(resource: Resource, _: Context) -> Findings:
    entries = list(maps(resource.props, "spec", "limits"))
    if not any(all(key in entry for key in _LIMIT) for entry in entries):
        yield f"no entry of spec.limits has all of {', '.join(_LIMIT)}"
