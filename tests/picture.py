"""What a failed test's report says of the stand: without it the cause is gone with the stand."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator
from typing import Any

from local.errors import StandError
from local.kube import Client
from local.leaving import KUEUE

PODS = "/api/v1/pods"
CONTROLLERS = "/api/v1/namespaces/kueue-system/pods"
LINES = 25  # of a controller's log


def picture(site: str, client: Client) -> str:
    """Queued work, nodes and pods that are not as they should be, the controllers' last words."""
    parts: list[Callable[[Client], Iterator[str]]] = [_ways, _workloads, _nodes, _pods, _logs]
    lines: list[str] = []
    for part in parts:
        try:
            lines += part(client)
        except (OSError, http.client.HTTPException, StandError) as error:
            lines.append(f"{part.__name__.strip('_')}: {error}")
    return "\n".join(f"{site}: {line}" for line in lines)


def _told(one: dict[str, Any]) -> str:
    """Conditions, the last one's reason with them."""
    found: list[dict[str, Any]] = (one.get("status") or {}).get("conditions") or []

    def since(condition: dict[str, Any]) -> str:
        return str(condition.get("lastTransitionTime"))

    return ", ".join(
        f"{each['type']}={each['status']} {each.get('reason', '')} at {each['lastTransitionTime']}"
        f" {each.get('message', '')[:160]}".strip()
        for each in sorted(found, key=since)
    )


def _ways(client: Client) -> Iterator[str]:
    for one in client.items(f"{KUEUE}/multikueueclusters"):
        yield f"way {one['metadata']['name']}: {_told(one)}"


def _workloads(client: Client) -> Iterator[str]:
    for one in client.items(f"{KUEUE}/workloads"):
        told = _told(one)
        if "Finished=True" not in told:
            where = f"{one['metadata']['namespace']}/{one['metadata']['name']}"
            checks = (one.get("status") or {}).get("admissionChecks") or []
            sent = [f"{each['name']} {each['state']}: {each.get('message', '')}" for each in checks]
            yield f"workload {where} in {one['spec'].get('queueName')}: {told}; {sent}"


def _nodes(client: Client) -> Iterator[str]:
    for one in client.items("/api/v1/nodes"):
        if "Ready=True" not in (told := _told(one)):
            yield f"node {one['metadata']['name']}: {told}"


def _pods(client: Client) -> Iterator[str]:
    for one in client.items(PODS):
        phase = one["status"].get("phase")
        told = _told(one)
        if phase != "Succeeded" and "Ready=True" not in told:
            where = f"{one['metadata']['namespace']}/{one['metadata']['name']}"
            states = [each["state"] for each in one["status"].get("containerStatuses") or []]
            yield f"pod {where} {phase} on {one['spec'].get('nodeName')}: {told}; {states}"


def _logs(client: Client) -> Iterator[str]:
    for one in client.items(CONTROLLERS):
        name = one["metadata"]["name"]
        for inner in one["spec"]["containers"]:
            where = f"{CONTROLLERS}/{name}/log?container={inner['name']}&tailLines={LINES}"
            text = client.get(where).get("text", "")
            yield from (f"{name}/{inner['name']}: {line[:400]}" for line in text.splitlines())
