"""AWS buckets: how they keep what they hold, and for how long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policies.buckets import (
    BUCKET,
    ENCRYPTION,
    LIFECYCLE,
    VERSIONING,
    joined,
    log_targets,
    takes_logs,
    with_sibling,
)
from policies.pods import Findings
from policies.resource import Resource
from policies.rule import Context, Severity, rule
from policies.samples import resource as res
from policies.values import block, flag, given, maps, text


def _by_own_key(config: Mapping[str, Any]) -> bool:
    for entry in maps(config, "rules"):
        default = block(entry, "applyServerSideEncryptionByDefault")
        if text(default, "sseAlgorithm") in {"aws:kms", "aws:kms:dsse"}:
            return given(default, "kmsMasterKeyId")
    inline = block(block(config, "rule"), "applyServerSideEncryptionByDefault")
    return text(inline, "sseAlgorithm").startswith("aws:kms") and given(inline, "kmsMasterKeyId")


def _encryption(algorithm: str, key: str | None = None) -> dict[str, Any]:
    default = {"sseAlgorithm": algorithm, **({"kmsMasterKeyId": key} if key else {})}
    return {"rules": [{"applyServerSideEncryptionByDefault": default}]}


_ARN = "arn:aws:kms:eu-west-1:111122223333:key/1"


_ALGORITHMS = frozenset({"AES256", "aws:kms", "aws:kms:dsse"})


def _encrypted(config: Mapping[str, Any]) -> bool:
    found = [*maps(config, "rules"), block(config, "rule")]
    return any(
        text(block(entry, "applyServerSideEncryptionByDefault"), "sseAlgorithm") in _ALGORITHMS
        for entry in found
    )


@rule(
    "aws-s3-encrypted",
    "A bucket says how it is encrypted",
    Severity.HIGH,
    anchors="CKV_AWS_19, AWS-0088",
    applies=[BUCKET],
    fix="Add a server-side encryption configuration.",
    allowed=[
        with_sibling(ENCRYPTION, **_encryption("AES256")),
        res(BUCKET, serverSideEncryptionConfiguration={
            "rule": _encryption("aws:kms", _ARN)["rules"][0]}),
    ],
    refused=[
        res(BUCKET), with_sibling(ENCRYPTION, rules=[{"bucketKeyEnabled": True}]),
        with_sibling(ENCRYPTION, **_encryption("none")),
    ],
)  # fmt: skip
def encrypted(resource: Resource, context: Context) -> Findings:
    if not _encrypted(block(resource.props, "serverSideEncryptionConfiguration")):
        yield from joined(resource, context, ENCRYPTION, _encrypted, "no encryption is configured")


@rule(
    "aws-s3-own-key",
    "A bucket is encrypted by a key of our own",
    Severity.HIGH,
    anchors="CKV_AWS_145, AWS-0132, S3.17",
    applies=[BUCKET],
    fix="Add a server-side encryption configuration with aws:kms and the key's ARN.",
    allowed=[
        with_sibling(ENCRYPTION, **_encryption("aws:kms", _ARN)),
        res(BUCKET, serverSideEncryptionConfiguration={
            "rule": _encryption("aws:kms", _ARN)["rules"][0]}),
        *log_targets(),
    ],
    refused=[
        res(BUCKET),
        with_sibling(ENCRYPTION, **_encryption("AES256")),
        with_sibling(ENCRYPTION, **_encryption("aws:kms")),
    ],
)  # fmt: skip
def own_key(resource: Resource, context: Context) -> Findings:
    inline = block(resource.props, "serverSideEncryptionConfiguration")
    if takes_logs(resource, context) or _by_own_key(inline):
        return
    yield from joined(
        resource,
        context,
        ENCRYPTION,
        _by_own_key,
        "not encrypted with aws:kms and a key of our own",
    )


@rule(
    "aws-s3-versioning",
    "A bucket keeps what is overwritten",
    Severity.MEDIUM,
    anchors="CKV_AWS_21, AWS-0090, S3.14",
    applies=[BUCKET],
    fix="Add BucketVersioning with status Enabled.",
    allowed=[
        with_sibling(VERSIONING, versioningConfiguration={"status": "Enabled"}),
        res(BUCKET, versioning={"enabled": True}),
    ],
    refused=[
        res(BUCKET),
        with_sibling(VERSIONING, versioningConfiguration={"status": "Suspended"}),
    ],
)
def versioning(resource: Resource, context: Context) -> Findings:
    if flag(block(resource.props, "versioning"), "enabled"):
        return
    yield from joined(
        resource,
        context,
        VERSIONING,
        lambda props: text(block(props, "versioningConfiguration"), "status") == "Enabled",
        "versioning is not enabled",
    )


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
        if not _partial(entry)
    )


def _partial(entry: Mapping[str, Any]) -> bool:
    """Whether a lifecycle rule leaves a part of the bucket out."""
    return any(
        given(where, key)
        for where in (entry, block(entry, "filter"))
        for key in ("prefix", "tag", "tags", "and", "objectSizeGreaterThan", "objectSizeLessThan")
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
    allowed=[
        with_sibling(LIFECYCLE, rules=[_EXPIRES]),
        res(BUCKET, lifecycleRules=[{"enabled": True}]),
    ],
    refused=[res(BUCKET), with_sibling(LIFECYCLE, rules=[{**_EXPIRES, "status": "Disabled"}])],
)
def lifecycle(resource: Resource, context: Context) -> Findings:
    if _rules(resource.props):
        return
    yield from joined(
        resource, context, LIFECYCLE, lambda props: bool(_rules(props)), "no lifecycle rule"
    )


@rule(
    "aws-s3-aborted-uploads",
    "Uploads that never ended are not paid for",
    Severity.MEDIUM,
    anchors="CKV_AWS_300",
    applies=[LIFECYCLE],
    fix="Add a rule for the whole bucket (no filter) with abortIncompleteMultipartUpload.",
    allowed=[
        res(LIFECYCLE, bucket="b", rules=[_EXPIRES, _ABORT]),
        res(LIFECYCLE, bucket="b", rules=[{**_ABORT, "filter": {"prefix": ""}}]),
    ],
    refused=[
        res(LIFECYCLE, bucket="b", rules=[_EXPIRES]),
        res(LIFECYCLE, bucket="b", rules=[{**_ABORT, "status": "Disabled"}]),
        res(LIFECYCLE, bucket="b", rules=[{**_ABORT, "filter": {"prefix": "logs/"}}]),
    ],
)
def aborted_uploads(resource: Resource, _: Context) -> Findings:
    if not _aborts(resource.props):
        yield "no enabled rule for the whole bucket has abortIncompleteMultipartUpload"
