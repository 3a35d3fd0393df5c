"""The site's way in: HAProxy, its certificate from Vault rotated without touching connections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pulumi_kubernetes as k8s
from pulumi import ComponentResource, Output, ResourceOptions

from infra import flows, haproxy
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

NAME = "gateway"
PORT = 443
AGENT_METRICS = 9102
AGENT_INTERVAL = 5  # seconds between looks at Vault: a certificate may be short-lived
LEAVING = 10  # seconds between leaving the service's list and closing the door


@dataclass(frozen=True, kw_only=True)
class Door:
    """How clients outside the cluster get in; `infra/site_settings.py` says what fits together."""

    kind: Literal["cluster", "node-port", "load-balancer"] = "cluster"
    port: int | None = None
    health_port: int | None = None
    nodes: Sequence[str] = ()
    clients: Sequence[str] = ()
    annotations: Mapping[str, str] = field(default_factory=dict[str, str])
    balancer_class: str | None = None

    def service(self) -> dict[str, Any]:
        """What the Service says of it, beside its selector and port."""
        if self.kind == "cluster":
            return {}
        # only to pods of the node that was asked: the client's address stays, and no node that
        # lives sends a client to one that does not
        local = {"externalTrafficPolicy": "Local"}
        if self.kind == "node-port":
            return {"type": "NodePort", **local}
        return {
            "type": "LoadBalancer",
            **local,
            "loadBalancerSourceRanges": list(self.clients),
            # those ranges do not guard ports of nodes: none is opened that nobody named
            "allocateLoadBalancerNodePorts": self.port is not None,
            **({"healthCheckNodePort": self.health_port} if self.health_port else {}),
            **({"loadBalancerClass": self.balancer_class} if self.balancer_class else {}),
        }


@dataclass(frozen=True, kw_only=True)
class GatewayArgs:
    identity: Identity
    team: str
    """Namespace, which exists."""
    provider: k8s.Provider
    vault: VaultSite
    agent: Image
    software: Software
    host: str
    """Name that clients use; on the certificate beside the cluster's own name."""
    names: Sequence[str] = ()
    """More names on the certificate."""
    backend: str
    """Headless name of the service's pods."""
    backend_port: int
    pods: Mapping[str, str]
    """Labels of the service's pods."""
    slots: int
    """Most pods that the service may have."""
    clients: Sequence[str]
    """Ranges that may ask: those of `door`, and the nodes' for what comes by the cluster's own
    address, which nodes pass on under theirs."""
    door: Door = Door()
    replicas: int = 2
    scrapers: Sequence[Mapping[str, str]] = ()
    certificate_ttl: int = 72 * 3600
    awaited: bool = True


