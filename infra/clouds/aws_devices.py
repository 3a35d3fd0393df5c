"""NVIDIA's device plugin: without it a GPU node joins, offers no GPU, and no job ever starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from infra.clouds.burst import DevicePlugin

CHART = "nvidia-device-plugin"


@dataclass(frozen=True, kw_only=True)
class AwsDevicesArgs:
    kubernetes: k8s.Provider
    plugin: DevicePlugin


class AwsDevices(pulumi.ComponentResource):
    """The project's own chart; its pods run on nodes with GPUs alone."""

    def __init__(
        self, name: str, args: AwsDevicesArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("recsys:aws:Devices", name, None, opts)
        plugin = args.plugin
        where: dict[str, Any] = {"chart": f"{plugin.charts}/{CHART}"}
        if not plugin.charts.startswith("oci://"):
            where = {"chart": CHART, "repository_opts": {"repo": plugin.charts}}
        # the chart joins repository and tag with a colon: so a digest is given in two parts
        repository, _, digest = (plugin.image or "").rpartition(":")
        image = {"image": {"repository": repository, "tag": digest}} if plugin.image else {}
        k8s.helm.v3.Release(
            name,
            name=CHART,
            version=plugin.version,
            # the name that the policies know as part of the node
            namespace=CHART,
            create_namespace=True,
            values={
                **image,
                "nodeSelector": {"nvidia.com/gpu.present": "true"},
                "tolerations": [
                    {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
                ],
            },
            **where,
            opts=pulumi.ResourceOptions(parent=self, provider=args.kubernetes),
        )
        self.register_outputs({})
