"""AWS EKS: who reaches the control plane, what it encrypts and writes down, which version it is."""

from __future__ import annotations

from typing import Any

from policies.networks import covers_world
from policies.pods import Findings
from policies.resource import Resource
from policies.rule import Context, Option, Severity, rule
from policies.samples import resource as res
from policies.values import UnknownValue, block, flag, given, raw, text, texts

CLUSTER = "aws:eks/cluster:Cluster"
NODE_GROUP = "aws:eks/nodeGroup:NodeGroup"
KEY_ARN = "arn:aws:kms:eu-west-1:111122223333:key/1"


def _cluster(**vpc: Any) -> dict[str, Any]:
    return res(CLUSTER, vpcConfig={"subnetIds": ["subnet-1", "subnet-2"], **vpc})


PRIVATE = {"endpointPrivateAccess": True, "endpointPublicAccess": False}


@rule(
    "aws-eks-endpoint-public",
    "The control plane has no public endpoint",
    Severity.CRITICAL,
    anchors="CKV_AWS_39, AWS-0040, EKS.1, CIS EKS 5.4.2",
    applies=[CLUSTER],
    fix="Set vpcConfig.endpointPublicAccess to false and endpointPrivateAccess to true.",
    allowed=[_cluster(**PRIVATE)],
    refused=[_cluster(), _cluster(endpointPublicAccess=True), res(CLUSTER, vpcConfig={})],
)
def endpoint_public(resource: Resource, _: Context) -> Findings:
    public = flag(block(resource.props, "vpcConfig"), "endpointPublicAccess")
    if public is not False:
        yield f"endpointPublicAccess is {'true' if public else 'absent, which means true'}"


@rule(
    "aws-eks-endpoint-private",
    "Nodes reach the control plane inside the VPC",
    Severity.HIGH,
    anchors="CIS EKS 5.4.2, EKS.1",
    applies=[CLUSTER],
    fix="Set vpcConfig.endpointPrivateAccess to true.",
    allowed=[_cluster(**PRIVATE)],
    refused=[_cluster(), _cluster(endpointPrivateAccess=False, endpointPublicAccess=True)],
)
def endpoint_private(resource: Resource, _: Context) -> Findings:
    if not flag(block(resource.props, "vpcConfig"), "endpointPrivateAccess"):
        yield "endpointPrivateAccess is not true"


@rule(
    "aws-eks-public-ranges",
    "A public endpoint answers known ranges only",
    Severity.CRITICAL,
    anchors="CKV_AWS_38, AWS-0041, CIS EKS 5.4.1",
    applies=[CLUSTER],
    fix="List the offices' ranges in vpcConfig.publicAccessCidrs, or close the public endpoint.",
    allowed=[
        _cluster(**PRIVATE),
        _cluster(endpointPublicAccess=True, publicAccessCidrs=["192.0.2.0/24"]),
    ],
    refused=[
        _cluster(),
        _cluster(endpointPublicAccess=True, publicAccessCidrs=[]),
        _cluster(endpointPublicAccess=True, publicAccessCidrs=["192.0.2.0/24", "0.0.0.0/0"]),
        _cluster(publicAccessCidrs=["0.0.0.0/1", "128.0.0.0/1"]),
    ],
)
def public_ranges(resource: Resource, _: Context) -> Findings:
    vpc = block(resource.props, "vpcConfig")
    if flag(vpc, "endpointPublicAccess") is False:
        return
    known: list[str] = []
    try:
        known = texts(vpc, "publicAccessCidrs")
    except UnknownValue:
        value = raw(vpc, "publicAccessCidrs")
        known = [x for x in value if isinstance(x, str)] if isinstance(value, list) else []
        if not covers_world(known):
            raise
    if not known:
        yield "publicAccessCidrs is absent, which means everyone"
    elif covers_world(known):
        yield f"publicAccessCidrs is {', '.join(known)}"


@rule(
    "aws-eks-secrets-encrypted",
    "Secrets of the cluster are encrypted by a key of our own",
    Severity.HIGH,
    anchors="CKV_AWS_58, AWS-0039, EKS.3, CIS EKS 5.3.1",
    applies=[CLUSTER],
    fix="Set encryptionConfig with resources [secrets] and provider.keyArn.",
    allowed=[
        res(CLUSTER, encryptionConfig={
            "resources": ["secrets"], "provider": {"keyArn": KEY_ARN}}),
    ],
    refused=[
        res(CLUSTER),
        res(CLUSTER, encryptionConfig={"resources": [], "provider": {"keyArn": KEY_ARN}}),
        res(CLUSTER, encryptionConfig={"resources": ["secrets"], "provider": {"keyArn": ""}}),
    ],
)  # fmt: skip
def secrets_encrypted(resource: Resource, _: Context) -> Findings:
    config = block(resource.props, "encryptionConfig")
    if "secrets" not in texts(config, "resources"):
        yield "encryptionConfig does not name secrets"
    elif not given(block(config, "provider"), "keyArn"):
        yield "encryptionConfig.provider has no keyArn"


