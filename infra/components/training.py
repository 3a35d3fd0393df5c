"""Training on one site: what a run needs, and the run itself when the settings name one.

A run is an indexed Job, or a TrainJob, of equal pods behind a queue. `model.launch` in each pod
runs torchrun elastically: a lost pod costs the steps since the last saved state, which lies in the
artefact store. The store's key comes from Vault as files; nothing is shared but the store.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi_kubernetes as k8s
from pulumi import ComponentResource, Input, Output, ResourceOptions

from infra import trainer
from infra.components.training_start import start
from infra.kueue import PRIORITY_LABEL, QUEUE_LABEL
from infra.naming import Identity, labels, name, selector
from infra.pods import (
    SECRETS,
    Image,
    VaultLogin,
    as_written,
    container,
    pod,
    resources,
    secrets_mount,
    traffic_to,
    vault_agent,
    vault_agent_files,
    vault_volumes,
)
from infra.vault import KvSecret
from infra.workloads import VaultSite, allow, secret_path

TRAINING = "training"
GPU = "nvidia.com/gpu"
RENDEZVOUS_PORT = 29400
SCRATCH = "/scratch"
# A node that is lost for longer than this is given up, and its pod starts elsewhere.
LOST_SECONDS = 30
# Fields of a Job that who moves it into the cloud's queue changes: it is made again under its name.
MOVED = [
    "metadata.labels", "metadata.annotations", "metadata.ownerReferences",
    "spec.managedBy", "spec.suspend",
]  # fmt: skip
KEPT = 7 * 24 * 3600  # seconds that an ended Job stays to be read; its run is in the store


@dataclass(frozen=True, kw_only=True)
class ArtefactStore:
    """An S3 API and the key that a run writes with."""

    endpoint: str
    region: str
    bucket: str
    access_key: Input[str]
    secret_key: Input[str]
    ca_pem: str | None = None
    """Of a private authority; None for a public certificate."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run. Its name is its identity in the store: the same name goes on with it."""

    name: str
    sequences: str
    """Key of the sequences in the bucket."""
    items: str | None = None
    size: str = "base"
    workers: int = 2
    least: int = 1
    """Workers that may go on alone after a loss."""
    gpus: int = 0
    """Of each worker."""
    cpu: str = "4"
    memory: str = "16Gi"
    flags: Sequence[str] = ()
    """More flags of `model.train`."""
    hours: float = 24
    """After this time the run is ended."""
    priority: str = "normal"
    may_leave: bool = False
    """Whether it may run in the cloud, where this component must be too, with `receives`."""
    input_gb: float = 0

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.workers:
            raise ValueError(
                f"run {self.name}: least is {self.least}; give 1 to workers ({self.workers})"
            )


@dataclass(frozen=True, kw_only=True)
class TrainingArgs:
    identity: Identity
    provider: k8s.Provider
    namespace: Input[str]
    vault: VaultSite
    store: ArtefactStore
    image: Image
    python: str = "python3"
    """The interpreter in the image that has the `model` package."""
    folder: str | None = None
    """Where that package is, when it is not installed."""
    run: Run | None = None
    receives: bool = False
    """A run of another site may come here: everything that its pods name has the same name."""
    queues: Mapping[str, Input[str]]
    """`gpu` and `cpu` -> the team's queue for such jobs."""
    runtime_class: Input[str] | None = None
    """Of pods with a GPU."""
    tolerations: Sequence[Mapping[str, str]] = ()
    """Of the GPU flavour."""
    trainer: bool = False
    """The site has Kubeflow Trainer: it starts the run."""


