"""Where each workload kind keeps its pod, and the containers in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from policies.resource import Resource
from policies.rule import Finding
from policies.values import UnknownValue, at, maps, raw, text

_TEMPLATE = ("spec", "template")
TEMPLATE_PATHS: dict[str, tuple[str, ...]] = {
    "/Pod": (),
    "/PodTemplate": ("template",),
    "/ReplicationController": _TEMPLATE,
    "apps/DaemonSet": _TEMPLATE,
    "apps/Deployment": _TEMPLATE,
    "apps/ReplicaSet": _TEMPLATE,
    "apps/StatefulSet": _TEMPLATE,
    "apps.openshift.io/DeploymentConfig": _TEMPLATE,
    "batch/CronJob": ("spec", "jobTemplate", "spec", "template"),
    "batch/Job": _TEMPLATE,
    "extensions/DaemonSet": _TEMPLATE,
    "extensions/Deployment": _TEMPLATE,
    "extensions/ReplicaSet": _TEMPLATE,
    "/DeploymentConfig": _TEMPLATE,
}
WORKLOADS = frozenset(TEMPLATE_PATHS)
JOBS = frozenset({"batch/Job", "batch/CronJob"})
LONG_RUNNING = WORKLOADS - JOBS - {"/PodTemplate"}
CONTAINER_LISTS = ("containers", "initContainers", "ephemeralContainers")


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod or the pod template of a workload, as plain data."""

    meta: Mapping[str, Any]
    spec: Mapping[str, Any]
    namespace: str

    @property
    def on_windows(self) -> bool:
        """Whether the pod says that it runs on Windows nodes."""
        return text(self.spec, "os", "name") == "windows"

    @property
    def has_own_users(self) -> bool:
        """Whether the pod has a user namespace: root inside it is nobody on the host."""
        return raw(self.spec, "hostUsers") is False


@dataclass(frozen=True, slots=True)
class Container:
    """One container with the list that it came from."""

    spec: Mapping[str, Any]
    list: str

    @property
    def label(self) -> str:
        """`container app`, `init container app`, `ephemeral container app`."""
        name = raw(self.spec, "name")
        kind = {"initContainers": "init ", "ephemeralContainers": "ephemeral "}.get(self.list, "")
        return f"{kind}container {name if isinstance(name, str) and name else '(no name)'}"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def pod_of(resource: Resource) -> Pod:
    """The pod of a workload; empty when the object has none. Raises `UnknownValue`."""
    known = resource.memo.get("pod")
    if known is None:
        template = _mapping(at(resource.props, *TEMPLATE_PATHS[resource.kind]))
        known = resource.memo["pod"] = Pod(
            meta=_mapping(raw(template, "metadata")),
            spec=_mapping(at(template, "spec")),
            namespace=resource.namespace,
        )
    return known


def containers(pod: Pod, lists: Iterable[str] = CONTAINER_LISTS) -> Iterator[Container]:
    """Every container of the lists; what is not known is raised after what is known."""
    missing: UnknownValue | None = None
    for name in lists:
        try:
            for spec in maps(pod.spec, name):
                yield Container(spec, name)
        except UnknownValue as unknown:
            missing = unknown
    if missing is not None:
        raise missing


Findings = Iterator[Finding]
