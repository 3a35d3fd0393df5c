"""AWS as a burst cloud: one VPC and one private EKS cluster whose GPU nodes start at zero.

The order on this page is the order of creation. Nothing here asks AWS at preview: account, region
and zones are settings, checked against `CAPABILITIES` first.
"""

from __future__ import annotations

from datetime import date

import pulumi
import pulumi_kubernetes as k8s

from infra.clouds.aws_account import Account
from infra.clouds.aws_cluster import AwsCluster, AwsClusterArgs
from infra.clouds.aws_cost import AwsCost, AwsCostArgs
from infra.clouds.aws_devices import AwsDevices, AwsDevicesArgs
from infra.clouds.aws_karpenter import AwsKarpenter, AwsKarpenterArgs
from infra.clouds.aws_keys import AwsKeys, AwsKeysArgs
from infra.clouds.aws_network import AwsNetwork, AwsNetworkArgs
from infra.clouds.aws_storage import AwsStorage, AwsStorageArgs
from infra.clouds.burst import (
    BurstArgs,
    BurstOutputs,
    Capabilities,
    Capacity,
    GpuType,
    Internet,
    require,
)


def _zones(region: str, letters: str) -> tuple[str, ...]:
    return tuple(f"{region}{letter}" for letter in letters)


CAPABILITIES = Capabilities(
    cloud="AWS",
    read=date(2026, 11, 24),
    zones={
        region: _zones(region, letters)
        for region, letters in {
            "eu-central-1": "abc",
            "eu-west-1": "abc",
            "eu-north-1": "abc",
            "us-east-1": "abcdf",  # EKS refuses us-east-1e
            "us-east-2": "abc",
            "us-west-2": "abcd",
            "ap-northeast-1": "acd",
            "ap-southeast-1": "abc",
        }.items()
    },
    gpu_types={
        "g5.xlarge": GpuType(gpus=1, gpu="A10G", memory_gib=24),
        "g5.12xlarge": GpuType(gpus=4, gpu="A10G", memory_gib=24),
        "g5.48xlarge": GpuType(gpus=8, gpu="A10G", memory_gib=24),
        "g6.xlarge": GpuType(gpus=1, gpu="L4", memory_gib=24),
        "g6.2xlarge": GpuType(gpus=1, gpu="L4", memory_gib=24),
        "g6.12xlarge": GpuType(gpus=4, gpu="L4", memory_gib=24),
        "g6.48xlarge": GpuType(gpus=8, gpu="L4", memory_gib=24),
        "g6e.xlarge": GpuType(gpus=1, gpu="L40S", memory_gib=48),
        "g6e.2xlarge": GpuType(gpus=1, gpu="L40S", memory_gib=48),
        "g6e.12xlarge": GpuType(gpus=4, gpu="L40S", memory_gib=48),
        "g6e.48xlarge": GpuType(gpus=8, gpu="L40S", memory_gib=48),
        "p4d.24xlarge": GpuType(gpus=8, gpu="A100", memory_gib=40),
        "p4de.24xlarge": GpuType(gpus=8, gpu="A100", memory_gib=80),
        "p5.48xlarge": GpuType(gpus=8, gpu="H100", memory_gib=80),
        "p5e.48xlarge": GpuType(
            gpus=8, gpu="H200", memory_gib=141, capacity=frozenset({Capacity.ON_DEMAND})
        ),
    },
    kubernetes={
        "1.33": date(2026, 7, 29),
        "1.34": date(2026, 12, 2),
        "1.35": date(2027, 3, 27),
    },
    internet=frozenset(Internet),
    service_prefixes=range(12, 25),
    tunnels_per_connection=2,
    bgp_over_vpn=True,
    bfd_over_vpn=False,  # the VPN endpoints speak BGP without BFD
)


