"""Jobs that leave for the cloud: Kueue at both ends and the way between them.

Part of `infra.program`. The private site's Kueue sends (`infra.jobs`), the cloud's receives.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

import pulumi
import pulumi_kubernetes as k8s
from pulumi import ResourceOptions

from infra import kueue
from infra.clouds.aws import CAPABILITIES
from infra.clouds.burst import Capacity, usable_types
from infra.clouds.burst_plan import Offer, Site
from infra.components.gpu_site import GpuOperator, GpuSite, GpuSiteArgs, MigLayout
from infra.components.queue_agent import Worker, kubeconfig
from infra.components.queue_controller import ACCOUNT, QueueController, QueueControllerArgs
from infra.components.queue_mover import QueueMover, QueueMoverArgs
from infra.components.queue_worker import QueueWorker, QueueWorkerArgs
from infra.components.queues import GPU_QUEUE
from infra.components.queues_cloud import CLOUD_QUEUE, CloudQueues, CloudQueuesArgs
from infra.components.queues_parts import GPU, Flavour
from infra.components.secret_store import SecretStore
from infra.jobs_training import deploy_training
from infra.pods import Image
from infra.pricing import prices
from infra.program_cloud import gpu_pools
from infra.program_vault import vault_site
from infra.settings import PRODUCT_TEAM, Settings, SiteName
from infra.vault import Connection, KvSecret
from infra.workloads import Needs, grant, secret_path

PRIVATE_FLAVOUR = "private-gpu"
_PER_GPU = (64, 512)
"""CPUs and GiB that the quota allows beside each GPU: Karpenter's limits bind first."""
NODE_LABELS = {"nvidia.com/gpu.present": "true"}


def controller_args(
    settings: Settings, site: SiteName, provider: k8s.Provider, worker: Worker | None = None
) -> QueueControllerArgs:
    """Kueue as it runs on either site."""
    source, pods, where = settings.kueue, settings.pod_image, settings.sites[site]
    assert source is not None
    return QueueControllerArgs(
        identity=settings.identity,
        provider=provider,
        upstream=kueue.read(source.manifests.expanduser(), sha256=source.sha256),
        image=Image(reference=source.image)
        if source.image
        else Image(reference=pods.image, host_paths=tuple(pods.host_paths)),
        command=[str(source.program or "/manager")],
        api=where.api,
        train_jobs=where.trainer,
        replicas=2 if settings.stack == "prod" else 1,
        pods_ready_seconds=source.pods_ready_seconds,
        worker=worker,
    )


def gpu_site_args(
    settings: Settings, site: SiteName, provider: k8s.Provider, labels: Mapping[str, str]
) -> GpuSiteArgs:
    """What GPU pods build on, on either site; `labels` are those of its GPU nodes."""
    asked = settings.sites[site].gpu_operator
    return GpuSiteArgs(
        identity=settings.identity,
        provider=provider,
        node_labels=labels,
        operator=asked
        and GpuOperator(
            driver_installed=asked.driver_installed,
            mig=asked.mig,
            mig_layouts=[
                MigLayout(name=layout, slices=slices)
                for layout, slices in asked.mig_layouts.items()
            ],
            time_slices=asked.time_slices,
        ),
    )


def leave(settings: Settings) -> bool:
    """Whether jobs may leave: a cloud site with pools of its own that both can reach."""
    private, cloud = settings.sites["private"], settings.sites.get("cloud")
    linked = cloud is not None and (cloud.reaches_vault or settings.private_gateway is not None)
    return bool(
        settings.kueue
        and private.gpu_pool
        and private.real_nodes
        and settings.rented
        and cloud
        and cloud.real_nodes
        and linked
    )


def way_to_cloud(
    settings: Settings, vault: Connection, store: SecretStore, agent: Image
) -> Worker | None:
    """How the private Kueue reaches the cloud's cluster; None where no job leaves."""
    if not leave(settings):
        return None
    cloud = settings.sites["cloud"]
    access = grant(
        "kueue-cloud",
        vault_site(settings, vault, store, "private", kueue.NAMESPACE),
        ACCOUNT,
        Needs(
            secrets={CLOUD_QUEUE: "#token"},
            templates={
                CLOUD_QUEUE: kubeconfig(
                    cloud.api, base64.b64encode(cloud.ca_pem().encode()).decode()
                )
            },
        ),
        ResourceOptions(),
    )
    return Worker(api=cloud.api, login=access.login, agent=agent)


