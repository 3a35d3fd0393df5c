"""Kubernetes availability: replicas, disruption budgets, spread and the bounds of scaling."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import Any

from policies.pods import Findings, pod_of
from policies.resource import Resource, Stack
from policies.rule import Context, Missing, Option, Severity, rule
from policies.samples import deployment, manifest
from policies.selectors import pod_labels, same_namespace, selects
from policies.values import Unknown, UnknownValue, at, items, number, raw, text

REPLICATED = frozenset({"apps/Deployment", "apps/StatefulSet"})
PDB = "policy/PodDisruptionBudget"
HPA = "autoscaling/HorizontalPodAutoscaler"
SCALED = "keda.sh/ScaledObject"
SCALERS = frozenset({HPA, SCALED})
_LEAST = {"minimum": Option(2, "integer", "Fewest replicas of something that must not stop.")}
_MOST = {"maximum": Option(50, "integer", "Most replicas that one workload may have.")}


def _pdb(namespace: str = "shop", **spec: Any) -> dict[str, Any]:
    selected = {"selector": {"matchLabels": {"app": "sample"}}, **spec}
    return manifest(
        "policy/v1", "PodDisruptionBudget", metadata={"namespace": namespace}, spec=selected
    )


def _hpa(low: int | None = 2, high: int = 10, target: str = "sample") -> dict[str, Any]:
    bounds: dict[str, Any] = {"maxReplicas": high, **({"minReplicas": low} if low else {})}
    reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": target}
    return manifest(
        "autoscaling/v2", "HorizontalPodAutoscaler", spec={"scaleTargetRef": reference, **bounds}
    )


def _scaled(**bounds: int) -> dict[str, Any]:
    return manifest(
        "keda.sh/v1alpha1", "ScaledObject", spec={"scaleTargetRef": {"name": "sample"}, **bounds}
    )


def _scaler_of(workload: Resource, stack: Stack) -> Resource | None:
    """The autoscaler that sets a workload's replicas. Raises `UnknownValue`."""
    kind = workload.kind.rsplit("/", 1)[1]
    for scaler in stack.of(*sorted(SCALERS)):
        if (text(scaler.props, "spec", "scaleTargetRef", "kind") or "Deployment") != kind:
            continue
        name = raw(scaler.props, "spec", "scaleTargetRef", "name")
        found = name == workload.object_name or stack.refers(
            scaler, "spec.scaleTargetRef.name", workload
        )
        if found and same_namespace(scaler, workload, stack):
            return scaler
        if found is None:
            raise UnknownValue(f"scaleTargetRef.name of {scaler.name}")
    return None


def _fewest(scaler: Resource) -> int:
    """The lower bound of an autoscaler, its default included."""
    if scaler.kind == HPA:
        return int(number(scaler.props, "spec", "minReplicas") or 1)
    return int(number(scaler.props, "spec", "minReplicaCount") or 0)


def _replicas(workload: Resource, stack: Stack) -> int:
    """The fewest pods that a workload has in normal times. Raises `UnknownValue`."""
    scaler = _scaler_of(workload, stack)
    if scaler is not None:
        return _fewest(scaler)
    found = number(workload.props, "spec", "replicas")
    return 1 if found is None else int(found)


@rule(
    "k8s-replicas-minimum",
    "A service survives the loss of one pod",
    Severity.MEDIUM,
    anchors="kube-linter minimum-three-replicas, Gatekeeper replicalimits",
    applies=REPLICATED,
    config=_LEAST,
    fix="Set spec.replicas to 2 or more, or let an autoscaler with that minimum own it.",
    allowed=[deployment(), [deployment(replicas=1), _hpa()]],
    refused=[
        deployment(replicas=1),
        manifest("apps/v1", "StatefulSet", spec={"template": {}}),
        [deployment(replicas=1), _hpa(target="other")],
    ],
)
def replicas_minimum(resource: Resource, context: Context) -> Findings:
    if _scaler_of(resource, context.stack) is not None:
        return  # the autoscaler's own rule judges its bounds
    found = number(resource.props, "spec", "replicas")
    if (1 if found is None else found) < context["minimum"]:
        yield f"spec.replicas is {'absent, which means 1' if found is None else int(found)}"


