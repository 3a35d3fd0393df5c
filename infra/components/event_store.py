"""The event store: NATS JetStream with TLS, a token from Vault and volumes that outlive its pods.

One server on a stand, three in production. A rotated token or certificate is read on SIGHUP, which
the Vault agent sends: the servers go on, and clients connect again by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi_kubernetes as k8s
from pulumi import ComponentResource, Resource, ResourceOptions

from infra import flows
from infra.naming import Identity, labels, selector
from infra.pods import (
    Image,
    Software,
    as_written,
    checksum,
    container,
    http_probe,
    pod,
    resources,
    secrets_mount,
    spread,
    vault_agent,
    vault_agent_files,
    vault_volumes,
)
from infra.workloads import Needs, VaultSite, grant

NAME = "nats"
CLIENT, CLUSTER, MONITOR = 4222, 6222, 8222
AGENT_METRICS = 9102
AGENT_INTERVAL = 15  # seconds between looks at Vault


@dataclass(frozen=True, kw_only=True)
class EventStoreArgs:
    identity: Identity
    team: str
    """Namespace, which exists."""
    provider: k8s.Provider
    vault: VaultSite
    agent: Image
    software: Software
    replicas: int
    size: str
    storage_class: str | None
    volumes: Sequence[Mapping[str, str]]
    """Folders of nodes (`node`, `path`) where nothing provisions volumes; one per server."""
    clients: Sequence[Mapping[str, str]]
    """Labels of the workloads that may connect."""
    scrapers: Sequence[Mapping[str, str]] = ()
    rotation: str = "1"
    certificate_ttl: int = 72 * 3600
    awaited: bool = True


def address(team: str) -> str:
    """What clients connect to, by the name on the certificate."""
    return f"tls://{NAME}.{team}.svc.cluster.local:{CLIENT}"


def configuration(team: str, replicas: int) -> str:
    """`nats.conf`. Every acknowledged write is on disk: an accepted event survives power loss."""
    text = f"""\
server_name: $POD_NAME
listen: "0.0.0.0:{CLIENT}"
http: "0.0.0.0:{MONITOR}"
max_payload: 2MB
pid_file: "/tmp/nats.pid"
jetstream {{ store_dir: "/data", sync_interval: always }}
tls {{ cert_file: "/secrets/tls.pem", key_file: "/secrets/tls.pem", min_version: "1.2" }}
include "../secrets/auth.conf"
"""
    if replicas > 1:
        peers = ", ".join(
            f'"tls://{NAME}-{index}.{NAME}.{team}.svc.cluster.local:{CLUSTER}"'
            for index in range(replicas)
        )
        text += f"""\
