"""AWS networks: firewall rules, subnets, VPCs and their logs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any

from policies.networks import (
    DEFAULT_GROUP,
    EGRESS_KINDS,
    EGRESS_RULE,
    GROUP,
    INGRESS_KINDS,
    INGRESS_RULE,
    RULE,
    Network,
    Opening,
    acl_entries,
    group_rules,
    merged,
    network,
    opening,
)
from policies.pods import Findings
from policies.resource import Resource
from policies.rule import Context, Finding, Missing, Option, Severity, each, rule
from policies.samples import resource as res
from policies.values import Unknown, UnknownValue, flag, raw, text

VPC = "aws:ec2/vpc:Vpc"
SUBNET = "aws:ec2/subnet:Subnet"
FLOW_LOG = "aws:ec2/flowLog:FlowLog"
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


@rule(
    "aws-vpc-default-group-empty",
    "The default security group lets nothing through",
    Severity.LOW,
    anchors="CKV2_AWS_12, AWS-0173, EC2.2",
    applies=[VPC, DEFAULT_GROUP],
    fix="Add an aws.ec2.DefaultSecurityGroup without rules for the VPC.",
    allowed=[
        [
            res(VPC, "main", cidrBlock="10.0.0.0/16"),
            res(DEFAULT_GROUP, "closed", vpcId="${main.id}"),
        ],
        res(DEFAULT_GROUP, vpcId="vpc-1", ingress=[], egress=[]),
    ],
    refused=[
        res(VPC, cidrBlock="10.0.0.0/16"),
        res(DEFAULT_GROUP, vpcId="vpc-1", ingress=[{"protocol": "-1", "self": True}]),
    ],
)
def default_group_empty(resource: Resource, context: Context) -> Findings:
    if resource.kind == DEFAULT_GROUP:
        for direction in ("ingress", "egress"):
            for _block, where in group_rules(resource, direction):
                yield f"{where} is a rule on the default group"
        return
    yield from _has_sibling(resource, context, DEFAULT_GROUP, "an empty default security group")


def _has_sibling(resource: Resource, context: Context, kind: str, what: str) -> Findings:
    answers = [context.stack.refers(other, "vpcId", resource) for other in context.stack.of(kind)]
    if True not in answers:
        yield Missing(f"vpcId of {what}") if None in answers else f"the VPC has no {what[3:]}"


@rule(
    "aws-vpc-flow-log",
    "Every VPC records its flows",
    Severity.MEDIUM,
    anchors="CKV2_AWS_11, AWS-0178, EC2.6",
    applies=[VPC],
    fix="Add an aws.ec2.FlowLog with trafficType ALL or REJECT for the VPC.",
    allowed=[
        [
            res(VPC, "main", cidrBlock="10.0.0.0/16"),
            res(FLOW_LOG, vpcId="${main.id}", trafficType="ALL"),
        ]
    ],
    refused=[
        res(VPC, cidrBlock="10.0.0.0/16"),
        [
            res(VPC, "main", cidrBlock="10.0.0.0/16"),
            res(FLOW_LOG, vpcId="${main.id}", trafficType="ACCEPT"),
        ],
        [
            res(VPC, "main", cidrBlock="10.0.0.0/16"),
            res(FLOW_LOG, vpcId="${other.id}", trafficType="ALL"),
        ],
    ],
)
def flow_log(resource: Resource, context: Context) -> Findings:
    answers: set[bool | None] = set()
    for log in context.stack.of(FLOW_LOG):
        traffic = raw(log.props, "trafficType")
        if isinstance(traffic, Unknown):
            answers.add(None)
        elif traffic in {"ALL", "REJECT"} if isinstance(traffic, str) else False:
            if raw(log.props, "vpcId") is None and not log.references.get("vpcId"):
                continue  # the log of a subnet or of an interface
            answers.add(context.stack.refers(log, "vpcId", resource))
    if True not in answers:
        yield (
            Missing("vpcId of a flow log")
            if None in answers
            else "no flow log with trafficType ALL or REJECT names this VPC"
        )


@rule(
    "aws-subnet-no-public-address",
    "A subnet gives out no public addresses by itself",
    Severity.HIGH,
    anchors="CKV_AWS_130, AWS-0164, EC2.15",
    applies=[SUBNET, "aws:ec2/defaultSubnet:DefaultSubnet"],
    fix="Set mapPublicIpOnLaunch to false.",
    allowed=[res(SUBNET, cidrBlock="10.0.0.0/24"), res(SUBNET, mapPublicIpOnLaunch=False)],
    refused=[res(SUBNET, mapPublicIpOnLaunch=True)],
)
def no_public_address(resource: Resource, _: Context) -> Findings:
    if flag(resource.props, "mapPublicIpOnLaunch"):
        yield "mapPublicIpOnLaunch is true"


@rule(
    "aws-no-default-vpc",
    "Nothing is built on the default VPC",
    Severity.HIGH,
    anchors="CKV_AWS_148, AWS-0101",
    applies=["aws:ec2/defaultVpc:DefaultVpc"],
    fix="Remove the DefaultVpc resource; declare a VPC of your own.",
    allowed=[res(VPC, cidrBlock="10.0.0.0/16")],
    refused=[res("aws:ec2/defaultVpc:DefaultVpc")],
)
def no_default_vpc(_: Resource, __: Context) -> Findings:
    yield "the default VPC is part of the stack"


@rule(
    "aws-network-acl-open",
    "A network ACL does not let the world in on administrators' ports",
    Severity.MEDIUM,
    anchors="CKV_AWS_352, AWS-0105, EC2.21",
    applies=[
        "aws:ec2/networkAcl:NetworkAcl",
        "aws:ec2/networkAclRule:NetworkAclRule",
        "aws:ec2/defaultNetworkAcl:DefaultNetworkAcl",
    ],
    fix="Allow named ports, or deny 22 and 3389 from the world.",
    allowed=[
        res(
            "aws:ec2/networkAclRule:NetworkAclRule",
            ruleAction="allow", protocol="tcp", fromPort=443, toPort=443, cidrBlock=WORLD,
        ),
        res(
            "aws:ec2/networkAclRule:NetworkAclRule",
            egress=True, ruleAction="allow", protocol="-1", cidrBlock=WORLD,
        ),
        res(
            "aws:ec2/networkAcl:NetworkAcl",
            ingress=[{"action": "deny", "protocol": "-1", "cidrBlock": WORLD}],
        ),
    ],
    refused=[
        res(
            "aws:ec2/networkAcl:NetworkAcl",
            ingress=[{"action": "allow", "protocol": "-1", "cidrBlock": WORLD}],
        ),
        res(
            "aws:ec2/networkAclRule:NetworkAclRule",
            ruleAction="allow", protocol="tcp", fromPort=22, toPort=22, ipv6CidrBlock=WORLD6,
        ),
    ],
)  # fmt: skip
def network_acl_open(resource: Resource, _: Context) -> Findings:
    def judge(entry: tuple[Any, str]) -> Findings:
        found = opening(*entry)
        opened = found.every_port or found.opens(22, "tcp") or found.opens(3389, "tcp", "udp")
        if opened and found.from_world:
            yield found.shown

    yield from each(acl_entries(resource), judge)


ROUTE = "aws:ec2/vpnConnectionRoute:VpnConnectionRoute"
CLUSTER = "aws:eks/cluster:Cluster"
_RANGE_FIELDS: dict[str, tuple[tuple[str, ...], ...]] = {
    VPC: (("cidrBlock",),),
    "aws:ec2/vpcIpv4CidrBlockAssociation:VpcIpv4CidrBlockAssociation": (("cidrBlock",),),
    SUBNET: (("cidrBlock",),),
    ROUTE: (("destinationCidrBlock",),),
    CLUSTER: (("kubernetesNetworkConfig", "serviceIpv4Cidr"),),
}


def _declared(resource: Resource) -> Iterator[Network]:
    for path in _RANGE_FIELDS[resource.kind]:
        value = raw(resource.props, *path)
        if isinstance(value, Unknown):
            raise UnknownValue(".".join(path))
        net = network(value)
        if net is not None and net.prefixlen > 0:
            yield net


def _inside_of(inner: Resource, outer: Resource, context: Context) -> bool:
    """Whether overlap is what one expects: a subnet (or a secondary range) and its VPC."""
    if outer.kind != VPC or inner.kind not in {
        SUBNET,
        *(_RANGE_FIELDS.keys() - {VPC, ROUTE, CLUSTER}),
    }:
        return False
    return context.stack.refers(inner, "vpcId", outer) is not False


def _strangers(one: Resource, other: Resource) -> bool:
    """Subnets of two VPCs are compared through their VPCs."""
    return (
        one.kind == other.kind == SUBNET
        and isinstance(raw(one.props, "vpcId"), str)
        and isinstance(raw(other.props, "vpcId"), str)
        and raw(one.props, "vpcId") != raw(other.props, "vpcId")
    )


@rule(
    "aws-ranges-disjoint",
    "No two declared ranges overlap, on premises and in the cloud",
    Severity.HIGH,
    anchors="own rule",
    applies=_RANGE_FIELDS,
    config={
        "onPremises": Option([], "array", "Ranges of the private site, pods and services too.")
    },
    fix="Give each site, VPC, subnet, pod and service network a range of its own.",
    allowed=[
        [
            res(VPC, "main", cidrBlock="10.0.0.0/16"),
            res(SUBNET, "a", cidrBlock="10.0.0.0/24", vpcId="${main.id}"),
            res(ROUTE, destinationCidrBlock="192.168.0.0/16"),
        ]
    ],
    refused=[
        [res(VPC, cidrBlock="10.0.0.0/16"), res(ROUTE, destinationCidrBlock="10.0.128.0/17")],
        [
            res(SUBNET, "a", cidrBlock="10.0.0.0/24", vpcId="${main.id}"),
            res(SUBNET, "b", cidrBlock="10.0.0.128/25", vpcId="${main.id}"),
        ],
        [
            res(VPC, cidrBlock="10.100.0.0/16"),
            res(CLUSTER, kubernetesNetworkConfig={"serviceIpv4Cidr": "10.100.0.0/20"}),
        ],
    ],
)
def ranges_disjoint(resource: Resource, context: Context) -> Findings:
    mine = list(_declared(resource))
    for value in context["onPremises"]:
        site = network(value)
        if resource.kind != ROUTE and site is not None:  # a route leads to the site
            yield from (f"{net} overlaps {site} on premises" for net in mine if net.overlaps(site))
    for other in context.stack.of(*_RANGE_FIELDS):
        if (
            other is resource
            or _inside_of(resource, other, context)
            or _inside_of(other, resource, context)
            or _strangers(resource, other)
        ):
            continue
        try:
            theirs = list(_declared(other))
        except UnknownValue:
            continue  # that resource has its own row, which is unknown
        yield from (
            f"{net} overlaps {their} of {other.name}"
            for net in mine
            for their in theirs
            if net.overlaps(their)
        )


def is_public_address(value: str) -> bool:
    """Whether a text is one global address."""
    try:
        return ip_address(value).is_global
    except ValueError:
        return False