@rule(
    "k8s-replicas-maximum",
    "No workload asks for more pods than agreed",
    Severity.MEDIUM,
    anchors="Gatekeeper replicalimits",
    applies=REPLICATED | {"apps/ReplicaSet"},
    config=_MOST,
    fix="Lower spec.replicas, or raise the setting maximum in a reviewed change.",
    allowed=[deployment(replicas=3)],
    refused=[deployment(replicas=100)],
)
def replicas_maximum(resource: Resource, context: Context) -> Findings:
    found = number(resource.props, "spec", "replicas")
    if found is not None and found > context["maximum"]:
        yield f"spec.replicas is {int(found)}, more than {context['maximum']}"


def _budgets_of(workload: Resource, stack: Stack) -> Iterator[Resource]:
    labels = pod_labels(workload)
    for budget in stack.of(PDB):
        selected = selects(raw(budget.props, "spec", "selector"), labels)
        if selected and same_namespace(budget, workload, stack):
            yield budget


@rule(
    "k8s-disruption-budget",
    "Every replicated workload has a disruption budget",
    Severity.MEDIUM,
    anchors="kube-linter no-pod-disruption-budget, Gatekeeper poddisruptionbudget",
    applies=REPLICATED,
    fix="Add a PodDisruptionBudget with maxUnavailable 1 that selects the pods.",
    allowed=[[deployment(), _pdb(maxUnavailable=1)], deployment(replicas=1)],
    refused=[
        deployment(),
        [deployment(), _pdb(selector={"matchLabels": {"app": "other"}})],
        [deployment(), _pdb(namespace="other", maxUnavailable=1)],
    ],
)
def disruption_budget(resource: Resource, context: Context) -> Findings:
    if _replicas(resource, context.stack) < 2:
        return
    if next(_budgets_of(resource, context.stack), None) is None:
        yield "no PodDisruptionBudget selects its pods"


def _share(value: Any, replicas: int) -> int | None:
    """Pods that `3` or `"50%"` means, rounded up as the API server does. Raises `UnknownValue`."""
    if isinstance(value, Unknown):
        raise UnknownValue("spec.minAvailable or maxUnavailable")
    if isinstance(value, str) and value.endswith("%"):
        try:
            return ceil(float(value[:-1]) * replicas / 100)
        except ValueError:
            return None
    found = number({"value": value}, "value")
    return None if found is None else int(found)


def _blocks(budget: Resource, replicas: int | None) -> str:
    """Why a budget lets no pod go; `replicas` is `None` when its workload is not in the stack."""
    most = _share(raw(budget.props, "spec", "maxUnavailable"), replicas or 100)
    if most is not None:
        return "maxUnavailable is 0" if most < 1 else ""
    given = raw(budget.props, "spec", "minAvailable")
    least = _share(given, replicas if replicas is not None else 100)
    if least is None:
        return ""
    if replicas is None:
        return "minAvailable is 100%" if given == "100%" else ""
    return f"minAvailable {given} of {replicas} replicas" if least >= replicas else ""


@rule(
    "k8s-disruption-budget-allows-one",
    "A disruption budget lets at least one pod go",
    Severity.MEDIUM,
    anchors="Gatekeeper poddisruptionbudget, Pulumi disallowZeroVoluntaryDisruption, "
    "kube-linter pdb-max-unavailable, kube-linter pdb-min-available",
    applies={PDB},
    fix="Set maxUnavailable to 1, or minAvailable below the number of replicas.",
    allowed=[
        _pdb(maxUnavailable=1),
        [_pdb(minAvailable=1), deployment(replicas=2)],
        [_pdb(minAvailable="50%"), deployment(replicas=3)],
        _pdb(minAvailable=2),
    ],
    refused=[
        _pdb(maxUnavailable=0),
        _pdb(maxUnavailable="0%"),
        _pdb(minAvailable="100%"),
        [_pdb(minAvailable=3), deployment(replicas=3)],
        [_pdb(minAvailable=2), deployment(replicas=5), _hpa(low=2)],
    ],
)
def budget_allows_one(resource: Resource, context: Context) -> Findings:
    stack, selected = context.stack, False
    for workload in stack.of(*sorted(REPLICATED)):
        labels = pod_labels(workload)
        if selects(raw(resource.props, "spec", "selector"), labels) and same_namespace(
            resource, workload, stack
        ):
            selected = True
            if why := _blocks(resource, _replicas(workload, stack)):
                yield f"{why} of {workload.object_name} lets no pod go"
    if not selected and (why := _blocks(resource, None)):
        yield f"{why}: no pod may go"