cluster {{
  name: "{NAME}"
  listen: "0.0.0.0:{CLUSTER}"
  routes: [{peers}]
  tls {{
    cert_file: "/secrets/tls.pem", key_file: "/secrets/tls.pem"
    ca_file: "/secrets/services-ca.crt", verify: true
  }}
}}
"""
    return text


def domains(team: str, replicas: int) -> list[str]:
    service = f"{NAME}.{team}.svc.cluster.local"
    return [service, *(f"{NAME}-{index}.{service}" for index in range(replicas))]


class EventStore(ComponentResource):
    """NATS in one team's namespace."""

    address: str
    """For clients; the token is `nats#token` of the namespace's secrets."""
    host: str
    """Name that resolves to every server."""
    login: Sequence[Resource]
    """What makes the clients' token: they may start before the servers do, and wait for them."""

    def __init__(
        self, resource_name: str, args: EventStoreArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid-recommender:kubernetes:EventStore", resource_name, {}, opts)
        self._args, self._name = args, resource_name
        self._labels = labels(args.identity, "event-store", {"team": args.team})
        self._match = selector(NAME)
        self._on_site = ResourceOptions(parent=self, provider=args.provider)
        notified = [{"process": "nats-server"}]
        access = grant(
            f"{resource_name}-vault",
            args.vault,
            NAME,
            Needs(
                generate={"token": 32},
                rotation=args.rotation,
                secrets={"auth.conf": "#token"},
                templates={"auth.conf": 'authorization { token: "{}" }\n'},
                domains=domains(args.team, args.replicas),
                calls_peers=args.replicas > 1,
                trusts_services=args.replicas > 1,
                certificate_ttl=args.certificate_ttl,
                notify={"auth.conf": notified, "tls.pem": notified},
                metrics_port=AGENT_METRICS,
            ),
            ResourceOptions(parent=self),
        )
        self._files = {
            **vault_agent_files(access.login, interval=AGENT_INTERVAL),
            "nats.conf": configuration(args.team, args.replicas),
        }
        self.login = access.resources
        self._traffic()
        before = [*access.resources, *self._volumes(), *self._objects()]
        self._servers(ResourceOptions.merge(self._on_site, ResourceOptions(depends_on=before)))
        self.address = address(args.team)
        self.host = f"{NAME}.{args.team}.svc.cluster.local"
        self.register_outputs({"address": self.address})

    def _metadata(self, object_name: str, **more: Any) -> Any:
        meta = {"name": object_name, "namespace": self._args.team, "labels": self._labels}
        return as_written({**meta, **more})

    def _volumes(self) -> list[k8s.core.v1.PersistentVolume]:
        """Declared only where nothing provisions them; each is for one server's claim."""
        args = self._args
        names = f"{args.team}-{NAME}"
        return [
            k8s.core.v1.PersistentVolume(
                f"{self._name}-volume-{index}",
                metadata=as_written({"name": f"{names}-{index}", "labels": self._labels}),
                spec=as_written(
                    {
                        "capacity": {"storage": args.size},
                        "accessModes": ["ReadWriteOnce"],
                        "persistentVolumeReclaimPolicy": "Retain",
                        "storageClassName": args.storage_class or "",
                        "volumeMode": "Filesystem",
                        "local": {"path": place["path"]},
                        "claimRef": {
                            "apiVersion": "v1",
                            "kind": "PersistentVolumeClaim",
                            "namespace": args.team,
                            "name": f"data-{NAME}-{index}",
                        },
                        "nodeAffinity": {"required": {"nodeSelectorTerms": [
                            {"matchExpressions": [{
                                "key": "kubernetes.io/hostname",
                                "operator": "In",
                                "values": [place["node"]],
                            }]}
                        ]}},
                    }
                ),
                opts=self._on_site,
            )
            for index, place in enumerate(args.volumes[: args.replicas])
        ]  # fmt: skip

    def _objects(self) -> list[Any]:
        args = self._args
        account = k8s.core.v1.ServiceAccount(
            f"{self._name}-account",
            metadata=self._metadata(NAME),
            automount_service_account_token=False,
            opts=self._on_site,
        )
        files = k8s.core.v1.ConfigMap(
            f"{self._name}-files",
            metadata=self._metadata(f"{NAME}-files"),
            data=self._files,
            opts=self._on_site,
        )
        service = k8s.core.v1.Service(
            f"{self._name}-service",
            # a headless service of a database: its servers must find each other before they serve
            metadata=self._metadata(NAME, annotations={"pulumi.com/skipAwait": "true"}),
            spec=as_written(
                {
                    "clusterIP": "None",
                    "publishNotReadyAddresses": args.replicas > 1,
                    "selector": self._match,
                    "ports": [{"name": "client", "port": CLIENT, "targetPort": "client"}],
                }
            ),
            opts=self._on_site,
        )
        budget = k8s.policy.v1.PodDisruptionBudget(
            f"{self._name}-budget",
            metadata=self._metadata(NAME),
            spec=as_written({"maxUnavailable": 1, "selector": {"matchLabels": self._match}}),
            opts=self._on_site,
        )
        return [account, files, service, budget]

    def _traffic(self) -> None:
        """Clients in, servers among themselves, Vault out; nothing else."""
        args = self._args
        peers = [flows.pods(self._match)]
        scrapers = [flows.pods(dict(one)) for one in args.scrapers]
        cluster = args.replicas > 1
        k8s.networking.v1.NetworkPolicy(
            f"{self._name}-traffic",
            metadata=self._metadata(NAME),
            spec=as_written(
                {
                    "podSelector": {"matchLabels": self._match},
                    "policyTypes": ["Ingress", "Egress"],
                    "ingress": [
                        flows.into([flows.pods(dict(one)) for one in args.clients], CLIENT),
                        *([flows.into(scrapers, AGENT_METRICS)] if scrapers else []),
                        *([flows.into(peers, CLUSTER)] if cluster else []),
                    ],
                    "egress": [
                        flows.to_address(args.vault.connection.address),
                        *([flows.out_of(peers, CLUSTER)] if cluster else []),
                    ],
                }
            ),
            opts=self._on_site,
        )

    def _servers(self, opts: ResourceOptions) -> None:
        args = self._args
        server = container(
            NAME,
            args.software.image,
            [args.software.program, "--config", "/vault-agent/nats.conf"],
            env=args.software.env,
            mounts=[
                secrets_mount(),
                {"name": "vault-agent", "mountPath": "/vault-agent", "readOnly": True},
                {"name": "data", "mountPath": "/data"},
            ],
            ports=[
                {"name": "client", "containerPort": CLIENT},
                {"name": "cluster", "containerPort": CLUSTER},
                {"name": "monitor", "containerPort": MONITOR},
            ],
            resources=resources(cpu="50m", memory="128Mi", memory_limit="512Mi"),
            startupProbe=http_probe(
                "/healthz?js-enabled-only=true", "monitor", periodSeconds=2, failureThreshold=90
            ),
            readinessProbe=http_probe(
                "/healthz?js-server-only=true", "monitor", periodSeconds=5, timeoutSeconds=5
            ),
            livenessProbe=http_probe(
                "/healthz?js-enabled-only=true", "monitor", periodSeconds=15, timeoutSeconds=5
            ),
        )
        server["env"].append(
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
        )
        spec = pod(
            service_account=NAME,
            images=[args.agent, args.software.image],
            init_containers=[vault_agent(args.agent, metrics_port=AGENT_METRICS)],
            containers=[server],
            volumes=vault_volumes(f"{NAME}-files"),
            # the agent tells the server to read its files again; both run as the same user
            shareProcessNamespace=True,
            terminationGracePeriodSeconds=30,
            **({"topologySpreadConstraints": _spread(self._match)} if args.replicas > 1 else {}),
        )
        waiting = {} if args.awaited else {"annotations": {"pulumi.com/skipAwait": "true"}}
        claim: dict[str, Any] = {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": args.size}},
        }
        if args.storage_class is not None:
            claim["storageClassName"] = args.storage_class
        k8s.apps.v1.StatefulSet(
            f"{self._name}-servers",
            metadata=self._metadata(NAME, **waiting),
            spec=as_written(
                {
                    "serviceName": NAME,
                    "replicas": args.replicas,
                    "podManagementPolicy": "Parallel",
                    "selector": {"matchLabels": self._match},
                    "template": {
                        "metadata": {
                            "labels": {**self._labels, **self._match},
                            "annotations": {"checksum/files": checksum(self._files)},
                        },
                        "spec": spec,
                    },
                    "volumeClaimTemplates": [
                        {"metadata": {"name": "data", "labels": self._match}, "spec": claim}
                    ],
                    # a volume of ours goes only after its claim; provisioned ones outlive a mistake
                    "persistentVolumeClaimRetentionPolicy": {
                        "whenDeleted": "Delete" if args.volumes else "Retain",
                        "whenScaled": "Retain",
                    },
                }
            ),
            opts=opts,
        )


def _spread(match: Mapping[str, str]) -> list[Any]:
    """As for every workload; a StatefulSet's pods have no template hash to tell updates apart."""
    return [
        {key: value for key, value in one.items() if key != "matchLabelKeys"}
        for one in spread(match)
    ]
