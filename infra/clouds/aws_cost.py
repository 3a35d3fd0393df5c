"""Where warnings go, the budget, and the watch for costs that nobody planned."""

from __future__ import annotations

from dataclasses import dataclass

import pulumi
import pulumi_aws as aws

from infra.clouds.aws_account import Account, allow, deny_plain_http, document
from infra.clouds.burst import dump

WARN_AT = ((50, "ACTUAL"), (80, "ACTUAL"), (100, "ACTUAL"), (100, "FORECASTED"))
"""Percent of the budget, and whether spent or forecast."""
ANOMALY_USD = 50


@dataclass(frozen=True, kw_only=True)
class AwsCostArgs:
    account: Account
    alerts_key_id: pulumi.Input[str]
    monthly_budget_usd: int
    alert_emails: tuple[str, ...]


class AwsCost(pulumi.ComponentResource):
    """Alert topic, monthly budget by this stack's tag, and an anomaly monitor on the same tag."""

    topic: aws.sns.Topic

    def __init__(
        self, name: str, args: AwsCostArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("recsys:aws:Cost", name, None, opts)
        account, child = args.account, pulumi.ResourceOptions(parent=self)
        topic_name = account.name("alerts")
        topic_arn = account.arn("sns", topic_name)
        self.topic = aws.sns.Topic(
            name,
            name=topic_name,
            kms_master_key_id=args.alerts_key_id,
            tags=account.tags("cost", topic_name),
            opts=child,
        )
        own = {"StringEquals": {"aws:SourceAccount": account.id}}
        policy = aws.sns.TopicPolicy(
            name,
            arn=self.topic.arn,
            policy=document(
                *(
                    allow(sid, ["sns:Publish"], [topic_arn], own, {"Service": service})
                    for sid, service in (
                        ("Budgets", "budgets.amazonaws.com"),
                        ("Alarms", "cloudwatch.amazonaws.com"),
                        ("Anomalies", "costalerts.amazonaws.com"),
                    )
                ),
                deny_plain_http("sns:Publish", [topic_arn]),
            ),
            opts=child,
        )
        for number, address in enumerate(args.alert_emails, start=1):
            aws.sns.TopicSubscription(
                f"{name}-{number}",
                topic=self.topic.arn,
                protocol="email",
                endpoint=address,
                opts=child,
            )
        ready = pulumi.ResourceOptions(parent=self, depends_on=[policy])
        budget_name = account.name("monthly")
        aws.budgets.Budget(
            name,
            name=budget_name,
            budget_type="COST",
            time_unit="MONTHLY",
            limit_amount=str(args.monthly_budget_usd),
            limit_unit="USD",
            cost_filters=[
                {
                    "name": "TagKeyValue",
                    "values": [f"user:environment${account.identity.environment}"],
                }
            ],
            notifications=[
                {
                    "comparison_operator": "GREATER_THAN",
                    "threshold": percent,
                    "threshold_type": "PERCENTAGE",
                    "notification_type": kind,
                    "subscriber_sns_topic_arns": [self.topic.arn],
                }
                for percent, kind in WARN_AT
            ],
            tags=account.tags("cost", budget_name),
            opts=ready,
        )
        monitor = aws.costexplorer.AnomalyMonitor(
            name,
            name=account.name("anomalies"),
            monitor_type="CUSTOM",
            monitor_specification=dump(
                {
                    "Tags": {
                        "Key": "user:environment",
                        "Values": [account.identity.environment],
                        "MatchOptions": ["EQUALS"],
                    }
                }
            ),
            tags=account.tags("cost", account.name("anomalies")),
            opts=child,
        )
        aws.costexplorer.AnomalySubscription(
            name,
            name=account.name("anomalies"),
            frequency="IMMEDIATE",  # the only frequency that may go to a topic
            monitor_arn_lists=[monitor.arn],
            subscribers=[{"type": "SNS", "address": self.topic.arn}],
            threshold_expression={
                "dimension": {
                    "key": "ANOMALY_TOTAL_IMPACT_ABSOLUTE",
                    "match_options": ["GREATER_THAN_OR_EQUAL"],
                    "values": [str(ANOMALY_USD)],
                }
            },
            tags=account.tags("cost", account.name("anomalies")),
            opts=ready,
        )
        self.register_outputs({"topic": self.topic.arn})
