"""Every row of the catalogue has a rule: rows by number, rules by their ids (`-` ends a prefix)."""

from __future__ import annotations

import pytest

from policies.rules import all_rules

ROWS = {
    1: "aws-eks-endpoint-", 2: "aws-eks-public-ranges", 3: "aws-sg-world-all-ports",
    4: "aws-sg-world-ssh aws-sg-world-rdp", 5: "aws-sg-world-high-risk-ports aws-sg-world-http",
    6: "aws-sg-tunnel-peers", 7: "aws-sg-world-egress", 8: "aws-sg-rule-description",
    9: "aws-vpc-default-group-empty", 10: "aws-vpc-flow-log", 11: "aws-subnet-no-public-address",
    12: "aws-no-default-vpc", 13: "aws-network-acl-open", 14: "aws-vpn-two-tunnels",
    15: "aws-vpn-dynamic-routing aws-vpn-gateway-asn", 16: "aws-vpn-ikev2",
    17: "aws-vpn-encryption aws-vpn-integrity aws-vpn-key-exchange", 18: "aws-vpn-restart",
    19: "aws-vpn-dead-peer", 20: "aws-vpn-logs", 21: "aws-vpn-key-secret",
    22: "aws-ranges-disjoint", 23: "aws-lb-internal",
    24: "aws-lb-deletion-protection aws-lb-cross-zone aws-lb-access-logs aws-lb-two-zones",
    25: "aws-listener-tls aws-listener-policy", 26: "aws-target-group-health-check",
    27: "aws-iam-admin aws-iam-any-action aws-iam-whole-service aws-iam-any-resource",
    28: "aws-iam-managed-admin",
    29: "aws-iam-escalation aws-iam-credentials aws-iam-exfiltration aws-iam-permissions "
    "aws-iam-writes",
    30: "aws-iam-pass-role", 31: "aws-iam-trust-public aws-iam-trust-account",
    32: "aws-iam-trust-oidc", 33: "aws-iam-user-policy", 34: "aws-imds-v2 aws-imds-hop-limit",
    35: "aws-node-public-address", 36: "aws-user-data-secret",
    37: "aws-disk-encrypted aws-volume-own-key", 38: "aws-eks-node-remote-access",
    39: "aws-eks-secrets-encrypted", 40: "aws-eks-control-plane-logs", 41: "aws-eks-version",
    42: "aws-eks-deletion-protection", 43: "aws-kms-rotation", 44: "aws-kms-public",
    45: "aws-kms-deletion-window", 46: "aws-iam-decrypt", 47: "aws-s3-public-access-block",
    48: "aws-s3-public-acl aws-s3-ownership", 49: "aws-s3-own-key", 50: "aws-s3-versioning",
    51: "aws-s3-tls-only", 52: "aws-s3-lifecycle aws-s3-aborted-uploads",
    53: "aws-s3-access-log", 54: "aws-ecr-immutable aws-ecr-scan aws-ecr-private",
    55: "aws-ecr-own-key aws-ecr-lifecycle",
    56: "aws-sqs-encrypted aws-sqs-any-action aws-sqs-public",
    57: "aws-log-group-own-key aws-log-group-retention aws-log-group-audit-year",
    58: "aws-dns-failover-check aws-dns-dangling aws-dns-query-log", 59: "k8s-pod-privileged",
    60: "k8s-pod-host-pid k8s-pod-host-ipc k8s-pod-host-network",
    61: "k8s-pod-host-path k8s-pod-runtime-socket k8s-pod-volume-types",
    62: "k8s-pod-privilege-escalation",
    63: "k8s-pod-drop-all-capabilities k8s-pod-added-capabilities",
    64: "k8s-pod-run-as-non-root k8s-pod-root-user", 65: "k8s-pod-seccomp",
    66: "k8s-pod-read-only-root",
    67: "k8s-pod-host-port k8s-pod-sysctls k8s-pod-proc-mount k8s-pod-selinux k8s-pod-apparmor",
    68: "k8s-image-digest k8s-image-registry",
    69: "k8s-cpu-request k8s-memory-request k8s-memory-limit k8s-request-within-limit",
    70: "k8s-liveness-probe k8s-readiness-probe k8s-probes-differ",
    71: "k8s-secret-in-env k8s-plain-secret-in-env k8s-secret-in-configmap",
    72: "k8s-pod-service-account k8s-pod-service-account-token k8s-service-account-token "
    "k8s-default-service-account-token",
    73: "k8s-rbac-wildcard k8s-rbac-any-any k8s-rbac-any-verb k8s-rbac-any-resource",
    74: "k8s-rbac-secrets k8s-rbac-pod-create k8s-rbac-pod-exec k8s-rbac-nodes-proxy "
    "k8s-rbac-bind k8s-rbac-escalate k8s-rbac-impersonate k8s-rbac-webhooks "
    "k8s-rbac-csr-approve k8s-rbac-aws-auth",
    75: "k8s-binding-cluster-admin k8s-binding-anonymous k8s-binding-masters",
    76: "k8s-default-namespace k8s-namespace-pod-security k8s-namespace-default-deny-ingress "
    "k8s-namespace-default-deny-egress k8s-namespace-quota k8s-namespace-limit-range",
    77: "k8s-service-node-port k8s-service-external-ip k8s-service-load-balancer-internal",
    78: "k8s-ingress-tls k8s-ingress-wildcard-host k8s-ingress-default-backend",
    79: "k8s-replicas-minimum k8s-disruption-budget-allows-one k8s-spread "
    "k8s-autoscaler-minimum k8s-autoscaler-maximum",
    80: "cost-tags",
    81: "cost-instance-types cost-max-nodes cost-gpu-spot-from-zero cost-job-ttl cost-gpu-whole "
    "cost-gpu-toleration cost-gpu-quota",
    82: "cost-budget cost-rise cost-priced cost-budget-alert cost-nat-gateways "
    "cost-unattached-address",
}  # fmt: skip
IDS = [rule.id for rule in all_rules()]


def test_the_catalogue_has_82_rows() -> None:
    assert sorted(ROWS) == list(range(1, 83))


@pytest.mark.parametrize("row", sorted(ROWS))
def test_every_row_has_its_rules(row: int) -> None:
    for prefix in ROWS[row].split():
        found = any(name.startswith(prefix) for name in IDS) if prefix.endswith("-") else None
        assert prefix in IDS if found is None else found, f"row {row}: no rule {prefix}"
