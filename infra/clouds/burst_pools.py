"""The node pools that Karpenter gets: the same objects on every cloud, and on the stand.

Spot pools come first by weight, on-demand pools second. Karpenter's limits count per NodePool, so
the ceiling is the sum of the two by construction. A cloud adds the class of its nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from infra.clouds.burst import Capabilities, Capacity, GpuPool, usable_types

API = "karpenter.sh/v1"
SPOT_WEIGHT, ON_DEMAND_WEIGHT = 100, 10
GPU = "nvidia.com/gpu"
POOL_LABEL, CAPACITY_LABEL = "recsys/pool", "recsys/capacity"


@dataclass(frozen=True, kw_only=True)
class NodeClass:
    """What the cloud's own half of a node is described by; one per pool, with the pool's name."""

    group: str
    kind: str


@dataclass(frozen=True, kw_only=True)
class NodePool:
    name: str
    spec: dict[str, Any]


def node_pools(
    pool: GpuPool, can: Capabilities, zones: tuple[str, ...], node_class: NodeClass
) -> Iterator[NodePool]:
    """`<pool>-spot` and `<pool>-on-demand`; a way of buying with a ceiling of 0 has none."""
    for capacity, gpus, weight in (
        (Capacity.SPOT, pool.max_spot_gpus, SPOT_WEIGHT),
        (Capacity.ON_DEMAND, pool.max_on_demand_gpus, ON_DEMAND_WEIGHT),
    ):
        if gpus:
            yield NodePool(
                name=f"{pool.name}-{capacity}",
                spec={
                    "weight": weight,
                    "limits": {GPU: str(gpus)},
                    "disruption": _disruption(pool),
                    "template": _template(pool, capacity, can, zones, node_class),
                },
            )


def _disruption(pool: GpuPool) -> dict[str, Any]:
    return {
        "consolidationPolicy": "WhenEmpty",  # never moves a training job to save cents
        "consolidateAfter": f"{pool.idle_minutes}m",
        # of the budgets that name a reason the lowest counts: idle nodes all go at once
        "budgets": [
            {"nodes": "100%", "reasons": ["Empty"]},
            {"nodes": "1", "reasons": ["Drifted", "Underutilized"]},
        ],
    }


def _template(
    pool: GpuPool,
    capacity: Capacity,
    can: Capabilities,
    zones: tuple[str, ...],
    node_class: NodeClass,
) -> dict[str, Any]:
    return {
        "metadata": {
            "labels": {
                POOL_LABEL: pool.name,
                CAPACITY_LABEL: str(capacity),
                # the GPU runtime's pods ask for it, and the operator sets it on a node that is
                # there; from zero there is none yet
                "nvidia.com/gpu.present": "true",
            }
        },
        "spec": {
            "nodeClassRef": {
                "group": node_class.group, "kind": node_class.kind, "name": pool.name,
            },
            "expireAfter": f"{pool.expire_hours}h",
            # A job gets this long to write its checkpoint when a node must go.
            "terminationGracePeriod": "1h",
            "taints": [{"key": GPU, "value": "true", "effect": "NoSchedule"}],
            "requirements": [
                _one_of("karpenter.sh/capacity-type", str(capacity)),
                _one_of(
                    "node.kubernetes.io/instance-type", *usable_types(pool, capacity, can)
                ),
                _one_of("topology.kubernetes.io/zone", *zones),
                _one_of("kubernetes.io/arch", "amd64"),
                _one_of("kubernetes.io/os", "linux"),
            ],
        },
    }  # fmt: skip


def _one_of(key: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": "In", "values": list(values)}
