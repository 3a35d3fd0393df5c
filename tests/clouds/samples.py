"""Settings of a cloud site as production would write them."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from ipaddress import IPv4Network
from typing import Any

from infra.clouds.burst import Autoscaler, BurstArgs, DevicePlugin, GpuPool, Internet, Workload
from infra.naming import Identity

IDENTITY = Identity(
    environment="prod", owner="platform-team", cost_centre="cc-4711", data_class="internal"
)
ARGS = BurstArgs(
    identity=IDENTITY,
    account="123456789012",
    region="eu-central-1",
    zones=("eu-central-1a", "eu-central-1b", "eu-central-1c"),
    kubernetes_version="1.35",
    vpc_cidr=IPv4Network("10.50.0.0/16"),
    service_cidr=IPv4Network("172.20.0.0/16"),
    site_cidrs={
        "nodes": IPv4Network("10.10.0.0/20"),
        "pods": IPv4Network("10.20.0.0/16"),
        "services": IPv4Network("10.30.0.0/16"),
    },
    admin_principals=("arn:aws:iam::123456789012:role/platform-admin",),
    gpu_pools=(
        GpuPool(
            name="inference",
            instance_types=("g6.xlarge", "g6.2xlarge", "g6e.xlarge"),
            max_spot_gpus=12,
            max_on_demand_gpus=4,
        ),
        GpuPool(
            name="training",
            instance_types=("p5.48xlarge", "p4d.24xlarge", "g6e.12xlarge"),
            max_spot_gpus=16,
            max_on_demand_gpus=4,
            idle_minutes=5,
            disk_gib=500,
        ),
    ),
    node_image="al2023@v20261106",
    autoscaler=Autoscaler(
        charts="oci://registry.example/mirror", version="1.14.1",
        image="registry.example/mirror/karpenter@sha256:" + "0" * 64,
    ),
    device_plugin=DevicePlugin(
        charts="oci://registry.example/mirror", version="0.20.0",
        image="registry.example/mirror/k8s-device-plugin@sha256:" + "0" * 64,
    ),
    workloads=(
        Workload(namespace="recsys", service_account="bento", reads=("models/",)),
        Workload(
            namespace="training", service_account="trainer", reads=("features/", "models/"),
            writes=("checkpoints/",),
        ),
    ),
    repositories=("bento", "trainer", "mirror/karpenter"),
    monthly_budget_usd=20_000,
    alert_emails=("platform@example.com",),
    today=date(2026, 11, 24),
)  # fmt: skip
NAT = replace(ARGS, internet=Internet.NAT)


def changed(**changes: Any) -> BurstArgs:
    return replace(ARGS, **changes)
