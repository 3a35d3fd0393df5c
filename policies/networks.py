"""Address ranges, ports and the many shapes in which AWS resources write a firewall rule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import (
    IPv4Network,
    IPv6Network,
    collapse_addresses,
    ip_network,
)
from typing import Any

from policies.resource import Resource
from policies.values import Unknown, UnknownValue, flag, maps, number, raw, text

Network = IPv4Network | IPv6Network
GROUP = "aws:ec2/securityGroup:SecurityGroup"
DEFAULT_GROUP = "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup"
RULE = "aws:ec2/securityGroupRule:SecurityGroupRule"
INGRESS_RULE = "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule"
EGRESS_RULE = "aws:vpc/securityGroupEgressRule:SecurityGroupEgressRule"
INGRESS_KINDS = frozenset({GROUP, DEFAULT_GROUP, RULE, INGRESS_RULE})
EGRESS_KINDS = frozenset({GROUP, DEFAULT_GROUP, RULE, EGRESS_RULE})
_ALL_PROTOCOLS = frozenset({"-1", "all", "any", ""})
_PROTOCOLS = {"6": "tcp", "17": "udp", "1": "icmp", "58": "icmpv6"}


def network(value: Any) -> Network | None:
    """The range that a text names (host bits ignored), `None` when it names none."""
    if not isinstance(value, str):
        return None
    try:
        return ip_network(value.strip(), strict=False)
    except ValueError:
        return None


def covers_world(ranges: Iterable[str]) -> bool:
    """Whether ranges together hold the Internet: 0.0.0.0/0, ::/0, 2000::/3, or their halves.

    >>> covers_world(["0.0.0.0/1", "128.0.0.0/1"]), covers_world(["10.0.0.0/8"])
    (True, False)
    """
    found = [net for net in map(network, ranges) if net is not None]
    for version, widest in ((4, 1), (6, 3)):
        same: list[Any] = [net for net in found if net.version == version]
        if any(net.prefixlen <= widest for net in collapse_addresses(same)):
            return True
    return False


@dataclass(frozen=True, slots=True)
class Opening:
    """One firewall rule: protocol, ports (inclusive) and the ranges that it lets through.

    `protocol` is `all`, a lower-case name or a number as text. `ranges` holds the known ranges;
    `missing` names what is not known or cannot be looked into (a prefix list).
    """

    protocol: str
    low: int
    high: int
    ranges: tuple[str, ...]
    missing: str
    description: str
    where: str

    @property
    def every_port(self) -> bool:
        """Whether it opens all there is: every protocol, or every port of one."""
        has_ports = self.protocol in {"tcp", "udp"}
        return self.protocol == "all" or (has_ports and self.low <= 1 and self.high >= 65535)

    def opens(self, port: int, *protocols: str) -> bool:
        """Whether it lets this port through, for one of the protocols."""
        return self.protocol == "all" or (
            self.protocol in protocols and self.low <= port <= self.high
        )

    @property
    def from_world(self) -> bool:
        """Whether the known ranges hold the Internet. Raises `UnknownValue` when undecided."""
        if covers_world(self.ranges):
            return True
        if self.missing:
            raise UnknownValue(self.missing)
        return False

    @property
    def shown(self) -> str:
        """`tcp 22-22 from 0.0.0.0/0`."""
        ports = "" if self.protocol == "all" else f" {self.low}-{self.high}"
        return f"{self.where}: {self.protocol}{ports} with {', '.join(self.ranges) or 'no range'}"


def _protocol(value: Any) -> str:
    if isinstance(value, Unknown):
        raise UnknownValue("protocol")
    name = str(value).lower() if value is not None else ""
    if name.endswith(".0"):
        name = name[:-2]
    return "all" if name in _ALL_PROTOCOLS else _PROTOCOLS.get(name, name)


def _ports(block: Mapping[str, Any]) -> tuple[int, int]:
    low, high = number(block, "fromPort"), number(block, "toPort")
    if low is None and high is None:
        return 0, 65535
    start = int(low if low is not None else high or 0)
    end = int(high if high is not None else start)
    # nobody opens port 0 alone: who writes 0 to 0 means every port, as protocol -1 has it
    return (0, 65535) if -1 in (start, end) or start == end == 0 else (start, end)


def _ranges(block: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    found: list[str] = []
    missing = ""
    for key in (
        "cidrBlocks",
        "ipv6CidrBlocks",
        "cidrIpv4",
        "cidrIpv6",
        "cidrBlock",
        "ipv6CidrBlock",
    ):
        value = raw(block, key)
        elements = value if isinstance(value, list) else [value]
        for element in elements:
            if isinstance(element, Unknown):
                missing = key
            elif isinstance(element, str):
                found.append(element)
    for key in ("prefixListIds", "prefixListId"):
        if raw(block, key):
            missing = missing or f"the ranges of {key} {raw(block, key)}"
        elif isinstance(raw(block, key), Unknown):
            missing = missing or key
    return tuple(found), missing


def opening(block: Mapping[str, Any], where: str) -> Opening:
    """A firewall rule from any of its shapes. Raises `UnknownValue` on an unknown port."""
    protocol = _protocol(
        raw(block, "ipProtocol") if "ipProtocol" in block else raw(block, "protocol")
    )
    low, high = (0, 65535) if protocol == "all" else _ports(block)
    ranges, missing = _ranges(block)
    described = raw(block, "description")
    return Opening(
        protocol, low, high, ranges, missing, described if isinstance(described, str) else "", where
    )


def group_rules(resource: Resource, direction: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    """The blocks of one direction (`ingress`, `egress`) that a resource writes, and where."""
    if resource.kind in {GROUP, DEFAULT_GROUP}:
        for position, block in enumerate(maps(resource.props, direction)):
            yield block, f"{direction}[{position}]"
    elif resource.kind == RULE:
        if text(resource.props, "type") == direction:
            yield resource.props, direction
    elif resource.kind == (INGRESS_RULE if direction == "ingress" else EGRESS_RULE):
        yield resource.props, direction


def merged(openings: list[Opening]) -> list[Opening]:
    """Openings with equal protocol and ports as one, so that halves of the world meet."""
    groups: dict[tuple[str, int, int], list[Opening]] = {}
    for entry in openings:
        groups.setdefault((entry.protocol, entry.low, entry.high), []).append(entry)
    return [
        Opening(
            *key,
            ranges=tuple(dict.fromkeys(r for entry in group for r in entry.ranges)),
            missing=next((entry.missing for entry in group if entry.missing), ""),
            description=group[0].description,
            where=" and ".join(entry.where for entry in group),
        )
        for key, group in groups.items()
    ]


def acl_entries(resource: Resource) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Inbound allow entries of a network ACL or of one of its rules."""
    if resource.kind == "aws:ec2/networkAclRule:NetworkAclRule":
        if not flag(resource.props, "egress") and text(resource.props, "ruleAction") == "allow":
            yield resource.props, "rule"
        return
    for position, block in enumerate(maps(resource.props, "ingress")):
        if text(block, "action").lower() == "allow":
            yield block, f"ingress[{position}]"


def declared(values: Iterable[Any]) -> list[str]:
    """Texts only."""
    return [value for value in values if isinstance(value, str)]
