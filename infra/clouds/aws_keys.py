"""KMS keys by purpose: cluster secrets, data at rest, logs, alerts. All rotate every year."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from infra.clouds.aws_account import Account, Statement, allow, document

DELETION_DAYS = 30  # the longest that KMS offers: a wrong deletion can be noticed and undone


@dataclass(frozen=True, kw_only=True)
class AwsKeysArgs:
    account: Account


class AwsKeys(pulumi.ComponentResource):
    """Four customer keys, so that a right to one purpose is no right to another."""

    secrets: aws.kms.Key
    data: aws.kms.Key
    logs: aws.kms.Key
    alerts: aws.kms.Key

    def __init__(
        self, name: str, args: AwsKeysArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("recsys:aws:Keys", name, None, opts)
        self._account, self._name = args.account, name
        account = args.account
        own = {"StringEquals": {"aws:SourceAccount": account.id}}
        self.secrets = self._key("secrets", "Envelope key of Kubernetes secrets in etcd")
        self.data = self._key("data", "Artefacts, backups and images at rest")
        self.logs = self._key(
            "logs",
            "CloudWatch log groups of this site",
            allow(
                "LogsOfThisSite",
                ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*",
                 "kms:DescribeKey"],
                "*",
                {"ArnLike": {"kms:EncryptionContext:aws:logs:arn":
                             account.arn("logs", f"log-group:/{account.prefix}/*")}},
                {"Service": f"logs.{account.region}.amazonaws.com"},
            ),
            allow(
                "ControlPlaneLogs",
                ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*",
                 "kms:DescribeKey"],
                "*",
                {"ArnLike": {"kms:EncryptionContext:aws:logs:arn":
                             account.arn("logs", f"log-group:/aws/eks/{account.prefix}/*")}},
                {"Service": f"logs.{account.region}.amazonaws.com"},
            ),
        )  # fmt: skip
        self.alerts = self._key(
            "alerts",
            "Topic for alarms, budget and cost anomalies",
            allow(
                "AlertSenders",
                ["kms:GenerateDataKey*", "kms:Decrypt"],
                "*",
                own,
                {"Service": ["budgets.amazonaws.com", "cloudwatch.amazonaws.com",
                             "costalerts.amazonaws.com"]},
            ),
        )  # fmt: skip
        self.register_outputs({"data_key": self.data.arn})

    def _key(self, purpose: str, description: str, *more: Statement) -> aws.kms.Key:
        account, name = self._account, f"{self._name}-{purpose}"
        key = aws.kms.Key(
            name,
            description=description,
            enable_key_rotation=True,
            rotation_period_in_days=365,
            deletion_window_in_days=DELETION_DAYS,
            # Without this statement nobody, the account's owner included, could manage the key.
            policy=document(
                allow("IamDecides", ["kms:*"], "*", principal={"AWS": account.root}), *more
            ),
            tags=account.tags("keys", account.name(purpose)),
            opts=pulumi.ResourceOptions(parent=self),
        )
        aws.kms.Alias(
            name,
            name=f"alias/{account.name(purpose)}",
            target_key_id=key.key_id,
            opts=pulumi.ResourceOptions(parent=self),
        )
        return key
