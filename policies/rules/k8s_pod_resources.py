"""What a container asks of its node, and how the node knows that it is well."""

from __future__ import annotations

from typing import Any

from policies.pods import (
    LONG_RUNNING,
    WORKLOADS,
    Container,
    Findings,
    containers,
    pod_of,
)
from policies.resource import Resource
from policies.rule import Cel, Context, Severity, each, rule
from policies.samples import container, cron_job, deployment, pod
from policies.values import at, quantity, raw

_LASTING = ("containers", "initContainers")  # ephemeral containers may not have resources


def _with(requests: Any = None, limits: Any = None) -> dict[str, Any]:
    return pod(container(resources={"requests": requests or {}, "limits": limits or {}}))


def _amount(each_container: Container, kind: str, name: str) -> float | None:
    return quantity(at(each_container.spec, "resources", kind, name))


def _requested(resource: Resource, name: str) -> Findings:
    def judge(each_container: Container) -> Findings:
        if not _amount(each_container, "requests", name):
            yield f"{each_container.label} requests no {name}"

    yield from each(containers(pod_of(resource), _LASTING), judge)


def _limited(resource: Resource, name: str) -> Findings:
    def judge(each_container: Container) -> Findings:
        if not _amount(each_container, "limits", name):
            yield f"{each_container.label} has no {name} limit"

    yield from each(containers(pod_of(resource), _LASTING), judge)


@rule(
    "k8s-cpu-request",
    "Every container requests CPU",
    Severity.MEDIUM,
    anchors="CKV_K8S_10, KSV-0015",
    applies=WORKLOADS,
    fix="Set resources.requests.cpu.",
    allowed=[_with({"cpu": "500m"}), _with({"cpu": 1})],
    refused=[pod(), _with({"memory": "1Gi"}), cron_job(), _with({"cpu": "0"})],
)
def cpu_request(resource: Resource, _: Context) -> Findings:
    yield from _requested(resource, "cpu")


@rule(
    "k8s-memory-request",
    "Every container requests memory",
    Severity.MEDIUM,
    anchors="CKV_K8S_12, KSV-0016",
    applies=WORKLOADS,
    fix="Set resources.requests.memory.",
    allowed=[_with({"memory": "1Gi"})],
    refused=[pod(), _with({"cpu": "1"}), deployment(), _with(limits={"memory": "1Gi"})],
)
def memory_request(resource: Resource, _: Context) -> Findings:
    yield from _requested(resource, "memory")


@rule(
    "k8s-memory-limit",
    "Every container has a memory limit",
    Severity.MEDIUM,
    anchors="CKV_K8S_13, KSV-0018",
    applies=WORKLOADS,
    fix="Set resources.limits.memory.",
    allowed=[_with({}, {"memory": "1Gi"})],
    refused=[
        pod(),
        _with({"memory": "1Gi"}),
        pod(
            container(resources={"limits": {"memory": "1Gi"}}),
            initContainers=[container("prepare")],
        ),
    ],
    cel=Cel(
        (
            "(variables.spec.?containers.orValue([]) + variables.spec.?initContainers.orValue([]))"
            ".all(c, has(c.resources) && has(c.resources.limits) && 'memory' in c.resources.limits"
            " && quantity(string(c.resources.limits['memory'])).isGreaterThan(quantity('0')))",
        ),
        "resources.limits.memory must be set",
    ),
)
def memory_limit(resource: Resource, _: Context) -> Findings:
    yield from _limited(resource, "memory")


@rule(
    "k8s-cpu-limit",
    "Every container has a CPU limit",
    Severity.LOW,
    anchors="CKV_K8S_11, KSV-0011",
    applies=WORKLOADS,
    fix="Set resources.limits.cpu (throttles; needed only where tenants share nodes).",
    allowed=[_with({}, {"cpu": "2"})],
    refused=[pod(), _with({"cpu": "1"})],
    optional=True,
)
def cpu_limit(resource: Resource, _: Context) -> Findings:
    yield from _limited(resource, "cpu")


@rule(
    "k8s-request-within-limit",
    "A request is not above its limit",
    Severity.MEDIUM,
    anchors="Kubernetes API validation",
    applies=WORKLOADS,
    fix="Lower the request or raise the limit.",
    allowed=[
        _with({"memory": "1Gi"}, {"memory": "1024Mi"}),
        _with({"cpu": "500m"}, {"cpu": "0.5"}),
        pod(),
    ],
    refused=[
        _with({"memory": "2Gi"}, {"memory": "1500M"}),
        _with({"cpu": "1500m"}, {"cpu": "1"}),
    ],
)
def request_within_limit(resource: Resource, _: Context) -> Findings:
    def judge(each_container: Container) -> Findings:
        for name in ("cpu", "memory", "ephemeral-storage"):
            request = _amount(each_container, "requests", name)
            limit = _amount(each_container, "limits", name)
            if request is not None and limit is not None and request > limit:
                wanted = raw(each_container.spec, "resources", "requests", name)
                most = raw(each_container.spec, "resources", "limits", name)
                yield f"{each_container.label} requests {name} {wanted}, above its limit {most}"

    yield from each(containers(pod_of(resource), _LASTING), judge)


_HTTP = {"httpGet": {"path": "/livez", "port": 3000}}
_READY = {"httpGet": {"path": "/readyz", "port": 3000}}


def _probe(resource: Resource, field: str) -> Findings:
    def judge(each_container: Container) -> Findings:
        if not at(each_container.spec, field):
            yield f"{each_container.label} has no {field}"

    yield from each(containers(pod_of(resource), ("containers",)), judge)


@rule(
    "k8s-liveness-probe",
    "A long-running container says when it hangs",
    Severity.MEDIUM,
    anchors="CKV_K8S_8",
    applies=LONG_RUNNING,
    fix="Add a livenessProbe that fails only when a restart helps.",
    allowed=[deployment(container(livenessProbe=_HTTP)), cron_job()],
    refused=[deployment(), pod(container(livenessProbe=_HTTP), container("side"))],
)
def liveness_probe(resource: Resource, _: Context) -> Findings:
    yield from _probe(resource, "livenessProbe")


@rule(
    "k8s-readiness-probe",
    "A long-running container says when it can serve",
    Severity.MEDIUM,
    anchors="CKV_K8S_9",
    applies=LONG_RUNNING,
    fix="Add a readinessProbe.",
    allowed=[deployment(container(readinessProbe=_READY)), cron_job()],
    refused=[deployment(), deployment(container(livenessProbe=_HTTP))],
)
def readiness_probe(resource: Resource, _: Context) -> Findings:
    yield from _probe(resource, "readinessProbe")


@rule(
    "k8s-probes-differ",
    "Liveness and readiness ask different questions",
    Severity.MEDIUM,
    anchors="Kyverno ensure-probes-different",
    applies=LONG_RUNNING,
    fix="Give the probes different endpoints or thresholds: the same probe restarts a pod that is "
    "only busy.",
    allowed=[deployment(container(livenessProbe=_HTTP, readinessProbe=_READY)), pod()],
    refused=[deployment(container(livenessProbe=_HTTP, readinessProbe=_HTTP))],
)
def probes_differ(resource: Resource, _: Context) -> Findings:
    def judge(each_container: Container) -> Findings:
        live = at(each_container.spec, "livenessProbe")
        if live and live == at(each_container.spec, "readinessProbe"):
            yield f"{each_container.label} has the same liveness and readiness probe"

    yield from each(containers(pod_of(resource), ("containers",)), judge)
