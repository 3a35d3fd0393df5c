"""AWS networks: VPCs and their logs, subnets, network ACLs, ranges that may not overlap."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from policies.networks import (
    DEFAULT_GROUP,
    EGRESS_RULE,
    INGRESS_RULE,
    RULE,
    Network,
    acl_entries,
    group_rules,
    network,
    opening,
)
from policies.pods import Findings
from policies.resource import Resource
from policies.rule import Context, Missing, Option, Severity, each, rule
from policies.samples import resource as res
from policies.values import Unknown, UnknownValue, flag, raw

VPC = "aws:ec2/vpc:Vpc"
SUBNET = "aws:ec2/subnet:Subnet"
FLOW_LOG = "aws:ec2/flowLog:FlowLog"
WORLD, WORLD6 = "0.0.0.0/0", "::/0"


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
        [
            res(VPC, "main", cidrBlock="10.0.0.0/16"),
            res(DEFAULT_GROUP, "closed", vpcId="${main.id}"),
            res(INGRESS_RULE, "late", securityGroupId="${closed.id}", ipProtocol="-1"),
        ],
    ],
)
def default_group_empty(resource: Resource, context: Context) -> Findings:
    if resource.kind == DEFAULT_GROUP:
        for direction in ("ingress", "egress"):
            for _block, where in group_rules(resource, direction):
                yield f"{where} is a rule on the default group"
        yield from _rules_of(resource, context)
        return
    yield from _has_sibling(resource, context, DEFAULT_GROUP, "an empty default security group")
    for group in context.stack.of(DEFAULT_GROUP):
        if context.stack.refers(group, "vpcId", resource):
            for direction in ("ingress", "egress"):
                if any(group_rules(group, direction)):
                    yield f"its default group has {direction} rules"
            yield from _rules_of(group, context)


def _rules_of(group: Resource, context: Context) -> Findings:
    for entry in context.stack.of(RULE, INGRESS_RULE, EGRESS_RULE):
        if context.stack.refers(entry, "securityGroupId", group):
            yield f"{entry.name} is a rule of the default group"


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
