"""AWS registries, queues, logs and names."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any

from policies.iam import Statement, statements
from policies.pods import Findings
from policies.resource import Resource
from policies.rule import Context, Missing, Option, Severity, each, rule
from policies.samples import resource as res
from policies.values import Unknown, block, flag, given, maps, number, raw, text

REPOSITORY = "aws:ecr/repository:Repository"
LIFECYCLE = "aws:ecr/lifecyclePolicy:LifecyclePolicy"
QUEUE, QUEUE_POLICY = "aws:sqs/queue:Queue", "aws:sqs/queuePolicy:QueuePolicy"
LOG_GROUP = "aws:cloudwatch/logGroup:LogGroup"
RECORD, ZONE = "aws:route53/record:Record", "aws:route53/zone:Zone"
QUERY_LOG = "aws:route53/queryLog:QueryLog"
ARN = "arn:aws:kms:eu-west-1:111122223333:key/1"


def _doc(**entry: Any) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **entry}]})


@rule(
    "aws-ecr-immutable",
    "A tag always means one image",
    Severity.HIGH,
    anchors="CKV_AWS_51, AWS-0031, ECR.2",
    applies=[REPOSITORY],
    fix="Set imageTagMutability to IMMUTABLE.",
    allowed=[res(REPOSITORY, imageTagMutability="IMMUTABLE")],
    refused=[res(REPOSITORY), res(REPOSITORY, imageTagMutability="MUTABLE")],
)
def immutable(resource: Resource, _: Context) -> Findings:
    found = text(resource.props, "imageTagMutability")
    if not found.startswith("IMMUTABLE"):
        yield f"imageTagMutability is {found or 'absent, which means MUTABLE'}"


@rule(
    "aws-ecr-scan",
    "Images are scanned when they arrive",
    Severity.HIGH,
    anchors="CKV_AWS_163, AWS-0030, ECR.1",
    applies=[REPOSITORY],
    fix="Set imageScanningConfiguration.scanOnPush to true.",
    allowed=[res(REPOSITORY, imageScanningConfiguration={"scanOnPush": True})],
    refused=[res(REPOSITORY), res(REPOSITORY, imageScanningConfiguration={"scanOnPush": False})],
)
def scan(resource: Resource, _: Context) -> Findings:
    if not flag(block(resource.props, "imageScanningConfiguration"), "scanOnPush"):
        yield "imageScanningConfiguration.scanOnPush is not true"


def _public(resource: Resource) -> Findings:
    def judge(statement: Statement) -> Findings:
        if statement.open_to_all:
            yield "a statement allows Principal * and no condition says who or from where"

    yield from each(statements(resource.props, "policy"), judge)


@rule(
    "aws-ecr-private",
    "Not everyone reads our images",
    Severity.HIGH,
    anchors="CKV_AWS_32, AWS-0032",
    applies=["aws:ecr/repositoryPolicy:RepositoryPolicy"],
    fix="Name the accounts or roles in Principal.",
    allowed=[
        res(
            "aws:ecr/repositoryPolicy:RepositoryPolicy",
            policy=_doc(Principal={"AWS": "arn:aws:iam::1:role/ci"}, Action="ecr:*"),
        )
    ],
    refused=[
        res(
            "aws:ecr/repositoryPolicy:RepositoryPolicy",
            policy=_doc(Principal="*", Action="ecr:BatchGetImage"),
        )
    ],
)
def registry_private(resource: Resource, _: Context) -> Findings:
    yield from _public(resource)


@rule(
    "aws-ecr-own-key",
    "Images are encrypted by a key of our own",
    Severity.LOW,
    anchors="CKV_AWS_136, AWS-0033",
    applies=[REPOSITORY],
    fix="Set encryptionConfigurations with encryptionType KMS and kmsKey.",
    allowed=[
        res(REPOSITORY, encryptionConfigurations=[{"encryptionType": "KMS", "kmsKey": ARN}]),
    ],
    refused=[
        res(REPOSITORY),
        res(REPOSITORY, encryptionConfigurations=[{"encryptionType": "AES256"}]),
        res(REPOSITORY, encryptionConfigurations=[{"encryptionType": "KMS"}]),
    ],
)
def registry_key(resource: Resource, _: Context) -> Findings:
    config = block(resource.props, "encryptionConfigurations")
    if not text(config, "encryptionType").startswith("KMS"):
        yield "encryptionType is not KMS"
    elif not given(config, "kmsKey"):
        yield "kmsKey is absent, which means AWS's own key"


@rule(
    "aws-ecr-lifecycle",
    "Old images go",
    Severity.LOW,
    anchors="ECR.3",
    applies=[REPOSITORY],
    fix="Add a LifecyclePolicy for the repository.",
    allowed=[[res(REPOSITORY, "shop"), res(LIFECYCLE, repository="${shop.name}", policy="{}")]],
    refused=[
        res(REPOSITORY),
        [res(REPOSITORY, "shop"), res(LIFECYCLE, repository="${b.name}", policy="{}")],
    ],
)
def registry_lifecycle(resource: Resource, context: Context) -> Findings:
    sure, perhaps = context.stack.pointing_at(resource, "repository", LIFECYCLE)
    if not sure:
        yield Missing("repository of a lifecycle policy") if perhaps else "no lifecycle policy"


@rule(
    "aws-sqs-encrypted",
    "A queue is encrypted",
    Severity.HIGH,
    anchors="CKV_AWS_27, AWS-0096, SQS.1",
    applies=[QUEUE],
    fix="Set kmsMasterKeyId, or sqsManagedSseEnabled to true.",
    allowed=[res(QUEUE, sqsManagedSseEnabled=True), res(QUEUE, kmsMasterKeyId="alias/shop")],
    refused=[res(QUEUE), res(QUEUE, sqsManagedSseEnabled=False), res(QUEUE, kmsMasterKeyId="")],
)
def queue_encrypted(resource: Resource, _: Context) -> Findings:
    managed = flag(resource.props, "sqsManagedSseEnabled")
    if not managed and not given(resource.props, "kmsMasterKeyId"):
        yield "neither sqsManagedSseEnabled nor kmsMasterKeyId is set"


def _queue_policy(**entry: Any) -> dict[str, Any]:
    return res(QUEUE_POLICY, queueUrl="q", policy=_doc(Resource="*", **entry))


@rule(
    "aws-sqs-any-action",
    "A queue's policy names its actions",
    Severity.HIGH,
    anchors="CKV_AWS_72, AWS-0097",
    applies=[QUEUE, QUEUE_POLICY],
    fix="Write out the actions, sqs:SendMessage for example.",
    allowed=[
        res(QUEUE),
        _queue_policy(Principal={"Service": "events.amazonaws.com"}, Action="sqs:SendMessage"),
    ],
    refused=[
        _queue_policy(Principal={"Service": "events.amazonaws.com"}, Action="*"),
        _queue_policy(Principal={"AWS": "arn:aws:iam::1:role/a"}, Action=["sqs:*"]),
    ],
)
def queue_any_action(resource: Resource, _: Context) -> Findings:
    def judge(statement: Statement) -> Findings:
        every = any(action.lower() == "sqs:*" for action in statement.actions)
        if statement.allows and (statement.any_action or every):
            yield "a statement allows every action"

    yield from each(statements(resource.props, "policy"), judge)


@rule(
    "aws-sqs-public",
    "Not everyone may use a queue",
    Severity.HIGH,
    anchors="CKV_AWS_168, CKV_AWS_387, SQS.3",
    applies=[QUEUE, QUEUE_POLICY],
    fix="Name the service or the roles in Principal, or set a condition.",
    allowed=[
        res(QUEUE),
        _queue_policy(Principal={"Service": "events.amazonaws.com"}, Action="sqs:SendMessage"),
        _queue_policy(
            Principal="*",
            Action="sqs:SendMessage",
            Condition={"ArnEquals": {"aws:SourceArn": "arn:aws:events:eu-west-1:1:rule/a"}},
        ),
    ],
    refused=[
        _queue_policy(Principal="*", Action="sqs:SendMessage"),
        res(QUEUE, policy=_doc(Principal={"AWS": "*"}, Action="sqs:SendMessage", Resource="*")),
    ],
)
def queue_public(resource: Resource, _: Context) -> Findings:
    yield from _public(resource)


@rule(
    "aws-log-group-own-key",
    "Logs are encrypted by a key of our own",
    Severity.MEDIUM,
    anchors="CKV_AWS_158, AWS-0017",
    applies=[LOG_GROUP],
    fix="Set kmsKeyId.",
    allowed=[res(LOG_GROUP, kmsKeyId=ARN)],
    refused=[res(LOG_GROUP), res(LOG_GROUP, kmsKeyId="")],
)
def log_key(resource: Resource, _: Context) -> Findings:
    if not given(resource.props, "kmsKeyId"):
        yield "kmsKeyId is absent"


@rule(
    "aws-log-group-retention",
    "Logs are kept for a stated time",
    Severity.MEDIUM,
    anchors="CKV_AWS_66, CloudWatch.16",
    applies=[LOG_GROUP],
    config={"maximum": Option(1096, "integer", "Most days that any log is kept.")},
    fix="Set retentionInDays.",
    allowed=[res(LOG_GROUP, retentionInDays=90)],
    refused=[
        res(LOG_GROUP),
        res(LOG_GROUP, retentionInDays=0),
        res(LOG_GROUP, retentionInDays=3653),
    ],
)
def log_retention(resource: Resource, context: Context) -> Findings:
    days = number(resource.props, "retentionInDays")
    if not days:
        yield "retentionInDays is absent, which means for ever"
    elif days > context["maximum"]:
        yield f"retentionInDays is {days:g}"


@rule(
    "aws-log-group-audit-year",
    "Audit logs are kept for a year",
    Severity.MEDIUM,
    anchors="CKV_AWS_338",
    applies=[LOG_GROUP],
    config={
        "audit": Option(
            ["audit", "cloudtrail", "/aws/eks/", "vpn", "flow"],
            "array",
            "Parts of the names of logs that say who did what.",
        ),
        "days": Option(365, "integer", "Fewest days that they are kept."),
    },
    fix="Set retentionInDays to 365 or more.",
    allowed=[
        res(LOG_GROUP, name="/aws/eks/shop/cluster", retentionInDays=365),
        res(LOG_GROUP, name="/shop/app", retentionInDays=30),
    ],
    refused=[res(LOG_GROUP, name="/aws/eks/shop/cluster", retentionInDays=30)],
)
def audit_year(resource: Resource, context: Context) -> Findings:
    name = (text(resource.props, "name") or resource.name).lower()
    days = number(resource.props, "retentionInDays")
    if any(part in name for part in context["audit"]) and days and days < context["days"]:
        yield f"retentionInDays is {days:g}"


def _record(**props: Any) -> dict[str, Any]:
    return res(RECORD, name="shop.example", type="A", **props)


@rule(
    "aws-dns-failover-check",
    "A record that fails over knows when",
    Severity.MEDIUM,
    anchors="own rule, Route 53 failover",
    applies=[RECORD],
    fix="Set healthCheckId, or evaluateTargetHealth on the alias.",
    allowed=[
        _record(),
        _record(failoverRoutingPolicies=[{"type": "PRIMARY"}], healthCheckId="h"),
        _record(failoverRoutingPolicies=[{"type": "SECONDARY"}]),
        _record(
            failoverRoutingPolicies=[{"type": "PRIMARY"}],
            aliases=[{"name": "a", "evaluateTargetHealth": True}],
        ),
    ],
    refused=[
        _record(failoverRoutingPolicies=[{"type": "PRIMARY"}]),
        _record(
            failoverRoutingPolicies=[{"type": "PRIMARY"}],
            aliases=[{"name": "a", "evaluateTargetHealth": False}],
        ),
    ],
)
def failover_check(resource: Resource, _: Context) -> Findings:
    kinds = [text(entry, "type") for entry in maps(resource.props, "failoverRoutingPolicies")]
    healthy = given(resource.props, "healthCheckId") or any(
        flag(alias, "evaluateTargetHealth") for alias in maps(resource.props, "aliases")
    )
    if "PRIMARY" in kinds and not healthy:
        yield "the primary record has no health check"


@rule(
    "aws-dns-dangling",
    "A name points at something that is ours",
    Severity.MEDIUM,
    anchors="CKV2_AWS_23",
    applies=[RECORD],
    config={
        "addresses": Option(
            [], "array", "Public addresses of the private site, which no resource of ours holds."
        )
    },
    fix="Pass the address's or the load balancer's output; name a private site's in `addresses`.",
    allowed=[
        _record(records=["10.0.0.7"]),
        [_record(records=["203.0.114.7"]), res("aws:ec2/eip:Eip", publicIp="203.0.114.7")],
        res(RECORD, name="shop.example", type="TXT", records=["203.0.114.7"]),
    ],
    refused=[_record(records=["203.0.114.7"]), _record(records=["10.0.0.7", "8.8.8.8"])],
)
def dangling(resource: Resource, context: Context) -> Findings:
    if text(resource.props, "type") not in {"A", "AAAA"}:
        return
    stack = context.stack
    ours = {raw(eip.props, "publicIp") for eip in stack.of("aws:ec2/eip:Eip")}
    ours |= set(context["addresses"])
    ours |= {raw(g.props, "ipAddress") for g in stack.of("aws:ec2/customerGateway:CustomerGateway")}
    for value in raw(resource.props, "records") or []:
        if isinstance(value, Unknown):  # an output of this plan, and so one of its own
            continue
        try:
            public = ip_address(str(value)).is_global
        except ValueError:
            continue
        if public and value not in ours:
            yield f"no resource of the stack holds {value}"


@rule(
    "aws-dns-query-log",
    "A public zone writes down who asked",
    Severity.MEDIUM,
    anchors="CKV2_AWS_39, Route53.2",
    applies=[ZONE],
    fix="Add an aws.route53.QueryLog for the zone.",
    allowed=[
        [res(ZONE, "shop", name="shop.example"), res(QUERY_LOG, zoneId="${shop.id}")],
        res(ZONE, name="shop.internal", vpcs=[{"vpcId": "vpc-1"}]),
    ],
    refused=[
        res(ZONE, name="shop.example"),
        [res(ZONE, "shop", name="shop.example"), res(QUERY_LOG, zoneId="${other.id}")],
    ],
)
def query_log(resource: Resource, context: Context) -> Findings:
    if given(resource.props, "vpcs"):
        return
    sure, perhaps = context.stack.pointing_at(resource, "zoneId", QUERY_LOG)
    if not sure:
        yield Missing("zoneId of a query log") if perhaps else "no query log"
