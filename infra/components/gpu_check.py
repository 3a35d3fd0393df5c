"""One GPU asked for through a team's queue: proves the chain from the queue to the device.

Queue, quota, flavour, scheduler, runtime class and device plugin must all work before this Job
completes. The queue suspends it at first, so `pulumi up` does not wait for its end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi_kubernetes as k8s
from pulumi import ComponentResource, Input, Output, ResourceOptions

from infra.kueue import PRIORITY_LABEL, QUEUE_LABEL
from infra.naming import Identity, labels
from infra.pods import Image, as_written, container, pod, resources

GPU = "nvidia.com/gpu"
CHECK = "gpu-check"
KEPT = 7 * 24 * 3600  # seconds: an older result says nothing of today's driver


@dataclass(frozen=True, kw_only=True)
class GpuCheckArgs:
    identity: Identity
    provider: k8s.Provider
    namespace: Input[str]
    queue: Input[str]
    runtime_class: Input[str]
    image: Image
    tolerations: Sequence[Mapping[str, str]]
    """Of the GPU flavour: written here too, so that the plan shows them."""


class GpuCheck(ComponentResource):
    """A Job that lists its GPU and ends."""

    job: Output[str]

    def __init__(
        self, resource_name: str, args: GpuCheckArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid-recommender:kubernetes:GpuCheck", resource_name, {}, opts)
        inside = ResourceOptions(parent=self, provider=args.provider)
        own = labels(args.identity, CHECK)
        account = k8s.core.v1.ServiceAccount(
            f"{resource_name}-account",
            metadata={"name": CHECK, "namespace": args.namespace, "labels": own},
            automount_service_account_token=False,
            opts=inside,
        )
        size = resources(cpu="100m", memory="128Mi")
        size["limits"][GPU] = size["requests"][GPU] = "1"
        spec = pod(
            service_account=CHECK,
            images=[args.image],
            containers=[
                # the NVIDIA runtime puts this program into every container with a GPU
                container(CHECK, args.image, ["nvidia-smi", "-L"], resources=size)
            ],
            restartPolicy="Never",
            runtimeClassName=args.runtime_class,
            tolerations=[dict(one) for one in args.tolerations],
        )
        job = k8s.batch.v1.Job(
            f"{resource_name}-job",
            metadata={
                "name": CHECK,
                "namespace": args.namespace,
                "labels": {**own, QUEUE_LABEL: args.queue, PRIORITY_LABEL: "urgent"},
            },
            spec=as_written(
                {
                    "backoffLimit": 2,
                    "activeDeadlineSeconds": 600,
                    "ttlSecondsAfterFinished": KEPT,
                    "template": {"metadata": {"labels": own}, "spec": spec},
                }
            ),
            opts=ResourceOptions.merge(inside, ResourceOptions(depends_on=[account])),
        )
        self.job = job.metadata.name
        self.register_outputs({"job": self.job})
