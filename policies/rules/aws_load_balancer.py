"""AWS load balancers: who reaches them, how they fail, which TLS they speak."""

from __future__ import annotations

import re
from typing import Any

from policies.pods import Findings
from policies.resource import Resource
from policies.rule import Context, Missing, Option, Severity, rule
from policies.samples import resource as res
from policies.values import Unknown, UnknownValue, block, flag, given, items, maps, raw, text

BALANCER = "aws:lb/loadBalancer:LoadBalancer"
CLASSIC = "aws:elb/loadBalancer:LoadBalancer"
LISTENER = "aws:lb/listener:Listener"
TARGETS = "aws:lb/targetGroup:TargetGroup"


def _is(resource: Resource, *kinds: str) -> bool:
    return (text(resource.props, "loadBalancerType") or "application") in kinds


@rule(
    "aws-lb-internal",
    "A load balancer is internal",
    Severity.HIGH,
    anchors="AWS-0053",
    applies=[BALANCER, CLASSIC],
    config={
        "publicTag": Option("exposure", "string", "The tag that says public."),
        "approvalTag": Option("approval", "string", "The tag that says who allowed it."),
    },
    fix="Set internal to true, or tag it exposure: public with the approval's ticket.",
    allowed=[
        res(BALANCER, internal=True),
        res(BALANCER, loadBalancerType="gateway"),
        res(BALANCER, internal=False, tags={"exposure": "public", "approval": "NET-12"}),
    ],
    refused=[
        res(BALANCER),
        res(BALANCER, internal=False),
        res(CLASSIC),
        res(BALANCER, internal=False, tags={"exposure": "public"}),
    ],
)
def internal(resource: Resource, context: Context) -> Findings:
    if flag(resource.props, "internal") or _is(resource, "gateway"):
        return
    tags = raw(resource.props, "tags")
    approved = given(tags, context["approvalTag"])
    if raw(tags, context["publicTag"]) != "public" or not approved:
        yield "internal is not true"


@rule(
    "aws-lb-deletion-protection",
    "A load balancer is not deleted by accident",
    Severity.MEDIUM,
    anchors="CKV_AWS_150, ELB.6",
    applies=[BALANCER],
    fix="Set enableDeletionProtection to true.",
    allowed=[res(BALANCER, enableDeletionProtection=True)],
    refused=[res(BALANCER), res(BALANCER, enableDeletionProtection=False)],
)
def deletion_protection(resource: Resource, _: Context) -> Findings:
    if not flag(resource.props, "enableDeletionProtection"):
        yield "enableDeletionProtection is not true"


@rule(
    "aws-lb-cross-zone",
    "A network load balancer serves every zone from every zone",
    Severity.MEDIUM,
    anchors="CKV_AWS_152, ELB.9",
    applies=[BALANCER],
    fix="Set enableCrossZoneLoadBalancing to true.",
    allowed=[
        res(BALANCER),
        res(BALANCER, loadBalancerType="network", enableCrossZoneLoadBalancing=True),
    ],
    refused=[
        res(BALANCER, loadBalancerType="network"),
        res(BALANCER, loadBalancerType="gateway", enableCrossZoneLoadBalancing=False),
    ],
)
def cross_zone(resource: Resource, _: Context) -> Findings:
    # an application load balancer always does
    on = flag(resource.props, "enableCrossZoneLoadBalancing")
    if _is(resource, "network", "gateway") and not on:
        yield "enableCrossZoneLoadBalancing is not true"


@rule(
    "aws-lb-access-logs",
    "A load balancer writes down who came",
    Severity.MEDIUM,
    anchors="CKV_AWS_91, ELB.5",
    applies=[BALANCER],
    fix="Set accessLogs with a bucket and enabled true.",
    allowed=[
        res(BALANCER, accessLogs={"bucket": "logs", "enabled": True}),
        res(BALANCER, loadBalancerType="gateway"),
    ],
    refused=[
        res(BALANCER),
        res(BALANCER, accessLogs={"bucket": "logs"}),
        res(BALANCER, accessLogs={"bucket": "logs", "enabled": False}),
    ],
)
def access_logs(resource: Resource, _: Context) -> Findings:
    if not _is(resource, "gateway") and not flag(block(resource.props, "accessLogs"), "enabled"):
        yield "accessLogs.enabled is not true"


@rule(
    "aws-lb-two-zones",
    "A load balancer stands in two zones",
    Severity.MEDIUM,
    anchors="ELB.13, ELB.10",
    applies=[BALANCER],
    fix="Give subnets (or subnetMappings) in two or more zones.",
    allowed=[
        res(BALANCER, subnets=["subnet-1", "subnet-2"]),
        res(BALANCER, subnetMappings=[{"subnetId": "subnet-1"}, {"subnetId": "subnet-2"}]),
    ],
    refused=[
        res(BALANCER, subnets=["subnet-1"]),
        res(BALANCER, subnets=["subnet-1", "subnet-1"]),
        res(BALANCER, subnetMappings=[{"subnetId": "subnet-1"}]),
    ],
)
def two_zones(resource: Resource, _: Context) -> Findings:
    subnets = raw(resource.props, "subnets")
    mappings = raw(resource.props, "subnetMappings")
    if isinstance(subnets, Unknown) or isinstance(mappings, Unknown):
        yield Missing("subnets")
        return
    found: list[Any] = list(subnets) if isinstance(subnets, list) else []
    try:
        found += [raw(entry, "subnetId") for entry in maps(resource.props, "subnetMappings")]
    except UnknownValue:
        yield Missing("subnetMappings")
        return
    # elements that are not known yet are outputs of different subnets
    known = {entry for entry in found if isinstance(entry, str)}
    if len(known) + sum(isinstance(entry, Unknown) for entry in found) < 2:
        yield "fewer than two subnets"


