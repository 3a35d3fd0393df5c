"""AWS keys: rotation, who may use them, and time to undo a deletion."""

from __future__ import annotations

import json
from typing import Any

from policies.iam import Statement, statements
from policies.pods import Findings
from policies.resource import Resource
from policies.rule import Context, Option, Severity, each, rule
from policies.samples import resource as res
from policies.values import flag, number, text

KEY = "aws:kms/key:Key"


def _key(principal: Any, **more: Any) -> dict[str, Any]:
    entry = {"Effect": "Allow", "Principal": principal, "Action": "kms:*", "Resource": "*", **more}
    return res(KEY, policy=json.dumps({"Version": "2012-10-17", "Statement": [entry]}))


@rule(
    "aws-kms-rotation",
    "Keys change every year",
    Severity.MEDIUM,
    anchors="CKV_AWS_7, AWS-0065, KMS.4",
    applies=[KEY],
    fix="Set enableKeyRotation to true.",
    allowed=[
        res(KEY, enableKeyRotation=True),
        res(KEY, customerMasterKeySpec="RSA_2048"),
        res(KEY, keyUsage="SIGN_VERIFY"),
    ],
    refused=[
        res(KEY),
        res(KEY, enableKeyRotation=False),
        res(KEY, customerMasterKeySpec="SYMMETRIC_DEFAULT"),
    ],
)
def rotation(resource: Resource, _: Context) -> Findings:
    spec = text(resource.props, "customerMasterKeySpec") or "SYMMETRIC_DEFAULT"
    usage = text(resource.props, "keyUsage") or "ENCRYPT_DECRYPT"
    symmetric = spec == "SYMMETRIC_DEFAULT" and usage == "ENCRYPT_DECRYPT"
    if symmetric and not flag(resource.props, "enableKeyRotation"):
        yield "enableKeyRotation is not true"


@rule(
    "aws-kms-public",
    "Not everyone may use a key",
    Severity.CRITICAL,
    anchors="CKV_AWS_33, CKV2_AWS_64, KMS.5",
    applies=[KEY, "aws:kms/keyPolicy:KeyPolicy"],
    fix="Name the account, the roles or the services in Principal.",
    allowed=[
        res(KEY),
        _key({"AWS": "arn:aws:iam::111122223333:root"}),
        _key("*", Condition={"StringEquals": {"kms:CallerAccount": "111122223333"}}),
    ],
    refused=[
        _key("*"),
        _key({"AWS": "*"}),
        _key({"AWS": ["arn:aws:iam::1:role/a", "*"]}),
        _key(["foo", "*"]),
        _key("*", Condition={"Bool": {"aws:SecureTransport": "true"}}),
    ],
)
def public(resource: Resource, _: Context) -> Findings:
    def judge(statement: Statement) -> Findings:
        if statement.open_to_all:
            yield "a statement allows Principal * and no condition says who or from where"

    yield from each(statements(resource.props, "policy"), judge)


@rule(
    "aws-kms-deletion-window",
    "A deleted key can be had back for a month",
    Severity.LOW,
    anchors="KMS.3, CKV_AWS_227",
    applies=[KEY],
    config={"days": Option(30, "integer", "Fewest days until a key is gone.")},
    fix="Set deletionWindowInDays to 30 and leave isEnabled true.",
    allowed=[res(KEY), res(KEY, deletionWindowInDays=30)],
    refused=[res(KEY, deletionWindowInDays=7), res(KEY, isEnabled=False)],
)
def deletion_window(resource: Resource, context: Context) -> Findings:
    days = number(resource.props, "deletionWindowInDays")
    if days is not None and days < context["days"]:
        yield f"deletionWindowInDays is {days:g}"
    if flag(resource.props, "isEnabled") is False:
        yield "isEnabled is false"
