"""The queue as Kueue tells it: which jobs wait, which hold private GPUs, which hold rented ones.

Reads `kubectl get workloads -A -o json` (kueue.x-k8s.io). How long a job takes and what it must
bring along stands in its pod template's annotations, the one place that Kueue carries over.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

HOURS = "recsys/expected-hours"
INPUT_GB = "recsys/input-gb"
WORTH = "recsys/usd-per-hour-saved"
GPU = "nvidia.com/gpu"

Object = Mapping[str, Any]


class JobError(ValueError):
    """A workload that cannot be planned; says which one and what to write."""


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A job without quota. `hours` once it runs; `input_gb` must cross the link before (10^9 B)."""

    name: str
    gpus: int
    hours: float
    input_gb: float
    worth: float | None = None
    """USD that one hour of earlier finish is worth; None for the site's usual figure."""
    pods: tuple[tuple[int, int], ...] = ()
    """(how many, GPUs of each): a pod runs on one node. Empty: as many of one GPU as it takes."""

    def nodes_of(self, gpus: int) -> int | None:
        """Nodes of so many GPUs that it needs; None when a pod of it fits on none."""
        parts = [(count, each) for count, each in self.pods if each] or [(self.gpus, 1)]
        if any(each > gpus for _, each in parts):
            return None
        return sum(math.ceil(count / (gpus // each)) for count, each in parts)


@dataclass(frozen=True, kw_only=True)
class Running:
    name: str
    gpus: int
    hours_left: float
    flavor: str


def queue(listed: Object, now: datetime) -> tuple[list[Waiting], list[Running]]:
    """Waiting jobs in the order of their turn (priority, then age), and the running ones."""
    waiting: list[tuple[int, str, Waiting]] = []
    running: list[Running] = []
    for each in cast("list[Object]", listed.get("items", [])):
        spec, status = _object(each, "spec"), _object(each, "status")
        if _condition(status, "Finished") or spec.get("active") is False:
            continue
        name, pods = _name(each), _pods(spec)
        gpus = sum(count * size for count, size in pods)
        if gpus == 0:
            continue
        hours = _number(each, HOURS, above_zero=True)
        assert hours is not None
        reserved = _condition(status, "QuotaReserved")
        if reserved is None:
            job = Waiting(
                name=name,
                gpus=gpus,
                hours=hours,
                input_gb=_number(each, INPUT_GB) or 0.0,
                worth=_number(each, WORTH, needed=False),
                pods=pods,
            )
            created = str(_object(each, "metadata").get("creationTimestamp", ""))
            waiting.append((-int(spec.get("priority") or 0), created, job))
            continue
        since = datetime.fromisoformat(str(reserved["lastTransitionTime"]))
        spent = max(0.0, (now - since).total_seconds() / 3600)
        flavor = _flavor(name, status)
        running.append(
            Running(name=name, gpus=gpus, hours_left=max(0.0, hours - spent), flavor=flavor)
        )
    return [job for _, _, job in sorted(waiting, key=lambda one: one[:2])], running


def _object(of: Object, key: str) -> Object:
    return cast("Object", of.get(key) or {})


def _name(workload: Object) -> str:
    metadata = _object(workload, "metadata")
    return f"{metadata.get('namespace', 'default')}/{metadata.get('name', '?')}"


def _condition(status: Object, kind: str) -> Object | None:
    for each in cast("list[Object]", status.get("conditions") or []):
        if each.get("type") == kind and each.get("status") == "True":
            return each
    return None


def _pod_sets(spec: Object) -> Iterator[tuple[int, Object]]:
    for each in cast("list[Object]", spec.get("podSets") or []):
        yield int(each.get("count", 1)), _object(each, "template")


def _pods(spec: Object) -> tuple[tuple[int, int], ...]:
    """(how many pods, GPUs of each) of every pod set."""
    found: list[tuple[int, int]] = []
    for count, template in _pod_sets(spec):
        gpus = 0
        for container in cast("list[Object]", _object(template, "spec").get("containers") or []):
            resources = _object(container, "resources")
            asked = _object(resources, "limits").get(GPU) or _object(resources, "requests").get(GPU)
            gpus += int(asked or 0)
        found.append((count, gpus))
    return tuple(found)


def _number(
    workload: Object, key: str, *, above_zero: bool = False, needed: bool = True
) -> float | None:
    """An annotation of the pod templates; the largest where several say something."""
    found = [
        str(value)
        for _, template in _pod_sets(_object(workload, "spec"))
        if (value := _object(_object(template, "metadata"), "annotations").get(key)) is not None
    ]
    if not found:
        if needed:
            raise JobError(
                f"{_name(workload)} says nothing in {key}; annotate its pod template with a number"
            )
        return None
    try:
        numbers = [float(text) for text in found]
    except ValueError:
        numbers = [-1.0]
    if not all(0 <= number < float("inf") for number in numbers) or (
        above_zero and max(numbers) == 0
    ):
        least = "above 0" if above_zero else "of 0 or more"
        raise JobError(f"{_name(workload)}: {key} is {', '.join(found)}; give a number {least}")
    return max(numbers)


def _flavor(name: str, status: Object) -> str:
    assignments = cast("list[Object]", _object(status, "admission").get("podSetAssignments") or [])
    flavors = {str(flavor) for each in assignments if (flavor := _object(each, "flavors").get(GPU))}
    if len(flavors) != 1:
        raise JobError(
            f"{name} holds GPUs of {sorted(flavors) or 'no flavour'}; "
            "one job must run on one flavour"
        )
    return flavors.pop()
