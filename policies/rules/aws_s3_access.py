"""AWS buckets: who may read them, who did, and how."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from policies.buckets import (
    ACL,
    BLOCK,
    BUCKET,
    LOGGING,
    OWNERSHIP,
    POLICY,
    joined,
    log_targets,
    takes_logs,
    with_sibling,
)
from policies.iam import condition_values, statements
from policies.pods import Findings
from policies.resource import Resource
from policies.rule import Context, Severity, rule
from policies.samples import resource as res
from policies.values import block, flag, given, maps, text

FLAGS = ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets")


@rule(
    "aws-s3-public-access-block",
    "Every bucket blocks public access in all four ways",
    Severity.HIGH,
    anchors="CKV2_AWS_6, AWS-0086, AWS-0087, AWS-0091, AWS-0093, AWS-0094, S3.8",
    applies=[BUCKET],
    fix="Add a BucketPublicAccessBlock for the bucket with all four settings true.",
    allowed=[with_sibling(BLOCK, **dict.fromkeys(FLAGS, True))],
    refused=[
        res(BUCKET),
        with_sibling(BLOCK, **{**dict.fromkeys(FLAGS, True), "restrictPublicBuckets": False}),
        [res(BUCKET), res(BLOCK, bucket="${other.id}", **dict.fromkeys(FLAGS, True))],
    ],
)
def public_access_block(resource: Resource, context: Context) -> Findings:
    yield from joined(
        resource,
        context,
        BLOCK,
        lambda props: all(flag(props, name) for name in FLAGS),
        "no BucketPublicAccessBlock points at the bucket with all four settings true",
    )


@rule(
    "aws-s3-public-access-block-complete",
    "A public access block blocks all",
    Severity.HIGH,
    anchors="CKV_AWS_53, CKV_AWS_54, CKV_AWS_55, CKV_AWS_56, S3.8",
    applies=[BLOCK, "aws:s3/accountPublicAccessBlock:AccountPublicAccessBlock"],
    fix=f"Set {', '.join(FLAGS)} to true.",
    allowed=[res(BLOCK, bucket="b", **dict.fromkeys(FLAGS, True))],
    refused=[res(BLOCK, bucket="b"), res(BLOCK, **{**dict.fromkeys(FLAGS, True), FLAGS[0]: False})],
)
def block_complete(resource: Resource, _: Context) -> Findings:
    if off := [name for name in FLAGS if not flag(resource.props, name)]:
        yield f"not true: {', '.join(off)}"


_PUBLIC = frozenset({"public-read", "public-read-write", "authenticated-read", "website"})
_EVERYONE = ("/global/AllUsers", "/global/AuthenticatedUsers")


@rule(
    "aws-s3-public-acl",
    "No access list opens a bucket",
    Severity.HIGH,
    anchors="CKV_AWS_20, CKV_AWS_57, CKV_AWS_375, AWS-0092",
    applies=[BUCKET, ACL],
    fix="Remove the ACL; set object ownership to BucketOwnerEnforced.",
    allowed=[res(BUCKET), res(BUCKET, acl="private"), res(ACL, bucket="b", acl="private")],
    refused=[
        res(BUCKET, acl="public-read"),
        res(ACL, bucket="b", acl="public-read-write"),
        res(ACL, bucket="b", accessControlPolicy={"grants": [{
            "permission": "READ",
            "grantee": {"type": "Group", "uri": "http://acs.amazonaws.com/groups/global/AllUsers"},
        }]}),
    ],
)  # fmt: skip
def public_acl(resource: Resource, _: Context) -> Findings:
    acl = text(resource.props, "acl")
    if acl in _PUBLIC:
        yield f"acl is {acl}"
    entries = [
        *maps(resource.props, "grants"),
        *maps(block(resource.props, "accessControlPolicy"), "grants"),
    ]
    for grant in entries:
        uri = text(block(grant, "grantee"), "uri") or text(grant, "uri")
        if uri.endswith(_EVERYONE):
            yield f"a grant goes to {uri.rsplit('/', 1)[1]}"


@rule(
    "aws-s3-ownership",
    "Access lists are switched off",
    Severity.MEDIUM,
    anchors="CKV2_AWS_65, S3.12",
    applies=[BUCKET],
    fix="Add BucketOwnershipControls with objectOwnership BucketOwnerEnforced.",
    allowed=[with_sibling(OWNERSHIP, rule={"objectOwnership": "BucketOwnerEnforced"})],
    refused=[res(BUCKET), with_sibling(OWNERSHIP, rule={"objectOwnership": "ObjectWriter"})],
)
def ownership(resource: Resource, context: Context) -> Findings:
    yield from joined(
        resource,
        context,
        OWNERSHIP,
        lambda props: text(block(props, "rule"), "objectOwnership") == "BucketOwnerEnforced",
        "no BucketOwnershipControls with BucketOwnerEnforced points at the bucket",
    )


def _doc(**entry: Any) -> str:
    made = {"Principal": "*", "Action": "s3:*", "Resource": "*", **entry}
    return json.dumps({"Version": "2012-10-17", "Statement": [made]})


_PLAIN = {"Bool": {"aws:SecureTransport": "false"}}


def _denies_plain_http(props: Mapping[str, Any]) -> bool:
    return any(
        not statement.allows
        and statement.public
        and ("s3:*" in statement.actions or statement.any_action)
        and any(
            operator.lower().startswith("bool") and value.lower() == "false"
            for operator, value in condition_values(statement, "aws:SecureTransport")
        )
        for statement in statements(props, "policy")
    )


@rule(
    "aws-s3-tls-only",
    "A bucket refuses plain HTTP",
    Severity.MEDIUM,
    anchors="S3.5, CKV_AWS_379",
    applies=[BUCKET],
    fix="Deny s3:* to * when aws:SecureTransport is false, in the bucket's policy.",
    allowed=[with_sibling(POLICY, policy=_doc(Effect="Deny", Condition=_PLAIN))],
    refused=[
        res(BUCKET),
        with_sibling(POLICY, policy=_doc(Effect="Allow", Condition=_PLAIN)),
        with_sibling(POLICY, policy=_doc(Effect="Deny")),
    ],
)
def tls_only(resource: Resource, context: Context) -> Findings:
    if given(resource.props, "policy") and _denies_plain_http(resource.props):
        return
    yield from joined(
        resource, context, POLICY, _denies_plain_http, "no bucket policy denies plain HTTP"
    )


@rule(
    "aws-s3-public-policy",
    "No bucket policy lets everyone in",
    Severity.CRITICAL,
    anchors="CKV_AWS_70, S3.2, S3.3, AWS-0092",
    applies=[BUCKET, POLICY],
    fix="Name the roles or the services in Principal, or set a condition.",
    allowed=[
        res(BUCKET),
        res(POLICY, bucket="b", policy=_doc(Effect="Deny")),
        res(POLICY, bucket="b", policy=_doc(Effect="Allow", Principal={"AWS": "arn:1"})),
        res(POLICY, bucket="b", policy=_doc(
            Effect="Allow", Condition={"StringEquals": {"aws:PrincipalOrgID": "o-1"}})),
        res(POLICY, bucket="b", policy=_doc(
            Effect="Allow", Condition={"StringEquals": {"aws:VpceAccount": "111122223333"}})),
    ],
    refused=[
        res(POLICY, bucket="b", policy=_doc(Effect="Allow")),
        res(POLICY, bucket="b", policy=_doc(Effect="Allow", Principal={"AWS": ["*"]})),
        res(POLICY, bucket="b", policy=_doc(
            Effect="Allow", Condition={"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:role/a"}})),
        res(POLICY, bucket="b", policy=_doc(
            Effect="Allow", Condition={"ForAllValues:StringEquals": {"aws:username": "puller"}})),
        res(POLICY, bucket="b", policy=_doc(
            Effect="Allow", Condition={"StringEqualsIfExists": {"aws:PrincipalOrgID": "o-1"}})),
        res(POLICY, bucket="b", policy=_doc(
            Effect="Allow",
            Condition={"IpAddress": {"aws:SourceIp": ["0.0.0.0/1", "128.0.0.0/1"]}})),
    ],
)  # fmt: skip
def public_policy(resource: Resource, _: Context) -> Findings:
    for statement in statements(resource.props, "policy"):
        if statement.open_to_all:
            yield "a statement allows Principal * and no condition says who or from where"


@rule(
    "aws-s3-access-log",
    "A bucket writes down who came",
    Severity.LOW,
    anchors="CKV_AWS_18, AWS-0089, S3.9",
    applies=[BUCKET],
    fix="Add BucketLogging with a target bucket.",
    allowed=[with_sibling(LOGGING, targetBucket="logs"), *log_targets()],
    refused=[res(BUCKET), with_sibling(LOGGING, targetPrefix="x")],
)
def access_log(resource: Resource, context: Context) -> Findings:
    own = any(given(entry, "targetBucket") for entry in maps(resource.props, "loggings"))
    inline = given(block(resource.props, "logging"), "targetBucket")
    if own or inline or takes_logs(resource, context):
        return
    yield from joined(
        resource, context, LOGGING, lambda props: given(props, "targetBucket"), "no access log"
    )