class Training(ComponentResource):
    """Account, key and network of training; what starts the run, if there is one."""

    service_account: Output[str]
    job: Output[str] | None

    def __init__(
        self, resource_name: str, args: TrainingArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid-recommender:kubernetes:Training", resource_name, {}, opts)
        self._args = args
        self._name = resource_name
        self._opts = ResourceOptions(parent=self, provider=args.provider)
        self._labels = labels(args.identity, TRAINING, {"team": args.vault.team})
        vault = self._vault()
        account = k8s.core.v1.ServiceAccount(
            f"{resource_name}-account",
            metadata=self._metadata(TRAINING),
            automount_service_account_token=False,
            opts=self._opts,
        )
        files = self._files()
        config = k8s.core.v1.ConfigMap(
            f"{resource_name}-files",
            metadata=self._metadata(f"{TRAINING}-files"),
            data=files,
            opts=self._opts,
        )
        traffic = self._traffic()
        self.service_account = account.metadata.name
        self.job = None
        if args.run is not None or args.receives:
            service = k8s.core.v1.Service(
                f"{resource_name}-peers",
                metadata=self._metadata(TRAINING, annotations={"pulumi.com/skipAwait": "true"}),
                spec=as_written(
                    {
                        "clusterIP": "None",
                        # workers look for each other before any of them is ready
                        "publishNotReadyAddresses": True,
                        "selector": selector(TRAINING),
                        "ports": [{"name": "rendezvous", "port": RENDEZVOUS_PORT}],
                    }
                ),
                opts=self._opts,
            )
            traffic = [*traffic, service]
        if args.run is not None:
            digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
            before = [*vault, account, config, *traffic]
            self.job = self._job(args.run, digest[:16], before)
        self.register_outputs({"service_account": self.service_account, "job": self.job})

    def _metadata(self, object_name: str, **more: Any) -> Any:
        return {
            "name": object_name, "namespace": self._args.namespace, "labels": self._labels, **more,
        }  # fmt: skip

    def _path(self) -> str:
        return secret_path(self._args.vault.site, self._args.vault.team, TRAINING)

    def _role(self) -> str:
        return name(self._args.vault.site, self._args.vault.team, TRAINING)

    def _vault(self) -> list[Any]:
        """The store's key at the run's own path, and the login that reads this path alone."""
        args, parent = self._args, ResourceOptions(parent=self)
        secret = KvSecret(
            f"{self._name}-key",
            args.vault.connection,
            mount=args.vault.mount,
            path=self._path(),
            data={"access-key": args.store.access_key, "secret-key": args.store.secret_key},
            opts=parent,
        )
        rules = {f"{args.vault.mount_path}/data/{self._path()}": ["read"]}
        return [secret, allow(self._name, args.vault, TRAINING, rules, parent)]

    def _files(self) -> dict[str, str]:
        args = self._args
        login = VaultLogin(
            address=args.vault.connection.address,
            ca_pem=args.vault.ca_pem,
            auth=args.vault.login_path,
            role=self._role(),
            secrets={
                key: f"{args.vault.mount_path}/data/{self._path()}#{key}"
                for key in ("access-key", "secret-key")
            },
        )
        files = vault_agent_files(login, interval=60)
        if args.store.ca_pem is not None:
            files["store-ca.crt"] = args.store.ca_pem
        return files

    def _traffic(self) -> list[Any]:
        """Among the pods of a run, to Vault and to the store; nothing else."""
        own = {"podSelector": {"matchLabels": selector(TRAINING)}}
        return [
            k8s.networking.v1.NetworkPolicy(
                f"{self._name}-traffic",
                metadata=self._metadata(TRAINING),
                spec=as_written(
                    {
                        **own,
                        "policyTypes": ["Ingress", "Egress"],
                        # collectives open ports of their own choice
                        "ingress": [{"from": [own]}],
                        "egress": [
                            {"to": [own]},
                            traffic_to(self._args.vault.connection.address),
                            traffic_to(self._args.store.endpoint),
                        ],
                    }
                ),
                opts=self._opts,
            )
        ]

    def _command(self, run: Run, job: str) -> list[str]:
        args, stem = self._args, trainer.job_name(job) if self._args.trainer else job
        command = [
            args.python, "-u", "-m", "model.launch",
            "--workers", f"{run.least}:{run.workers}", "--processes", str(max(1, run.gpus)),
            "--leader", f"{stem}-0.{TRAINING}", "--port", str(RENDEZVOUS_PORT),
            "--endpoint", args.store.endpoint, "--bucket", args.store.bucket,
            "--region", args.store.region, "--keys", SECRETS,
            "--run-name", run.name, "--sequences", run.sequences, "--scratch", SCRATCH,
        ]  # fmt: skip
        if args.store.ca_pem is not None:
            command += ["--ca", "/vault-agent/store-ca.crt"]
        if run.items is not None:
            command += ["--items", run.items]
        return [*command, "--", "--size", run.size, *run.flags]

    def _job(self, run: Run, files: str, before: Sequence[Any]) -> Output[str]:
        args = self._args
        job, match = name(TRAINING, run.name, limit=50), selector(TRAINING)
        size = resources(cpu=run.cpu, memory=run.memory)
        placed: dict[str, Any] = {}
        if run.gpus:
            size["limits"][GPU] = size["requests"][GPU] = str(run.gpus)
            placed["tolerations"] = [dict(one) for one in args.tolerations]
            if args.runtime_class is not None:
                placed["runtimeClassName"] = args.runtime_class
        placed["tolerations"] = [
            *placed.get("tolerations", []),
            *(
                {
                    "key": f"node.kubernetes.io/{state}",
                    "operator": "Exists",
                    "effect": "NoExecute",
                    "tolerationSeconds": LOST_SECONDS,
                }
                for state in ("not-ready", "unreachable")
            ),
        ]
        work = container(
            "worker",
            args.image,
            self._command(run, job),
            env={"GLOO_SOCKET_IFNAME": "eth0", "NCCL_SOCKET_IFNAME": "eth0",
                 "OMP_NUM_THREADS": "1" if not run.gpus else "4", "HOME": SCRATCH},
            mounts=[
                secrets_mount(),
                {"name": "vault-agent", "mountPath": "/vault-agent", "readOnly": True},
                {"name": "scratch", "mountPath": SCRATCH},
            ],
            resources=size,
            **({"workingDir": args.folder} if args.folder else {}),
        )  # fmt: skip
        work["env"].append(
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
        )
        spec = pod(
            service_account=TRAINING,
            images=[args.image],
            init_containers=[vault_agent(args.image)],
            containers=[work],
            volumes=[
                *vault_volumes(f"{TRAINING}-files"),
                {"name": "scratch", "emptyDir": {"sizeLimit": "20Gi"}},
            ],
            restartPolicy="Never",
            subdomain=TRAINING,
            priorityClassName=TRAINING,
            topologySpreadConstraints=[
                {
                    "maxSkew": 1,
                    "topologyKey": "kubernetes.io/hostname",
                    # two workers on one node would be lost together
                    "whenUnsatisfiable": "ScheduleAnyway",
                    "labelSelector": {"matchLabels": match},
                }
            ],
            **placed,
        )
        queue = args.queues["gpu" if run.gpus else "cpu"]
        return start(
            self._name,
            self._metadata(
                job,
                # training takes hours: `up` starts it and does not wait for its end
                annotations={"pulumi.com/skipAwait": "true"},
                labels={**self._labels, QUEUE_LABEL: queue, PRIORITY_LABEL: run.priority},
            ),
            {
                "completionMode": "Indexed",
                "completions": run.workers,
                "parallelism": run.workers,
                # a pod ends by itself only when it has given up; a lost node is no failure
                "backoffLimit": _losses(run),
                "activeDeadlineSeconds": int(run.hours * 3600),
                "ttlSecondsAfterFinished": KEPT,
                "template": {
                    "metadata": {
                        "labels": {**self._labels, **match},
                        "annotations": {
                            "checksum/files": files,
                            "recsys/expected-hours": f"{run.hours:g}",
                            **_leave(run),
                        },
                    },
                    "spec": spec,
                },
            },
            ResourceOptions.merge(
                self._opts,
                ResourceOptions(
                    depends_on=list(before), ignore_changes=MOVED if run.may_leave else None
                ),
            ),
            by_trainer=args.trainer,
        )


def _leave(run: Run) -> dict[str, str]:
    """What a run says to who decides which jobs leave."""
    if not run.may_leave:
        return {}
    return {"recsys/may-leave": "true", "recsys/input-gb": f"{run.input_gb:g}"}


def _losses(run: Run) -> int:
    """Pods that a run may lose: in the cloud also to spot nodes, one an hour for each worker."""
    return 6 * run.workers + (math.ceil(run.hours) * run.workers if run.may_leave else 0)
