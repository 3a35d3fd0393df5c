"""What every AWS module shares: ARNs by arithmetic, tags, and small policy statements.

Names are fixed by us, so ARNs are known before anything exists and a preview (and the policies on
it) can read every policy document. Only ids that AWS invents (KMS keys, VPC parts) stay outputs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from infra import naming
from infra.clouds.burst import dump

Statement: TypeAlias = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Account:
    """One AWS account and region, and the prefix of every name in it."""

    id: str
    region: str
    prefix: str
    identity: naming.Identity

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d{12}", self.id):
            raise ValueError(f"AWS account {self.id!r}; give its 12 digits")
        if not re.fullmatch(r"[a-z]{2}(-[a-z]+)+-\d", self.region):
            raise ValueError(f"AWS region {self.region!r}; give a code such as eu-central-1")

    @classmethod
    def of(cls, id: str, region: str, identity: naming.Identity) -> Account:  # noqa: A002
        """As everything of one stack names itself there."""
        prefix = naming.name("recsys", identity.environment, limit=24)
        return cls(id=id, region=region, prefix=prefix, identity=identity)

    @property
    def partition(self) -> str:
        if self.region.startswith("cn-"):
            return "aws-cn"
        return "aws-us-gov" if self.region.startswith("us-gov-") else "aws"

    @property
    def root(self) -> str:
        """The account as a principal: hands the decision to IAM, is no user by itself."""
        return f"arn:{self.partition}:iam::{self.id}:root"

    def arn(self, service: str, resource: str) -> str:
        """An ARN in this account and region."""
        return f"arn:{self.partition}:{service}:{self.region}:{self.id}:{resource}"

    def role(self, name: str) -> str:
        return f"arn:{self.partition}:iam::{self.id}:role/{name}"

    def managed_policy(self, name: str) -> str:
        return f"arn:{self.partition}:iam::aws:policy/{name}"

    def name(self, *parts: str, limit: int = 63) -> str:
        return naming.name(self.prefix, *parts, limit=limit)

    def global_name(self, *parts: str) -> str:
        """A bucket name: one namespace for all of AWS, so account and region are part of it."""
        return naming.name(self.prefix, *parts, self.id, self.region)

    def tags(self, component: str, name: str) -> dict[str, str]:
        return naming.tags(self.identity, component, {"Name": name})


def document(*statements: Statement, version: str = "2012-10-17") -> str:
    """An IAM policy document as JSON."""
    return dump({"Version": version, "Statement": list(statements)})


def allow(
    sid: str,
    actions: Sequence[str],
    resources: Sequence[Any] | str,
    conditions: Mapping[str, Mapping[str, Any]] | None = None,
    principal: Mapping[str, Any] | None = None,
) -> Statement:
    """One Allow statement; a resource policy also names its principal."""
    made: Statement = {"Sid": sid, "Effect": "Allow", "Action": list(actions)}
    if principal is not None:
        made["Principal"] = dict(principal)
    made["Resource"] = resources if isinstance(resources, str) else list(resources)
    if conditions:
        made["Condition"] = {test: dict(values) for test, values in conditions.items()}
    return made


def deny_plain_http(actions: str, resources: Sequence[str]) -> Statement:
    """Refuse every request that does not come over TLS."""
    return {
        "Sid": "DenyPlainHttp",
        "Effect": "Deny",
        "Principal": "*",
        "Action": actions,
        "Resource": list(resources),
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }


def service_trust(
    service: str, conditions: Mapping[str, Mapping[str, Any]] | None = None, *, tag: bool = False
) -> str:
    """A trust policy for one AWS service; `tag` also lets it pass session tags (pod identity)."""
    made: Statement = {
        "Sid": "Trust",
        "Effect": "Allow",
        "Principal": {"Service": service},
        "Action": ["sts:AssumeRole", "sts:TagSession"] if tag else ["sts:AssumeRole"],
    }
    if conditions:
        made["Condition"] = {test: dict(values) for test, values in conditions.items()}
    return document(made)


def pod_trust(account: Account, cluster: str, namespace: str, service_account: str) -> str:
    """Trust for exactly one service account of one cluster, through EKS Pod Identity."""
    return service_trust(
        "pods.eks.amazonaws.com",
        {
            "StringEquals": {
                "aws:SourceAccount": account.id,
                "aws:RequestTag/kubernetes-namespace": namespace,
                "aws:RequestTag/kubernetes-service-account": service_account,
            },
            "ArnEquals": {"aws:SourceArn": account.arn("eks", f"cluster/{cluster}")},
        },
        tag=True,
    )
