"""The rules that CEL can express, as ValidatingAdmissionPolicy objects for the API server.

One policy and one binding per rule. An expression sees these variables beside the API server's own:
`meta` and `spec` of the pod or pod template, `containers` (ordinary, init and ephemeral ones) and
`settings` (the rule's settings); rules on other kinds read `object`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra.naming import PROJECT
from policies.engine import Plan
from policies.pods import WORKLOADS
from policies.rule import Rule

API = "admissionregistration.k8s.io/v1"
DEFAULT_EXEMPT = ("kube-system",)  # node agents of the platform itself

# kind -> group, resource (with the subresources that change what the rules read)
_SERVED: dict[str, tuple[str, tuple[str, ...]]] = {
    "/Pod": ("", ("pods", "pods/ephemeralcontainers")),
    "/PodTemplate": ("", ("podtemplates",)),
    "/ReplicationController": ("", ("replicationcontrollers",)),
    "/Service": ("", ("services",)),
    "/ServiceAccount": ("", ("serviceaccounts",)),
    "/ConfigMap": ("", ("configmaps",)),
    "/Namespace": ("", ("namespaces",)),
    "apps/DaemonSet": ("apps", ("daemonsets",)),
    "apps/Deployment": ("apps", ("deployments",)),
    "apps/ReplicaSet": ("apps", ("replicasets",)),
    "apps/StatefulSet": ("apps", ("statefulsets",)),
    "autoscaling/HorizontalPodAutoscaler": ("autoscaling", ("horizontalpodautoscalers",)),
    "batch/CronJob": ("batch", ("cronjobs",)),
    "batch/Job": ("batch", ("jobs",)),
    "networking.k8s.io/Ingress": ("networking.k8s.io", ("ingresses",)),
    "policy/PodDisruptionBudget": ("policy", ("poddisruptionbudgets",)),
    "rbac.authorization.k8s.io/ClusterRole": ("rbac.authorization.k8s.io", ("clusterroles",)),
    "rbac.authorization.k8s.io/ClusterRoleBinding": (
        "rbac.authorization.k8s.io",
        ("clusterrolebindings",),
    ),
    "rbac.authorization.k8s.io/Role": ("rbac.authorization.k8s.io", ("roles",)),
    "rbac.authorization.k8s.io/RoleBinding": ("rbac.authorization.k8s.io", ("rolebindings",)),
}
_ELSEWHERE = frozenset({"extensions", "apps.openshift.io"})  # no current API server serves these

_TEMPLATE = (
    "object.kind == 'Pod' ? object : object.kind == 'PodTemplate' ? object.template : "
    "object.kind == 'CronJob' ? object.spec.jobTemplate.spec.template : object.spec.template"
)
_POD_VARIABLES = (
    ("template", _TEMPLATE),
    ("meta", "variables.template.?metadata.orValue({})"),
    ("spec", "variables.template.?spec.orValue({})"),
    (
        "containers",
        " + ".join(
            f"variables.spec.?{name}.orValue([])"
            for name in ("containers", "initContainers", "ephemeralContainers")
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Scope:
    """Where the bindings hold: every namespace but these, or only those with these labels."""

    exempt: tuple[str, ...] = DEFAULT_EXEMPT
    labels: Mapping[str, str] | None = None

    def selector(self) -> dict[str, Any]:
        if self.labels is not None:
            return {"matchLabels": dict(self.labels)}
        if not self.exempt:
            return {}
        name = "kubernetes.io/metadata.name"
        return {
            "matchExpressions": [{"key": name, "operator": "NotIn", "values": list(self.exempt)}]
        }


def expressible(rules: Iterable[Rule]) -> list[Rule]:
    """The rules that have a CEL form."""
    return [rule for rule in rules if rule.cel is not None]


def admission_policies(plan: Plan, scope: Scope | None = None) -> list[dict[str, Any]]:
    """Policies and bindings of a plan's rules: mandatory ones deny, advisory ones warn."""
    where = scope or Scope()
    made: list[dict[str, Any]] = []
    for rule in expressible(plan.rules):
        made += [
            admission_policy(rule, plan.config_of(rule)),
            _binding(rule, advisory=rule.id in plan.advisory, scope=where),
        ]
    return made


def _meta(rule: Rule) -> dict[str, Any]:
    return {
        "name": rule.id,
        "labels": {
            "app.kubernetes.io/part-of": PROJECT,
            "app.kubernetes.io/component": "policies",
        },
    }


def admission_policy(rule: Rule, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The policy object of one rule. Raises ValueError for a rule without a CEL form."""
    if rule.cel is None:
        raise ValueError(f"{rule.id} has no CEL form")
    variables = list(_POD_VARIABLES) if rule.applies <= WORKLOADS else []
    if any("variables.settings" in text for text in rule.cel.expressions):
        variables.append(("settings", literal(settings)))
    return {
        "apiVersion": API,
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {
            **_meta(rule),
            "annotations": {
                "policies/title": rule.title,
                "policies/severity": rule.severity.value,
                "policies/anchors": ", ".join(rule.anchors),
            },
        },
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": _resource_rules(rule)},
            # A controller must be able to take its finalizer from an object that is older than
            # the rule; nothing that the rule reads may change in passing.
            "matchConditions": [
                {
                    "name": "content-changes",
                    "expression": f"request.operation == 'CREATE' || {_changed(rule)}",
                }
            ],
            "variables": [{"name": name, "expression": text} for name, text in variables],
            "validations": [
                {"expression": text, "message": f"{rule.cel.message}. {rule.remediation}"}
                for text in rule.cel.expressions
            ],
        },
    }


def _changed(rule: Rule) -> str:
    if rule.applies <= WORKLOADS:
        return "(object.?spec != oldObject.?spec || object.?template != oldObject.?template)"
    return "object != oldObject"


def _resource_rules(rule: Rule) -> list[dict[str, Any]]:
    groups: dict[str, list[str]] = {}
    for kind in sorted(rule.applies):
        if kind.split("/")[0] in _ELSEWHERE or kind == "/DeploymentConfig":
            continue
        if kind not in _SERVED:
            raise ValueError(f"{rule.id}: how an API server calls {kind} is not in _SERVED")
        group, resources = _SERVED[kind]
        groups.setdefault(group, []).extend(resources)
    return [
        {
            "apiGroups": [group],
            "apiVersions": ["*"],
            "operations": ["CREATE", "UPDATE"],
            "resources": resources,
        }
        for group, resources in groups.items()
    ]


def _binding(rule: Rule, *, advisory: bool, scope: Scope) -> dict[str, Any]:
    selector = scope.selector()
    return {
        "apiVersion": API,
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": _meta(rule),
        "spec": {
            "policyName": rule.id,
            "validationActions": ["Warn", "Audit"] if advisory else ["Deny"],
            **({"matchResources": {"namespaceSelector": selector}} if selector else {}),
        },
    }


def literal(value: Any) -> str:
    """A JSON value as a CEL literal.

    >>> literal({"a": ["it's", 1, True]})
    '{"a": ["it\\'s", 1, true]}'
    """
    if isinstance(value, Mapping):
        inner = ", ".join(f"{literal(str(key))}: {literal(each)}" for key, each in value.items())
        return f"{{{inner}}}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(literal(each) for each in value)}]"
    # CEL reads JSON's texts, numbers, true, false and null as they are.
    return json.dumps(value)


def render(plan: Plan, scope: Scope | None = None) -> str:
    """All objects as one YAML stream, for `kubectl apply -f -`."""
    import yaml

    objects = admission_policies(plan, scope)
    return yaml.safe_dump_all(objects, sort_keys=False, width=100)
