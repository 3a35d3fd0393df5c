"""EKS: private endpoint, access entries only, encrypted secrets, and a small system node group.

The system nodes carry what must run before any burst node exists (DNS, Karpenter, controllers).
GPU nodes are Karpenter's alone (`aws_karpenter.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network

import pulumi
import pulumi_aws as aws

from infra.clouds.aws_account import Account, pod_trust, service_trust
from infra.clouds.burst import dump

CONTROL_PLANE_LOGS = ("api", "audit", "authenticator", "controllerManager", "scheduler")
CNI_SETTINGS = dump(
    {"enableNetworkPolicy": "true", "env": {"ENABLE_PREFIX_DELEGATION": "true"}}
)  # NetworkPolicies are enforced; /28 prefixes let a small node carry 110 pods


@dataclass(frozen=True, kw_only=True)
class AwsClusterArgs:
    account: Account
    version: str
    service_cidr: IPv4Network
    control_subnet_ids: tuple[pulumi.Input[str], ...]
    node_subnet_ids: tuple[pulumi.Input[str], ...]
    control_group_id: pulumi.Input[str]
    node_group_id: pulumi.Input[str]
    secrets_key_arn: pulumi.Input[str]
    logs_key_arn: pulumi.Input[str]
    admin_principals: tuple[str, ...]
    system_instance_types: tuple[str, ...]
    system_nodes: int
    log_days: int


class AwsCluster(pulumi.ComponentResource):
    """One EKS cluster with its add-ons, access entries and system nodes."""

    cluster: aws.eks.Cluster
    access: list[pulumi.Resource]
    """Who may use the API: whatever is made through it comes after, and goes before."""
    system: aws.eks.NodeGroup
    node_role: aws.iam.Role
    node_profile: aws.iam.InstanceProfile
    kubeconfig: pulumi.Output[str]

    def __init__(
        self, name: str, args: AwsClusterArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("recsys:aws:Cluster", name, None, opts)
        self._name, self._args, self._account = name, args, args.account
        self._child = pulumi.ResourceOptions(parent=self)
        self._cluster_name = args.account.prefix
        self.cluster = self._control_plane()
        self.access = self._access()
        self.node_role, self.node_profile, joins = self._node_identity()
        before_nodes: list[pulumi.Resource] = [
            self._addon("kube-proxy"),
            self._addon("eks-pod-identity-agent"),
            self._addon(
                "vpc-cni", settings=CNI_SETTINGS, service_account="aws-node",
                policy="AmazonEKS_CNI_Policy",
            ),
        ]  # fmt: skip
        self.system = self._system_nodes([*joins, *before_nodes])
        # These run on nodes: created earlier they would wait for them and time out.
        for addon, service_account, policy in (
            ("coredns", None, None),
            ("metrics-server", None, None),
            ("eks-node-monitoring-agent", None, None),
            (
                "aws-ebs-csi-driver",
                "ebs-csi-controller-sa",
                "service-role/AmazonEBSCSIDriverPolicy",
            ),
        ):
            self._addon(addon, service_account=service_account, policy=policy, after=[self.system])
        self.kubeconfig = pulumi.Output.secret(
            pulumi.Output.all(self.cluster.endpoint, self.cluster.certificate_authority.data).apply(
                lambda parts: self._kubeconfig(str(parts[0]), str(parts[1]))
            )
        )
        self.register_outputs({"endpoint": self.cluster.endpoint})

    def _tags(self, *parts: str) -> dict[str, str]:
        return self._account.tags("cluster", self._account.name(*parts))

    def _control_plane(self) -> aws.eks.Cluster:
        account, args = self._account, self._args
        role = aws.iam.Role(
            f"{self._name}-control",
            name=account.name("eks-control", limit=64),
            description="EKS control plane of this site",
            assume_role_policy=service_trust(
                "eks.amazonaws.com", {"StringEquals": {"aws:SourceAccount": account.id}}
            ),
            tags=self._tags("control"),
            opts=self._child,
        )
        policy = aws.iam.RolePolicyAttachment(
            f"{self._name}-control",
            role=role.name,
            policy_arn=account.managed_policy("AmazonEKSClusterPolicy"),
            opts=self._child,
        )
        # Made before the cluster: EKS would create it without retention or key.
        logs = aws.cloudwatch.LogGroup(
            f"{self._name}-control",
            name=f"/aws/eks/{self._cluster_name}/cluster",
            retention_in_days=args.log_days,
            kms_key_id=args.logs_key_arn,
            tags=self._tags("control-logs"),
            opts=self._child,
        )
        return aws.eks.Cluster(
            self._name,
            name=self._cluster_name,
            version=args.version,
            role_arn=role.arn,
            vpc_config={
                "subnet_ids": list(args.control_subnet_ids),
                "security_group_ids": [args.control_group_id],
                "endpoint_private_access": True,
                "endpoint_public_access": False,
            },
            kubernetes_network_config={
                "ip_family": "ipv4",
                "service_ipv4_cidr": str(args.service_cidr),
            },
            access_config={
                "authentication_mode": "API",
                # Otherwise whoever ran the first `up` stays administrator unseen.
                "bootstrap_cluster_creator_admin_permissions": False,
            },
            encryption_config={
                "provider": {"key_arn": args.secrets_key_arn},
                "resources": ["secrets"],
            },
            enabled_cluster_log_types=list(CONTROL_PLANE_LOGS),
            upgrade_policy={"support_type": "STANDARD"},
            zonal_shift_config={"enabled": True},
            bootstrap_self_managed_addons=False,
            deletion_protection=True,
            tags=self._tags("cluster"),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[policy, logs]),
        )

    def _access(self) -> list[pulumi.Resource]:
        made: list[pulumi.Resource] = []
        policy = f"arn:{self._account.partition}:eks::aws:cluster-access-policy/"
        for number, principal in enumerate(self._args.admin_principals, start=1):
            entry = aws.eks.AccessEntry(
                f"{self._name}-admin-{number}",
                cluster_name=self.cluster.name,
                principal_arn=principal,
                type="STANDARD",
                tags=self._tags("admin"),
                opts=self._child,
            )
            association = aws.eks.AccessPolicyAssociation(
                f"{self._name}-admin-{number}",
                cluster_name=self.cluster.name,
                principal_arn=entry.principal_arn,
                policy_arn=f"{policy}AmazonEKSClusterAdminPolicy",
                access_scope={"type": "cluster"},
                opts=self._child,
            )
            made += [entry, association]
        return made

    def _node_identity(
        self,
    ) -> tuple[aws.iam.Role, aws.iam.InstanceProfile, list[pulumi.Resource]]:
        """Role and profile, and what must be there before a node and outlive the last one."""
        account = self._account
        role = aws.iam.Role(
            f"{self._name}-node",
            name=account.name("node", limit=64),
            description="Every node: join the cluster, pull images, be reached by Session Manager",
            assume_role_policy=service_trust(f"ec2.{self._suffix}"),
            tags=self._tags("node"),
            opts=self._child,
        )
        joins: list[pulumi.Resource] = [
            aws.iam.RolePolicyAttachment(
                f"{self._name}-node-{policy}",
                role=role.name,
                policy_arn=account.managed_policy(policy),
                opts=self._child,
            )
            for policy in (
                "AmazonEKSWorkerNodePolicy",
                "AmazonEC2ContainerRegistryPullOnly",
                "AmazonSSMManagedInstanceCore",
            )
        ]
        # Ours, so that Karpenter needs no right to create profiles or to reach IAM at all.
        profile = aws.iam.InstanceProfile(
            f"{self._name}-node",
            name=account.name("node", limit=64),
            role=role.name,
            tags=self._tags("node"),
            opts=self._child,
        )
        # A managed node group that finds no entry makes its own, and ours would then be refused;
        # Karpenter's nodes share the role and need it even when the group is gone.
        joins.append(
            aws.eks.AccessEntry(
                f"{self._name}-node",
                cluster_name=self.cluster.name,
                principal_arn=role.arn,
                type="EC2_LINUX",
                tags=self._tags("node"),
                opts=self._child,
            )
        )
        return role, profile, joins

    @property
    def _suffix(self) -> str:
        return "amazonaws.com.cn" if self._account.partition == "aws-cn" else "amazonaws.com"

    def _addon(
        self,
        addon: str,
        *,
        settings: str | None = None,
        service_account: str | None = None,
        policy: str | None = None,
        after: list[pulumi.Resource] | None = None,
    ) -> aws.eks.Addon:
        """An EKS add-on; one that calls AWS gets a role of its own through pod identity."""
        identity: list[aws.eks.AddonPodIdentityAssociationArgsDict] = []
        waits: list[pulumi.Resource] = list(after or [])
        if service_account and policy:
            role = aws.iam.Role(
                f"{self._name}-{addon}",
                name=self._account.name(addon, limit=64),
                description=f"EKS add-on {addon}",
                assume_role_policy=pod_trust(
                    self._account, self._cluster_name, "kube-system", service_account
                ),
                tags=self._tags(addon),
                opts=self._child,
            )
            waits.append(
                aws.iam.RolePolicyAttachment(
                    f"{self._name}-{addon}",
                    role=role.name,
                    policy_arn=self._account.managed_policy(policy),
                    opts=self._child,
                )
            )
            identity = [{"role_arn": role.arn, "service_account": service_account}]
        return aws.eks.Addon(
            f"{self._name}-{addon}",
            cluster_name=self.cluster.name,
            addon_name=addon,
            configuration_values=settings,
            pod_identity_associations=identity or None,
            resolve_conflicts_on_create="OVERWRITE",
            resolve_conflicts_on_update="PRESERVE",
            tags=self._tags(addon),
            opts=pulumi.ResourceOptions(parent=self, depends_on=waits),
        )

    def _system_nodes(self, after: list[pulumi.Resource]) -> aws.eks.NodeGroup:
        args = self._args
        tags = self._tags("system")
        template = aws.ec2.LaunchTemplate(
            f"{self._name}-system",
            name=self._account.name("system"),
            description="System nodes: IMDSv2, encrypted disk, no public address, no SSH key",
            metadata_options={
                "http_endpoint": "enabled",
                "http_tokens": "required",
                "http_put_response_hop_limit": 1,  # pods cannot reach the node's credentials
                "instance_metadata_tags": "disabled",
            },
            block_device_mappings=[
                {
                    "device_name": "/dev/xvda",
                    # The account's EBS key: a customer key would need grants to service-linked
                    # roles that exist only after the first node group.
                    "ebs": {
                        "volume_type": "gp3",
                        "volume_size": 60,
                        "encrypted": "true",
                        "delete_on_termination": "true",
                    },
                }
            ],
            network_interfaces=[
                {
                    "device_index": 0,
                    "associate_public_ip_address": "false",
                    "delete_on_termination": "true",
                    "security_groups": [args.node_group_id],
                }
            ],
            monitoring={"enabled": True},
            tag_specifications=[
                {"resource_type": kind, "tags": tags}
                for kind in ("instance", "volume", "network-interface")
            ],
            update_default_version=True,
            tags=tags,
            opts=self._child,
        )
        return aws.eks.NodeGroup(
            f"{self._name}-system",
            cluster_name=self.cluster.name,
            node_group_name=self._account.name("system"),
            node_role_arn=self.node_role.arn,
            subnet_ids=list(args.node_subnet_ids),
            instance_types=list(args.system_instance_types),
            capacity_type="ON_DEMAND",
            ami_type="AL2023_x86_64_STANDARD",
            version=args.version,
            launch_template={
                "id": template.id,
                "version": template.latest_version.apply(str),
            },
            scaling_config={
                "min_size": args.system_nodes,
                "desired_size": args.system_nodes,
                "max_size": args.system_nodes + 1,
            },
            update_config={"max_unavailable": 1},
            node_repair_config={"enabled": True},
            labels={"recsys/role": "system"},
            tags=tags,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[self.node_profile, *after]),
        )

    def _kubeconfig(self, endpoint: str, authority: str) -> str:
        """Credentials are asked from AWS for every call: nothing in it is worth stealing."""
        login: Mapping[str, object] = {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "aws",
            "args": ["eks", "get-token", "--region", self._account.region,
                     "--cluster-name", self._cluster_name],
            "interactiveMode": "Never",
        }  # fmt: skip
        return json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "cloud", "cluster": {
                    "server": endpoint, "certificate-authority-data": authority}}],
                "users": [{"name": "cloud", "user": {"exec": login}}],
                "contexts": [{"name": "cloud", "context": {"cluster": "cloud", "user": "cloud"}}],
                "current-context": "cloud",
            }
        )  # fmt: skip
