"""Kubernetes roles: what no workload's role may grant."""

from __future__ import annotations

from typing import Any

from policies.pods import Findings
from policies.rbac import CLUSTER_ROLE, RBAC, READ, ROLES, WRITE, Grant, permissions
from policies.resource import Resource
from policies.rule import Context, Rule, Severity, each, rule
from policies.samples import manifest

_EVERY_VERB = (*READ, *WRITE, "impersonate")


def _role(*rules: dict[str, Any], kind: str = "Role") -> dict[str, Any]:
    return manifest(f"{RBAC}/v1", kind, rules=list(rules))


def _may(group: str, resource: str, *verbs: str, **more: Any) -> dict[str, Any]:
    return {"apiGroups": [group], "resources": [resource], "verbs": list(verbs), **more}


def _cluster(*rules: dict[str, Any]) -> dict[str, Any]:
    return _role(*rules, kind="ClusterRole")


READER = _role(_may("", "pods", "get", "list", "watch"))


@rule(
    "k8s-rbac-wildcard",
    "A role names its API groups, resources and verbs",
    Severity.CRITICAL,
    anchors="CKV_K8S_49, CIS EKS 4.1.3",
    applies=ROLES,
    fix="Write out the API groups, the resources and the verbs that the subject needs.",
    allowed=[READER],
    refused=[
        _role(_may("*", "pods", "get")),
        _role(_may("", "*", "get")),
        _cluster(_may("", "pods", "get"), _may("", "pods", "*")),
    ],
)
def wildcard(resource: Resource, _: Context) -> Findings:
    for entry in permissions(resource):
        parts = {"apiGroups": entry.groups, "resources": entry.resources, "verbs": entry.verbs}
        for part, values in parts.items():
            if any("*" in value for value in values):
                yield f"rules[{entry.position}].{part} holds a wildcard: {', '.join(values)}"


@rule(
    "k8s-rbac-any-any",
    "No role may do everything to everything",
    Severity.CRITICAL,
    anchors="KSV-0044, CIS EKS 4.1.3",
    applies=ROLES,
    fix="Write out the API groups, the resources and the verbs that the subject needs.",
    allowed=[READER, _role(_may("*", "pods", "*"))],
    refused=[_role(_may("*", "*", "*")), _cluster(_may("", "pods", "get"), _may("*", "*", "*"))],
)
def any_any(resource: Resource, _: Context) -> Findings:
    for entry in permissions(resource):
        if "*" in entry.groups and "*" in entry.resources and "*" in entry.verbs:
            yield f"rules[{entry.position}] allows every verb on every resource"


_WORKLOADS = (
    "pods", "deployments", "daemonsets", "statefulsets", "replicasets", "replicationcontrollers",
    "jobs", "cronjobs",
)  # fmt: skip
_SENSITIVE = frozenset({
    "secrets", "roles", "clusterroles", "rolebindings", "clusterrolebindings", "users", "groups",
    "serviceaccounts", "configmaps", "nodes", "namespaces", *_WORKLOADS,
})  # fmt: skip


@rule(
    "k8s-rbac-any-verb",
    "No role may do everything to a sensitive resource",
    Severity.CRITICAL,
    anchors="KSV-0045, CIS EKS 4.1.3",
    applies=ROLES,
    fix="Write out the verbs.",
    allowed=[READER, _role(_may("example.org", "widgets", "*"))],
    refused=[_role(_may("", "secrets", "*")), _cluster(_may("apps", "deployments", "*"))],
)
def any_verb(resource: Resource, _: Context) -> Findings:
    for entry in permissions(resource):
        for name in entry.resources:
            if "*" in entry.verbs and (name in _SENSITIVE or name == "*"):
                yield f"rules[{entry.position}] allows every verb on {name}"


@rule(
    "k8s-rbac-any-resource",
    "No role reaches every resource",
    Severity.CRITICAL,
    anchors="KSV-0046, KSV-0112, CIS EKS 4.1.3",
    applies=ROLES,
    fix="Write out the resources.",
    allowed=[READER, _role(_may("", "pods", "*"))],
    refused=[_role(_may("", "*", "get")), _cluster(_may("apps", "*", "list"))],
)
def any_resource(resource: Resource, _: Context) -> Findings:
    for entry in permissions(resource):
        if "*" in entry.resources and {*_EVERY_VERB, "*"} & set(entry.verbs):
            yield f"rules[{entry.position}] allows {', '.join(entry.verbs)} on every resource"


