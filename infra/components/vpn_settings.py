"""The settings of one link, from which both of its ends are made: pure values and checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network
from typing import Literal

from infra import cidr

IP_UDP_HEADER = 28  # IPv4 20 and UDP 8: ESP travels in UDP so that any NAT lets it pass
ESP_GCM_OVERHEAD = 8 + 8 + 2 + 16  # SPI and sequence, IV, trailer, ICV
INSIDE_MTU = 1400
"""MTU of a tunnel. 1438 would fit, but a userspace ESP reads at most 1400 bytes: larger packets
vanish without an error (measured), and one value for every kind of gateway cannot drift."""


class DataPath(StrEnum):
    """Who encrypts on the private gateway. Not what is negotiated: that is always the same."""

    XFRM = "xfrm"
    """The kernel, through one XFRM interface per tunnel: production."""
    LIBIPSEC = "libipsec"
    """strongSwan itself on a TUN device, one daemon per tunnel: kernels without ESP."""


@dataclass(frozen=True, kw_only=True)
class Timers:
    """BGP timers of both tunnels, seconds. AWS keeps 10 and 30 for its own side."""

    keepalive: int = 10
    hold: int = 30

    def __post_init__(self) -> None:
        if self.keepalive < 1 or self.hold < 3 * self.keepalive:
            raise ValueError(
                f"BGP timers {self.keepalive}/{self.hold}: hold must be three keepalives or more"
            )


@dataclass(frozen=True, kw_only=True)
class LinkSettings:
    """One link of two tunnels. Tunnel 1 carries the traffic while it is up."""

    gateway_address: IPv4Address
    """The private gateway as the internet sees it."""
    local_address: IPv4Address | None = None
    """The gateway's own address when a NAT stands before it."""
    site_asn: int
    cloud_asn: int = 64512
    inside: tuple[IPv4Network, IPv4Network]
    """The /30 inside each tunnel."""
    announced: Mapping[str, IPv4Network]
    """Site ranges by name: the only ones that the cloud learns."""
    accepted: Mapping[str, IPv4Network]
    """Cloud ranges by name: the only ones that the site learns."""
    timers: Timers = Timers()
    bfd: bool = False
    """Sub-second detection; only where the cloud end speaks it (AWS does not)."""
    data_path: DataPath = DataPath.XFRM
    routing: Literal["bgp", "static"] = "bgp"
    static_reason: str | None = None
    """Why BGP cannot be used; a static link notices a dead tunnel by DPD alone."""
    key_step: int = 0
    """Raise by one to give one tunnel a new key: odd steps tunnel 1, even steps tunnel 2."""

    def __post_init__(self) -> None:
        cidr.tunnel_ends(self.inside)
        cidr.require_disjoint(self.ranges)
        for what, asn in (("site_asn", self.site_asn), ("cloud_asn", self.cloud_asn)):
            if not (64512 <= asn <= 65534 or 4_200_000_000 <= asn <= 4_294_967_294):
                raise ValueError(f"{what} is {asn}; use a private one: 64512-65534 or 4200000000+")
        if self.site_asn == self.cloud_asn:
            raise ValueError(f"both ends use AS {self.site_asn}; eBGP needs two different ones")
        if not self.announced or not self.accepted:
            raise ValueError("announced and accepted must each name a range, or nothing is routed")
        if (self.routing == "static") != bool(self.static_reason):
            raise ValueError("static_reason must say why exactly when routing is static")
        if self.bfd and self.routing == "static":
            raise ValueError("bfd watches BGP sessions; a static link has none")
        if self.key_step < 0:
            raise ValueError(f"key_step is {self.key_step}; count up from 0")

    @property
    def ranges(self) -> dict[str, IPv4Network]:
        """Everything that is routed over or inside the link, by name."""
        return {
            **{f"site {name}": net for name, net in self.announced.items()},
            **{f"cloud {name}": net for name, net in self.accepted.items()},
            **{f"tunnel {i}": net for i, net in enumerate(self.inside, start=1)},
        }

    @property
    def own_address(self) -> IPv4Address:
        return self.local_address or self.gateway_address

    @property
    def key_versions(self) -> tuple[int, int]:
        """Key generation of each tunnel: one step changes exactly one of them."""
        return (self.key_step + 1) // 2, self.key_step // 2


@dataclass(frozen=True, kw_only=True)
class LinkDemand:
    """What a link must carry at peak, for the budget check."""

    replication_mbps: float
    """Steady: event mirror, checkpoints, features."""
    burst_gb: float
    """Data that must cross before a burst job can start, GB (10^9 bytes)."""
    burst_minutes: float
    """How long that may take."""

    @property
    def mbps(self) -> float:
        return self.replication_mbps + self.burst_gb * 8000 / (self.burst_minutes * 60)


def preflight(
    settings: LinkSettings, *, path_mtu: int, capacity_mbps: float, demand: LinkDemand
) -> list[str]:
    """Every reason why this link would fail in use; empty when it is fit.

    `path_mtu` is that of the internet path in bytes; `capacity_mbps` is what one tunnel carries
    (AWS: 1250), because after a failure one tunnel has to carry it all.
    """
    reasons = [str(clash) for clash in cidr.clashes(settings.ranges)]
    needed = INSIDE_MTU + IP_UDP_HEADER + ESP_GCM_OVERHEAD
    if path_mtu < needed:
        reasons.append(
            f"path MTU is {path_mtu}; a full {INSIDE_MTU}-byte packet leaves as {needed} bytes and "
            "would be fragmented or lost: raise the path's MTU or ask the provider"
        )
    if demand.burst_minutes <= 0 or demand.burst_gb < 0 or demand.replication_mbps < 0:
        reasons.append("demand must not be negative and burst_minutes must be above 0")
    elif demand.mbps > capacity_mbps:
        reasons.append(
            f"peak demand is {demand.mbps:.0f} Mbit/s and one tunnel carries {capacity_mbps:.0f}: "
            f"allow {demand.burst_minutes * demand.mbps / capacity_mbps:.0f} minutes for the burst "
            "or send less data"
        )
    return reasons
