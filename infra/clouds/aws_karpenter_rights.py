"""What Karpenter's controller may do in the account.

The rights follow the project's own CloudFormation template, less what a fixed instance profile
makes unnecessary (creating and deleting profiles).
"""

from __future__ import annotations

from infra.clouds.aws_account import Account, Statement, allow


def lifecycle_statements(account: Account, cluster: str) -> list[Statement]:
    """Start, tag and end instances that carry this cluster's tag and a node pool's."""
    region, part = account.region, account.partition
    owned = f"kubernetes.io/cluster/{cluster}"
    made = [
        f"arn:{part}:ec2:{region}:*:{kind}/*"
        for kind in (
            "fleet", "instance", "volume", "network-interface", "launch-template",
            "spot-instances-request",
        )
    ]  # fmt: skip
    request = {f"aws:RequestTag/{owned}": "owned", "aws:RequestTag/eks:eks-cluster-name": cluster}
    of_a_pool = {"StringLike": {"aws:RequestTag/karpenter.sh/nodepool": "*"}}
    existing = {
        "StringEquals": {f"aws:ResourceTag/{owned}": "owned"},
        "StringLike": {"aws:ResourceTag/karpenter.sh/nodepool": "*"},
    }
    return [
        allow(
            "UseSharedParts",
            ["ec2:RunInstances", "ec2:CreateFleet"],
            [
                f"arn:{part}:ec2:{region}::image/*",
                f"arn:{part}:ec2:{region}::snapshot/*",
                *(
                    f"arn:{part}:ec2:{region}:{account.id}:{kind}/*"
                    for kind in ("security-group", "subnet", "capacity-reservation")
                ),
            ],
        ),
        allow(
            "UseOwnLaunchTemplates",
            ["ec2:RunInstances", "ec2:CreateFleet"],
            [f"arn:{part}:ec2:{region}:*:launch-template/*"],
            existing,
        ),
        allow(
            "CreateOnlyTagged",
            ["ec2:RunInstances", "ec2:CreateFleet", "ec2:CreateLaunchTemplate"],
            made,
            {"StringEquals": request, **of_a_pool},
        ),
        allow(
            "TagWhileCreating",
            ["ec2:CreateTags"],
            made,
            {
                "StringEquals": {
                    **request,
                    "ec2:CreateAction": ["RunInstances", "CreateFleet", "CreateLaunchTemplate"],
                },
                **of_a_pool,
            },
        ),
        allow(
            "TagOwnInstances",
            ["ec2:CreateTags"],
            [f"arn:{part}:ec2:{region}:*:instance/*"],
            {
                **existing,
                "StringEqualsIfExists": {"aws:RequestTag/eks:eks-cluster-name": cluster},
                "ForAllValues:StringEquals": {
                    "aws:TagKeys": ["eks:eks-cluster-name", "karpenter.sh/nodeclaim", "Name"]
                },
            },
        ),
        allow(
            "EndOwnInstances",
            ["ec2:TerminateInstances", "ec2:DeleteLaunchTemplate"],
            [
                f"arn:{part}:ec2:{region}:*:instance/*",
                f"arn:{part}:ec2:{region}:*:launch-template/*",
            ],
            existing,
        ),
    ]


def discovery_statements(account: Account) -> list[Statement]:
    """Reads that AWS cannot narrow to a resource, held to this region where it can."""
    return [
        allow(
            "ReadRegion",
            [
                f"ec2:Describe{what}"
                for what in (
                    "CapacityReservations", "Images", "Instances", "InstanceStatus",
                    "InstanceTypeOfferings", "InstanceTypes", "LaunchTemplates",
                    "PlacementGroups", "SecurityGroups", "SpotPriceHistory", "Subnets",
                )
            ],
            "*",
            {"StringEquals": {"aws:RequestedRegion": account.region}},
        ),
        allow(
            "ReadImageParameters",
            ["ssm:GetParameter"],
            [f"arn:{account.partition}:ssm:{account.region}::parameter/aws/service/*"],
        ),
        allow("ReadPrices", ["pricing:GetProducts"], "*"),
    ]  # fmt: skip


def integration_statements(
    account: Account, cluster: str, queue_arn: str, node_role: str
) -> list[Statement]:
    """The queue, the cluster, and handing the node role to EC2 and nobody else."""
    return [
        allow(
            "ReadInterruptions",
            ["sqs:DeleteMessage", "sqs:GetQueueUrl", "sqs:ReceiveMessage"],
            [queue_arn],
        ),
        allow(
            "PassNodeRole",
            ["iam:PassRole"],
            [account.role(node_role)],
            {"StringEquals": {"iam:PassedToService": ["ec2.amazonaws.com"]}},
        ),
        allow(
            "ReadInstanceProfile",
            ["iam:GetInstanceProfile"],
            [f"arn:{account.partition}:iam::{account.id}:instance-profile/{node_role}"],
        ),
        allow(
            "FindApi", ["eks:DescribeCluster"], [account.arn("eks", f"cluster/{cluster}")]
        ),
    ]  # fmt: skip
