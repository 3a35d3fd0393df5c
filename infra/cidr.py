"""IPv4 arithmetic for two sites in one routing domain: overlap, subnets, tunnel addresses.

Pure functions on `ipaddress` objects. A VPN cannot route between ranges that overlap, so every
range of both sites (nodes, pods, services, VPC) is declared by name and checked together, and an
error lists every clash at once: found one by one, each costs a preview.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from itertools import combinations

LINK_LOCAL = IPv4Network("169.254.0.0/16")
AWS_RESERVED_TUNNEL_CIDRS = tuple(
    IPv4Network(net)
    for net in (
        "169.254.0.0/30",
        "169.254.1.0/30",
        "169.254.2.0/30",
        "169.254.3.0/30",
        "169.254.4.0/30",
        "169.254.5.0/30",
        "169.254.169.252/30",
    )
)
"""Inside CIDRs that AWS keeps for itself (Site-to-Site VPN user guide, tunnel options)."""
AWS_METADATA = IPv4Network("169.254.169.0/24")
"""Instance metadata, time and DNS of every EC2 host: a tunnel here would hide them."""

_NEVER_PUBLIC = tuple(
    IPv4Network(net)
    for net in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
        "172.16.0.0/12", "192.168.0.0/16", "224.0.0.0/3",
    )
)  # fmt: skip
_SUBNET_MIN = 28  # AWS accepts subnets from /16 to /28
_RESERVED_PER_SUBNET = 5  # AWS keeps the first four addresses and the last


class CidrError(ValueError):
    """Ranges that cannot work; the message lists each problem and what to write instead."""


@dataclass(frozen=True)
class Clash:
    """Two declared ranges that share addresses."""

    first: str
    second: str
    shared: IPv4Network

    def __str__(self) -> str:
        return f"{self.first} and {self.second} share {self.shared}"


def clashes(declared: Mapping[str, IPv4Network]) -> list[Clash]:
    """Every pair of declared ranges that overlap, in the order they were declared."""
    return [
        Clash(a, b, max(declared[a], declared[b], key=lambda net: net.prefixlen))
        for a, b in combinations(declared, 2)
        if declared[a].overlaps(declared[b])
    ]


def require_disjoint(declared: Mapping[str, IPv4Network]) -> None:
    """Raise `CidrError` naming every pair of ranges that overlap."""
    if found := clashes(declared):
        listed = "; ".join(
            f"{clash} ({declared[clash.first]} and {declared[clash.second]})" for clash in found
        )
        raise CidrError(
            f"a VPN cannot route ranges that overlap: {listed}. "
            "Give each name a private range that no other name uses."
        )


def private(net: IPv4Network) -> bool:
    """Whether a range lies inside RFC 1918 space (`is_private` alone also allows test ranges)."""
    return any(
        net.subnet_of(IPv4Network(block))
        for block in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
    )


def unreachable(address: IPv4Address) -> bool:
    """Whether an address can never be asked from the internet (test ranges stand for real ones)."""
    return any(address in net for net in _NEVER_PUBLIC)


@dataclass(frozen=True, kw_only=True)
class ZoneSubnets:
    """The three ranges of one availability zone."""

    zone: str
    nodes: IPv4Network
    """Nodes and, with the VPC CNI, their pods: most of the space."""
    control: IPv4Network
    """Control-plane interfaces and VPC endpoints: few addresses, apart from the pods' churn."""
    edge: IPv4Network
    """NAT gateways and load balancers that face the internet; made only when the VPC reaches it."""

    @property
    def usable_nodes(self) -> int:
        return self.nodes.num_addresses - _RESERVED_PER_SUBNET


def subnet_layout(vpc: IPv4Network, zones: Sequence[str]) -> tuple[ZoneSubnets, ...]:
    """Cut a VPC into `zones` equal node ranges plus small control and edge ranges.

    The VPC is cut in four quarters (in eight parts for more than three zones). Each zone takes one
    part for nodes; the last part holds the control ranges in its first half and the edge ranges in
    its last quarter. Adding a zone within a cut never moves another zone's subnet.
    Raises `CidrError` for repeated zones, or when a piece would fall under AWS's /28.
    """
    if not zones or len(set(zones)) != len(zones):
        raise CidrError(f"zones are {list(zones)}; name each zone once and at least one")
    if len(zones) > 7:
        raise CidrError(f"{len(zones)} zones are asked for; a VPC is laid out over at most 7")
    if not 16 <= vpc.prefixlen <= 28:
        raise CidrError(f"VPC {vpc} is a /{vpc.prefixlen}; AWS takes /16 to /28")
    bits = 2 if len(zones) <= 3 else 3
    if vpc.prefixlen + 2 * bits + 1 > _SUBNET_MIN:
        raise CidrError(
            f"VPC {vpc} is too small for {len(zones)} zones: a subnet would be smaller than "
            f"/{_SUBNET_MIN}; give /{_SUBNET_MIN - 2 * bits - 1} or larger"
        )
    parts = list(vpc.subnets(prefixlen_diff=bits))
    rest = list(parts[-1].subnets(prefixlen_diff=bits))
    # The rest is cut as finely as the VPC: control uses one piece per zone, and the last piece is
    # cut again for the edges, which need few addresses.
    edges = list(rest[-1].subnets(prefixlen_diff=bits)) if bits < 3 else None
    made: list[ZoneSubnets] = []
    for index, zone in enumerate(zones):
        if edges is not None:
            control, edge = rest[index], edges[index]
        else:
            control, edge = tuple(rest[index].subnets(prefixlen_diff=1))
        made.append(ZoneSubnets(zone=zone, nodes=parts[index], control=control, edge=edge))
    return tuple(made)


@dataclass(frozen=True, kw_only=True)
class TunnelEnds:
    """The two addresses inside one tunnel: AWS takes the first host, the customer the second."""

    inside: IPv4Network
    cloud: IPv4Address
    site: IPv4Address


def tunnel_ends(inside: Sequence[IPv4Network]) -> tuple[TunnelEnds, ...]:
    """The inside addresses of each tunnel, checked against AWS's rules.

    Raises `CidrError` naming every CIDR that is not a /30 of 169.254.0.0/16, is reserved, or is
    used twice.
    """
    wrong: list[str] = []
    for net in inside:
        if not net.subnet_of(LINK_LOCAL) or net.prefixlen != 30:
            wrong.append(f"{net} must be a /30 inside {LINK_LOCAL}")
        elif net in AWS_RESERVED_TUNNEL_CIDRS or net.overlaps(AWS_METADATA):
            wrong.append(f"{net} is reserved by AWS")
    wrong += [
        f"{a} and {b} overlap; every tunnel needs its own /30"
        for a, b in combinations(inside, 2)
        if a.overlaps(b)
    ]
    if wrong:
        raise CidrError("tunnel inside CIDRs: " + "; ".join(wrong))
    return tuple(TunnelEnds(inside=net, cloud=net[1], site=net[2]) for net in inside)
