"""What a Role or ClusterRole grants, and who a binding gives it to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from policies.resource import Resource, Stack
from policies.values import Unknown, UnknownValue, maps, raw, text, texts

RBAC = "rbac.authorization.k8s.io"
ROLE, CLUSTER_ROLE = f"{RBAC}/Role", f"{RBAC}/ClusterRole"
ROLES = frozenset({ROLE, CLUSTER_ROLE})
BINDINGS = frozenset({f"{RBAC}/RoleBinding", f"{RBAC}/ClusterRoleBinding"})
READ = ("get", "list", "watch")
WRITE = ("create", "update", "patch", "delete", "deletecollection")


@dataclass(frozen=True, slots=True)
class Grant:
    """Verbs on resources of API groups (`""` is the core group)."""

    groups: tuple[str, ...]
    resources: tuple[str, ...]
    verbs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Permission:
    """One entry of a role's `rules`; `names` empty means every object."""

    groups: tuple[str, ...]
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    names: tuple[str, ...]
    position: int

    def allows(self, grant: Grant) -> str:
        """`verb resource` of the first thing that both hold, wildcards included; empty if none."""
        if not any(group in {"*", *grant.groups} for group in self.groups):
            return ""
        verb = next((verb for verb in self.verbs if verb in {"*", *grant.verbs}), "")
        what = next((res for res in self.resources if _covers(res, grant.resources)), "")
        return f"{verb} {what}" if verb and what else ""


def _covers(granted: str, wanted: Iterable[str]) -> bool:
    if granted == "*" or granted in wanted:
        return True
    # "*/subresource" is every resource's subresource
    return granted.startswith("*/") and any(
        "/" in want and want.split("/", 1)[1] == granted[2:] for want in wanted
    )


def permissions(role: Resource | Mapping[str, Any]) -> Iterator[Permission]:
    """A role's entries; what is not known is raised after what is known."""
    props = role.props if isinstance(role, Resource) else role
    missing = ""
    try:
        for position, entry in enumerate(maps(props, "rules")):
            try:
                yield Permission(
                    groups=tuple(texts(entry, "apiGroups")),
                    resources=tuple(texts(entry, "resources")),
                    verbs=tuple(verb.lower() for verb in texts(entry, "verbs")),
                    names=tuple(texts(entry, "resourceNames")),
                    position=position,
                )
            except UnknownValue as unknown:
                missing = missing or f"rules[{position}].{unknown}"
    except UnknownValue as unknown:
        missing = missing or str(unknown)
    if missing:
        raise UnknownValue(missing)


def subjects(binding: Resource) -> Iterator[tuple[str, str, str]]:
    """(kind, name, namespace) of everyone that a binding names."""
    for subject in maps(binding.props, "subjects"):
        yield text(subject, "kind"), text(subject, "name"), text(subject, "namespace")


def role_of(binding: Resource, stack: Stack) -> Resource | None:
    """The role that a binding gives, if the stack holds it. Raises `UnknownValue`."""
    kind, name = text(binding.props, "roleRef", "kind"), raw(binding.props, "roleRef", "name")
    perhaps = False
    for role in stack.of(f"{RBAC}/{kind}"):
        if kind == "Role" and role.namespace != binding.namespace:
            continue
        if isinstance(name, Unknown):
            answer = stack.refers(binding, "roleRef.name", role)
        else:
            answer = name == role.object_name or stack.refers(binding, "roleRef.name", role)
        if answer:
            return role
        perhaps = perhaps or answer is None
    if perhaps:
        raise UnknownValue("roleRef.name")
    return None