def _listener(protocol: str | None, **more: Any) -> dict[str, Any]:
    return res(LISTENER, **({"protocol": protocol} if protocol else {}), **more)


_REDIRECT = {"type": "redirect", "redirect": {"protocol": "HTTPS", "statusCode": "HTTP_301"}}


@rule(
    "aws-listener-tls",
    "A listener does not speak plain HTTP",
    Severity.CRITICAL,
    anchors="CKV_AWS_2, CKV_AWS_103, AWS-0054, ELB.1",
    applies=[LISTENER],
    fix="Use HTTPS or TLS with a certificate; a port 80 listener may only redirect to HTTPS.",
    allowed=[
        _listener("HTTPS", sslPolicy="ELBSecurityPolicy-TLS13-1-2-2021-06"),
        _listener("TLS"),
        _listener("TCP"),  # passed through: TLS ends in the pod
        _listener("HTTP", defaultActions=[_REDIRECT]),
        [
            res(BALANCER, "inspection", loadBalancerType="gateway"),
            _listener(None, loadBalancerArn="${inspection.arn}"),
        ],
    ],
    refused=[
        _listener("HTTP", defaultActions=[{"type": "forward"}]),
        _listener(None),
        _listener("HTTP", defaultActions=[{**_REDIRECT, "redirect": {"protocol": "HTTP"}}]),
    ],
)
def listener_tls(resource: Resource, context: Context) -> Findings:
    protocol = text(resource.props, "protocol").upper()
    if protocol not in {"HTTP", ""} or given(resource.props, "certificateArn"):
        return
    if not protocol and any(  # which passes packets on and speaks no protocol of its own
        _is(balancer, "gateway") and context.stack.refers(resource, "loadBalancerArn", balancer)
        for balancer in context.stack.of(BALANCER)
    ):
        return
    actions = list(maps(resource.props, "defaultActions"))
    redirects = [
        text(action, "type") == "redirect"
        and text(block(action, "redirect"), "protocol").upper() == "HTTPS"
        for action in actions
    ]
    if not redirects or not all(redirects):
        yield f"protocol is {protocol or 'absent'} and the listener does not redirect to HTTPS"


_MODERN = re.compile(r"^ELBSecurityPolicy-(TLS13-1-[23]|TLS-1-2|FS-1-2)")


@rule(
    "aws-listener-policy",
    "A listener speaks TLS 1.2 or newer",
    Severity.CRITICAL,
    anchors="CKV_AWS_103, CKV2_AWS_74, AWS-0047, ELB.17",
    applies=[LISTENER],
    fix="Set sslPolicy to ELBSecurityPolicy-TLS13-1-2-2021-06.",
    allowed=[
        _listener("HTTPS", sslPolicy="ELBSecurityPolicy-TLS13-1-2-2021-06"),
        _listener("TLS", sslPolicy="ELBSecurityPolicy-FS-1-2-Res-2020-10"),
        _listener("TCP"),
    ],
    refused=[
        _listener("HTTPS"),
        _listener("TLS", sslPolicy="ELBSecurityPolicy-2016-08"),
        _listener("HTTPS", sslPolicy="ELBSecurityPolicy-TLS13-1-0-2021-06"),
    ],
)
def listener_policy(resource: Resource, _: Context) -> Findings:
    if text(resource.props, "protocol").upper() not in {"HTTPS", "TLS"}:
        return
    policy = text(resource.props, "sslPolicy")
    if not _MODERN.match(policy):
        yield f"sslPolicy is {policy or 'absent, which means ELBSecurityPolicy-2016-08'}"


@rule(
    "aws-target-group-health-check",
    "A target group asks its targets how they are",
    Severity.MEDIUM,
    anchors="CKV_AWS_261",
    applies=[TARGETS],
    fix="Set healthCheck, with a path for HTTP targets.",
    allowed=[
        res(TARGETS, protocol="HTTP", healthCheck={"path": "/readyz"}),
        res(TARGETS, protocol="TCP", healthCheck={"protocol": "TCP"}),
        res(TARGETS, targetType="lambda"),
    ],
    refused=[
        res(TARGETS, protocol="HTTP"),
        res(TARGETS, protocol="TCP", healthCheck={"enabled": False}),
        res(TARGETS, protocol="HTTPS", healthCheck={"port": "3000"}),
    ],
)
def health_check(resource: Resource, _: Context) -> Findings:
    if text(resource.props, "targetType") == "lambda":
        return
    if not list(items(resource.props, "healthCheck")):
        yield "healthCheck is absent"
        return
    check = block(resource.props, "healthCheck")
    http = text(resource.props, "protocol").upper() in {"HTTP", "HTTPS"}
    over = text(check, "protocol").upper()
    if not check or flag(check, "enabled") is False:
        yield "healthCheck is empty or off"
    elif http and over in {"", "HTTP", "HTTPS"} and not given(check, "path"):
        yield "healthCheck.path is absent"
