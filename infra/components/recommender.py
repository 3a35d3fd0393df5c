"""The bento as a Deployment that is updated, drained and scaled without a failed request.

A pod that ends is first taken out of the name service, goes on answering while the gateways
notice, and only then gets its signal; a new one counts only once it has been ready for a while. It
scales on the CPU of its own container: ranking costs the same CPU for each request, so that is its
concurrency, and it needs nothing but the cluster's metrics server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi_kubernetes as k8s
from pulumi import ComponentResource, Output, ResourceOptions

from infra import flows
from infra.naming import Identity, labels, selector
from infra.pods import (
    SECRETS,
    Image,
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

NAME = "bento"
PORT = 3000
AGENT_METRICS = 9102
AGENT_INTERVAL = 15  # seconds between looks at Vault
LEAVING = 15
"""Seconds that an ending pod still answers: the name service's 5 s of cache, the gateways' look
every 2 s, and room."""
DRAIN = 30
"""Seconds for the requests that are still inside after that."""


@dataclass(frozen=True, kw_only=True)
class RecommenderArgs:
    identity: Identity
    team: str
    """Namespace, which exists."""
    provider: k8s.Provider
    vault: VaultSite
    agent: Image
    bento: str
    """The reference as it is shown to people."""
    image: Image
    command: Sequence[str]
    env: Mapping[str, str]
    """The bento's own settings; never a secret."""
    store_address: str
    store_token: str
    """Vault secret of the event store's token, `<workload>#<key>`."""
    store_replicas: int
    least: int
    most: int
    cpu: str
    memory: str
    workers: int
    deadline_ms: int
    callers: Sequence[Mapping[str, str]]
    """Labels of the pods that may ask: the gateways."""
    store: Mapping[str, str]
    """Labels of the event store's pods, and its port below."""
    store_port: int
    scrapers: Sequence[Mapping[str, str]] = ()
    after: Sequence[Any] = field(default_factory=list[Any])
    awaited: bool = True


