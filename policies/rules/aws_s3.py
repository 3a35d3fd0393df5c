"""AWS buckets: each setting may stand in the bucket or in a resource that points at it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from policies.iam import condition_values, statements
from policies.pods import Findings
from policies.resource import Resource
from policies.rule import Context, Missing, Severity, rule
from policies.samples import resource as res
from policies.values import UnknownValue, block, flag, given, maps, text

BUCKET = "aws:s3/bucket:Bucket"
BLOCK = "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock"
ACL = "aws:s3/bucketAcl:BucketAcl"
OWNERSHIP = "aws:s3/bucketOwnershipControls:BucketOwnershipControls"
_CONFIG = "aws:s3/bucketServerSideEncryptionConfiguration:BucketServerSideEncryptionConfiguration"
VERSIONING = "aws:s3/bucketVersioning:BucketVersioning"
POLICY = "aws:s3/bucketPolicy:BucketPolicy"
LIFECYCLE = "aws:s3/bucketLifecycleConfiguration:BucketLifecycleConfiguration"
LOGGING = "aws:s3/bucketLogging:BucketLogging"
FLAGS = ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets")


def _with(kind: str, **props: Any) -> list[dict[str, Any]]:
    """A bucket and a sibling that points at it."""
    return [res(BUCKET, "shop", tags={}), res(kind, "setting", bucket="${shop.id}", **props)]


def _joined(
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


@rule(
    "aws-s3-public-access-block",
    "Every bucket blocks public access in all four ways",
    Severity.HIGH,
    anchors="CKV2_AWS_6, AWS-0086, AWS-0087, AWS-0091, AWS-0093, AWS-0094, S3.8",
    applies=[BUCKET],
    fix="Add a BucketPublicAccessBlock for the bucket with all four settings true.",
    allowed=[_with(BLOCK, **dict.fromkeys(FLAGS, True))],
    refused=[
        res(BUCKET),
        _with(BLOCK, **{**dict.fromkeys(FLAGS, True), "restrictPublicBuckets": False}),
        [res(BUCKET), res(BLOCK, bucket="${other.id}", **dict.fromkeys(FLAGS, True))],
    ],
)
def public_access_block(resource: Resource, context: Context) -> Findings:
    yield from _joined(
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
    allowed=[_with(OWNERSHIP, rule={"objectOwnership": "BucketOwnerEnforced"})],
    refused=[res(BUCKET), _with(OWNERSHIP, rule={"objectOwnership": "ObjectWriter"})],
)
def ownership(resource: Resource, context: Context) -> Findings:
    yield from _joined(
        resource,
        context,
        OWNERSHIP,
        lambda props: text(block(props, "rule"), "objectOwnership") == "BucketOwnerEnforced",
        "no BucketOwnershipControls with BucketOwnerEnforced points at the bucket",
    )


def _by_own_key(config: Mapping[str, Any]) -> bool:
    for entry in maps(config, "rules"):
        default = block(entry, "applyServerSideEncryptionByDefault")
        if text(default, "sseAlgorithm") in {"aws:kms", "aws:kms:dsse"}:
            return given(default, "kmsMasterKeyId")
    inline = block(block(config, "rule"), "applyServerSideEncryptionByDefault")
    return text(inline, "sseAlgorithm").startswith("aws:kms") and given(inline, "kmsMasterKeyId")


def _takes_logs(bucket: Resource, context: Context) -> bool:
    """Whether other buckets write their logs into it: S3 cannot use a key of one's own there."""
    stack = context.stack
    return any(stack.refers(log, "targetBucket", bucket) for log in stack.of(LOGGING))


def _log_target() -> list[dict[str, Any]]:
    pointing = {"bucket": "${elsewhere.id}", "targetBucket": "${sink.id}"}
    return [res(BUCKET, "sink"), res(LOGGING, "setting", **pointing)]


def _encryption(algorithm: str, key: str | None = None) -> dict[str, Any]:
    default = {"sseAlgorithm": algorithm, **({"kmsMasterKeyId": key} if key else {})}
    return {"rules": [{"applyServerSideEncryptionByDefault": default}]}


_ARN = "arn:aws:kms:eu-west-1:111122223333:key/1"


def _encrypted(config: Mapping[str, Any]) -> bool:
    found = [*maps(config, "rules"), block(config, "rule")]
    return any(
        text(block(entry, "applyServerSideEncryptionByDefault"), "sseAlgorithm") for entry in found
    )


@rule(
    "aws-s3-encrypted",
    "A bucket says how it is encrypted",
    Severity.HIGH,
    anchors="CKV_AWS_19, AWS-0088",
    applies=[BUCKET],
    fix="Add a server-side encryption configuration.",
    allowed=[
        _with(_CONFIG, **_encryption("AES256")),
        res(BUCKET, serverSideEncryptionConfiguration={
            "rule": _encryption("aws:kms", _ARN)["rules"][0]}),
    ],
    refused=[res(BUCKET), _with(_CONFIG, rules=[{"bucketKeyEnabled": True}])],
)  # fmt: skip
def encrypted(resource: Resource, context: Context) -> Findings:
    if not _encrypted(block(resource.props, "serverSideEncryptionConfiguration")):
        yield from _joined(resource, context, _CONFIG, _encrypted, "no encryption is configured")


