"""Prometheus over one team's namespace: what is read, recorded and alerted on, all from files.

Targets come from the name service (headless services), so it holds no API token. Two replicas read
the same and keep what they read as long as they live; long-term storage is another system's job.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pulumi_kubernetes as k8s
import yaml
from pulumi import ComponentResource, ResourceOptions

from infra import flows
from infra.naming import Identity, labels, selector
from infra.pods import (
    Software,
    as_written,
    checksum,
    container,
    http_probe,
    pod,
    resources,
    spread,
)

NAME = "prometheus"
PORT = 9090
ALERTS = Path(__file__).parent.parent / "alerts"
_DATA = "2Gi"  # per replica


@dataclass(frozen=True, kw_only=True)
class ScrapeTarget:
    """A headless service whose every pod is read at `port`."""

    job: str
    host: str
    port: int
    pods: Mapping[str, str]
    """Labels of the pods, for the traffic rule."""


@dataclass(frozen=True, kw_only=True)
class MonitoringArgs:
    identity: Identity
    team: str
    """Namespace, which exists."""
    site: str
    provider: k8s.Provider
    software: Software
    targets: Sequence[ScrapeTarget]
    vault_address: str
    vault_ca_pem: str
    replicas: int = 2
    awaited: bool = True


def scrape_configuration(
    *, site: str, targets: Sequence[ScrapeTarget], vault_address: str
) -> dict[str, Any]:
    """`prometheus.yaml` as data; every series says which site it is from."""
    jobs: list[dict[str, Any]] = [
        {
            "job_name": one.job,
            "dns_sd_configs": [
                {"names": [one.host], "type": "A", "port": one.port, "refresh_interval": "10s"}
            ],
        }
        for one in targets
    ]
    jobs.append(
        {
            "job_name": "vault",
            "scheme": "https",
            "metrics_path": "/v1/sys/metrics",
            "params": {"format": ["prometheus"]},
            "tls_config": {"ca_file": "/etc/prometheus/vault-ca.crt"},
            "static_configs": [{"targets": [urlsplit(vault_address).netloc]}],
        }
    )
    return {
        "global": {
            "scrape_interval": "15s",
            "evaluation_interval": "15s",
            "external_labels": {"site": site},
        },
        "rule_files": ["/etc/prometheus/recording.yaml", "/etc/prometheus/alerts.yaml"],
        "scrape_configs": jobs,
    }


class Monitoring(ComponentResource):
    """Prometheus in the namespace of what it watches."""

    url: str

    def __init__(
        self, resource_name: str, args: MonitoringArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid-recommender:kubernetes:Monitoring", resource_name, {}, opts)
        self._args, self._name = args, resource_name
        self._labels = labels(args.identity, "monitoring", {"team": args.team})
        self._match = selector(NAME)
        self._on_site = ResourceOptions(parent=self, provider=args.provider)
        written = scrape_configuration(
            site=args.site, targets=args.targets, vault_address=args.vault_address
        )
        self._files = {
            "prometheus.yaml": yaml.safe_dump(written, sort_keys=True),
            "vault-ca.crt": args.vault_ca_pem,
            **{
                file.name: file.read_text(encoding="utf-8")
                for file in sorted(ALERTS.glob("*.yaml"))
            },
        }
        self._traffic()
        self._pods(
            ResourceOptions.merge(self._on_site, ResourceOptions(depends_on=self._objects()))
        )
        self.url = f"http://{NAME}.{args.team}.svc.cluster.local:{PORT}"
        self.register_outputs({"url": self.url})

    def _metadata(self, object_name: str, **more: Any) -> Any:
        meta = {"name": object_name, "namespace": self._args.team, "labels": self._labels}
        return as_written({**meta, **more})

    def _objects(self) -> list[Any]:
        later = {"annotations": {"pulumi.com/skipAwait": "true"}}
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
            k8s.policy.v1.PodDisruptionBudget(
                f"{self._name}-budget",
                metadata=self._metadata(NAME),
                spec=as_written({"maxUnavailable": 1, "selector": {"matchLabels": self._match}}),
                opts=self._on_site,
            ),
            k8s.core.v1.Service(
                f"{self._name}-service",
                metadata=self._metadata(NAME, **later),
                spec=as_written(
                    {
                        "selector": self._match,
                        # two replicas, two sets of samples: a reader stays with one
                        "sessionAffinity": "ClientIP",
                        "ports": [{"name": "http", "port": PORT, "targetPort": "http"}],
                    }
                ),
                opts=self._on_site,
            ),
        ]

    def _traffic(self) -> None:
        """Out to what it reads; in from its own namespace."""
        args = self._args
        k8s.networking.v1.NetworkPolicy(
            f"{self._name}-traffic",
            metadata=self._metadata(NAME),
            spec=as_written(
                {
                    "podSelector": {"matchLabels": self._match},
                    "policyTypes": ["Ingress", "Egress"],
                    "ingress": [flows.into([{"podSelector": {}}], PORT)],
                    "egress": [
                        *(
                            flows.out_of([flows.pods(dict(one.pods))], one.port)
                            for one in args.targets
                        ),
                        flows.to_address(args.vault_address),
                    ],
                }
            ),
            opts=self._on_site,
        )

    def _pods(self, opts: ResourceOptions) -> None:
        args = self._args
        server = container(
            NAME,
            args.software.image,
            [
                args.software.program,
                "--config.file=/etc/prometheus/prometheus.yaml",
                "--storage.tsdb.path=/data",
                "--storage.tsdb.retention.time=8d",
                "--storage.tsdb.retention.size=1500MB",
                f"--web.listen-address=:{PORT}",
            ],
            env=args.software.env,
            mounts=[
                {"name": "files", "mountPath": "/etc/prometheus", "readOnly": True},
                {"name": "data", "mountPath": "/data"},
            ],
            ports=[{"name": "http", "containerPort": PORT}],
            resources=resources(cpu="50m", memory="192Mi", memory_limit="1Gi"),
            startupProbe=http_probe("/-/ready", "http", periodSeconds=2, failureThreshold=150),
            readinessProbe=http_probe("/-/ready", "http", periodSeconds=5, timeoutSeconds=5),
            livenessProbe=http_probe("/-/healthy", "http", periodSeconds=15, timeoutSeconds=5),
        )
        spec = pod(
            service_account=NAME,
            images=[args.software.image],
            containers=[server],
            volumes=[
                {"name": "files", "configMap": {"name": f"{NAME}-files", "defaultMode": 0o444}},
                {"name": "data", "emptyDir": {"sizeLimit": _DATA}},
            ],
            topologySpreadConstraints=spread(self._match),
        )
        waiting = {} if args.awaited else {"annotations": {"pulumi.com/skipAwait": "true"}}
        k8s.apps.v1.Deployment(
            f"{self._name}-pods",
            metadata=self._metadata(NAME, **waiting),
            spec=as_written(
                {
                    "replicas": args.replicas,
                    "revisionHistoryLimit": 2,
                    "strategy": {
                        "type": "RollingUpdate",
                        "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0},
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