def _forbids(
    id_: str,
    title: str,
    severity: Severity,
    *grants: Grant,
    anchors: str,
    fix: str,
    allowed: list[dict[str, Any]],
    refused: list[dict[str, Any]],
    kinds: frozenset[str] = ROLES,
    named_is_fine: bool = False,
) -> Rule:
    """A rule against any of these grants. `named_is_fine`: not when it names its objects."""

    def check(resource: Resource, _: Context) -> Findings:
        def judge(entry: Any) -> Findings:
            listing = {"list", "watch", "deletecollection", "create", "*"} & set(entry.verbs)
            if named_is_fine and entry.names and "*" not in entry.names and not listing:
                return
            for grant in grants:
                if found := entry.allows(grant):
                    yield f"rules[{entry.position}] allows {found}"

        yield from each(permissions(resource), judge)

    return rule(
        id_, title, severity, anchors=anchors, applies=kinds, fix=fix, allowed=[READER, *allowed],
        refused=refused,
    )(check)  # fmt: skip


reads_secrets = _forbids(
    "k8s-rbac-secrets",
    "No role reads or writes secrets at large",
    Severity.CRITICAL,
    Grant(("",), ("secrets",), _EVERY_VERB),
    anchors="KSV-0041, KSV-0113, CIS EKS 4.1.2",
    fix="Mount what the workload needs; or name single secrets in resourceNames, with get only.",
    allowed=[_role(_may("", "secrets", "get", resourceNames=["shop-tls"]))],
    refused=[
        _role(_may("", "secrets", "get")),
        _cluster(_may("", "secrets", "list", resourceNames=["shop-tls"])),
        _cluster(_may("*", "*", "get")),
    ],
    named_is_fine=True,
)
makes_pods = _forbids(
    "k8s-rbac-pod-create",
    "No role makes or changes workloads",
    Severity.HIGH,
    Grant(
        ("", "apps", "batch", "extensions"),
        _WORKLOADS,
        (*WRITE, "impersonate"),
    ),
    anchors="KSV-0048, CIS EKS 4.1.4",
    fix="Leave workloads to the deployment's own credentials; a pod gains its service account.",
    allowed=[_role(_may("apps", "deployments", "get", "list"))],
    refused=[
        _role(_may("", "pods", "create")),
        _cluster(_may("apps", "deployments", "patch")),
        _role(_may("batch", "jobs", "*")),
    ],
)
gets_a_shell = _forbids(
    "k8s-rbac-pod-exec",
    "No role gets a shell in pods",
    Severity.CRITICAL,
    Grant(("",), ("pods/exec", "pods/attach"), ("get", *WRITE, "impersonate")),
    Grant(("",), ("pods/ephemeralcontainers",), ("update", "patch")),
    anchors="KSV-0053, CIS EKS 4.1.4",
    fix="Remove pods/exec, pods/attach and pods/ephemeralcontainers from the role.",
    allowed=[_role(_may("", "pods/log", "get"))],
    refused=[
        _role(_may("", "pods/exec", "create")),
        _cluster(_may("", "*/exec", "create")),
        _role(_may("", "pods/attach", "*")),
    ],
)
reaches_kubelets = _forbids(
    "k8s-rbac-nodes-proxy",
    "No role talks to kubelets through the API server",
    Severity.CRITICAL,
    Grant(("",), ("nodes/proxy",), ("get", "create")),
    anchors="KSV-0047, CIS EKS 4.1.10",
    fix="Use nodes/metrics and nodes/stats for monitoring; remove nodes/proxy.",
    allowed=[_cluster(_may("", "nodes/metrics", "get"))],
    refused=[_cluster(_may("", "nodes/proxy", "get")), _role(_may("", "*/proxy", "create"))],
)
binds_roles = _forbids(
    "k8s-rbac-bind",
    "No role hands out roles that it does not hold",
    Severity.CRITICAL,
    Grant(
        (RBAC,),
        ("roles", "clusterroles", "rolebindings", "clusterrolebindings"),
        ("bind",),
    ),
    anchors="CKV_K8S_157, KSV-0050, CIS EKS 4.1.8",
    fix="Remove the verb bind.",
    allowed=[_cluster(_may(RBAC, "rolebindings", "get"))],
    refused=[
        _cluster(_may(RBAC, "clusterroles", "bind")),
        _role(_may(RBAC, "rolebindings", "bind")),
    ],
)
escalates = _forbids(
    "k8s-rbac-escalate",
    "No role widens roles beyond its own rights",
    Severity.CRITICAL,
    Grant((RBAC,), ("roles", "clusterroles", "rolebindings"), ("escalate",)),
    anchors="CKV_K8S_158, KSV-0050, CIS EKS 4.1.8",
    fix="Remove the verb escalate.",
    allowed=[_cluster(_may(RBAC, "roles", "get"))],
    refused=[_cluster(_may(RBAC, "roles", "escalate")), _role(_may(RBAC, "*", "escalate"))],
)
impersonates = _forbids(
    "k8s-rbac-impersonate",
    "No role acts as somebody else",
    Severity.CRITICAL,
    Grant(
        ("", "authentication.k8s.io", RBAC),
        ("users", "groups", "serviceaccounts", "uids", "userextras", "roles", "rolebindings"),
        ("impersonate",),
    ),
    anchors="KSV-0043, KSV-0050, CIS EKS 4.1.8",
    fix="Remove the verb impersonate.",
    allowed=[_cluster(_may("", "serviceaccounts", "get"))],
    refused=[
        _cluster(_may("", "groups", "impersonate")),
        _role(_may("", "serviceaccounts", "impersonate")),
        _cluster(_may("*", "users", "*")),
    ],
)
changes_webhooks = _forbids(
    "k8s-rbac-webhooks",
    "No role changes admission webhooks",
    Severity.CRITICAL,
    Grant(
        ("admissionregistration.k8s.io",),
        ("mutatingwebhookconfigurations", "validatingwebhookconfigurations"),
        (*WRITE, "impersonate"),
    ),
    anchors="CKV_K8S_155, KSV-0114, CIS EKS 4.1.11",
    fix="Leave webhooks to the cluster's operators.",
    allowed=[
        _cluster(
            _may("admissionregistration.k8s.io", "validatingwebhookconfigurations", "get", "list")
        )
    ],
    refused=[
        _cluster(_may("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "patch"))
    ],
)


@rule(
    "k8s-rbac-aws-auth",
    "No role changes who may enter an EKS cluster",
    Severity.CRITICAL,
    anchors="KSV-0115",
    applies=ROLES,
    fix="Use EKS access entries; remove aws-auth from the role.",
    allowed=[
        READER,
        _role(_may("", "configmaps", "update", resourceNames=["shop-settings"])),
        _role(_may("", "configmaps", "get", resourceNames=["aws-auth"])),
        _role(_may("", "configmaps", "update")),
    ],
    refused=[
        _role(_may("", "configmaps", "update", resourceNames=["aws-auth"])),
        _cluster(_may("*", "configmaps", "*", resourceNames=["other", "aws-auth"])),
        _cluster(_may("", "configmaps", "patch")),
    ],
)
def changes_aws_auth(resource: Resource, _: Context) -> Findings:
    write = Grant(("",), ("configmaps",), (*WRITE, "impersonate"))
    everywhere = resource.kind == CLUSTER_ROLE or resource.namespace == "kube-system"
    for entry in permissions(resource):
        reached = "aws-auth" in entry.names if entry.names else everywhere
        if reached and (found := entry.allows(write)):
            yield f"rules[{entry.position}] allows {found}, aws-auth among them"


makes_tokens = _forbids(
    "k8s-rbac-token-create",
    "No role makes tokens of service accounts",
    Severity.HIGH,
    Grant(("",), ("serviceaccounts/token",), ("create",)),
    anchors="CIS EKS 4.1.12",
    fix="Remove serviceaccounts/token; pods get their tokens as projected volumes.",
    allowed=[_role(_may("", "serviceaccounts", "get"))],
    refused=[
        _role(_may("", "serviceaccounts/token", "create")),
        _cluster(_may("", "*", "create")),
    ],
)


@rule(
    "k8s-rbac-csr-approve",
    "No role approves certificates",
    Severity.CRITICAL,
    anchors="CKV_K8S_156",
    applies=[CLUSTER_ROLE],
    fix="Leave approval to the cluster's own controllers.",
    allowed=[
        _cluster(_may("certificates.k8s.io", "certificatesigningrequests", "create", "get")),
        # the API server asks for both permissions
        _cluster(_may("certificates.k8s.io", "certificatesigningrequests/approval", "update")),
    ],
    refused=[
        _cluster(
            _may("certificates.k8s.io", "certificatesigningrequests/approval", "update"),
            _may("certificates.k8s.io", "signers", "approve"),
        ),
        _cluster(_may("certificates.k8s.io", "*", "*")),
    ],
)
def approves_certificates(resource: Resource, _: Context) -> Findings:
    approval = Grant(
        ("certificates.k8s.io",), ("certificatesigningrequests/approval",), ("update", "patch")
    )
    signers = Grant(("certificates.k8s.io",), ("signers",), ("approve",))
    entries = list(permissions(resource))
    if any(e.allows(approval) for e in entries) and any(e.allows(signers) for e in entries):
        yield "the role may update certificatesigningrequests/approval and approve for signers"
