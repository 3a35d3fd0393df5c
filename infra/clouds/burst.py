"""What every public cloud must offer to take the private site's peaks, and what each one can do.

A cloud module (`aws.py` first) takes `BurstArgs` and gives `BurstOutputs`; nothing outside
`infra/clouds` knows more. What a cloud cannot do is data in its `Capabilities`, checked by
`require` before the first resource is declared: a combination that a cloud does not sell fails at
preview with every reason, not at apply with the first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from ipaddress import IPv4Network
from typing import Any, Protocol

import pulumi

from infra import cidr, naming


class Capacity(StrEnum):
    """How a node is bought. Not its size, and not how long it lives."""

    SPOT = "spot"
    ON_DEMAND = "on-demand"


class Internet(StrEnum):
    """How nodes reach the internet. Nothing ever reaches nodes from it."""

    NONE = "none"
    """Only the VPN and private endpoints: images come from the cloud's own registry."""
    NAT = "nat"
    """One NAT gateway per zone."""


class UnsupportedBurstError(ValueError):
    """The cloud cannot do what the settings ask; the message gives every reason."""


@dataclass(frozen=True, kw_only=True)
class GpuType:
    """One instance type as its cloud sells it."""

    gpus: int
    gpu: str
    memory_gib: int
    """Memory of one GPU, GiB."""
    capacity: frozenset[Capacity] = frozenset(Capacity)


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What one cloud sells, as of `read`."""

    cloud: str
    read: date
    zones: Mapping[str, tuple[str, ...]]
    """Region -> its availability zones that hold managed Kubernetes."""
    gpu_types: Mapping[str, GpuType]
    kubernetes: Mapping[str, date]
    """Version -> last day of the cloud's standard support."""
    internet: frozenset[Internet]
    service_prefixes: range
    """Prefix lengths accepted for the cluster's service range."""
    tunnels_per_connection: int
    """How many VPN tunnels end in different places for one connection."""
    bgp_over_vpn: bool
    bfd_over_vpn: bool


@dataclass(frozen=True, kw_only=True)
class GpuPool:
    """GPU nodes that start at zero: spot first, on-demand when spot is out, up to a ceiling."""

    name: str
    instance_types: tuple[str, ...]
    max_spot_gpus: int
    max_on_demand_gpus: int
    idle_minutes: int = 10
    """A node without jobs is given back after this time."""
    expire_hours: int = 168
    """No node lives longer: patches arrive by replacement."""
    disk_gib: int = 200

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", self.name):
            raise ValueError(f"pool name {self.name!r}; use a lower-case DNS label up to 31 long")
        if not self.instance_types:
            raise ValueError(f"pool {self.name} lists no instance types; allow at least one")
        if min(self.max_spot_gpus, self.max_on_demand_gpus) < 0 or self.ceiling == 0:
            raise ValueError(
                f"pool {self.name} allows {self.max_spot_gpus} spot and "
                f"{self.max_on_demand_gpus} on-demand GPUs; give 0 or more of each, not 0 of both"
            )
        if self.idle_minutes < 1 or self.expire_hours < 1 or self.disk_gib < 50:
            raise ValueError(f"pool {self.name}: idle >= 1 min, expiry >= 1 h, disk >= 50 GiB")

    @property
    def ceiling(self) -> int:
        """GPUs that this pool may hold at once, both kinds together."""
        return self.max_spot_gpus + self.max_on_demand_gpus


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A service account in the cloud cluster and the artefact prefixes it may use."""

    namespace: str
    service_account: str
    reads: tuple[str, ...]
    writes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Autoscaler:
    """Where the site's node autoscaler is installed from."""

    charts: str
    """OCI address below which its Helm charts lie."""
    version: str
    """Of the charts, and of the controller unless `image` names another."""
    image: str | None = None
    """`repository@sha256:…` of a copy; None for the one that the chart names."""

    def __post_init__(self) -> None:
        if not self.charts.startswith("oci://"):
            raise ValueError(f"charts is {self.charts}; give an OCI address, oci://…")
        if self.image is not None and not re.search(r"@sha256:[0-9a-f]{64}$", self.image):
            raise ValueError(f"image is {self.image}; pin it by its digest, @sha256:…")


