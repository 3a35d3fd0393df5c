"""Flavours and quotas, as the queues of every cluster write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pulumi import CustomResource, Input, ResourceOptions

from infra.kueue import API

GPU = "nvidia.com/gpu"
PRIORITIES = {"urgent": 1000, "normal": 100, "low": 10}


@dataclass(frozen=True, kw_only=True)
class Flavour:
    """One kind of place that jobs run in, and how much of it there is."""

    name: str
    gpus: int = 0
    cpus: int
    memory_gib: int
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """Of its nodes; a job that gets this flavour is sent to them."""
    taints: Sequence[Mapping[str, str]] = ()
    """Of its nodes; such a job tolerates them."""
    owned: bool = True
    """False: no team has a share of its own in it, all borrow (the cloud)."""


def declare(
    kind: str,
    resource_name: str,
    object_name: str,
    labels: Mapping[str, str],
    opts: ResourceOptions,
    *,
    namespace: Input[str] | None = None,
    after: Sequence[CustomResource] = (),
    **fields: Any,
) -> CustomResource:
    """One of Kueue's objects, made after others."""
    where = {} if namespace is None else {"namespace": namespace}
    # not the SDK's CustomResource: a WorkloadPriorityClass has its value beside `spec`
    return CustomResource(
        f"kubernetes:{API}:{kind}",
        resource_name,
        {
            "apiVersion": API,
            "kind": kind,
            "metadata": {"name": object_name, "labels": labels, **where},
            **fields,
        },
        ResourceOptions.merge(opts, ResourceOptions(depends_on=list(after))),
    )


def tolerations(flavour: Flavour) -> list[dict[str, str]]:
    """What lets a pod onto a flavour's nodes; Kueue adds it to the jobs that it sends there."""
    return [
        {
            "key": taint["key"],
            "effect": taint["effect"],
            **(
                {"operator": "Equal", "value": taint["value"]}
                if taint.get("value")
                else {"operator": "Exists"}
            ),
        }
        for taint in flavour.taints
    ]


def group(quotas: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "coveredResources": [one["name"] for one in quotas[0]["resources"]],
        "flavors": list(quotas),
    }


def quota(
    flavour: Flavour, gpus: int, borrow: int | None, *, nothing: bool = False
) -> dict[str, Any]:
    """Quota of a flavour for so many of its GPUs, CPUs and memory in proportion."""

    def part(whole: int, count: int) -> int:
        if nothing:
            return 0
        return whole * count // flavour.gpus if flavour.gpus else whole

    found: list[dict[str, Any]] = []
    for resource, whole, base, units in (
        (GPU, flavour.gpus, *DECIMAL), ("cpu", flavour.cpus, *DECIMAL),
        ("memory", flavour.memory_gib, *GIB),
    ):  # fmt: skip
        one: dict[str, Any] = {
            "name": resource, "nominalQuota": quantity(part(whole, gpus), base, units),
        }  # fmt: skip
        if borrow is not None:
            one["borrowingLimit"] = quantity(part(whole, borrow), base, units)
        found.append(one)
    return {"name": flavour.name, "resources": found}


DECIMAL = (1000, ("", "k", "M"))
GIB = (1024, ("Gi", "Ti", "Pi"))


def quantity(amount: int, base: int, units: Sequence[str]) -> str:
    """A quantity in the one form that Kueue writes back: a refresh finds what was declared."""
    if amount == 0:
        return "0"
    for unit in units[:-1]:
        if amount % base:
            return f"{amount}{unit}"
        amount //= base
    return f"{amount}{units[-1]}"
