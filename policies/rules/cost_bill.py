"""Cost: the bill of the whole stack against its limits, and what is paid for idle."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from policies.pods import Findings
from policies.resource import Resource
from policies.rule import Context, Missing, Option, Severity, rule
from policies.samples import container, deployment
from policies.samples import resource as res
from policies.values import given, maps

if TYPE_CHECKING:
    from policies.cost import Bill
    from policies.cost_settings import CostSettings

NAT, EIP = "aws:ec2/natGateway:NatGateway", "aws:ec2/eip:Eip"
BUDGET = "aws:budgets/budget:Budget"
_REFERENCE = re.compile(r"^\$\{\s*(?:[\w-]+:)?([\w./-]+?)(?:\[\d+\])?\.\w+\s*\}$")
_COST = Option({}, "object", "The `cost:` section of the stack's file; filled in from there.")
_SIZED = container(resources={"requests": {"cpu": "100m", "memory": "64Mi"}})
_NODES = {"minSize": 0, "desiredSize": 4, "maxSize": 4}
_FLEET = res("aws:eks/nodeGroup:NodeGroup", instanceTypes=["p5.48xlarge"], scalingConfig=_NODES)


def _settings(context: Context) -> CostSettings:
    from policies.cost_settings import CostSettings  # pydantic loads when a bill is asked for

    return CostSettings.model_validate(context["cost"])


def _bill(context: Context) -> Bill:
    from policies.cost import bill

    settings = _settings(context)
    return context.stack.once(
        ("bill", settings.model_dump_json()), lambda: bill(context.stack, settings)
    )


@rule(
    "cost-priced",
    "Everything that costs has a price",
    Severity.HIGH,
    anchors="Infracost unsupported resources",
    applies=[],
    whole_stack=True,
    optional=True,
    config={"cost": _COST},
    fix="Add the price to infra/prices.csv, or the type to cost.free with a reason.",
    allowed=[res("aws:eks/cluster:Cluster"), deployment(_SIZED)],
    refused=[
        res("aws:redshift/cluster:Cluster"),
        res("aws:eks/nodeGroup:NodeGroup", instanceTypes=["x9.huge"], scalingConfig=_NODES),
        deployment(container()),
    ],
)
def priced(_: Resource, context: Context) -> Findings:
    from policies.cost import NOT_KNOWN

    for name, why in _bill(context).unpriced:
        said = f"{name}: {why}"
        yield Missing(said) if why.endswith(NOT_KNOWN) else said


@rule(
    "cost-budget",
    "A month's bill stays within its budget",
    Severity.HIGH,
    anchors="Infracost guardrails (total)",
    applies=[],
    whole_stack=True,
    optional=True,
    config={
        "cost": _COST,
        "total_usd": Option(10_000, "number", "The budget where `cost.total_usd` names none."),
    },
    fix="Ask for less, or raise cost.total_usd (cost.ceiling_usd) in a reviewed change.",
    allowed=[res("aws:eks/cluster:Cluster"), res("aws:iam/role:Role")],
    refused=[_FLEET],
)
def budget(_: Resource, context: Context) -> Findings:
    limits = _settings(context).guardrail()
    if limits.total_usd is None:
        limits = replace(limits, total_usd=Decimal(str(context["total_usd"])))
    estimate = _bill(context).estimate
    yield from limits.broken(estimate.total, estimate.ceiling, estimate.total)


@rule(
    "cost-rise",
    "A bill that rises has a person's yes",
    Severity.HIGH,
    anchors="Infracost guardrails (rise and percent)",
    applies=[],
    whole_stack=True,
    optional=True,
    config={
        "cost": _COST,
        "accepted_usd": Option("", "string", "The last accepted bill; the stack's own if empty."),
        "rise_percent": Option(10, "number", "The rise where `cost` names no limit of it."),
    },
    fix="Ask for less, or accept the new bill: `policies cost --accept WHO` in a reviewed change.",
    allowed=[res("aws:iam/role:Role"), res("aws:ec2/subnet:Subnet")],
    refused=[_FLEET],
)
def rise(_: Resource, context: Context) -> Findings:
    given_limits = _settings(context).guardrail()
    limits = replace(given_limits, total_usd=None, ceiling_usd=None)
    if limits.rise_usd is None and limits.rise_percent is None:
        limits = replace(limits, rise_percent=Decimal(str(context["rise_percent"])))
    estimate = _bill(context).estimate
    accepted = Decimal(context["accepted_usd"]) if context["accepted_usd"] else None
    if estimate.total:
        yield from limits.broken(estimate.total, estimate.ceiling, accepted)


@rule(
    "cost-nat-gateways",
    "A VPC has no more NAT gateways than agreed",
    Severity.MEDIUM,
    anchors="AWS Well-Architected COST08",
    applies=[NAT],
    config={"maximum": Option(2, "integer", "NAT gateways of a stack.")},
    fix="Share NAT gateways, or use VPC endpoints for AWS's own services.",
    allowed=[[res(NAT, "a"), res(NAT, "b")]],
    refused=[[res(NAT, "a"), res(NAT, "b"), res(NAT, "c")]],
)
def nat_gateways(_: Resource, context: Context) -> Findings:
    if (count := len(context.stack.of(NAT))) > context["maximum"]:
        yield f"the stack has {count} NAT gateways"


@rule(
    "cost-unattached-address",
    "An address that is paid for is used",
    Severity.MEDIUM,
    anchors="EC2.12, CKV2_AWS_19",
    applies=[EIP],
    fix="Attach the address, or remove it.",
    allowed=[
        [res(EIP, "nat"), res(NAT, allocationId="${nat.id}")],
        res(EIP, instance="i-1"),
        [res(EIP, "a"), res("aws:ec2/eipAssociation:EipAssociation", allocationId="${a.id}")],
        [
            res(EIP, "front"),
            res(
                "aws:lb/loadBalancer:LoadBalancer",
                loadBalancerType="network",
                subnetMappings=[{"subnetId": "subnet-1", "allocationId": "${front.allocationId}"}],
            ),
        ],
    ],
    refused=[res(EIP), [res(EIP, "nat"), res(NAT, allocationId="${other.id}")]],
)
def unattached(resource: Resource, context: Context) -> Findings:
    if any(given(resource.props, key) for key in ("instance", "networkInterface")):
        return
    users = (NAT, "aws:ec2/eipAssociation:EipAssociation")
    sure, perhaps = context.stack.pointing_at(resource, "allocationId", *users)
    if sure or any(_mentions(other, resource) for other in context.stack.resources):
        return
    yield Missing("allocationId of a sibling") if perhaps else "nothing uses the address"


def _mentions(other: Resource, address: Resource) -> bool:
    """Whether another resource (a load balancer, a transfer server) takes the address."""
    if other is address:
        return False
    if address.urn and any(address.urn in urns for urns in other.references.values()):
        return True
    pending: list[Any] = [other.props]
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping):
            pending += value.values()
        elif isinstance(value, (list, tuple)):
            pending += value
        elif isinstance(value, str) and _names(value) == address.name:
            return True
    return False


def _names(value: str) -> str:
    found = _REFERENCE.match(value)
    return found[1].rsplit(".", 1)[-1] if found else ""


@rule(
    "cost-budget-alert",
    "A budget tells somebody",
    Severity.HIGH,
    anchors="Infracost guardrails, AWS Budgets",
    applies=[BUDGET],
    fix="Set a limitAmount and notifications with a threshold and a subscriber.",
    allowed=[
        res(BUDGET, limitAmount="500", notifications=[
            {"threshold": 80, "subscriberSnsTopicArns": ["arn:aws:sns:eu-west-1:1:cost"]}]),
    ],
    refused=[
        res(BUDGET, limitAmount="500"),
        res(BUDGET, limitAmount="500", notifications=[{"threshold": 80}]),
        res(BUDGET, notifications=[{"threshold": 80, "subscriberEmailAddresses": ["a@b.example"]}]),
    ],
)  # fmt: skip
def budget_alert(resource: Resource, _: Context) -> Findings:
    if not given(resource.props, "limitAmount") and not given(resource.props, "plannedLimits"):
        yield "limitAmount is absent"
    told = [
        given(entry, "subscriberSnsTopicArns") or given(entry, "subscriberEmailAddresses")
        for entry in maps(resource.props, "notifications")
    ]
    if not any(told):
        yield "no notification has a subscriber"
