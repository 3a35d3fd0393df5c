"""AWS policies: what they may not grant."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from policies.iam import POLICY_KINDS, ROLE, Statement, condition_values, policies_of
from policies.pods import Findings
from policies.resource import Resource
from policies.rule import Context, Rule, Severity, each, rule
from policies.samples import resource as res

POLICY = "aws:iam/policy:Policy"
GRANTING = POLICY_KINDS | {ROLE}
BUCKET_ARN = "arn:aws:s3:::shop/*"


def _doc(*entries: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(entries)})


def _allow(action: Any, resource: Any = "*", **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


def _policy(*entries: dict[str, Any]) -> dict[str, Any]:
    return res(POLICY, policy=_doc(*entries))


FINE = _policy(_allow(["s3:GetObject"], BUCKET_ARN))
DENY = _policy({"Effect": "Deny", "Action": "*", "Resource": "*"})


def _against(
    id_: str,
    title: str,
    severity: Severity,
    judge: Callable[[Statement], str],
    *,
    anchors: str,
    fix: str,
    allowed: list[dict[str, Any]],
    refused: list[dict[str, Any]],
) -> Rule:
    """A rule on every statement that allows something."""

    def check(resource: Resource, _: Context) -> Findings:
        def of(statement: Statement) -> Findings:
            if statement.allows and (said := judge(statement)):
                yield said

        yield from each(policies_of(resource), of)

    return rule(
        id_, title, severity, anchors=anchors, applies=GRANTING, fix=fix,
        allowed=[FINE, DENY, *allowed], refused=refused,
    )(check)  # fmt: skip


admin = _against(
    "aws-iam-admin",
    "No policy allows everything on everything",
    Severity.HIGH,
    lambda s: "every action on every resource" if s.any_action and s.on_everything else "",
    anchors="CKV_AWS_62, AWS-0057, IAM.1",
    fix="Write out the actions and the ARNs.",
    allowed=[_policy(_allow("*", BUCKET_ARN))],
    refused=[
        _policy(_allow("*")),
        _policy(_allow(["*"], ["*"])),
        _policy(_allow("s3:GetObject"), {"Effect": "Allow", "NotAction": "iam:*", "Resource": "*"}),
        res(ROLE, inlinePolicies=[{"name": "all", "policy": _doc(_allow("*"))}]),
    ],
)
star_action = _against(
    "aws-iam-any-action",
    "No policy allows every action",
    Severity.HIGH,
    lambda s: "every action" if s.any_action else "",
    anchors="CKV_AWS_63, AWS-0057",
    fix="Write out the actions.",
    allowed=[_policy(_allow("s3:Get*", BUCKET_ARN))],
    refused=[_policy(_allow("*", BUCKET_ARN)), _policy(_allow(["s3:GetObject", "*"]))],
)
whole_service = _against(
    "aws-iam-whole-service",
    "No policy allows a whole service on everything",
    Severity.HIGH,
    lambda s: (
        ", ".join(a for a in s.actions if a.endswith(":*") or a == "*") + " on every resource"
        if s.on_everything and any(a.endswith(":*") or a == "*" for a in s.actions)
        else ""
    ),
    anchors="AWS-0057, IAM.21",
    fix="Write out the actions of the service that are needed.",
    allowed=[_policy(_allow("s3:*", BUCKET_ARN)), _policy(_allow("ec2:Describe*"))],
    refused=[_policy(_allow("s3:*")), _policy(_allow(["ec2:Describe*", "sqs:*"], ["*"]))],
)

# actions that AWS lets nobody restrict to a resource, by verb or by name
_UNRESTRICTABLE = re.compile(
    r"(?i)^(?:[\w-]+:(?:describe|list(?!bucket$))\w*\*?|ecr:getauthorizationtoken|"
    r"sts:getcalleridentity|"
    r"cloudwatch:(?:putmetricdata|getmetric\w*)|xray:put\w+|pricing:getproducts|ce:get\w+|"
    r"tag:get\w+|ec2:get\w+|ssmmessages:\w+|ec2messages:\w+|logs:(?:startquery|getqueryresults))$"
)
star_resource = _against(
    "aws-iam-any-resource",
    "What can be restricted to a resource is",
    Severity.HIGH,
    lambda s: (
        ", ".join(found[:4]) + " on every resource"
        if "*" in s.resources
        and not s.condition
        and (found := [a for a in s.actions if not _UNRESTRICTABLE.match(a)])
        else ""
    ),
    anchors="CKV_AWS_355",
    fix="Name the ARNs, or set a condition.",
    allowed=[
        _policy(_allow(["ec2:DescribeInstances", "ecr:GetAuthorizationToken"])),
        _policy(_allow("s3:GetObject", Condition={"StringEquals": {"aws:SourceAccount": "1"}})),
    ],
    refused=[_policy(_allow("s3:GetObject")), _policy(_allow(["ec2:DescribeVpcs", "sqs:*"]))],
)


def _unbound(*wanted: str) -> Callable[[Statement], str]:
    """Of a statement: which of the actions it allows on everything, without a condition."""

    def judge(statement: Statement) -> str:
        if not statement.on_everything or statement.condition:
            return ""
        found = statement.grants(wanted)
        return f"{', '.join(found[:4])} on every resource, without a condition" if found else ""

    return judge


_NO_STAR = "Name the ARNs, or set a condition that leaves only the project's own resources."
escalation = _against(
    "aws-iam-escalation",
    "No policy lets its holder become more than it is",
    Severity.HIGH,
    _unbound(
        "iam:CreatePolicyVersion", "iam:SetDefaultPolicyVersion", "iam:CreateAccessKey",
        "iam:CreateLoginProfile", "iam:UpdateLoginProfile", "iam:AttachUserPolicy",
        "iam:AttachGroupPolicy", "iam:AttachRolePolicy", "iam:PutUserPolicy", "iam:PutGroupPolicy",
        "iam:PutRolePolicy", "iam:AddUserToGroup", "iam:UpdateAssumeRolePolicy", "iam:PassRole",
        "glue:UpdateDevEndpoint", "lambda:UpdateFunctionCode",
    ),
    anchors="CKV_AWS_286",
    fix=_NO_STAR,
    allowed=[_policy(_allow("iam:PassRole", "arn:aws:iam::1:role/node"))],
    refused=[
        _policy(_allow("iam:CreatePolicyVersion")),
        _policy(_allow(["iam:PassRole", "ec2:RunInstances"])),
        _policy(_allow("iam:*")),
        _policy({"Effect": "Allow", "NotAction": "s3:*", "Resource": "*"}),
    ],
)  # fmt: skip
credentials = _against(
    "aws-iam-credentials",
    "No policy hands out credentials at large",
    Severity.HIGH,
    _unbound(
        "iam:CreateAccessKey", "iam:UpdateAccessKey", "iam:CreateLoginProfile",
        "iam:CreateServiceSpecificCredential", "iam:ResetServiceSpecificCredential",
        "sts:AssumeRole", "sts:AssumeRoleWithSAML", "sts:AssumeRoleWithWebIdentity",
        "sts:GetFederationToken", "sts:GetSessionToken", "rds-db:connect",
        "redshift:GetClusterCredentials", "cognito-identity:GetCredentialsForIdentity",
        "cognito-identity:GetOpenIdToken", "lightsail:GetInstanceAccessDetails",
    ),
    anchors="CKV_AWS_287",
    fix=_NO_STAR,
    allowed=[_policy(_allow("ecr:GetAuthorizationToken"))],
    refused=[_policy(_allow("sts:AssumeRole")), _policy(_allow("iam:Create*"))],
)  # fmt: skip
exfiltration = _against(
    "aws-iam-exfiltration",
    "No policy reads data at large",
    Severity.HIGH,
    _unbound(
        "s3:GetObject", "ssm:GetParameter", "ssm:GetParameters", "ssm:GetParametersByPath",
        "secretsmanager:GetSecretValue", "rds:CopyDBSnapshot", "rds:CreateDBSnapshot",
    ),
    anchors="CKV_AWS_288",
    fix=_NO_STAR,
    allowed=[_policy(_allow("s3:ListAllMyBuckets"))],
    refused=[_policy(_allow("s3:Get*")), _policy(_allow(["secretsmanager:GetSecretValue"]))],
)  # fmt: skip
permissions = _against(
    "aws-iam-permissions",
    "No policy changes permissions at large",
    Severity.HIGH,
    _unbound(
        "iam:PutRolePolicy", "iam:AttachRolePolicy", "iam:CreateRole", "iam:CreatePolicy",
        "iam:DeleteRolePolicy", "iam:UpdateAssumeRolePolicy", "iam:PassRole", "kms:CreateGrant",
        "kms:PutKeyPolicy", "s3:PutBucketPolicy", "s3:PutBucketAcl", "s3:PutObjectAcl",
        "s3:PutBucketPublicAccessBlock", "s3:DeleteBucketPolicy", "sqs:AddPermission",
        "sqs:SetQueueAttributes", "sns:AddPermission", "sns:SetTopicAttributes",
        "lambda:AddPermission", "ecr:SetRepositoryPolicy", "ec2:ModifySnapshotAttribute",
        "ec2:ModifyImageAttribute", "secretsmanager:PutResourcePolicy",
    ),
    anchors="CKV_AWS_289",
    fix=_NO_STAR,
    allowed=[_policy(_allow("s3:PutBucketPolicy", "arn:aws:s3:::shop"))],
    refused=[_policy(_allow("s3:PutBucketPolicy")), _policy(_allow("kms:*"))],
)  # fmt: skip

_WRITES = re.compile(
    r"(?i)^[\w-]+:(?:create|delete|put|update|modify|run|start|stop|terminate|attach|detach|set|"
    r"add|remove|reboot|associate|disassociate|authorize|revoke|send|publish|purge|import|restore|"
    r"register|deregister|enable|disable|release|allocate|change|invoke|tag|untag|upload|batchput|"
    r"batchdelete|batchwrite|abort|replace|reset|cancel|write)\w*\*?$"
)
_FREE = re.compile(r"(?i)^(?:cloudwatch:putmetricdata|xray:put\w+)$")
writing = _against(
    "aws-iam-writes",
    "No policy writes at large",
    Severity.HIGH,
    lambda s: (
        f"{', '.join(found[:4])} on every resource, without a condition"
        if s.on_everything
        and not s.condition
        and (
            found := [
                a
                for a in s.actions
                if a == "*" or a.endswith(":*") or (_WRITES.match(a) and not _FREE.match(a))
            ]
        )
        else ""
    ),
    anchors="CKV_AWS_290",
    fix=_NO_STAR,
    allowed=[_policy(_allow("ec2:Describe*")), _policy(_allow("s3:PutObject", BUCKET_ARN))],
    refused=[_policy(_allow("s3:PutObject")), _policy(_allow(["ec2:Describe*", "ec2:Run*"]))],
)
decrypts = _against(
    "aws-iam-decrypt",
    "No policy decrypts with every key",
    Severity.HIGH,
    lambda s: (
        f"{', '.join(found)} with every key"
        if (s.on_everything or any(r.endswith((":key/*", ":*")) for r in s.resources))
        and not s.condition
        and (found := s.grants(("kms:Decrypt", "kms:ReEncryptFrom")))
        else ""
    ),
    anchors="KMS.1, KMS.2",
    fix="Name the keys' ARNs, or set kms:ViaService and kms:EncryptionContext conditions.",
    allowed=[_policy(_allow("kms:Decrypt", "arn:aws:kms:eu-west-1:1:key/1"))],
    refused=[
        _policy(_allow("kms:Decrypt")),
        _policy(_allow("kms:*", "arn:aws:kms:eu-west-1:1:key/*")),
    ],
)
passes_roles = _against(
    "aws-iam-pass-role",
    "A policy passes named roles, to a named service",
    Severity.MEDIUM,
    lambda s: (
        "iam:PassRole on every role"
        if (hit := s.grants(("iam:PassRole",)))
        and (s.on_everything or any(r.endswith(":role/*") for r in s.resources))
        else "iam:PassRole without a condition on iam:PassedToService"
        if hit and not condition_values(s, "iam:PassedToService")
        else ""
    ),
    anchors="AWS-0342",
    fix="Name the role's ARN and set StringEquals iam:PassedToService.",
    allowed=[
        _policy(
            _allow(
                "iam:PassRole",
                "arn:aws:iam::1:role/node",
                Condition={"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
            )
        )
    ],
    refused=[
        _policy(_allow("iam:PassRole")),
        _policy(_allow("iam:Pass*", "arn:aws:iam::1:role/*")),
        _policy(_allow("iam:PassRole", "arn:aws:iam::1:role/node")),
    ],
)
