"""Buckets and the resources that hold their settings: how the two are joined."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from policies.iam import statements
from policies.pods import Findings
from policies.resource import Resource
from policies.rule import Context, Missing
from policies.samples import resource as res
from policies.values import UnknownValue, block, maps, text

BUCKET = "aws:s3/bucket:Bucket"
BLOCK = "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock"
ACL = "aws:s3/bucketAcl:BucketAcl"
OWNERSHIP = "aws:s3/bucketOwnershipControls:BucketOwnershipControls"
ENCRYPTION = (
    "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration"
)
VERSIONING = "aws:s3/bucketVersioning:BucketVersioning"
POLICY = "aws:s3/bucketPolicy:BucketPolicy"
LIFECYCLE = "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration"
LOGGING = "aws:s3/bucketLogging:BucketLogging"
LOG_WRITER = "logging.s3.amazonaws.com"


def with_sibling(kind: str, **props: Any) -> list[dict[str, Any]]:
    """A bucket and a sibling that points at it."""
    return [res(BUCKET, "shop", tags={}), res(kind, "setting", bucket="${shop.id}", **props)]


def joined(
    bucket: Resource,
    context: Context,
    kind: str,
    holds: Callable[[Mapping[str, Any]], bool],
    what: str,
) -> Findings:
    """A finding unless a sibling that points at the bucket holds what is asked for."""
    sure, perhaps = context.stack.pointing_at(bucket, "bucket", kind)
    unknown = ""
    for sibling in sure:
        try:
            if holds(sibling.props):
                return
        except UnknownValue as missing:
            unknown = f"{sibling.name}: {missing}"
    if unknown or perhaps:
        yield Missing(unknown or f"the bucket of {perhaps[0].name}")
    else:
        yield what


def takes_logs(bucket: Resource, context: Context) -> bool:
    """Whether S3 writes access logs into it: it cannot use a key of one's own there.

    Another bucket names it as its target, or its access list or policy lets S3's log writer in.
    """
    stack = context.stack
    if any(stack.refers(log, "targetBucket", bucket) for log in stack.of(LOGGING)):
        return True
    if any(
        stack.refers(other, "logging.targetBucket", bucket)
        for other in stack.of(BUCKET)
        if other is not bucket
    ):
        return True
    acls, _ = stack.pointing_at(bucket, "bucket", ACL)
    policies, _ = stack.pointing_at(bucket, "bucket", POLICY)
    return any(_lets_logs_in(entry) for entry in (bucket, *acls)) or any(
        ("Service", LOG_WRITER) in statement.principals
        for policy in policies
        for statement in statements(policy.props, "policy")
        if statement.allows
    )


def _lets_logs_in(entry: Resource) -> bool:
    grants = (
        *maps(entry.props, "grants"),
        *maps(block(entry.props, "accessControlPolicy"), "grants"),
    )
    return text(entry.props, "acl") == "log-delivery-write" or any(
        text(block(grant, "grantee"), "uri").endswith("/s3/LogDelivery") for grant in grants
    )


def log_targets() -> list[list[dict[str, Any]]]:
    """Samples: a bucket and what says that S3 writes its logs into it."""
    sink = res(BUCKET, "sink")
    pointing = {"bucket": "${elsewhere.id}", "targetBucket": "${sink.id}"}
    writer = {
        "Effect": "Allow", "Principal": {"Service": LOG_WRITER}, "Action": "s3:PutObject",
        "Resource": "*",
    }  # fmt: skip
    return [
        [sink, res(LOGGING, "setting", **pointing)],
        [res(BUCKET, "sink", acl="log-delivery-write")],
        [sink, res(ACL, bucket="${sink.id}", acl="log-delivery-write")],
        [sink, res(POLICY, bucket="${sink.id}", policy=json.dumps({"Statement": [writer]}))],
    ]
