"""The cloud half of a stack's settings: the burst site and the link to it. Plain, checked values.

What one cloud sells (zones, instance types, versions) is checked at preview by its own module; here
is what holds for any of them.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Frozen(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=lambda field: field.replace("_", "-")
    )


Label = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
Prefix = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9/-]*/$")]


class Pool(_Frozen):
    """GPU nodes that start at zero: spot first, then on demand, up to a ceiling."""

    name: Label
    instance_types: tuple[str, ...] = Field(min_length=1)
    max_spot_gpus: int = Field(ge=0)
    max_on_demand_gpus: int = Field(ge=0)
    idle_minutes: int = Field(default=10, ge=1)
    expire_hours: int = Field(default=168, ge=1)
    disk_gib: int = Field(default=200, ge=50)


class Karpenter(BaseModel):
    """Written by `stand up`: the cloud site's autoscaler and what it may order."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    zones: tuple[str, ...] = Field(min_length=1)
    types: tuple[str, ...] = Field(min_length=1)


class Access(_Frozen):
    """A service account in the cloud cluster and the artefact prefixes it may use."""

    namespace: Label
    service_account: Label
    reads: tuple[Prefix, ...] = ()
    writes: tuple[Prefix, ...] = ()


class Autoscaler(_Frozen):
    """Where Karpenter is installed from: the public charts, or copies of them."""

    charts: str = Field(default="oci://public.ecr.aws/karpenter", pattern=r"^oci://")
    version: str = Field(default="1.14.1", pattern=r"^\d+\.\d+\.\d+$")
    image: str | None = Field(default=None, pattern=r"^[^\s@]+@sha256:[0-9a-f]{64}$")
    """The controller's, by digest; needed where nodes reach no public registry."""


class DevicePlugin(_Frozen):
    """Where NVIDIA's device plugin is installed from: the public chart, or copies."""

    charts: str = Field(
        default="https://nvidia.github.io/k8s-device-plugin", pattern=r"^(oci|https)://"
    )
    version: str = Field(default="0.20.0", pattern=r"^\d+\.\d+\.\d+$")
    image: str | None = Field(default=None, pattern=r"^[^\s@]+@sha256:[0-9a-f]{64}$")
    """By digest; needed where nodes reach no public registry."""


class Burst(_Frozen):
    """One cloud site for peaks."""

    cloud: Literal["aws"] = "aws"
    account: str = Field(pattern=r"^\d{12}$")
    region: str
    zones: tuple[str, ...]
    kubernetes_version: str = Field(pattern=r"^1\.\d{2}$")
    vpc_cidr: IPv4Network
    service_cidr: IPv4Network
    admin_principals: tuple[str, ...] = Field(min_length=1)
    """Who may administer the cluster (role ARNs on AWS)."""
    gpu_pools: tuple[Pool, ...]
    node_image: str = Field(pattern=r"^[a-z0-9]+@v[0-9]+$")
    """Pinned image of the burst nodes, `family@version`."""
    autoscaler: Autoscaler = Autoscaler()
    device_plugin: DevicePlugin = DevicePlugin()
    workloads: tuple[Access, ...] = ()
    repositories: tuple[str, ...] = ("bento",)
    monthly_budget_usd: int = Field(ge=1)
    alert_emails: tuple[str, ...] = Field(min_length=1)
    internet: Literal["none", "nat"] = "none"
    """`none`: nodes reach private endpoints and the link only."""
    extra_endpoints: tuple[str, ...] = ()
    """More private endpoints, by AWS's short name: `elasticloadbalancing` for its controller."""
    log_days: int = Field(default=365, ge=1)


class Link(_Frozen):
    """Two tunnels between the private gateway and the burst site."""

    gateway_address: IPv4Address
    """The private gateway as the internet sees it."""
    local_address: IPv4Address | None = None
    """The gateway's own address when a NAT stands before it."""
    site_asn: int
    cloud_asn: int = 64512
    inside: tuple[IPv4Network, IPv4Network]
    """The /30 inside each tunnel."""
