"""Jobs of one site: its GPU nodes, Kueue with the teams' queues, a GPU check, training.

Part of `infra.program`, which passes it what the other components made.
"""

from __future__ import annotations

from collections.abc import Mapping

import pulumi
import pulumi_kubernetes as k8s
from pulumi import ResourceOptions

from infra import kueue
from infra.components.gpu_check import GpuCheck, GpuCheckArgs
from infra.components.gpu_site import GpuSite, GpuSiteArgs
from infra.components.queue_controller import QueueController, QueueControllerArgs
from infra.components.queues import (
    CPU_QUEUE,
    GPU,
    GPU_QUEUE,
    Flavour,
    Queues,
    QueuesArgs,
    Share,
    tolerations,
)
from infra.components.secret_store import SecretStore
from infra.components.training import ArtefactStore, Run, Training, TrainingArgs
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
    flavour = _gpu_flavours(settings)[0]
    queues = _queues(settings, provider, namespaces)
    gpu = GpuSite(
        "private-gpu",
        GpuSiteArgs(identity=settings.identity, provider=provider, node_labels=flavour.labels),
    )
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
    """Jobs are queued where the private GPUs are; the controller needs a node to run on."""
    where = settings.sites["private"]
    return site == "private" and bool(settings.kueue and where.gpu_pool and where.real_nodes)


def _queues(
    settings: Settings, provider: k8s.Provider, namespaces: Mapping[str, pulumi.Output[str]]
) -> Queues:
    """Kueue and the teams' queues on the private site."""
    source, where = settings.kueue, settings.sites["private"]
    assert source is not None
    pods = settings.pod_image
    controller = QueueController(
        "kueue",
        QueueControllerArgs(
            identity=settings.identity,
            provider=provider,
            upstream=kueue.read(source.manifests.expanduser(), sha256=source.sha256),
            image=Image(reference=source.image)
            if source.image
            else Image(reference=pods.image, host_paths=tuple(pods.host_paths)),
            command=[str(source.program or "/manager")],
            api=where.api,
            replicas=2 if settings.stack == "prod" else 1,
            pods_ready_seconds=source.pods_ready_seconds,
        ),
    )
    return Queues(
        "queues",
        QueuesArgs(
            identity=settings.identity,
            provider=provider,
            gpu=_gpu_flavours(settings),
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
            tolerations=tolerations(_gpu_flavours(settings)[0]),
        ),
    )


def _gpu_flavours(settings: Settings) -> list[Flavour]:
    """The private GPUs, then those of the cloud."""
    pool = settings.sites["private"].gpu_pool
    assert pool is not None
    known = {taint["key"] for taint in pool.taints}
    taints = [*pool.taints, *([] if GPU in known else [{"key": GPU, "effect": "NoSchedule"}])]
    private = Flavour(
        name="private-gpu",
        gpus=pool.count * pool.gpus,
        cpus=pool.count * pool.cpus,
        memory_gib=pool.count * pool.memory_gib,
        labels=pool.labels,
        taints=taints,
    )
    if not settings.cloud_gpus:
        return [private]
    rented = settings.cloud_gpus
    cloud = Flavour(
        name="cloud-gpu",
        gpus=rented,
        cpus=pool.cpus * rented // pool.gpus,
        memory_gib=pool.memory_gib * rented // pool.gpus,
        labels={**pool.labels, "topology.kubernetes.io/region": "cloud"},
        taints=taints,
        owned=False,
    )
    return [private, cloud]
