"""What every workload of a GPU site builds on: priorities, the GPU runtime, the operator's part.

The site's cluster and its GPU operator exist already (we adopt them): of the operator's
ClusterPolicy we own a few fields and leave the rest to its chart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pulumi_kubernetes as k8s
import yaml
from pulumi import ComponentResource, Output, ResourceOptions

from infra.naming import Identity, labels
from infra.pods import as_written

GPU = "nvidia.com/gpu"
RUNTIME = "nvidia"
OPERATOR_NAMESPACE = "gpu-operator"
OPERATOR_API = "nvidia.com/v1"
CLUSTER_POLICY = "cluster-policy"  # the name that the operator's chart gives it
PRIORITIES: Mapping[str, tuple[int, str]] = {
    "serving": (100_000, "Answers shoppers: takes the place of anything below it."),
    "training": (1_000, "Trains what will be served; may take the place of batch work."),
    "batch": (100, "Waits for room and makes room; takes nobody's place."),
}


@dataclass(frozen=True, kw_only=True)
class MigLayout:
    """How one kind of GPU is cut: profile -> how many, such as `{"1g.10gb": 7}`."""

    name: str
    slices: Mapping[str, int]

    def __post_init__(self) -> None:
        if not self.slices or min(self.slices.values()) < 1:
            raise ValueError(f"MIG layout {self.name} is {dict(self.slices)}; give counts above 0")


@dataclass(frozen=True, kw_only=True)
class GpuOperator:
    """What we ask of NVIDIA's GPU operator."""

    driver_installed: bool
    """The hosts bring the driver and the container toolkit: the operator leaves both alone."""
    mig: Literal["none", "single", "mixed"] = "none"
    mig_layouts: Sequence[MigLayout] = ()
    """Own layouts beside NVIDIA's; a node's label `nvidia.com/mig.config` chooses one."""
    time_slices: int = 1
    """Pods that share one GPU in turn; no memory is kept apart, so 1 where that matters."""

    def __post_init__(self) -> None:
        if self.time_slices < 1:
            raise ValueError(f"time_slices is {self.time_slices}; give 1 (not shared) or more")
        if self.mig_layouts and self.mig == "none":
            raise ValueError("mig_layouts are given but mig is none; set single or mixed")


@dataclass(frozen=True, kw_only=True)
class GpuSiteArgs:
    identity: Identity
    provider: k8s.Provider
    node_labels: Mapping[str, str] = field(
        default_factory=lambda: {"nvidia.com/gpu.present": "true"}
    )
    """Of GPU nodes: the GPU runtime sends its pods there."""
    operator: GpuOperator | None = None
    """None where no operator runs, as on the stand, whose GPUs are simulated."""


class GpuSite(ComponentResource):
    """One site's priorities, GPU runtime and operator settings."""

    runtime_class: Output[str]
    priority_classes: Mapping[str, Output[str]]

    def __init__(
        self, resource_name: str, args: GpuSiteArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid-recommender:kubernetes:GpuSite", resource_name, {}, opts)
        self._args = args
        self._name = resource_name
        self._opts = ResourceOptions(parent=self, provider=args.provider)
        self._labels = labels(args.identity, "gpu-site")
        self.priority_classes = {
            priority: self._priority(priority, value, why).metadata.name
            for priority, (value, why) in PRIORITIES.items()
        }
        runtime = k8s.node.v1.RuntimeClass(
            f"{resource_name}-runtime",
            metadata={"name": RUNTIME, "labels": self._labels},
            handler=RUNTIME,
            scheduling=as_written({"nodeSelector": dict(args.node_labels)}),
            opts=self._opts,
        )
        self.runtime_class = runtime.metadata.name
        if args.operator is not None:
            self._operator(args.operator)
        self.register_outputs(
            {"runtime_class": self.runtime_class, "priority_classes": self.priority_classes}
        )

    def _priority(self, priority: str, value: int, why: str) -> k8s.scheduling.v1.PriorityClass:
        return k8s.scheduling.v1.PriorityClass(
            f"{self._name}-{priority}",
            metadata={"name": priority, "labels": self._labels},
            value=value,
            description=why,
            preemption_policy="Never" if priority == "batch" else "PreemptLowerPriority",
            opts=self._opts,
        )

    def _operator(self, operator: GpuOperator) -> None:
        files = operator_files(operator)
        made = [
            k8s.core.v1.ConfigMap(
                f"{self._name}-{file}",
                metadata={
                    "name": file,
                    "namespace": OPERATOR_NAMESPACE,
                    "labels": self._labels,
                },
                data=data,
                opts=self._opts,
            )
            for file, data in files.items()
        ]
        k8s.apiextensions.CustomResourcePatch(
            f"{self._name}-cluster-policy",
            api_version=OPERATOR_API,
            kind="ClusterPolicy",
            metadata={
                "name": CLUSTER_POLICY,
                # these fields were the chart's until now
                "annotations": {"pulumi.com/patchForce": "true"},
            },
            spec=cluster_policy(operator),
            opts=ResourceOptions.merge(self._opts, ResourceOptions(depends_on=made)),
        )


MIG_FILE, SHARING_FILE = "mig-layouts", "gpu-sharing"


def operator_files(operator: GpuOperator) -> dict[str, dict[str, str]]:
    """ConfigMap -> its data, for what the operator reads from files."""
    files: dict[str, dict[str, str]] = {}
    if operator.mig_layouts:
        layouts: dict[str, Any] = {"all-disabled": [{"devices": "all", "mig-enabled": False}]}
        for one in operator.mig_layouts:
            layouts[one.name] = [
                {"devices": "all", "mig-enabled": True, "mig-devices": dict(one.slices)}
            ]
        text = yaml.safe_dump({"version": "v1", "mig-configs": layouts}, sort_keys=False)
        files[MIG_FILE] = {"config.yaml": text}
    if operator.time_slices > 1:
        sharing = {"resources": [{"name": GPU, "replicas": operator.time_slices}]}
        text = yaml.safe_dump({"version": "v1", "sharing": {"timeSlicing": sharing}})
        files[SHARING_FILE] = {"shared": text}
    return files


def cluster_policy(operator: GpuOperator) -> dict[str, Any]:
    """The fields of `ClusterPolicy.spec` that are ours."""
    files = operator_files(operator)
    spec: dict[str, Any] = {
        "driver": {"enabled": not operator.driver_installed},
        "toolkit": {"enabled": not operator.driver_installed},
        "mig": {"strategy": operator.mig},
        "migManager": {"enabled": operator.mig != "none"},
    }
    if MIG_FILE in files:
        spec["migManager"]["config"] = {"name": MIG_FILE}
    if SHARING_FILE in files:
        spec["devicePlugin"] = {"config": {"name": SHARING_FILE, "default": "shared"}}
    return spec