def sending_queues(
    settings: Settings,
    provider: k8s.Provider,
    controller: QueueController,
    namespaces: Mapping[str, pulumi.Output[str]],
) -> None:
    """The private half: queues whose jobs are sent, and who moves jobs into them."""
    queues = CloudQueues(
        "cloud-queues",
        _queues(settings, provider, namespaces, sends=True),
        ResourceOptions(depends_on=[controller]),
    )
    pods = settings.pod_image
    QueueMover(
        "queue-mover",
        QueueMoverArgs(
            identity=settings.identity,
            provider=provider,
            space=controller.namespace,
            namespaces=namespaces,
            image=Image(reference=pods.image, host_paths=tuple(pods.host_paths)),
            python=pods.python,
            folder=pods.project,
            api=settings.sites["private"].api,
            site=plan_site(settings).model_dump_json(),
            private_queue=GPU_QUEUE,
            cloud_queue=CLOUD_QUEUE,
            every=settings.leaving.look_seconds,
        ),
        ResourceOptions(depends_on=[queues]),
    )


def plan_site(settings: Settings) -> Site:
    """What `burst_plan` needs to know: the private GPUs, the pools, their prices."""
    rule, own = settings.leaving, settings.sites["private"].gpu_pool
    assert own is not None
    table, offers, ceilings = prices(), list[Offer](), dict[str, int]()
    for pool in gpu_pools(settings.rented):
        for capacity, most, share in (
            (Capacity.SPOT, pool.max_spot_gpus, rule.spot_share),
            (Capacity.ON_DEMAND, pool.max_on_demand_gpus, 1.0),
        ):
            ceilings[f"{pool.name}-{capacity}"] = most
            offers += [
                Offer(
                    pool=pool.name,
                    instance_type=kind,
                    capacity=capacity,
                    gpus=CAPABILITIES.gpu_types[kind].gpus,
                    usd_per_hour=float(table.get(f"ec2.{kind}", rule.region).usd) * share,
                )
                for kind in usable_types(pool, capacity, CAPABILITIES)
            ]
    return Site(
        private_flavor=PRIVATE_FLAVOUR,
        private_gpus=own.count * own.gpus,
        link_mbps=rule.link_mbps,
        node_minutes=rule.node_minutes,
        idle_minutes=max(pool.idle_minutes for pool in settings.rented),
        usd_per_hour_saved=rule.usd_per_hour_saved,
        ceilings=ceilings,
        offers=tuple(offers),
    )


def receive(
    settings: Settings,
    provider: k8s.Provider,
    vault: Connection,
    store: SecretStore,
    namespaces: Mapping[str, pulumi.Output[str]],
) -> None:
    """The cloud's half, and its token to Vault, where the private Kueue's agent finds it."""
    gpu = GpuSite("cloud-gpu", gpu_site_args(settings, "cloud", provider, NODE_LABELS))
    controller = QueueController("cloud-kueue", controller_args(settings, "cloud", provider))
    CloudQueues(
        "cloud-arrivals",
        _queues(settings, provider, namespaces, sends=False),
        ResourceOptions(depends_on=[controller]),
    )
    deploy_training(settings, "cloud", provider, vault, store, namespaces[PRODUCT_TEAM], gpu)
    worker = QueueWorker(
        "cloud-worker",
        QueueWorkerArgs(
            identity=settings.identity,
            provider=provider,
            space=controller.namespace,
            namespaces=namespaces,
            train_jobs=settings.sites["private"].trainer,
        ),
    )
    KvSecret(
        "cloud-worker-token",
        vault,
        mount=store.mount,
        path=secret_path("private", kueue.NAMESPACE, ACCOUNT),
        data={"token": worker.token},
    )


def _queues(
    settings: Settings,
    provider: k8s.Provider,
    namespaces: Mapping[str, pulumi.Output[str]],
    *,
    sends: bool,
) -> CloudQueuesArgs:
    gpus = sum(pool.max_spot_gpus + pool.max_on_demand_gpus for pool in settings.rented)
    cpus, memory = _PER_GPU
    return CloudQueuesArgs(
        identity=settings.identity,
        provider=provider,
        flavour=Flavour(
            name="cloud-gpu",
            gpus=gpus,
            cpus=gpus * cpus,
            memory_gib=gpus * memory,
            labels=NODE_LABELS,
            taints=[{"key": GPU, "value": "true", "effect": "NoSchedule"}],
            owned=False,
        ),
        weights={team: share.weight for team, share in settings.teams.items()},
        namespaces=namespaces,
        sends=sends,
    )
