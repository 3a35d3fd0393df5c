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
from infra.components.training import ArtefactStore, Run, Training, TrainingArgs
from infra.jobs_cloud import (
    PRIVATE_FLAVOUR,
    controller_args,
    gpu_site_args,
    leave,
    sending_queues,
    way_to_cloud,
)
from infra.naming import PROJECT, name
from infra.pods import Image
from infra.settings import PRODUCT_TEAM, Settings, text_of
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
    if "private" in settings.artefacts:
        namespace = namespaces[PRODUCT_TEAM]
        _training(settings, store, namespace, queues, gpu, provider, vault)


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


def _training(
    settings: Settings,
    store: SecretStore,
    namespace: pulumi.Output[str],
    queues: Queues,
    gpu: GpuSite,
    provider: k8s.Provider,
    vault: Connection,
) -> None:
    """What the product's team trains with, and its run."""
    artefacts, pods, wanted = settings.artefacts["private"], settings.pod_image, settings.training
    Training(
        "training",
        TrainingArgs(
            identity=settings.identity,
            site="private",
            team=PRODUCT_TEAM,
            provider=provider,
            namespace=namespace,
            connection=vault,
            vault_ca_pem=settings.vault.ca_pem(),
            mount=store.mount,
            login=store.logins["private"],
            mount_path=name(PROJECT, settings.stack),
            login_path=name(PROJECT, settings.stack, "private"),
            store=ArtefactStore(
                endpoint=artefacts.endpoint,
                region=artefacts.region,
                bucket=artefacts.bucket,
                access_key=pulumi.Output.secret(text_of(artefacts.access_key_file)),
                secret_key=pulumi.Output.secret(text_of(artefacts.secret_key_file)),
                ca_pem=text_of(artefacts.ca_file) if artefacts.ca_file else None,
            ),
            image=Image(reference=pods.image, host_paths=tuple(pods.host_paths)),
            python=pods.python,
            folder=pods.project,
            run=Run(**wanted.model_dump()) if wanted else None,
            queues={
                "gpu": queues.queues[f"{PRODUCT_TEAM}/{GPU_QUEUE}"],
                "cpu": queues.queues[f"{PRODUCT_TEAM}/{CPU_QUEUE}"],
            },
            runtime_class=gpu.runtime_class,
            tolerations=tolerations(_gpu_flavour(settings)),
            trainer=settings.sites["private"].trainer,
        ),
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
