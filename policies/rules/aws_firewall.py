"""AWS firewalls: what security groups let in and out, and what they say about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from policies.networks import (
    EGRESS_KINDS,
    EGRESS_RULE,
    GROUP,
    INGRESS_KINDS,
    INGRESS_RULE,
    RULE,
    Network,
    Opening,
    group_rules,
    merged,
    network,
    opening,
)
from policies.pods import Findings
from policies.resource import Resource
from policies.rule import Context, Finding, Missing, Option, Severity, each, rule
from policies.samples import resource as res
from policies.values import UnknownValue, raw, text

CUSTOMER_GATEWAY = "aws:ec2/customerGateway:CustomerGateway"
WORLD, WORLD6 = "0.0.0.0/0", "::/0"


def _in(protocol: str, low: int, high: int, *ranges: str) -> dict[str, Any]:
    return {
        "protocol": protocol, "fromPort": low, "toPort": high, "cidrBlocks": list(ranges),
        "description": "sample",
    }  # fmt: skip


def _group(*ingress: dict[str, Any], **more: Any) -> dict[str, Any]:
    return res(GROUP, description="sample", ingress=list(ingress), **more)


def _rule(protocol: str, low: int, high: int, *ranges: str, way: str = "ingress") -> dict[str, Any]:
    return res(RULE, type=way, securityGroupId="sg-1", **_in(protocol, low, high, *ranges))


def _ingress(protocol: str, **fields: Any) -> dict[str, Any]:
    return res(INGRESS_RULE, securityGroupId="sg-1", ipProtocol=protocol, **fields)


def _openings(resource: Resource, direction: str) -> Iterator[Opening | Missing]:
    found: list[Opening] = []
    try:
        for block, where in group_rules(resource, direction):
            try:
                found.append(opening(block, where))
            except UnknownValue as missing:
                yield Missing(f"{where}.{missing}")
    except UnknownValue as missing:
        yield Missing(str(missing))
    yield from merged(found)


def _judge(resource: Resource, direction: str, bad: Callable[[Opening], bool]) -> Iterator[Finding]:
    """A finding for each opening that is bad and that the world can use."""
    for entry in _openings(resource, direction):
        if isinstance(entry, Missing):
            yield entry
        elif bad(entry):
            try:
                if entry.from_world:
                    yield entry.shown
            except UnknownValue as missing:
                yield Missing(f"{entry.where}.{missing}")


@rule(
    "aws-sg-world-all-ports",
    "The Internet may not reach every port",
    Severity.CRITICAL,
    anchors="CKV_AWS_277, AWS-0107, EC2.18",
    applies=INGRESS_KINDS,
    fix="Name the ports and the ranges that need them.",
    allowed=[
        _group(_in("tcp", 443, 443, WORLD)),
        _group(_in("-1", 0, 0, "10.0.0.0/8")),
        _ingress("icmp", fromPort=-1, toPort=-1, cidrIpv4=WORLD),
    ],
    refused=[
        _group(_in("-1", 0, 0, WORLD)),
        _rule("tcp", 0, 65535, WORLD6),
        _ingress("-1", cidrIpv4=WORLD),
        _group(_in("-1", 0, 0, "0.0.0.0/1"), _in("-1", 0, 0, "128.0.0.0/1")),
    ],
)
def world_all_ports(resource: Resource, _: Context) -> Findings:
    yield from _judge(resource, "ingress", lambda entry: entry.every_port)


@rule(
    "aws-sg-world-ssh",
    "The Internet may not reach SSH",
    Severity.CRITICAL,
    anchors="CKV_AWS_24, EC2.13, AWS-0107",
    applies=INGRESS_KINDS,
    fix="Use Session Manager, or name the ranges that administrators come from.",
    allowed=[_group(_in("tcp", 22, 22, "10.1.0.0/16")), _group(_in("tcp", 443, 443, WORLD))],
    refused=[
        _group(_in("tcp", 22, 22, WORLD)),
        _rule("tcp", 20, 30, WORLD),
        _ingress("tcp", fromPort=22, toPort=22, cidrIpv6=WORLD6),
        _group(_in("6", 0, 1024, "0.0.0.0/1", "128.0.0.0/1")),
    ],
)
def world_ssh(resource: Resource, _: Context) -> Findings:
    yield from _judge(resource, "ingress", lambda entry: entry.opens(22, "tcp"))


@rule(
    "aws-sg-world-rdp",
    "The Internet may not reach remote desktops",
    Severity.CRITICAL,
    anchors="CKV_AWS_25, EC2.14, AWS-0107",
    applies=INGRESS_KINDS,
    fix="Use Session Manager, or name the ranges that administrators come from.",
    allowed=[_group(_in("tcp", 3389, 3389, "10.1.0.0/16"))],
    refused=[_group(_in("tcp", 3389, 3389, WORLD)), _rule("-1", 0, 0, WORLD)],
)
def world_rdp(resource: Resource, _: Context) -> Findings:
    yield from _judge(resource, "ingress", lambda entry: entry.opens(3389, "tcp", "udp"))


@rule(
    "aws-sg-world-http",
    "The Internet may not reach plain HTTP",
    Severity.MEDIUM,
    anchors="CKV_AWS_260",
    applies=INGRESS_KINDS,
    fix="Open 443 only; let the load balancer redirect inside.",
    allowed=[_group(_in("tcp", 443, 443, WORLD)), _group(_in("tcp", 80, 80, "10.0.0.0/8"))],
    refused=[_group(_in("tcp", 80, 80, WORLD)), _rule("tcp", 1, 1024, WORLD6)],
)
def world_http(resource: Resource, _: Context) -> Findings:
    yield from _judge(resource, "ingress", lambda entry: entry.opens(80, "tcp"))


HIGH_RISK = (
    20, 21, 22, 23, 25, 110, 135, 143, 445, 1433, 1434, 2379, 2380, 3000, 3306, 3389, 4333, 5000,
    5432, 5500, 5601, 6379, 6443, 8080, 8088, 8200, 8888, 9200, 9300, 10250, 11211, 27017,
)  # fmt: skip


@rule(
    "aws-sg-world-high-risk-ports",
    "The Internet may not reach databases, control planes and development servers",
    Severity.HIGH,
    anchors="EC2.19",
    applies=INGRESS_KINDS,
    config={"ports": Option(list(HIGH_RISK), "array", "Ports that the world may never reach.")},
    fix="Keep the port inside the network, or name the ranges that need it.",
    allowed=[_group(_in("tcp", 443, 443, WORLD)), _group(_in("tcp", 5432, 5432, "10.0.0.0/8"))],
    refused=[
        _group(_in("tcp", 10250, 10250, WORLD)),
        _ingress("tcp", fromPort=6443, toPort=6443, cidrIpv4=WORLD),
        _rule("tcp", 8000, 9000, WORLD),
    ],
)
def world_high_risk(resource: Resource, context: Context) -> Findings:
    ports = [port for port in context["ports"] if isinstance(port, int)]
    yield from _judge(
        resource, "ingress", lambda entry: any(entry.opens(port, "tcp", "udp") for port in ports)
    )


TUNNEL_PORTS = (500, 4500, 51820)


def _peers(context: Context) -> set[Network]:
    known = [network(value) for value in context["peers"]]
    known += [
        network(raw(gateway.props, "ipAddress")) for gateway in context.stack.of(CUSTOMER_GATEWAY)
    ]
    return {net for net in known if net is not None}


@rule(
    "aws-sg-tunnel-peers",
    "Tunnel ports open to known peers only",
    Severity.HIGH,
    anchors="own rule, EC2.18",
    applies=INGRESS_KINDS,
    config={"peers": Option([], "array", "Peer addresses beside the stack's customer gateways.")},
    fix="Let UDP 500, 4500 and 51820 in from the peer's own address (/32 or /128) only.",
    allowed=[
        _group(_in("udp", 500, 500, "203.0.113.10/32")),
        [
            _group(_in("udp", 4500, 4500, "203.0.113.10/32")),
            res(CUSTOMER_GATEWAY, ipAddress="203.0.113.10", bgpAsn="65010", type="ipsec.1"),
        ],
        _group(_in("tcp", 443, 443, WORLD)),
    ],
    refused=[
        _group(_in("udp", 500, 500, WORLD)),
        _group(_in("udp", 4500, 4500, "203.0.113.0/24")),
        _rule("17", 51820, 51820, WORLD6),
        [
            _group(_in("udp", 4500, 4500, "203.0.113.99/32")),
            res(CUSTOMER_GATEWAY, ipAddress="203.0.113.10", bgpAsn="65010", type="ipsec.1"),
        ],
    ],
)
def tunnel_peers(resource: Resource, context: Context) -> Findings:
    peers = _peers(context)
    for entry in _openings(resource, "ingress"):
        if isinstance(entry, Missing):
            yield entry
            continue
        if not any(entry.opens(port, "udp") for port in TUNNEL_PORTS):
            continue
        if entry.protocol == "all" and not entry.ranges:
            continue
        for text_ in entry.ranges:
            net = network(text_)
            if net is None:
                continue
            inside = entry.protocol == "all" and net.is_private and net.prefixlen > 0
            if inside:  # every protocol within the network is another rule's question
                continue
            if net.prefixlen < net.max_prefixlen:
                yield f"{entry.where}: {text_} is a range; give the peer's address"
            elif peers and net not in peers:
                yield f"{entry.where}: {text_} is no declared peer"
        if entry.missing:
            yield Missing(f"{entry.where}.{entry.missing}")


@rule(
    "aws-sg-world-egress",
    "A group may not talk to everyone about everything",
    Severity.CRITICAL,
    anchors="CKV_AWS_382, AWS-0104",
    applies=EGRESS_KINDS,
    fix="Name the ports and ranges (or prefix lists) that the members need.",
    allowed=[
        res(GROUP, description="d", egress=[_in("tcp", 443, 443, WORLD)]),
        res(GROUP, description="d", egress=[_in("-1", 0, 0, "10.0.0.0/8")]),
        _rule("-1", 0, 0, "10.0.0.0/8", way="egress"),
    ],
    refused=[
        res(GROUP, description="d", egress=[_in("-1", 0, 0, WORLD)]),
        _rule("-1", 0, 0, WORLD6, way="egress"),
        res(EGRESS_RULE, securityGroupId="sg-1", ipProtocol="-1", cidrIpv4=WORLD),
        res(GROUP, description="d", egress=[_in("-1", 0, 0, "0.0.0.0/1", "128.0.0.0/1")]),
    ],
)
def world_egress(resource: Resource, _: Context) -> Findings:
    yield from _judge(resource, "egress", lambda entry: entry.every_port)


_EMPTY_WORDS = frozenset({"", "managed by pulumi", "managed by terraform"})


@rule(
    "aws-sg-description",
    "A security group says what it is for",
    Severity.LOW,
    anchors="CKV_AWS_23, AWS-0099",
    applies=[GROUP],
    fix="Set description.",
    allowed=[_group()],
    refused=[res(GROUP), res(GROUP, description=" "), res(GROUP, description="Managed by Pulumi")],
)
def group_description(resource: Resource, _: Context) -> Findings:
    if text(resource.props, "description").strip().lower() in _EMPTY_WORDS:
        yield "description is empty"


@rule(
    "aws-sg-rule-description",
    "Every firewall rule says what it is for",
    Severity.LOW,
    anchors="CKV_AWS_23, AWS-0124",
    applies={GROUP, RULE, INGRESS_RULE, EGRESS_RULE},
    fix="Set description on the rule.",
    allowed=[_group(_in("tcp", 443, 443, WORLD)), _rule("tcp", 443, 443, WORLD)],
    refused=[
        _group({"protocol": "tcp", "fromPort": 443, "toPort": 443, "cidrBlocks": [WORLD]}),
        _ingress("tcp", fromPort=443, toPort=443, cidrIpv4=WORLD),
    ],
)
def rule_description(resource: Resource, _: Context) -> Findings:
    for direction in ("ingress", "egress"):

        def judge(entry: tuple[Any, str]) -> Findings:
            if not text(entry[0], "description").strip():
                yield f"{entry[1]} has no description"

        yield from each(group_rules(resource, direction), judge)
