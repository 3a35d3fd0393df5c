"""Every rule, one file per topic."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from policies.rule import Rule

TOPICS = (
    "aws_firewall",
    "aws_network",
    "aws_eks",
    "aws_nodes",
    "aws_vpn",
    "aws_load_balancer",
    "aws_iam",
    "aws_iam_trust",
    "aws_kms",
    "aws_s3",
    "aws_s3_access",
    "aws_services",
    "cost_capacity",
    "cost_bill",
    "k8s_pod_host",
    "k8s_pod_kernel",
    "k8s_pod_privileges",
    "k8s_pod_identity",
    "k8s_pod_image",
    "k8s_pod_resources",
    "k8s_pod_secrets",
    "k8s_rbac",
    "k8s_bindings",
    "k8s_namespace",
    "k8s_traffic",
    "k8s_availability",
)


@cache
def all_rules() -> tuple[Rule, ...]:
    """Every rule in topic order. Ids are unique (a test says so)."""
    found: list[Rule] = []
    for topic in TOPICS:
        module = import_module(f"policies.rules.{topic}")
        found += [value for value in vars(module).values() if isinstance(value, Rule)]
    return tuple(found)


def topic_of(rule: Rule) -> str:
    """The file that holds a rule."""
    return rule.check.__module__.rsplit(".", 1)[1]