@rule(
    "k8s-spread",
    "Replicas do not all stand on one node",
    Severity.MEDIUM,
    anchors="kube-linter no-anti-affinity, Kyverno spread-pods",
    applies=REPLICATED,
    fix="Add topologySpreadConstraints over kubernetes.io/hostname, or a podAntiAffinity.",
    allowed=[
        deployment(topologySpreadConstraints=[{"topologyKey": "kubernetes.io/hostname"}]),
        deployment(replicas=1),
        deployment(affinity={"podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1}]}}),
    ],
    refused=[deployment(), deployment(affinity={"nodeAffinity": {}})],
)  # fmt: skip
def spread(resource: Resource, context: Context) -> Findings:
    if _replicas(resource, context.stack) < 2:
        return
    spec = pod_of(resource).spec
    anti = at(spec, "affinity", "podAntiAffinity")
    if not anti and not list(items(spec, "topologySpreadConstraints")):
        yield "neither topologySpreadConstraints nor podAntiAffinity"


@rule(
    "k8s-autoscaler-minimum",
    "An autoscaler keeps two pods",
    Severity.MEDIUM,
    anchors="Gatekeeper horizontalpodautoscaler, kube-linter hpa-minimum-three-replicas",
    applies=SCALERS,
    config=_LEAST,
    fix="Set minReplicas (minReplicaCount) to 2 or more.",
    allowed=[_hpa(), _scaled(minReplicaCount=2, maxReplicaCount=8)],
    refused=[_hpa(low=1), _hpa(low=None), _scaled(maxReplicaCount=8)],
)
def autoscaler_minimum(resource: Resource, context: Context) -> Findings:
    if (fewest := _fewest(resource)) < context["minimum"]:
        yield f"the minimum is {fewest}"


@rule(
    "k8s-autoscaler-maximum",
    "An autoscaler has room to scale, and an end",
    Severity.MEDIUM,
    anchors="Gatekeeper horizontalpodautoscaler",
    applies=SCALERS,
    config=_MOST,
    fix="Set maxReplicas (maxReplicaCount) above the minimum and within the agreed maximum.",
    allowed=[_hpa(), _scaled(minReplicaCount=2, maxReplicaCount=8)],
    refused=[_hpa(low=4, high=4), _hpa(high=500), _scaled(minReplicaCount=2)],
)
def autoscaler_maximum(resource: Resource, context: Context) -> Findings:
    key = "maxReplicas" if resource.kind == HPA else "maxReplicaCount"
    most = number(resource.props, "spec", key)
    if most is None:
        yield f"spec.{key} is absent" + ("" if resource.kind == HPA else ", which means 100")
    elif most > context["maximum"]:
        yield f"spec.{key} is {int(most)}, more than {context['maximum']}"
    elif most <= _fewest(resource):
        yield f"spec.{key} is {int(most)}, no more than the minimum: it never scales"


@rule(
    "k8s-autoscaler-target",
    "An autoscaler has something to scale",
    Severity.MEDIUM,
    anchors="Gatekeeper horizontalpodautoscaler",
    applies=SCALERS,
    fix="Name a workload of the namespace in scaleTargetRef.",
    allowed=[[_hpa(), deployment()], [_scaled(maxReplicaCount=4), deployment()]],
    refused=[
        [_hpa(target="gone"), deployment()],
        manifest("autoscaling/v2", "HorizontalPodAutoscaler", spec={"maxReplicas": 3}),
    ],
)
def autoscaler_target(resource: Resource, context: Context) -> Findings:
    target = at(resource.props, "spec", "scaleTargetRef")
    name = raw(target, "name")
    if name is None or name == "":
        yield "spec.scaleTargetRef.name is absent"
        return
    kind = text(target, "kind") or "Deployment"
    stack, others = context.stack, False
    for workload in stack.of(f"apps/{kind}"):
        if not same_namespace(resource, workload, stack):
            continue
        others = True
        answer = name == workload.object_name or stack.refers(
            resource, "spec.scaleTargetRef.name", workload
        )
        if answer:
            return
        if answer is None:
            yield Missing("spec.scaleTargetRef.name")
            return
    if others:
        yield f"no {kind} of the namespace is called {name}"
    else:
        yield Missing(f"{kind} {name}, which these files do not hold")
