"""The stand's cloud: an adopted cluster whose Karpenter orders simulated nodes (KWOK provider).

It sells what a real cloud's table says, under the same pools; only the class of the nodes differs,
so what is tried there is what ships.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from infra.clouds.burst import Capabilities, GpuPool, UnsupportedBurstError, wrong_pool
from infra.clouds.burst_pools import API, NodeClass, node_pools
from infra.naming import Identity, labels

NODE_CLASS = NodeClass(group="karpenter.kwok.sh", kind="KWOKNodeClass")
NODE_API = f"{NODE_CLASS.group}/v1alpha1"


@dataclass(frozen=True, kw_only=True)
class KwokBurstArgs:
    identity: Identity
    provider: k8s.Provider
    gpu_pools: tuple[GpuPool, ...]
    capabilities: Capabilities
    """Of the cloud that is stood in for."""
    zones: tuple[str, ...]
    sold: tuple[str, ...]
    """Instance types that its Karpenter knows."""

    def __post_init__(self) -> None:
        reasons = [
            reason for pool in self.gpu_pools for reason in wrong_pool(pool, self.capabilities)
        ] + [
            f"pool {pool.name}: the stand does not sell {kind}; it sells {', '.join(self.sold)}"
            for pool in self.gpu_pools
            for kind in pool.instance_types
            if kind not in self.sold
        ]
        if reasons:
            raise UnsupportedBurstError("\n".join(reasons))


class KwokBurst(pulumi.ComponentResource):
    """Node classes and node pools."""

    def __init__(
        self, name: str, args: KwokBurstArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("recsys:kwok:Burst", name, None, opts)
        self._name, self._args = name, args
        for pool in args.gpu_pools:
            made = self._custom(pool.name, NODE_API, NODE_CLASS.kind, {}, ())
            for one in node_pools(pool, args.capabilities, args.zones, NODE_CLASS):
                self._custom(one.name, API, "NodePool", one.spec, (made,))
        self.register_outputs({})

    def _custom(
        self,
        name: str,
        version: str,
        kind: str,
        spec: dict[str, Any],
        after: tuple[pulumi.Resource, ...],
    ) -> pulumi.Resource:
        return k8s.apiextensions.CustomResource(
            f"{self._name}-{name}",
            api_version=version,
            kind=kind,
            metadata={"name": name, "labels": labels(self._args.identity, "burst")},
            spec=spec,
            opts=pulumi.ResourceOptions(
                parent=self, provider=self._args.provider, depends_on=list(after)
            ),
        )
