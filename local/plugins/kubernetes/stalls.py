"""Why an object is not ready: its conditions, its Pods, their containers, the events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from local.plugins.kubernetes.client import ApiError, Client, NoSuchKindError, UnreachableError
from local.plugins.kubernetes.naming import GroupVersionKind

POD = GroupVersionKind("", "v1", "Pod")
EVENT = GroupVersionKind("", "v1", "Event")
REPLICA_SET = GroupVersionKind("apps", "v1", "ReplicaSet")
MOST_PODS = 3  # the first few tell what is wrong with all of them
MOST_EVENTS = 4
BAD_WHEN_TRUE = {"ReplicaFailure", "Failed", "FailureTarget"}
OF_WORKLOADS = {"Available", "Progressing", "Ready", "ReplicaFailure", "Failed", "FailureTarget"}


def condition(obj: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    found: Sequence[Mapping[str, Any]] = (obj.get("status") or {}).get("conditions") or []
    return next((each for each in found if each.get("type") == name), None)


def selector_text(selector: Mapping[str, Any]) -> str:
    """A label selector as the API's query text; a Service's plain map too."""
    labels = selector.get("matchLabels")
    expressions: Sequence[Mapping[str, Any]] = selector.get("matchExpressions") or []
    if labels is None and not expressions:
        labels = selector
    parts = [f"{name}={value}" for name, value in (labels or {}).items()]
    for each in expressions:
        key, operator, values = each["key"], each["operator"], ",".join(each.get("values") or [])
        parts.append(
            {
                "In": f"{key} in ({values})",
                "NotIn": f"{key} notin ({values})",
                "Exists": key,
                "DoesNotExist": f"!{key}",
            }[operator]
        )
    return ",".join(parts)


def causes(client: Client, gvk: GroupVersionKind, live: Mapping[str, Any]) -> list[str]:
    """What is known about a stall, general first; never raises for a cluster that is away."""
    try:
        found = list(_causes(client, gvk, live))
    except (ApiError, NoSuchKindError, UnreachableError) as error:
        return [f"the cause could not be read: {error}"]
    return list(dict.fromkeys(found))


def _causes(client: Client, gvk: GroupVersionKind, live: Mapping[str, Any]) -> Iterator[str]:
    yield from _conditions(live)
    yield from _events(client, live, "")
    if gvk.kind == "Pod":
        yield from _pod(live)
        return
    selector = (live.get("spec") or {}).get("selector")
    if not isinstance(selector, Mapping) or not selector:
        return
    namespace = live["metadata"].get("namespace")
    text = selector_text(selector)
    pods = list(client.list(POD, namespace, labels=text))
    if gvk.kind == "Service":
        if not pods:
            yield f"no Pod in {namespace} has the labels {text}"
            return
    elif not pods:
        yield f"no Pod was created for {text}"
        if gvk.kind == "Deployment":
            for each in client.list(REPLICA_SET, namespace, labels=text):
                yield from _conditions(each)
                yield from _events(client, each, f"ReplicaSet {each['metadata']['name']}: ")
    unready = [each for each in pods if not _is_ready(each)]
    for each in unready[:MOST_PODS]:
        yield from _pod(each)
        yield from _events(client, each, f"Pod {each['metadata']['name']}: ")
    if len(unready) > MOST_PODS:
        yield f"and {len(unready) - MOST_PODS} more Pods that are not ready"


def _is_ready(pod: Mapping[str, Any]) -> bool:
    return (condition(pod, "Ready") or {}).get("status") == "True"


def _conditions(obj: Mapping[str, Any]) -> Iterator[str]:
    for each in (obj.get("status") or {}).get("conditions") or []:
        bad = each.get("status") == ("True" if each.get("type") in BAD_WHEN_TRUE else "False")
        if bad and each.get("type") in OF_WORKLOADS and each.get("message"):
            yield f"[{each.get('reason') or each.get('type')}] {each['message']}"


def _pod(pod: Mapping[str, Any]) -> Iterator[str]:
    name = f"Pod {pod['metadata']['name']}: "
    status = pod.get("status") or {}
    scheduled = condition(pod, "PodScheduled")
    if scheduled is None and not (pod.get("spec") or {}).get("nodeName"):
        yield f"{name}no scheduler has looked at it (is kube-scheduler running?)"
    elif scheduled is not None and scheduled.get("status") != "True":
        yield f"{name}[{scheduled.get('reason')}] {scheduled.get('message')}"
    containers = [
        *(status.get("initContainerStatuses") or []),
        *(status.get("containerStatuses") or []),
    ]
    for each in containers:
        yield from _container(name, each)
    node = (pod.get("spec") or {}).get("nodeName")
    if node and not containers and not status.get("startTime"):
        yield f"{name}the kubelet of node {node} has not started it"


def _container(pod: str, container: Mapping[str, Any]) -> Iterator[str]:
    state = container.get("state") or {}
    name = f"{pod}container {container.get('name')}: "
    if waiting := state.get("waiting"):
        if waiting.get("reason") != "PodInitializing":
            yield f"{name}[{waiting.get('reason')}] {waiting.get('message') or ''}".rstrip()
    elif "running" in state and not container.get("ready"):
        yield f"{name}running, not ready"
    ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated")
    if ended and ended.get("exitCode"):
        message = f": {ended['message'].strip()}" if ended.get("message") else ""
        yield f"{name}[{ended.get('reason')}] exit code {ended['exitCode']}{message}"


def _events(client: Client, obj: Mapping[str, Any], prefix: str) -> Iterator[str]:
    metadata = obj["metadata"]
    found = client.list(
        EVENT,
        metadata.get("namespace") or "default",
        fields=f"involvedObject.uid={metadata.get('uid')},type=Warning",
    )
    texts = list(
        dict.fromkeys(
            f"{prefix}[{each.get('reason')}] {str(each.get('message', '')).strip()}"
            for each in found
        )
    )
    yield from texts[-MOST_EVENTS:]
