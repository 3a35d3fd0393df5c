"""Kubernetes role bindings: who may hold which role."""

from __future__ import annotations

from typing import Any

from policies.pods import Findings
from policies.rbac import BINDINGS, RBAC, READ, Grant, permissions, role_of, subjects
from policies.resource import Resource
from policies.rule import Context, Option, Rule, Severity, each, rule
from policies.samples import manifest
from policies.values import text


def _subject(kind: str = "ServiceAccount", name: str = "shop", **more: Any) -> dict[str, Any]:
    return {"kind": kind, "name": name, **more}


def _binding(
    *who: dict[str, Any], role: str = "reader", kind: str = "RoleBinding", of: str = "ClusterRole"
) -> dict[str, Any]:
    return manifest(
        f"{RBAC}/v1",
        kind,
        roleRef={"apiGroup": RBAC, "kind": of, "name": role},
        subjects=list(who or (_subject(),)),
    )


def _cluster(*who: dict[str, Any], role: str = "reader") -> dict[str, Any]:
    return _binding(*who, role=role, kind="ClusterRoleBinding")


@rule(
    "k8s-binding-cluster-admin",
    "Nobody is bound to the built-in administrator roles",
    Severity.CRITICAL,
    anchors="KSV-0111, CIS EKS 4.1.1",
    applies=BINDINGS,
    config={
        "roles": Option(["cluster-admin", "admin", "edit"], "array", "Roles nobody may be bound to")
    },
    fix="Write a role with the permissions that the subject needs, and bind that.",
    allowed=[_binding()],
    refused=[_cluster(role="cluster-admin"), _binding(role="admin"), _binding(role="edit")],
)
def cluster_admin(resource: Resource, context: Context) -> Findings:
    name = text(resource.props, "roleRef", "name")
    if name in context["roles"]:
        yield f"roleRef is {name}"


@rule(
    "k8s-binding-default-service-account",
    "The default service account holds no role",
    Severity.MEDIUM,
    anchors="CKV_K8S_42, CIS EKS 4.1.5",
    applies=BINDINGS,
    fix="Give the workload a service account of its own and bind that.",
    allowed=[_binding(), _binding(_subject("User", "default"))],
    refused=[_binding(_subject(name="default")), _cluster(_subject(), _subject(name="default"))],
)
def default_account(resource: Resource, _: Context) -> Findings:
    def judge(who: tuple[str, str, str]) -> Findings:
        if who[:2] == ("ServiceAccount", "default"):
            yield f"the default service account of {who[2] or 'the namespace'} is bound"

    yield from each(subjects(resource), judge)


def _nobody_is(
    id_: str, title: str, anchors: str, names: frozenset[str], fix: str, sample: dict[str, Any]
) -> Rule:
    def check(resource: Resource, _: Context) -> Findings:
        def judge(who: tuple[str, str, str]) -> Findings:
            if who[0] != "ServiceAccount" and who[1] in names:
                yield f"{who[0]} {who[1]} is bound"

        yield from each(subjects(resource), judge)

    return rule(
        id_,
        title,
        Severity.CRITICAL,
        anchors=anchors,
        applies=BINDINGS,
        fix=fix,
        allowed=[_binding(), _binding(_subject("Group", "shop-operators"))],
        refused=[_cluster(sample), _binding(_subject(), sample)],
    )(check)


anonymous = _nobody_is(
    "k8s-binding-anonymous",
    "Nobody without a name holds a role",
    "KSV-0122, CIS EKS 4.1.1",
    frozenset({"system:anonymous", "system:unauthenticated"}),
    "Remove the subject; bind named groups.",
    _subject("User", "system:anonymous"),
)
masters = _nobody_is(
    "k8s-binding-masters",
    "The group that no rule can stop is not used",
    "KSV-0123, CIS EKS 4.1.1",
    frozenset({"system:masters"}),
    "Remove the subject; bind a group that can be taken away again.",
    _subject("Group", "system:masters"),
)
authenticated = _nobody_is(
    "k8s-binding-authenticated",
    "Not everyone with an account holds a role",
    "KSV-01011",
    frozenset({"system:authenticated", "system:serviceaccounts"}),
    "Bind the service account or the group that needs the role.",
    _subject("Group", "system:authenticated"),
)


def _role(*rules: dict[str, Any], name: str = "reader") -> dict[str, Any]:
    return manifest(f"{RBAC}/v1", "ClusterRole", name, rules=list(rules))


def _may(group: str, resource: str, *verbs: str) -> dict[str, Any]:
    return {"apiGroups": [group], "resources": [resource], "verbs": list(verbs)}


def _no_workload_gets(
    id_: str, title: str, anchors: str, grant: Grant, fix: str, *, named_is_fine: bool = False
) -> Rule:
    """A binding that gives a service account or a node a role (of the stack) with this grant."""

    def check(resource: Resource, context: Context) -> Findings:
        if not any(who[0] in {"ServiceAccount", "Node"} for who in subjects(resource)):
            return
        role = role_of(resource, context.stack)
        if role is None:
            return
        for entry in permissions(role):
            if entry.names and named_is_fine:
                continue
            if found := entry.allows(grant):
                yield f"{role.label} allows {found}"

    harmless, bad = _may("", "pods", "get"), _may(grant.groups[0], grant.resources[0], "*")
    return rule(
        id_,
        title,
        Severity.CRITICAL,
        anchors=anchors,
        applies=BINDINGS,
        fix=fix,
        allowed=[
            [_binding(), _role(harmless)],
            [_binding(_subject("User", "ann")), _role(bad)],
            [_binding(), _role(bad, name="other")],
        ],
        refused=[
            [_binding(), _role(harmless, bad)],
            [_cluster(_subject("User", "ann"), _subject()), _role(_may("*", "*", "*"))],
        ],
    )(check)


gives_bind = _no_workload_gets(
    "k8s-binding-gives-bind",
    "No workload may hand out roles",
    "CKV2_K8S_1, CIS EKS 4.1.8",
    Grant((RBAC,), ("rolebindings", "clusterrolebindings", "roles", "clusterroles"), ("bind",)),
    "Take bind out of the role.",
)
gives_exec = _no_workload_gets(
    "k8s-binding-gives-exec",
    "No workload may run commands in other pods or on kubelets",
    "CKV2_K8S_2, CIS EKS 4.1.10",
    Grant(("",), ("pods/exec", "nodes/proxy"), ("create",)),
    "Take pods/exec and nodes/proxy out of the role.",
)
gives_impersonate = _no_workload_gets(
    "k8s-binding-gives-impersonate",
    "No workload may act as somebody else",
    "CKV2_K8S_3, CIS EKS 4.1.8",
    Grant(("", "authentication.k8s.io"), ("users", "groups", "serviceaccounts"), ("impersonate",)),
    "Take impersonate out of the role.",
)
gives_service_status = _no_workload_gets(
    "k8s-binding-gives-service-status",
    "No workload may redirect a service's address",
    "CKV2_K8S_4",
    Grant(("",), ("services/status",), ("update", "patch")),
    "Take services/status out of the role.",
)
gives_secrets = _no_workload_gets(
    "k8s-binding-gives-secrets",
    "No workload may read every secret",
    "CKV2_K8S_5, CIS EKS 4.1.2",
    Grant(("",), ("secrets",), READ),
    "Mount what the workload needs, or name single secrets in resourceNames.",
    named_is_fine=True,
)