class Gateway(ComponentResource):
    """TLS in front of the service of one namespace."""

    address: Output[str]
    """Address inside the site."""
    addresses: Output[list[str]]
    """Where clients outside its cluster try: one for each node or load balancer."""
    url: str
    pods_host: str
    """Name that resolves to every ready pod, for who reads their metrics."""

    def __init__(
        self, resource_name: str, args: GatewayArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid-recommender:kubernetes:Gateway", resource_name, {}, opts)
        self._args, self._name = args, resource_name
        self._labels = labels(args.identity, "gateway", {"team": args.team})
        self._match = selector(NAME)
        self._on_site = ResourceOptions(parent=self, provider=args.provider)
        service_name = f"{NAME}.{args.team}.svc.cluster.local"
        access = grant(
            f"{resource_name}-vault",
            args.vault,
            NAME,
            Needs(
                domains=[args.host, *args.names, service_name],
                certificate_ttl=args.certificate_ttl,
                notify={"tls.pem": [{"haproxy": haproxy.ADMIN}]},
                metrics_port=AGENT_METRICS,
            ),
            ResourceOptions(parent=self),
        )
        self._files = {
            **vault_agent_files(access.login, interval=AGENT_INTERVAL),
            "haproxy.cfg": haproxy.configuration(
                backend=args.backend, port=args.backend_port, slots=args.slots
            ),
            "503.http": haproxy.error_page(),
        }
        self._traffic()
        before = [*access.resources, *self._objects()]
        deployment = self._pods(
            ResourceOptions.merge(self._on_site, ResourceOptions(depends_on=before))
        )
        service = self._service(
            ResourceOptions.merge(self._on_site, ResourceOptions(depends_on=[deployment]))
        )
        self.address = Output.format("{0}:{1}", service.spec.cluster_ip, PORT)
        self.addresses = self._outside(service)
        self.url = f"https://{args.host}"
        self.pods_host = f"{NAME}-pods.{args.team}.svc.cluster.local"
        self.register_outputs(
            {"address": self.address, "addresses": self.addresses, "url": self.url}
        )

    def _outside(self, service: k8s.core.v1.Service) -> Output[list[str]]:
        door = self._args.door
        if door.kind == "node-port":
            return Output.from_input([f"{node}:{door.port}" for node in door.nodes])
        if door.kind == "load-balancer":
            return service.status.apply(_balancers)
        return self.address.apply(lambda address: [address])

    def _metadata(self, object_name: str, **more: Any) -> Any:
        meta = {"name": object_name, "namespace": self._args.team, "labels": self._labels}
        return as_written({**meta, **more})

    def _objects(self) -> list[Any]:
        return [
            k8s.core.v1.ServiceAccount(
                f"{self._name}-account",
                metadata=self._metadata(NAME),
                automount_service_account_token=False,
                opts=self._on_site,
            ),
            k8s.core.v1.ConfigMap(
                f"{self._name}-files",
                metadata=self._metadata(f"{NAME}-files"),
                data=self._files,
                opts=self._on_site,
            ),
            k8s.core.v1.Service(
                f"{self._name}-pods-service",
                metadata=self._metadata(
                    f"{NAME}-pods", annotations={"pulumi.com/skipAwait": "true"}
                ),
                spec=as_written(
                    {
                        "clusterIP": "None",
                        "selector": self._match,
                        "ports": [{"name": "status", "port": haproxy.STATUS_PORT}],
                    }
                ),
                opts=self._on_site,
            ),
            k8s.policy.v1.PodDisruptionBudget(
                f"{self._name}-budget",
                metadata=self._metadata(NAME),
                spec=as_written({"maxUnavailable": 1, "selector": {"matchLabels": self._match}}),
                opts=self._on_site,
            ),
        ]

    def _traffic(self) -> None:
        """Declared ranges in, the service's pods and Vault out; nothing else."""
        args = self._args
        scrapers = [flows.pods(dict(one)) for one in args.scrapers]
        k8s.networking.v1.NetworkPolicy(
            f"{self._name}-traffic",
            metadata=self._metadata(NAME),
            spec=as_written(
                {
                    "podSelector": {"matchLabels": self._match},
                    "policyTypes": ["Ingress", "Egress"],
                    "ingress": [
                        flows.into([flows.block(one) for one in args.clients], haproxy.TLS_PORT),
                        *(
                            [flows.into(scrapers, haproxy.STATUS_PORT, AGENT_METRICS)]
                            if scrapers
                            else []
                        ),
                    ],
                    "egress": [
                        flows.out_of([flows.pods(dict(args.pods))], args.backend_port),
                        flows.to_address(args.vault.connection.address),
                    ],
                }
            ),
            opts=self._on_site,
        )

    def _pods(self, opts: ResourceOptions) -> k8s.apps.v1.Deployment:
        args = self._args
        admin = {"name": "admin", "mountPath": "/run/haproxy"}
        proxy = container(
            NAME,
            args.software.image,
            [args.software.program, "-W", "-db", "-f", "/vault-agent/haproxy.cfg"],
            env=args.software.env,
            mounts=[
                secrets_mount(),
                {"name": "vault-agent", "mountPath": "/vault-agent", "readOnly": True},
                admin,
            ],
            ports=[
                {"name": "https", "containerPort": haproxy.TLS_PORT},
                {"name": "status", "containerPort": haproxy.STATUS_PORT},
            ],
            resources=resources(cpu="50m", memory="64Mi", memory_limit="256Mi"),
            # SIGTERM would end HAProxy at once; SIGUSR1 lets it finish what it holds
            lifecycle={
                "preStop": {
                    "exec": {
                        "command": ["/bin/sh", "-c", f"sleep {LEAVING}; kill -USR1 1; sleep 20"]
                    }
                }
            },
            startupProbe=http_probe("/livez", "status", periodSeconds=1, failureThreshold=120),
            readinessProbe=http_probe(
                "/readyz", "status", periodSeconds=2, timeoutSeconds=3, failureThreshold=2
            ),
            livenessProbe=http_probe("/livez", "status", periodSeconds=10, timeoutSeconds=5),
        )
        spec = pod(
            service_account=NAME,
            images=[args.agent, args.software.image],
            init_containers=[vault_agent(args.agent, mounts=[admin], metrics_port=AGENT_METRICS)],
            containers=[proxy],
            volumes=[
                *vault_volumes(f"{NAME}-files"),
                {"name": "admin", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            ],
            terminationGracePeriodSeconds=LEAVING + 25,
            topologySpreadConstraints=spread(self._match),
        )
        waiting = {} if args.awaited else {"annotations": {"pulumi.com/skipAwait": "true"}}
        return k8s.apps.v1.Deployment(
            f"{self._name}-pods",
            metadata=self._metadata(NAME, **waiting),
            spec=as_written(
                {
                    "replicas": args.replicas,
                    "revisionHistoryLimit": 3,
                    "minReadySeconds": 5,
                    "strategy": {
                        "type": "RollingUpdate",
                        "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
                    },
                    "selector": {"matchLabels": self._match},
                    "template": {
                        "metadata": {
                            "labels": {**self._labels, **self._match},
                            "annotations": {"checksum/files": checksum(self._files)},
                        },
                        "spec": spec,
                    },
                }
            ),
            opts=opts,
        )

    def _service(self, opts: ResourceOptions) -> k8s.core.v1.Service:
        door = self._args.door
        marks = dict(door.annotations)
        if not self._args.awaited:
            marks["pulumi.com/skipAwait"] = "true"
        port: dict[str, Any] = {"name": "https", "port": PORT, "targetPort": "https"}
        if door.port is not None:
            port["nodePort"] = door.port
        return k8s.core.v1.Service(
            f"{self._name}-service",
            metadata=self._metadata(NAME, **({"annotations": marks} if marks else {})),
            spec=as_written({"selector": self._match, "ports": [port], **door.service()}),
            opts=opts,
        )


def _balancers(status: Any) -> list[str]:
    """Addresses or names that a controller gave the Service; none before it did."""
    found = getattr(getattr(status, "load_balancer", None), "ingress", None) or []
    return [f"{one.ip or one.hostname}:{PORT}" for one in found]
