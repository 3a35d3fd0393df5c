"""Kubernetes label selectors, and which objects of a stack meet in one namespace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from policies.pods import pod_of
from policies.resource import Resource, Stack
from policies.values import Unknown, UnknownValue, at, maps, raw, text, texts

NAMESPACE = "/Namespace"


def labels_of(meta: Mapping[str, Any]) -> dict[str, str]:
    """Labels as texts. Raises `UnknownValue`."""
    found = at(meta, "labels")
    if not isinstance(found, Mapping):
        return {}
    for key, value in found.items():
        if isinstance(value, Unknown):
            raise UnknownValue(f"labels.{key}")
    return {str(key): str(value) for key, value in found.items()}


def selects(selector: Any, labels: Mapping[str, str]) -> bool:
    """Whether a label selector takes these labels; an empty one takes all, an absent one none.

    Raises `UnknownValue`.
    """
    if isinstance(selector, Unknown):
        raise UnknownValue("selector")
    if not isinstance(selector, Mapping):
        return False
    wanted = at(selector, "matchLabels")
    for key, value in wanted.items() if isinstance(wanted, Mapping) else ():
        if isinstance(value, Unknown):
            raise UnknownValue(f"selector.matchLabels.{key}")
        if labels.get(str(key)) != str(value):
            return False
    return all(_meets(entry, labels) for entry in maps(selector, "matchExpressions"))


def _meets(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, values = text(expression, "key"), texts(expression, "values")
    match text(expression, "operator"):
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
        case _:
            return False


def namespace_of(resource: Resource) -> str:
    """The namespace an object lands in: `default` when it names none. Raises `UnknownValue`."""
    found = at(resource.props, "metadata", "namespace")
    return found if isinstance(found, str) and found else "default"


def same_namespace(one: Resource, other: Resource, stack: Stack) -> bool:
    """Whether two objects lie in one namespace, also when its name is not known yet."""
    names = [raw(part.props, "metadata", "namespace") for part in (one, other)]
    if not any(isinstance(name, Unknown) for name in names):
        return (names[0] or "default") == (names[1] or "default")
    for namespace in stack.of(NAMESPACE):
        answers = [stack.refers(part, "metadata.namespace", namespace) for part in (one, other)]
        if answers == [True, True]:
            return True
        if True in answers and False in answers:
            return False
    raise UnknownValue("metadata.namespace")


def in_namespace(namespace: Resource, stack: Stack, *kinds: str) -> Iterator[Resource]:
    """The objects of these kinds in a Namespace; `UnknownValue` at the end if one may be."""
    missing = False
    for other in stack.of(*kinds):
        value = raw(other.props, "metadata", "namespace")
        if isinstance(value, str) and value == namespace.object_name:
            yield other
            continue
        answer = stack.refers(other, "metadata.namespace", namespace)
        if answer:
            yield other
        missing = missing or answer is None
    if missing:
        raise UnknownValue("metadata.namespace of a sibling")


def pod_labels(workload: Resource) -> dict[str, str]:
    """The labels of a workload's pods. Raises `UnknownValue`."""
    if workload.kind == "/Pod":
        meta = at(workload.props, "metadata")
        return labels_of(meta if isinstance(meta, Mapping) else {})
    return labels_of(pod_of(workload).meta)