class Recommender(ComponentResource):
    """The service's pods in one team's namespace."""

    host: str
    """Name that resolves to every ready pod."""
    bento: Output[str]

    def __init__(
        self, resource_name: str, args: RecommenderArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid-recommender:kubernetes:Recommender", resource_name, {}, opts)
        self._args, self._name = args, resource_name
        self._labels = labels(args.identity, "recommender", {"team": args.team})
        self._match = selector(NAME)
        self._on_site = ResourceOptions(parent=self, provider=args.provider)
        access = grant(
            f"{resource_name}-vault",
            args.vault,
            NAME,
            Needs(
                secrets={"nats-token": args.store_token},
                trusts_services=True,
                metrics_port=AGENT_METRICS,
            ),
            ResourceOptions(parent=self),
        )
        self._files = vault_agent_files(access.login, interval=AGENT_INTERVAL)
        self._traffic()
        before = [*access.resources, *args.after, *self._objects()]
        deployment = self._pods(
            ResourceOptions.merge(self._on_site, ResourceOptions(depends_on=before))
        )
        self._scaling(ResourceOptions.merge(self._on_site, ResourceOptions(depends_on=deployment)))
        self.host = f"{NAME}.{args.team}.svc.cluster.local"
        self.bento = deployment.metadata.annotations.apply(lambda found: found["bento"])
        self.register_outputs({"host": self.host, "bento": self.bento})

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
                f"{self._name}-service",
                # headless: gateways and Prometheus must see each pod, not one address for all
                metadata=self._metadata(NAME, annotations={"pulumi.com/skipAwait": "true"}),
                spec=as_written(
                    {
                        "clusterIP": "None",
                        "selector": self._match,
                        "ports": [{"name": "http", "port": PORT, "targetPort": "http"}],
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
        """Gateways and Prometheus in, event store and Vault out; nothing else."""
        args = self._args
        callers = [flows.pods(dict(one)) for one in args.callers]
        scrapers = [flows.pods(dict(one)) for one in args.scrapers]
        k8s.networking.v1.NetworkPolicy(
            f"{self._name}-traffic",
            metadata=self._metadata(NAME),
            spec=as_written(
                {
                    "podSelector": {"matchLabels": self._match},
                    "policyTypes": ["Ingress", "Egress"],
                    "ingress": [
                        flows.into(callers, PORT),
                        *([flows.into(scrapers, PORT, AGENT_METRICS)] if scrapers else []),
                    ],
                    "egress": [
                        flows.out_of([flows.pods(dict(args.store))], args.store_port),
                        flows.to_address(args.vault.connection.address),
                    ],
                }
            ),
            opts=self._on_site,
        )

    def _pods(self, opts: ResourceOptions) -> k8s.apps.v1.Deployment:
        args = self._args
        env = {
            "HOME": "/tmp",  # noqa: S108 - the pod's own
            "BENTOML_HOME": "/tmp/bentoml",  # noqa: S108
            "BENTOML_DO_NOT_TRACK": "true",
            "PYTHONDONTWRITEBYTECODE": "1",
            "RECOMMENDER__STATE_DIR": "/tmp/state",  # noqa: S108
            "RECOMMENDER__NATS_URL": args.store_address,
            "RECOMMENDER__NATS_TOKEN": f"{SECRETS}/nats-token",
            "RECOMMENDER__NATS_CA": f"{SECRETS}/services-ca.crt",
            "RECOMMENDER__NATS_REPLICAS": str(args.store_replicas),
            # a site whose store is away answers from what requests bring: degraded, not gone
            "RECOMMENDER__STORE": "optional",
            "RECOMMENDER__WORKERS": str(args.workers),
            "RECOMMENDER__DEADLINE_MS": str(args.deadline_ms),
            **args.env,
        }
        service = container(
            NAME,
            args.image,
            args.command,
            env=env,
            mounts=[secrets_mount()],
            ports=[{"name": "http", "containerPort": PORT}],
            resources=resources(cpu=args.cpu, memory=args.memory),
            lifecycle={"preStop": {"sleep": {"seconds": LEAVING}}},
            startupProbe=http_probe(
                "/livez", "http", periodSeconds=2, timeoutSeconds=5, failureThreshold=150
            ),
            readinessProbe=http_probe(
                "/readyz", "http", periodSeconds=2, timeoutSeconds=3, failureThreshold=3
            ),
            livenessProbe=http_probe(
                "/livez", "http", periodSeconds=10, timeoutSeconds=5, failureThreshold=6
            ),
        )
        spec = pod(
            service_account=NAME,
            images=[args.agent, args.image],
            init_containers=[vault_agent(args.agent, metrics_port=AGENT_METRICS)],
            containers=[service],
            volumes=vault_volumes(f"{NAME}-files"),
            terminationGracePeriodSeconds=LEAVING + DRAIN,
            topologySpreadConstraints=spread(self._match),
        )
        annotations = {"bento": args.bento}
        if not args.awaited:
            annotations["pulumi.com/skipAwait"] = "true"
        return k8s.apps.v1.Deployment(
            f"{self._name}-pods",
            metadata=self._metadata(NAME, annotations=annotations),
            spec=as_written(
                {
                    # no `replicas`: the autoscaler owns that field, and an update leaves it alone
                    "revisionHistoryLimit": 3,
                    "minReadySeconds": 5,
                    "progressDeadlineSeconds": 600,
                    "strategy": {
                        "type": "RollingUpdate",
                        "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
                    },
                    "selector": {"matchLabels": self._match},
                    "template": {
                        "metadata": {
                            "labels": {**self._labels, **self._match},
                            "annotations": {
                                "bento": args.bento,
                                "checksum/files": checksum(self._files),
                            },
                        },
                        "spec": spec,
                    },
                }
            ),
            opts=opts,
        )

    def _scaling(self, opts: ResourceOptions) -> None:
        args = self._args
        k8s.autoscaling.v2.HorizontalPodAutoscaler(
            f"{self._name}-scaling",
            # without a metrics server (a stand) it still keeps the least number
            metadata=self._metadata(NAME, annotations={"pulumi.com/skipAwait": "true"}),
            spec=as_written(
                {
                    "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": NAME},
                    "minReplicas": args.least,
                    "maxReplicas": args.most,
                    "metrics": [
                        {
                            "type": "ContainerResource",
                            "containerResource": {
                                "container": NAME,
                                "name": "cpu",
                                "target": {"type": "Utilization", "averageUtilization": 70},
                            },
                        }
                    ],
                    "behavior": {
                        "scaleUp": {
                            "stabilizationWindowSeconds": 0,
                            "policies": [{"type": "Percent", "value": 100, "periodSeconds": 30}],
                        },
                        "scaleDown": {
                            "stabilizationWindowSeconds": 300,
                            "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
                        },
                    },
                }
            ),
            opts=opts,
        )
