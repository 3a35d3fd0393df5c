"""What changed between two sets of inputs, and what of it the API refuses to change in place."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from local.plugins.kubernetes.naming import GroupVersionKind
from local.plugins.kubernetes.values import UNKNOWN, Secret

Segment = str | int
Path = tuple[Segment, ...]

# Fields that exist once and for all. The server is the judge of the rest (`refused_in_place`),
# but it cannot be asked while a value is unknown, so the common ones are told here.
IMMUTABLE: dict[tuple[str, str], tuple[str, ...]] = {
    ("", "PersistentVolumeClaim"): (
        "spec.accessModes",
        "spec.dataSource",
        "spec.dataSourceRef",
        "spec.selector",
        "spec.storageClassName",
        "spec.volumeMode",
        "spec.volumeName",
    ),
    ("", "Secret"): ("type",),
    ("", "Service"): ("spec.clusterIP",),
    ("apps", "DaemonSet"): ("spec.selector",),
    ("apps", "Deployment"): ("spec.selector",),
    ("apps", "ReplicaSet"): ("spec.selector",),
    ("apps", "StatefulSet"): (
        "spec.podManagementPolicy",
        "spec.selector",
        "spec.serviceName",
        "spec.volumeClaimTemplates",
    ),
    ("batch", "Job"): ("spec.completionMode", "spec.selector", "spec.template"),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"): ("roleRef",),
    ("rbac.authorization.k8s.io", "RoleBinding"): ("roleRef",),
    ("scheduling.k8s.io", "PriorityClass"): ("value", "preemptionPolicy"),
    ("storage.k8s.io", "StorageClass"): (
        "parameters",
        "provisioner",
        "reclaimPolicy",
        "volumeBindingMode",
    ),
    ("networking.k8s.io", "IngressClass"): ("spec.controller",),
}
ALWAYS_IMMUTABLE = ("metadata.name", "metadata.namespace", "metadata.generateName")
# The official provider replaces these on every change of data, unless its settings say otherwise:
# a new name is what makes workloads that mount them roll.
REPLACED_DATA: dict[tuple[str, str], tuple[str, ...]] = {
    ("", "ConfigMap"): ("data", "binaryData"),
    ("", "Secret"): ("data", "stringData"),
}

_REFUSALS = re.compile(
    r"immutable|may not be changed|may not change fields other than|cannot be changed"
    r"|cannot change|updates to \w+ spec for fields other than|can not be changed"
    r"|updates to \w+ are forbidden",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Change:
    kind: Literal["add", "delete", "update"]
    path: Path
    replace: bool = False

    @property
    def text(self) -> str:
        return path_text(self.path)


def path_text(path: Path) -> str:
    """`spec.containers[0].env`, `metadata.labels["app.kubernetes.io/name"]`."""
    text = ""
    for segment in path:
        if isinstance(segment, int):
            text += f"[{segment}]"
        elif re.fullmatch(r"[A-Za-z_$][\w$-]*", segment):
            text += f".{segment}" if text else segment
        else:
            quoted = segment.replace('"', '\\"')
            text += f'["{quoted}"]'
    return text


def plain(value: Any) -> Any:
    """Secret marks off at the top."""
    return plain(value.value) if isinstance(value, Secret) else value


def changes(old: Any, new: Any, path: Path = ()) -> Iterator[Change]:
    """Every difference, at the deepest place that shows it; None counts as absent."""
    old, new = plain(old), plain(new)
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            before, after = plain(old.get(name)), plain(new.get(name))
            if before is None and after is None:
                continue
            here = (*path, name)
            if before is None:
                yield Change("add", here)
            elif after is None:
                yield Change("delete", here)
            else:
                yield from changes(before, after, here)
    elif isinstance(old, list) and isinstance(new, list):
        for index in range(max(len(old), len(new))):
            here = (*path, index)
            if index >= len(old):
                yield Change("add", here)
            elif index >= len(new):
                yield Change("delete", here)
            else:
                yield from changes(old[index], new[index], here)
    elif (
        old is UNKNOWN
        or new is UNKNOWN
        or isinstance(old, bool) is not isinstance(new, bool)  # True == 1 in Python
        or old != new
    ):
        yield Change("update", path)


def immutable_fields(
    gvk: GroupVersionKind, *, mutable_config_maps: bool, mutable_secrets: bool
) -> tuple[str, ...]:
    key = (gvk.group, gvk.kind)
    fields = ALWAYS_IMMUTABLE + IMMUTABLE.get(key, ())
    mutable = {"ConfigMap": mutable_config_maps, "Secret": mutable_secrets}.get(gvk.kind, False)
    return fields if mutable else fields + REPLACED_DATA.get(key, ())


def touches(path: Path, field: str) -> bool:
    """Whether a change at `path` changes `field`, one of its parts, or all around it."""
    names = [segment for segment in path if isinstance(segment, str)]
    wanted = field.split(".")
    shared = min(len(names), len(wanted))
    return names[:shared] == wanted[:shared]


def with_replaces(found: Sequence[Change], fields: Sequence[str]) -> list[Change]:
    return [
        Change(each.kind, each.path, any(touches(each.path, field) for field in fields))
        for each in found
    ]


def refused_in_place(message: str) -> bool:
    """Whether a server's refusal says that a field cannot be changed on an existing object."""
    return _REFUSALS.search(message) is not None


def refused_changes(
    found: Sequence[Change], causes: Sequence[dict[str, Any]], message: str
) -> list[Change]:
    """`found` with `replace` on what the server named; on all of it when it named nothing."""
    fields = [
        re.sub(r"\[[^\]]*\]", "", str(cause.get("field", "")))
        for cause in causes
        if refused_in_place(str(cause.get("message", message)))
    ]
    marked = with_replaces(found, [field for field in fields if field and field != "<nil>"])
    if any(each.replace for each in marked):
        return marked
    return [Change(each.kind, each.path, True) for each in found]
