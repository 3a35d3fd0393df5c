"""Hand a recorded program to the real AWS provider: the same resources as Terraform JSON.

The Pulumi AWS provider is generated from Terraform's, so names map by rule: camel case to snake
case, a plural list of blocks to its singular. The provider's own schema decides which; a property
that it does not know is an error here, never dropped (but for the few named in `NEWER`).
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

from tests.clouds.engine import REFERENCE, Engine

TYPES = {
    "EventRule": "cloudwatch_event_rule",
    "EventTarget": "cloudwatch_event_target",
    "LogGroup": "cloudwatch_log_group",
    "MetricAlarm": "cloudwatch_metric_alarm",
    "CompositeAlarm": "cloudwatch_composite_alarm",
    "Cluster": "eks_cluster",
    "NodeGroup": "eks_node_group",
    "Addon": "eks_addon",
    "AccessEntry": "eks_access_entry",
    "AccessPolicyAssociation": "eks_access_policy_association",
    "PodIdentityAssociation": "eks_pod_identity_association",
    "AnomalyMonitor": "ce_anomaly_monitor",
    "AnomalySubscription": "ce_anomaly_subscription",
    "Budget": "budgets_budget",
    "Repository": "ecr_repository",
    "LifecyclePolicy": "ecr_lifecycle_policy",
    "Key": "kms_key",
    "Alias": "kms_alias",
    "Queue": "sqs_queue",
    "QueuePolicy": "sqs_queue_policy",
    "Topic": "sns_topic",
    "TopicPolicy": "sns_topic_policy",
    "TopicSubscription": "sns_topic_subscription",
    "Bucket": "s3_bucket",
    "BucketPublicAccessBlock": "s3_bucket_public_access_block",
    "SecurityGroupIngressRule": "vpc_security_group_ingress_rule",
    "SecurityGroupEgressRule": "vpc_security_group_egress_rule",
    "Record": "route53_record",
    "HealthCheck": "route53_health_check",
    "Zone": "route53_zone",
    "QueryLog": "route53_query_log",
    "ResourcePolicy": "cloudwatch_log_resource_policy",
    "LogResourcePolicy": "cloudwatch_log_resource_policy",
}
PREFIX = {"iam": "iam_", "s3": "s3_", "ec2": ""}
RENAMED = {
    ("aws_cloudwatch_metric_alarm", "name"): "alarm_name",
    ("aws_sns_topic_subscription", "topic"): "topic_arn",
    ("aws_budgets_budget", "cost_filters"): "cost_filter",
    ("aws_ecr_repository", "encryption_configurations"): "encryption_configuration",
    ("aws_route53_record", "aliases"): "alias",
    ("aws_route53_record", "weighted_routing_policies"): "weighted_routing_policy",
}
NEWER = {
    ("aws_eks_cluster", "deletion_protection"),  # provider 6
    ("aws_vpn_connection", "preshared_key_storage"),  # provider 6
    ("aws_vpn_connection_log", "bgp_log_enabled"),
    ("aws_vpn_connection_log", "bgp_log_group_arn"),
    ("aws_vpn_connection_log", "bgp_log_output_format"),
}
SECRET = "4dabf18193072939515e22adb298388d"  # how the engine marks a secret value
PROVIDER = {
    "region": "eu-central-1",
    "access_key": "none",
    "secret_key": "none",
    "skip_credentials_validation": True,
    "skip_requesting_account_id": True,
    "skip_metadata_api_check": "true",
    "skip_region_validation": True,
}


def snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def resource_type(token: str) -> str:
    module, short = token.split(":")[1].split("/")[0], token.rsplit(":", 1)[-1]
    if short in TYPES:
        return f"aws_{TYPES[short]}"
    return f"aws_{PREFIX.get(module, module + '_')}{snake(short)}"


def label(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)


def reference(match: re.Match[str]) -> str:
    return f"${{{resource_type(match[1])}.{label(match[2])}.{snake(match[3])}}}"


def convert(value: Any, block: dict[str, Any], where: str) -> Any:
    """One object's properties, by the provider's schema of the block they belong to."""
    made: dict[str, Any] = {}
    for key, inner in value.items():
        name = RENAMED.get((where, snake(key)), snake(key))
        candidates = [name, name.removesuffix("s"), re.sub(r"ies$", "y", name),
                      name.removesuffix("_lists"), f"{name}s", name.replace("ipv4_", "ipv4"),
                      re.sub(r"_lists?$", "_list", name)]  # fmt: skip
        attributes, blocks = block.get("attributes", {}), block.get("block_types", {})
        found = next((c for c in candidates if c in attributes or c in blocks), None)
        kind = where.split(".")[0]
        if found is None:
            short = kind if "cloudwatch_log_options" not in where else f"{kind}_log"
            assert (short, name) in NEWER, f"{where}: the provider has no {name}"
            continue
        if found in blocks:
            items = inner if isinstance(inner, list) else [inner]
            made[found] = [convert(i, blocks[found]["block"], f"{where}.{found}") for i in items]
        else:
            made[found] = plain(inner)
    return made


def plain(value: Any) -> Any:
    if isinstance(value, str):
        return REFERENCE.sub(reference, value.replace("${", "$${"))
    if isinstance(value, dict) and SECRET in value:
        return plain(value["value"])
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value


def program(engine: Engine, schema: dict[str, Any]) -> dict[str, Any]:
    resources: dict[str, dict[str, Any]] = {}
    for each in engine.made:
        if not each.type.startswith("aws:"):
            continue
        kind = resource_type(each.type)
        assert kind in schema, f"{each.type}: the provider has no {kind}"
        body = convert(each.inputs, schema[kind]["block"], kind)
        resources.setdefault(kind, {})[label(each.name)] = body
    return {
        "terraform": {"required_providers": {"aws": {"source": "hashicorp/aws"}}},
        "provider": {"aws": PROVIDER},
        "resource": resources,
    }


def terraform(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["terraform", *args], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )


def provider_schema(folder: Path, mirror: Path) -> dict[str, Any]:
    empty = {"terraform": {"required_providers": {"aws": {"source": "hashicorp/aws"}}}}
    (folder / "main.tf.json").write_text(json.dumps(empty))
    done = terraform(folder, "init", f"-plugin-dir={mirror}", "-no-color", "-input=false")
    assert done.returncode == 0, done.stderr
    out = terraform(folder, "providers", "schema", "-json").stdout
    schemas = json.loads(out)["provider_schemas"]
    return schemas["registry.terraform.io/hashicorp/aws"]["resource_schemas"]