@dataclass(frozen=True, kw_only=True)
class DevicePlugin:
    """Who tells Kubernetes of a node's GPUs: the nodes' images bring driver and runtime only."""

    charts: str
    """Where its Helm chart lies: an OCI address, or a chart repository's."""
    version: str
    image: str | None = None
    """`repository@sha256:…` of a copy; None for the one that the chart names."""

    def __post_init__(self) -> None:
        if not self.charts.startswith(("oci://", "https://")):
            raise ValueError(f"charts is {self.charts}; give an address, oci://… or https://…")
        if self.image is not None and not re.search(r"@sha256:[0-9a-f]{64}$", self.image):
            raise ValueError(f"image is {self.image}; pin it by its digest, @sha256:…")


@dataclass(frozen=True, kw_only=True)
class BurstArgs:
    """One cloud site. Plain values only, so that a preview knows every name and policy."""

    identity: naming.Identity
    account: str
    """The account that pays; also keeps a wrong credential from touching another one."""
    region: str
    zones: tuple[str, ...]
    kubernetes_version: str
    vpc_cidr: IPv4Network
    service_cidr: IPv4Network
    site_cidrs: Mapping[str, IPv4Network]
    """The private site's declared ranges by name: nodes, pods, services."""
    site_ports: Mapping[str, int] = field(default_factory=dict[str, int])
    """TCP services of the private site that jobs call beside TLS, Vault and events, by name."""
    admin_principals: tuple[str, ...]
    """Who may administer the cluster (role ARNs on AWS)."""
    gpu_pools: tuple[GpuPool, ...]
    node_image: str
    """Pinned image of the burst nodes, `family@version`."""
    autoscaler: Autoscaler
    device_plugin: DevicePlugin
    workloads: tuple[Workload, ...] = ()
    repositories: tuple[str, ...] = ("bento",)
    monthly_budget_usd: int
    alert_emails: tuple[str, ...]
    internet: Internet = Internet.NONE
    system_instance_types: tuple[str, ...] = ("m7i.large", "m6i.large")
    system_nodes: int = 3
    extra_endpoints: tuple[str, ...] = ()
    """Further private endpoints of the cloud's services, by the cloud's short name."""
    log_days: int = 365
    today: date = field(default_factory=date.today)

    def __post_init__(self) -> None:
        if not self.site_cidrs:
            raise ValueError("site_cidrs is empty; declare the private site's ranges by name")
        if not self.admin_principals:
            raise ValueError("admin_principals is empty; nobody could administer the cluster")
        if not self.alert_emails or self.monthly_budget_usd < 1:
            raise ValueError("a budget needs an amount of 1 USD or more and an address to warn")
        if len({pool.name for pool in self.gpu_pools}) != len(self.gpu_pools):
            raise ValueError("two GPU pools share a name; name each one once")

    @property
    def declared_ranges(self) -> dict[str, IPv4Network]:
        """Every range that the link may carry, for the overlap check."""
        return {
            **{f"site {name}": net for name, net in self.site_cidrs.items()},
            "cloud vpc": self.vpc_cidr,
            "cloud services": self.service_cidr,
        }


@dataclass(frozen=True, kw_only=True)
class BurstOutputs:
    """What the rest of the program may know of a cloud site."""

    cluster_name: str
    api_endpoint: pulumi.Output[str]
    kubeconfig: pulumi.Output[str]
    """Secret. Holds no token: credentials are fetched per call by the cloud's own client."""
    network_id: pulumi.Output[str]
    route_table_ids: Mapping[str, pulumi.Output[str]]
    """Zone -> route table of its nodes, where the link's routes must appear."""
    artefacts_bucket: pulumi.Output[str]
    backups_bucket: pulumi.Output[str]
    repository_urls: Mapping[str, pulumi.Output[str]]
    alerts_topic: pulumi.Output[str]
    logs_key: pulumi.Output[str]
    """Key for further log groups under this site's prefix."""


class BurstCloud(Protocol):
    """A component that makes one cloud site; constructed as `(name, args, opts)`."""

    outputs: BurstOutputs


def unsupported(args: BurstArgs, can: Capabilities) -> list[str]:
    """Every reason why this cloud cannot do what `args` ask; empty when it can."""
    return [
        *_wrong_place(args, can),
        *_wrong_ranges(args, can),
        *(reason for pool in args.gpu_pools for reason in wrong_pool(pool, can)),
    ]


