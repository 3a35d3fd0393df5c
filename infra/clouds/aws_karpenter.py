"""Karpenter on AWS: its queue, role and charts, the class of its nodes, and the node pools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_aws as aws
import pulumi_kubernetes as k8s

from infra.clouds.aws_account import (
    Account,
    allow,
    deny_plain_http,
    document,
    pod_trust,
)
from infra.clouds.aws_karpenter_rights import (
    discovery_statements,
    integration_statements,
    lifecycle_statements,
)
from infra.clouds.burst import Autoscaler, Capabilities, GpuPool, dump
from infra.clouds.burst_pools import API as POOLS
from infra.clouds.burst_pools import NodeClass, node_pools

NAMESPACE = (
    "kube-system"  # its pods must never be evicted for want of quota, as the project advises
)
SERVICE_ACCOUNT = "karpenter"
NODE_CLASS = NodeClass(group="karpenter.k8s.aws", kind="EC2NodeClass")
INTERRUPTIONS = {
    "health": {"source": ["aws.health"], "detail-type": ["AWS Health Event"]},
    "spot": {"source": ["aws.ec2"], "detail-type": ["EC2 Spot Instance Interruption Warning"]},
    "rebalance": {
        "source": ["aws.ec2"], "detail-type": ["EC2 Instance Rebalance Recommendation"]
    },
    "state": {
        "source": ["aws.ec2"], "detail-type": ["EC2 Instance State-change Notification"]
    },
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class AwsKarpenterArgs:
    account: Account
    cluster_name: pulumi.Input[str]
    node_role_name: str
    node_profile: pulumi.Input[str]
    node_subnet_ids: tuple[pulumi.Input[str], ...]
    node_group_id: pulumi.Input[str]
    gpu_pools: tuple[GpuPool, ...]
    capabilities: Capabilities
    zones: tuple[str, ...]
    node_image: str
    kubernetes: k8s.Provider
    autoscaler: Autoscaler
    isolated: bool
    """Nodes reach no public address: prices come from the release, not from AWS."""


class AwsKarpenter(pulumi.ComponentResource):
    """Interruption queue, controller rights, node class and node pools."""

    queue: aws.sqs.Queue
    role: aws.iam.Role

    def __init__(
        self, name: str, args: AwsKarpenterArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("recsys:aws:Karpenter", name, None, opts)
        self._name, self._args, self._account = name, args, args.account
        self._child = pulumi.ResourceOptions(parent=self)
        self._rights: list[pulumi.Resource] = []
        self.queue = self._interruptions()
        self.role = self._controller()
        self._release = self._install()
        self._node_class()
        for pool in args.gpu_pools:
            for one in node_pools(pool, args.capabilities, args.zones, NODE_CLASS):
                self._custom(one.name, POOLS, "NodePool", one.spec)
        self.register_outputs({"queue": self.queue.name})

    def _tags(self, *parts: str) -> dict[str, str]:
        return self._account.tags("karpenter", self._account.name(*parts))

    def _interruptions(self) -> aws.sqs.Queue:
        account = self._account
        queue_name = account.name("interruptions", limit=80)
        queue_arn = account.arn("sqs", queue_name)
        queue = aws.sqs.Queue(
            self._name,
            name=queue_name,
            message_retention_seconds=300,  # a spot warning is worthless after two minutes
            sqs_managed_sse_enabled=True,
            tags=self._tags("interruptions"),
            opts=self._child,
        )
        rules = {kind: account.name("interrupt", kind, limit=64) for kind in INTERRUPTIONS}
        aws.sqs.QueuePolicy(
            self._name,
            queue_url=queue.url,
            policy=document(
                allow(
                    "EventsOfThisSite",
                    ["sqs:SendMessage"],
                    [queue_arn],
                    {
                        "ArnEquals": {
                            "aws:SourceArn": [
                                account.arn("events", f"rule/{rule}") for rule in rules.values()
                            ]
                        }
                    },
                    {"Service": "events.amazonaws.com"},
                ),
                deny_plain_http("sqs:*", [queue_arn]),
            ),
            opts=self._child,
        )
        for kind, pattern in INTERRUPTIONS.items():
            rule = aws.cloudwatch.EventRule(
                f"{self._name}-{kind}",
                name=rules[kind],
                description=f"{pattern['detail-type'][0]} to Karpenter",
                event_pattern=dump(pattern),
                tags=self._tags("interrupt", kind),
                opts=self._child,
            )
            aws.cloudwatch.EventTarget(
                f"{self._name}-{kind}",
                rule=rule.name,
                arn=queue.arn,
                target_id="karpenter-interruptions",
                opts=self._child,
            )
        return queue

    def _controller(self) -> aws.iam.Role:
        account = self._account
        cluster = account.prefix
        role = aws.iam.Role(
            self._name,
            name=account.name("karpenter", limit=64),
            description="Karpenter: start, tag and end instances of this cluster only",
            assume_role_policy=pod_trust(account, cluster, NAMESPACE, SERVICE_ACCOUNT),
            tags=self._tags("karpenter"),
            opts=self._child,
        )
        queue_arn = account.arn("sqs", account.name("interruptions", limit=80))
        for part, statements in {
            "lifecycle": lifecycle_statements(account, cluster),
            "discovery": discovery_statements(account),
            "integration": integration_statements(
                account, cluster, queue_arn, self._args.node_role_name
            ),
        }.items():
            self._rights.append(
                aws.iam.RolePolicy(
                    f"{self._name}-{part}",
                    name=part,
                    role=role.name,
                    policy=document(*statements),
                    opts=self._child,
                )
            )
        login = aws.eks.PodIdentityAssociation(
            self._name,
            cluster_name=self._args.cluster_name,
            namespace=NAMESPACE,
            service_account=SERVICE_ACCOUNT,
            role_arn=role.arn,
            tags=self._tags("karpenter"),
            opts=self._child,
        )
        self._rights.append(login)
        return role

    def _install(self) -> k8s.helm.v3.Release:
        """The project's own charts, types first: what a chart brings itself, Helm never updates."""
        args, wanted = self._args, self._args.autoscaler
        here = pulumi.ResourceOptions(parent=self, provider=args.kubernetes)
        types = k8s.helm.v3.Release(
            f"{self._name}-types",
            name="karpenter-crd",
            chart=f"{wanted.charts}/karpenter-crd",
            version=wanted.version,
            namespace=NAMESPACE,
            opts=here,
        )
        repository, _, digest = (wanted.image or "").partition("@")
        image = {"image": {"repository": repository, "tag": "", "digest": digest}}
        return k8s.helm.v3.Release(
            f"{self._name}-controller",
            name="karpenter",
            chart=f"{wanted.charts}/karpenter",
            version=wanted.version,
            namespace=NAMESPACE,
            skip_crds=True,
            atomic=True,
            timeout=600,
            values={
                "replicas": 2,
                "serviceAccount": {"name": SERVICE_ACCOUNT},
                "settings": {
                    "clusterName": args.cluster_name,
                    "interruptionQueue": self.queue.name,
                    "isolatedVPC": args.isolated,
                },
                "controller": {
                    # it would ask the node, which answers no pod (hop limit 1)
                    "env": [{"name": "AWS_REGION", "value": self._account.region}],
                    **(image if wanted.image else {}),
                    "resources": {
                        "requests": {"cpu": "500m", "memory": "1Gi"},
                        "limits": {"memory": "1Gi"},
                    },
                },
            },
            # without its rights it would crash until the update had made them
            opts=pulumi.ResourceOptions.merge(
                here, pulumi.ResourceOptions(depends_on=[types, *self._rights])
            ),
        )

    def _custom(self, name: str, version: str, kind: str, spec: dict[str, Any]) -> None:
        k8s.apiextensions.CustomResource(
            f"{self._name}-{name}",
            api_version=version,
            kind=kind,
            metadata={"name": name, "labels": self._account.tags("karpenter", name)},
            spec=spec,
            opts=pulumi.ResourceOptions(
                parent=self, provider=self._args.kubernetes, depends_on=[self._release]
            ),
        )

    def _node_class(self) -> None:
        args = self._args
        for pool in args.gpu_pools:
            self._custom(
                pool.name,
                f"{NODE_CLASS.group}/v1",
                NODE_CLASS.kind,
                {
                    "amiSelectorTerms": [{"alias": args.node_image}],
                    "instanceProfile": args.node_profile,
                    "subnetSelectorTerms": [{"id": subnet} for subnet in args.node_subnet_ids],
                    "securityGroupSelectorTerms": [{"id": args.node_group_id}],
                    "associatePublicIPAddress": False,
                    "metadataOptions": {
                        "httpEndpoint": "enabled",
                        "httpProtocolIPv6": "disabled",
                        "httpPutResponseHopLimit": 1,
                        "httpTokens": "required",
                    },
                    "blockDeviceMappings": [
                        {
                            "deviceName": "/dev/xvda",
                            "rootVolume": True,
                            "ebs": {
                                "volumeType": "gp3",
                                "volumeSize": f"{pool.disk_gib}Gi",
                                "encrypted": True,
                                "deleteOnTermination": True,
                            },
                        }
                    ],
                    # Local NVMe of GPU instances holds images and checkpoints in flight.
                    "instanceStorePolicy": "RAID0",
                    "detailedMonitoring": True,
                    "tags": self._tags("gpu", pool.name),
                },
            )