@rule(
    "aws-s3-own-key",
    "A bucket is encrypted by a key of our own",
    Severity.HIGH,
    anchors="CKV_AWS_145, AWS-0132, S3.17",
    applies=[BUCKET],
    fix="Add a server-side encryption configuration with aws:kms and the key's ARN.",
    allowed=[
        _with(_CONFIG, **_encryption("aws:kms", _ARN)),
        res(BUCKET, serverSideEncryptionConfiguration={
            "rule": _encryption("aws:kms", _ARN)["rules"][0]}),
        _log_target(),
    ],
    refused=[
        res(BUCKET),
        _with(_CONFIG, **_encryption("AES256")),
        _with(_CONFIG, **_encryption("aws:kms")),
    ],
)  # fmt: skip
def own_key(resource: Resource, context: Context) -> Findings:
    inline = block(resource.props, "serverSideEncryptionConfiguration")
    if _takes_logs(resource, context) or _by_own_key(inline):
        return
    yield from _joined(
        resource, context, _CONFIG, _by_own_key, "not encrypted with aws:kms and a key of our own"
    )


@rule(
    "aws-s3-versioning",
    "A bucket keeps what is overwritten",
    Severity.MEDIUM,
    anchors="CKV_AWS_21, AWS-0090, S3.14",
    applies=[BUCKET],
    fix="Add BucketVersioning with status Enabled.",
    allowed=[
        _with(VERSIONING, versioningConfiguration={"status": "Enabled"}),
        res(BUCKET, versioning={"enabled": True}),
    ],
    refused=[res(BUCKET), _with(VERSIONING, versioningConfiguration={"status": "Suspended"})],
)
def versioning(resource: Resource, context: Context) -> Findings:
    if flag(block(resource.props, "versioning"), "enabled"):
        return
    yield from _joined(
        resource,
        context,
        VERSIONING,
        lambda props: text(block(props, "versioningConfiguration"), "status") == "Enabled",
        "versioning is not enabled",
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
    allowed=[_with(POLICY, policy=_doc(Effect="Deny", Condition=_PLAIN))],
    refused=[
        res(BUCKET),
        _with(POLICY, policy=_doc(Effect="Allow", Condition=_PLAIN)),
        _with(POLICY, policy=_doc(Effect="Deny")),
    ],
)
def tls_only(resource: Resource, context: Context) -> Findings:
    if given(resource.props, "policy") and _denies_plain_http(resource.props):
        return
    yield from _joined(
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
    ],
    refused=[
        res(POLICY, bucket="b", policy=_doc(Effect="Allow")),
        res(POLICY, bucket="b", policy=_doc(Effect="Allow", Principal={"AWS": ["*"]})),
        res(POLICY, bucket="b", policy=_doc(
            Effect="Allow", Condition={"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::*:role/a"}})),
        res(POLICY, bucket="b", policy=_doc(
            Effect="Allow",
            Condition={"IpAddress": {"aws:SourceIp": ["0.0.0.0/1", "128.0.0.0/1"]}})),
    ],
)  # fmt: skip
def public_policy(resource: Resource, _: Context) -> Findings:
    for statement in statements(resource.props, "policy"):
        if statement.open_to_all:
            yield "a statement allows Principal * and no condition says who or from where"


def _rules(props: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [
        entry
        for key in ("rules", "lifecycleRules")
        for entry in maps(props, key)
        if text(entry, "status") != "Disabled" and flag(entry, "enabled") is not False
    ]


def _aborts(props: Mapping[str, Any]) -> bool:
    return any(
        given(entry, "abortIncompleteMultipartUpload")
        or given(entry, "abortIncompleteMultipartUploadDays")
        for entry in _rules(props)
    )


_EXPIRES = {"status": "Enabled", "expiration": {"days": 90}}
_ABORT = {"status": "Enabled", "abortIncompleteMultipartUpload": {"daysAfterInitiation": 7}}


@rule(
    "aws-s3-lifecycle",
    "What a bucket holds has an end",
    Severity.MEDIUM,
    anchors="CKV2_AWS_61, S3.13",
    applies=[BUCKET],
    fix="Add a BucketLifecycleConfiguration with an enabled rule.",
    allowed=[_with(LIFECYCLE, rules=[_EXPIRES]), res(BUCKET, lifecycleRules=[{"enabled": True}])],
    refused=[res(BUCKET), _with(LIFECYCLE, rules=[{**_EXPIRES, "status": "Disabled"}])],
)
def lifecycle(resource: Resource, context: Context) -> Findings:
    if _rules(resource.props):
        return
    yield from _joined(
        resource, context, LIFECYCLE, lambda props: bool(_rules(props)), "no lifecycle rule"
    )


@rule(
    "aws-s3-aborted-uploads",
    "Uploads that never ended are not paid for",
    Severity.MEDIUM,
    anchors="CKV_AWS_300",
    applies=[LIFECYCLE],
    fix="Add a rule with abortIncompleteMultipartUpload.",
    allowed=[res(LIFECYCLE, bucket="b", rules=[_EXPIRES, _ABORT])],
    refused=[
        res(LIFECYCLE, bucket="b", rules=[_EXPIRES]),
        res(LIFECYCLE, bucket="b", rules=[{**_ABORT, "status": "Disabled"}]),
    ],
)
def aborted_uploads(resource: Resource, _: Context) -> Findings:
    if not _aborts(resource.props):
        yield "no enabled rule has abortIncompleteMultipartUpload"


@rule(
    "aws-s3-access-log",
    "A bucket writes down who came",
    Severity.LOW,
    anchors="CKV_AWS_18, AWS-0089, S3.9",
    applies=[BUCKET],
    fix="Add BucketLogging with a target bucket.",
    allowed=[_with(LOGGING, targetBucket="logs"), _log_target()],
    refused=[res(BUCKET), _with(LOGGING, targetPrefix="x")],
)
def access_log(resource: Resource, context: Context) -> Findings:
    own = any(given(entry, "targetBucket") for entry in maps(resource.props, "loggings"))
    inline = given(block(resource.props, "logging"), "targetBucket")
    if own or inline or _takes_logs(resource, context):
        return
    yield from _joined(
        resource, context, LOGGING, lambda props: given(props, "targetBucket"), "no access log"
    )