class AwsBurst(pulumi.ComponentResource):
    """One AWS site, complete: network, keys, cluster, autoscaling, storage, budget."""

    outputs: BurstOutputs

    def __init__(
        self, name: str, args: BurstArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        require(args, CAPABILITIES)
        super().__init__("recsys:aws:Burst", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        account = Account.of(args.account, args.region, args.identity)
        keys = AwsKeys(f"{name}-keys", AwsKeysArgs(account=account), child)
        network = AwsNetwork(
            f"{name}-net",
            AwsNetworkArgs(
                account=account,
                vpc_cidr=args.vpc_cidr,
                zones=args.zones,
                site_cidrs=args.site_cidrs,
                site_ports=args.site_ports,
                internet=args.internet,
                extra_endpoints=args.extra_endpoints,
                logs_key_arn=keys.logs.arn,
                log_days=args.log_days,
            ),
            child,
        )
        node_subnets = tuple(subnet.id for subnet in network.node_subnets.values())
        cluster = AwsCluster(
            f"{name}-eks",
            AwsClusterArgs(
                account=account,
                version=args.kubernetes_version,
                service_cidr=args.service_cidr,
                control_subnet_ids=tuple(sub.id for sub in network.control_subnets.values()),
                node_subnet_ids=node_subnets,
                control_group_id=network.control_group.id,
                node_group_id=network.node_group.id,
                secrets_key_arn=keys.secrets.arn,
                logs_key_arn=keys.logs.arn,
                admin_principals=args.admin_principals,
                system_instance_types=args.system_instance_types,
                system_nodes=args.system_nodes,
                log_days=args.log_days,
            ),
            child,
        )
        # The endpoint is private: this provider works from where the link or the VPC reaches.
        kubernetes = k8s.Provider(
            f"{name}-k8s",
            kubeconfig=cluster.kubeconfig,
            opts=pulumi.ResourceOptions(parent=self, depends_on=[cluster.system, *cluster.access]),
        )
        if args.gpu_pools:
            AwsDevices(
                f"{name}-devices",
                AwsDevicesArgs(kubernetes=kubernetes, plugin=args.device_plugin),
                child,
            )
        AwsKarpenter(
            f"{name}-karpenter",
            AwsKarpenterArgs(
                account=account,
                cluster_name=cluster.cluster.name,
                node_role_name=account.name("node", limit=64),
                node_profile=cluster.node_profile.name,
                node_subnet_ids=node_subnets,
                node_group_id=network.node_group.id,
                gpu_pools=args.gpu_pools,
                capabilities=CAPABILITIES,
                zones=args.zones,
                node_image=args.node_image,
                kubernetes=kubernetes,
                autoscaler=args.autoscaler,
                isolated=args.internet is Internet.NONE,
            ),
            child,
        )
        storage = AwsStorage(
            f"{name}-store",
            AwsStorageArgs(
                account=account,
                data_key_arn=keys.data.arn,
                cluster_name=cluster.cluster.name,
                repositories=args.repositories,
                workloads=args.workloads,
                log_days=args.log_days,
            ),
            child,
        )
        cost = AwsCost(
            f"{name}-cost",
            AwsCostArgs(
                account=account,
                alerts_key_id=keys.alerts.key_id,
                monthly_budget_usd=args.monthly_budget_usd,
                alert_emails=args.alert_emails,
            ),
            child,
        )
        self.outputs = BurstOutputs(
            cluster_name=account.prefix,
            api_endpoint=cluster.cluster.endpoint,
            kubeconfig=cluster.kubeconfig,
            network_id=network.vpc.id,
            route_table_ids={zone: table.id for zone, table in network.route_tables.items()},
            artefacts_bucket=storage.artefacts.bucket,
            backups_bucket=storage.backups.bucket,
            repository_urls={
                each: made.repository_url for each, made in storage.repositories.items()
            },
            alerts_topic=cost.topic.arn,
            logs_key=keys.logs.arn,
        )
        self.register_outputs(
            {"cluster": account.prefix, "artefacts": self.outputs.artefacts_bucket}
        )
