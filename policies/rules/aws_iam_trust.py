"""AWS roles: who may take them, and whom policies are attached to."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from policies.iam import ROLE, Statement, condition_values, statements
from policies.pods import Findings
from policies.resource import Resource
from policies.rule import Context, Severity, each, rule
from policies.samples import resource as res
from policies.values import text, texts


def _doc(*entries: dict[str, Any]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": list(entries)})


ATTACHMENTS = {
    "aws:iam/rolePolicyAttachment:RolePolicyAttachment",
    "aws:iam/userPolicyAttachment:UserPolicyAttachment",
    "aws:iam/groupPolicyAttachment:GroupPolicyAttachment",
    "aws:iam/policyAttachment:PolicyAttachment",
    ROLE,
}
_ADMIN = re.compile(r":policy/(?:AdministratorAccess|IAMFullAccess|PowerUserAccess)$")


@rule(
    "aws-iam-managed-admin",
    "Nobody gets AWS's administrator policies",
    Severity.CRITICAL,
    anchors="CKV_AWS_274, CKV2_AWS_40, CKV2_AWS_56",
    applies=ATTACHMENTS,
    fix="Attach a policy with the actions that are needed.",
    allowed=[
        res(
            "aws:iam/rolePolicyAttachment:RolePolicyAttachment",
            policyArn="arn:aws:iam::aws:policy/AmazonEKSClusterPolicy",
        )
    ],
    refused=[
        res(
            "aws:iam/rolePolicyAttachment:RolePolicyAttachment",
            policyArn="arn:aws:iam::aws:policy/AdministratorAccess",
        ),
        res(ROLE, managedPolicyArns=["arn:aws:iam::aws:policy/IAMFullAccess"]),
    ],
)
def managed_admin(resource: Resource, _: Context) -> Findings:
    if resource.kind == ROLE:
        arns = texts(resource.props, "managedPolicyArns")
    else:
        arns = [text(resource.props, "policyArn")]
    yield from (f"{arn} is attached" for arn in arns if _ADMIN.search(arn))


USERS = {
    "aws:iam/userPolicy:UserPolicy",
    "aws:iam/userPolicyAttachment:UserPolicyAttachment",
    "aws:iam/policyAttachment:PolicyAttachment",
}


@rule(
    "aws-iam-user-policy",
    "Permissions belong to roles and groups",
    Severity.LOW,
    anchors="CKV_AWS_40, AWS-0143, IAM.2",
    applies=USERS,
    fix="Attach the policy to a role (or a group) that the user takes.",
    allowed=[res("aws:iam/policyAttachment:PolicyAttachment", roles=["node"])],
    refused=[
        res("aws:iam/userPolicy:UserPolicy", user="ann", policy="{}"),
        res("aws:iam/policyAttachment:PolicyAttachment", users=["ann"]),
    ],
)
def user_policy(resource: Resource, _: Context) -> Findings:
    if not resource.kind.endswith(":PolicyAttachment"):
        yield "the policy is a user's"
    elif users := texts(resource.props, "users"):
        yield f"users are {', '.join(users)}"


def _role(principal: Any, **more: Any) -> dict[str, Any]:
    entry = {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole", **more}
    return res(ROLE, assumeRolePolicy=_doc(entry))


SERVICE = _role({"Service": "ec2.amazonaws.com"})


def _trust(resource: Resource, judge: Callable[[Statement], str]) -> Findings:
    def of(statement: Statement) -> Findings:
        if statement.allows and (said := judge(statement)):
            yield said

    yield from each(statements(resource.props, "assumeRolePolicy"), of)


@rule(
    "aws-iam-trust-public",
    "Not everyone may take a role",
    Severity.CRITICAL,
    anchors="CKV_AWS_60",
    applies=[ROLE],
    fix="Name the roles or the service in Principal.",
    allowed=[SERVICE, _role({"AWS": "arn:aws:iam::111122223333:role/ci"})],
    refused=[_role("*"), _role({"AWS": "*"}), _role({"AWS": ["arn:aws:iam::1:role/ci", "*"]})],
)
def trust_public(resource: Resource, _: Context) -> Findings:
    yield from _trust(resource, lambda s: "Principal is *" if s.public else "")


_ACCOUNT = re.compile(r"^(?:\d{12}|arn:aws[\w-]*:iam::\d{12}:root)$")


@rule(
    "aws-iam-trust-account",
    "A whole account may not take a role",
    Severity.HIGH,
    anchors="CKV_AWS_61",
    applies=[ROLE],
    fix="Name a role of the account in Principal, or set a condition (external id, MFA, org).",
    allowed=[
        SERVICE,
        _role(
            {"AWS": "arn:aws:iam::111122223333:root"},
            Condition={"StringEquals": {"sts:ExternalId": "x"}},
        ),
    ],
    refused=[
        _role({"AWS": "arn:aws:iam::111122223333:root"}),
        _role({"AWS": ["arn:aws:iam::1:role/ci", "111122223333"]}),
    ],
)
def trust_account(resource: Resource, _: Context) -> Findings:
    def judge(statement: Statement) -> str:
        whole = [who for _, who in statement.principals if _ACCOUNT.match(who)]
        return f"Principal is {', '.join(whole)}" if whole and not statement.condition else ""

    yield from _trust(resource, judge)


_OIDC = "arn:aws:iam::111122223333:oidc-provider/token.actions.githubusercontent.com"
_HOST = "token.actions.githubusercontent.com"


def _oidc(**condition: dict[str, str]) -> dict[str, Any]:
    more = {"Condition": condition} if condition else {}
    return _role({"Federated": _OIDC}, **more)


@rule(
    "aws-iam-trust-oidc",
    "A web identity is one subject for one audience",
    Severity.HIGH,
    anchors="CKV_AWS_393",
    applies=[ROLE],
    fix="Set StringEquals on the provider's :sub and :aud, without a bare wildcard.",
    allowed=[
        SERVICE,
        _oidc(StringEquals={
            f"{_HOST}:sub": "repo:shop/deploy:ref:refs/heads/main",
            f"{_HOST}:aud": "sts.amazonaws.com",
        }),
    ],
    refused=[
        _oidc(),
        _oidc(StringEquals={f"{_HOST}:aud": "sts.amazonaws.com"}),
        _oidc(StringLike={f"{_HOST}:sub": "*", f"{_HOST}:aud": "sts.amazonaws.com"}),
        _oidc(StringLike={f"{_HOST}:sub": "repo:*", f"{_HOST}:aud": "sts.amazonaws.com"}),
    ],
)  # fmt: skip
def trust_oidc(resource: Resource, _: Context) -> Findings:
    def judge(statement: Statement) -> str:
        if not any(k == "Federated" and "oidc-provider/" in who for k, who in statement.principals):
            return ""
        subjects = condition_values(statement, ":sub")
        if not subjects:
            return "no condition on :sub"
        loose = [value for _, value in subjects if re.match(r"^(?:\w+:)?\*|^repo:[^/]*\*", value)]
        if loose:
            return f":sub is {', '.join(loose)}"
        return "" if condition_values(statement, ":aud") else "no condition on :aud"

    yield from _trust(resource, judge)
