"""Jobs of one site: its GPU nodes, Kueue with the teams' queues, a GPU check, training.

Part of `infra.program`, which passes it what the other components made.
"""

from __future__ import annotations

from collections.abc import Mapping

import pulumi
import pulumi_kubernetes as k8s
from pulumi import ResourceOptions

from infra.components.gpu_check import GpuCheck, GpuCheckArgs
from infra.components.gpu_site import GpuSite
from infra.components.queue_controller import QueueController
from infra.components.queues import CPU_QUEUE, GPU_QUEUE, Queues, QueuesArgs, Share
from infra.components.queues_parts import GPU, Flavour, tolerations
from infra.components.secret_store import SecretStore
from infra.jobs_cloud import (
    PRIVATE_FLAVOUR,
    controller_args,
    gpu_site_args,
    leave,
    sending_queues,
    way_to_cloud,
)
from infra.jobs_training import deploy_training
from infra.pods import Image
from infra.settings import PRODUCT_TEAM, Settings
from infra.site_settings import SettingsError
from infra.vault import Connection


def deploy_jobs(
    settings: Settings,
    provider: k8s.Provider,
    vault: Connection,
    store: SecretStore,
    image: Image,
    namespaces: Mapping[str, pulumi.Output[str]],
) -> None:
    """Everything that the private site needs to run jobs; `namespaces` are the teams'."""
    run = settings.training
    if (
        leave(settings)
        and settings.sites["private"].trainer
        and not settings.sites["cloud"].trainer
    ):
        raise SettingsError(
            "sites.private.trainer is true, sites.cloud.trainer is not, and jobs leave for the "
            "cloud: a Kueue that queues TrainJobs watches them in both clusters or sends no job at "
            "all; install Trainer's and JobSet's kinds in the cloud too and set sites.cloud.trainer"
        )
    if run is not None and run.may_leave:
        if not leave(settings):
            raise SettingsError(
                f"training.may_leave is true for run {run.name}, but no job can leave: that needs "
                "sites.cloud, its GPU pools, and a link (docs/burst.md)"
            )
        if settings.sites["private"].trainer:
            raise SettingsError(
                f"training.may_leave is true for run {run.name}, but sites.private.trainer makes "
                "it a TrainJob, and only Jobs leave; drop one of them"
            )
    flavour = _gpu_flavour(settings)
    controller = QueueController(
        "kueue",
        controller_args(settings, "private", provider, way_to_cloud(settings, vault, store, image)),
    )
    queues = _queues(settings, provider, controller, namespaces)
    if leave(settings):
        sending_queues(settings, provider, controller, namespaces)
    gpu = GpuSite("private-gpu", gpu_site_args(settings, "private", provider, flavour.labels))
    GpuCheck(
        "private-gpu-check",
        GpuCheckArgs(
            identity=settings.identity,
            provider=provider,
            namespace=namespaces[PRODUCT_TEAM],
            queue=queues.queues[f"{PRODUCT_TEAM}/{GPU_QUEUE}"],
            runtime_class=gpu.runtime_class,
            # without the host's files: the GPU's runtime brings the program that is run
            image=Image(reference=image.reference),
            tolerations=tolerations(flavour),
        ),
    )
    deploy_training(
        settings,
        "private",
        provider,
        vault,
        store,
        namespaces[PRODUCT_TEAM],
        gpu,
        queues={
            "gpu": queues.queues[f"{PRODUCT_TEAM}/{GPU_QUEUE}"],
            "cpu": queues.queues[f"{PRODUCT_TEAM}/{CPU_QUEUE}"],
        },
        tolerations=tolerations(flavour),
    )


def has_queues(settings: Settings, site: str) -> bool:
    """Jobs are queued where the private GPUs are, and where they may leave to; the controller
    needs a node to run on."""
    where = settings.sites["private"]
    if site == "cloud":
        return leave(settings)
    return bool(settings.kueue and where.gpu_pool and where.real_nodes)


def _queues(
    settings: Settings,
    provider: k8s.Provider,
    controller: QueueController,
    namespaces: Mapping[str, pulumi.Output[str]],
) -> Queues:
    """The teams' queues on the private site."""
    where = settings.sites["private"]
    return Queues(
        "queues",
        QueuesArgs(
            identity=settings.identity,
            provider=provider,
            gpu=[_gpu_flavour(settings)],
            cpu=Flavour(
                name="private-cpu",
                cpus=where.cpu_pool.cpus,
                memory_gib=where.cpu_pool.memory_gib,
            ),
            teams={
                team: Share(gpus=share.gpus, borrow=share.borrow, weight=share.weight)
                for team, share in settings.teams.items()
            },
            namespaces=namespaces,
        ),
        ResourceOptions(depends_on=[controller]),
    )


def _gpu_flavour(settings: Settings) -> Flavour:
    """The private GPUs."""
    pool = settings.sites["private"].gpu_pool
    assert pool is not None
    known = {taint["key"] for taint in pool.taints}
    taints = [*pool.taints, *([] if GPU in known else [{"key": GPU, "effect": "NoSchedule"}])]
    return Flavour(
        name=PRIVATE_FLAVOUR,
        gpus=pool.count * pool.gpus,
        cpus=pool.count * pool.cpus,
        memory_gib=pool.count * pool.memory_gib,
        labels=pool.labels,
        taints=taints,
    )