def require(args: BurstArgs, can: Capabilities) -> None:
    """Raise `UnsupportedBurstError` with every reason; call before declaring any resource."""
    if reasons := unsupported(args, can):
        listed = "\n  - ".join(reasons)
        raise UnsupportedBurstError(
            f"{can.cloud} cannot do this (as read on {can.read}):\n  - {listed}"
        )


def _wrong_place(args: BurstArgs, can: Capabilities) -> list[str]:
    reasons: list[str] = []
    known = can.zones.get(args.region)
    if known is None:
        reasons.append(f"region {args.region} is not one of {', '.join(sorted(can.zones))}")
    elif extra := sorted(set(args.zones) - set(known)):
        reasons.append(f"{', '.join(extra)}: {args.region} has {', '.join(known)}")
    if not 2 <= len(args.zones) <= 7 or len(set(args.zones)) != len(args.zones):
        reasons.append(f"zones {list(args.zones)}: the control plane needs 2 to 7 different zones")
    last = can.kubernetes.get(args.kubernetes_version)
    if last is None:
        offered = ", ".join(sorted(can.kubernetes))
        reasons.append(f"Kubernetes {args.kubernetes_version} is not offered; use {offered}")
    elif last < args.today:
        reasons.append(f"Kubernetes {args.kubernetes_version}: standard support ended on {last}")
    if args.internet not in can.internet:
        reasons.append(f"internet={args.internet} is not offered")
    parts = {"autoscaler": args.autoscaler.image}
    if args.gpu_pools:
        parts["device-plugin"] = args.device_plugin.image
    reasons += [
        f"internet=none and {part}.image is unset: nodes reach this account's registry only; "
        "copy the image there and give its address with the digest"
        for part, image in parts.items()
        if args.internet is Internet.NONE and image is None
    ]
    return reasons


def _wrong_ranges(args: BurstArgs, can: Capabilities) -> list[str]:
    reasons = [str(clash) for clash in cidr.clashes(args.declared_ranges)]
    reasons += [
        f"{name} {net} is not a private range"
        for name, net in args.declared_ranges.items()
        if not cidr.private(net)
    ]
    if args.service_cidr.prefixlen not in can.service_prefixes:
        low, high = can.service_prefixes.start, can.service_prefixes.stop - 1
        reasons.append(f"service range {args.service_cidr} must be between /{low} and /{high}")
    try:
        cidr.subnet_layout(args.vpc_cidr, args.zones)
    except cidr.CidrError as error:
        reasons.append(str(error))
    return reasons


def wrong_pool(pool: GpuPool, can: Capabilities) -> list[str]:
    """Every reason why this cloud cannot hold `pool`."""
    known = {name: can.gpu_types[name] for name in pool.instance_types if name in can.gpu_types}
    offered = ", ".join(sorted(can.gpu_types))
    reasons = [
        f"pool {pool.name}: {name} is not one of {offered}"
        for name in pool.instance_types
        if name not in known
    ]
    for kind, most in (
        (Capacity.SPOT, pool.max_spot_gpus),
        (Capacity.ON_DEMAND, pool.max_on_demand_gpus),
    ):
        sold = {name: each for name, each in known.items() if kind in each.capacity}
        if not most or not known:
            continue
        if not sold:
            reasons.append(f"pool {pool.name}: {', '.join(known)} is not sold as {kind}")
        elif not any(each.gpus <= most for each in sold.values()):
            reasons.append(
                f"pool {pool.name}: the {kind} ceiling of {most} GPUs is below one "
                f"{min(sold, key=lambda name: sold[name].gpus)}"
            )
    return reasons


def usable_types(pool: GpuPool, kind: Capacity, can: Capabilities) -> tuple[str, ...]:
    """The pool's instance types that are sold as `kind` and fit under its ceiling."""
    most = pool.max_spot_gpus if kind is Capacity.SPOT else pool.max_on_demand_gpus
    return tuple(
        name
        for name in pool.instance_types
        if kind in can.gpu_types[name].capacity and can.gpu_types[name].gpus <= most
    )


def dump(document: Mapping[str, Any] | Sequence[Any]) -> str:
    """Canonical JSON, so that a second preview shows no change."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"))