@rule(
    "aws-eks-control-plane-logs",
    "The control plane writes down who did what",
    Severity.MEDIUM,
    anchors="CKV_AWS_37, AWS-0038, EKS.8, CIS EKS 2.1.1",
    applies=[CLUSTER],
    config={
        "types": Option(["api", "audit", "authenticator"], "array", "Logs that must be written.")
    },
    fix="Set enabledClusterLogTypes: api, audit, authenticator, controllerManager, scheduler.",
    allowed=[res(CLUSTER, enabledClusterLogTypes=["api", "audit", "authenticator", "scheduler"])],
    refused=[res(CLUSTER), res(CLUSTER, enabledClusterLogTypes=["api", "scheduler"])],
)
def control_plane_logs(resource: Resource, context: Context) -> Findings:
    found = texts(resource.props, "enabledClusterLogTypes")
    if missing := [name for name in context["types"] if name not in found]:
        yield f"enabledClusterLogTypes lacks {', '.join(missing)}"


# https://docs.aws.amazon.com/eks/latest/userguide/kubernetes-versions.html, read 2026-11-24:
# versions in standard or extended support. Older ones are upgraded by AWS, whether it suits or not.
SUPPORTED = ["1.31", "1.32", "1.33", "1.34", "1.35", "1.36"]


@rule(
    "aws-eks-version",
    "The cluster runs a version that gets fixes",
    Severity.HIGH,
    anchors="CKV_AWS_339, EKS.2",
    applies=[CLUSTER],
    config={"versions": Option(SUPPORTED, "array", "Versions that AWS supports, as read.")},
    fix="Upgrade, one minor version at a time; review the setting `versions` every quarter.",
    allowed=[res(CLUSTER, version="1.34"), res(CLUSTER)],
    refused=[res(CLUSTER, version="1.22"), res(CLUSTER, version="1.9")],
)
def version(resource: Resource, context: Context) -> Findings:
    # absent means the newest that AWS has
    found = text(resource.props, "version")
    if found and found not in context["versions"]:
        yield f"version is {found}; supported are {', '.join(context['versions'])}"


@rule(
    "aws-eks-deletion-protection",
    "A cluster is not deleted by accident",
    Severity.MEDIUM,
    anchors="Prowler eks_cluster_deletion_protection_enabled",
    applies=[CLUSTER],
    fix="Set deletionProtection to true (or protect the resource in the program).",
    allowed=[res(CLUSTER, deletionProtection=True), {**res(CLUSTER), "protect": True}],
    refused=[res(CLUSTER), res(CLUSTER, deletionProtection=False)],
)
def deletion_protection(resource: Resource, _: Context) -> Findings:
    if not resource.protect and not flag(resource.props, "deletionProtection"):
        yield "deletionProtection is not true and the resource is not protected"


@rule(
    "aws-eks-access-entries",
    "Access to the cluster is granted by entries alone",
    Severity.MEDIUM,
    anchors="own rule, KSV-0115",
    applies=[CLUSTER],
    fix="Set accessConfig.authenticationMode to API; declare aws.eks.AccessEntry resources.",
    allowed=[res(CLUSTER, accessConfig={"authenticationMode": "API"})],
    refused=[res(CLUSTER), res(CLUSTER, accessConfig={"authenticationMode": "CONFIG_MAP"})],
)
def access_entries(resource: Resource, _: Context) -> Findings:
    mode = text(block(resource.props, "accessConfig"), "authenticationMode")
    if mode != "API":
        yield f"authenticationMode is {mode or 'absent, which means CONFIG_MAP'}"


def _nodes(**access: Any) -> dict[str, Any]:
    return res(NODE_GROUP, **({"remoteAccess": access} if access else {}))


@rule(
    "aws-eks-node-remote-access",
    "Nodes let nobody in by SSH from everywhere",
    Severity.HIGH,
    anchors="CKV_AWS_100",
    applies=[NODE_GROUP],
    fix="Remove remoteAccess and use Session Manager, or set sourceSecurityGroupIds.",
    allowed=[_nodes(), _nodes(ec2SshKey="ops", sourceSecurityGroupIds=["sg-1"])],
    refused=[_nodes(ec2SshKey="ops"), _nodes(ec2SshKey="ops", sourceSecurityGroupIds=[])],
)
def node_remote_access(resource: Resource, _: Context) -> Findings:
    access = block(resource.props, "remoteAccess")
    if raw(access, "ec2SshKey") and not texts(access, "sourceSecurityGroupIds"):
        yield "remoteAccess has a key and no sourceSecurityGroupIds: port 22 opens to the world"
