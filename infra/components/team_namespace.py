"""A namespace that is safe before anything runs in it, and a canary that proves its secrets arrive.

Labels, quota, default limits and a default-deny NetworkPolicy come first. Then one small workload
logs in to Vault with its own service account, gets its one secret as a file, and becomes ready only
once the file is there: a namespace whose Vault login is broken fails in `pulumi up`, not at night.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pulumi_kubernetes as k8s
from pulumi import ComponentResource, Output, Resource, ResourceOptions

from infra.naming import Identity, labels, name, selector
from infra.pods import (
    Image,
    VaultLogin,
    as_written,
    canary_files,
    container,
    http_probe,
    pod,
    resources,
    secrets_mount,
    traffic_to,
    vault_agent,
    vault_agent_files,
    vault_volumes,
)
from infra.vault import KvSecret
from infra.vault_login import JwtRole
from infra.workloads import VaultSite, allow, secret_path

CANARY = "canary"
CANARY_PORT = 8080
AGENT_INTERVAL = 15  # seconds between looks at Vault: how late a rotated secret may arrive


@dataclass(frozen=True, kw_only=True)
class TeamNamespaceArgs:
    identity: Identity
    provider: k8s.Provider
    vault: VaultSite
    image: Image
    rotation: str
    awaited: bool = True
    """False where no real node is or Vault is out of reach: nothing waits for a pod."""
    marks: Mapping[str, str] = field(default_factory=dict[str, str])
    """More labels of the namespace: what other parts of the cluster select it by."""
    load_balancers: int = 0
    node_ports: int = 0
    """Doors to the outside that its Services may open."""


class TeamNamespace(ComponentResource):
    """One team's namespace on one site."""

    namespace: Output[str]
    fence: list[Resource]
    """What has to be there before any pod: the namespace and all that limits its pods."""
    canary_url: Output[str]
    """Address of the canary inside the cluster."""
    secret_version: Output[int]

    def __init__(
        self, resource_name: str, args: TeamNamespaceArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid-recommender:kubernetes:TeamNamespace", resource_name, {}, opts)
        self._args = args
        self._name = resource_name
        self._on_site = ResourceOptions(parent=self, provider=args.provider)
        self._labels = labels(args.identity, "team-namespace", {"team": args.vault.team})
        space, limits = self._fence()
        self.fence = [space, *limits]
        self.namespace = space.metadata.name
        inside = ResourceOptions.merge(self._on_site, ResourceOptions(depends_on=[space]))
        secret, role = self._vault()
        self.secret_version = secret.version
        service = self._canary(
            ResourceOptions.merge(inside, ResourceOptions(depends_on=[secret, role]))
        )
        self.canary_url = Output.concat(
            "http://", service.metadata.name, ".", self.namespace, f".svc:{CANARY_PORT}"
        )
        self.register_outputs(
            {
                "namespace": self.namespace,
                "canary_url": self.canary_url,
                "secret_version": self.secret_version,
            }
        )

    def _metadata(self, object_name: str, **more: Any) -> Any:
        return {
            "name": object_name,
            "namespace": self._args.vault.team,
            "labels": self._labels,
            **more,
        }

    def _fence(self) -> tuple[k8s.core.v1.Namespace, list[Resource]]:
        """Everything that limits what a pod of this namespace can do or use."""
        team = self._args.vault.team
        # hostPath volumes, the stand's replacement for a registry, are the one thing the
        # restricted level refuses in our pods
        level = "privileged" if self._args.image.host_paths else "restricted"
        space = k8s.core.v1.Namespace(
            f"{self._name}-namespace",
            metadata=as_written(
                {
                    "name": team,
                    "labels": {
                        **self._labels,
                        **self._args.marks,
                        "pod-security.kubernetes.io/enforce": level,
                        "pod-security.kubernetes.io/audit": "restricted",
                    },
                }
            ),
            opts=self._on_site,
        )
        inside = ResourceOptions.merge(self._on_site, ResourceOptions(depends_on=[space]))
        quota = k8s.core.v1.ResourceQuota(
            f"{self._name}-quota",
            metadata=self._metadata("team"),
            spec=as_written(
                {
                    "hard": {
                        "requests.cpu": "16",
                        "requests.memory": "64Gi",
                        "limits.memory": "96Gi",
                        "requests.nvidia.com/gpu": "64",
                        "pods": "200",
                        "persistentvolumeclaims": "20",
                        "services.loadbalancers": str(self._args.load_balancers),
                        "services.nodeports": str(self._args.node_ports),
                    }
                }
            ),
            opts=inside,
        )
        defaults = k8s.core.v1.LimitRange(
            f"{self._name}-limits",
            metadata=self._metadata("defaults"),
            spec=as_written(
                {
                    "limits": [
                        {
                            "type": "Container",
                            "default": {"memory": "256Mi"},
                            "defaultRequest": {"cpu": "50m", "memory": "128Mi"},
                        }
                    ]
                }
            ),
            opts=inside,
        )
        deny = k8s.networking.v1.NetworkPolicy(
            f"{self._name}-deny",
            metadata=self._metadata("default-deny"),
            spec=as_written({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}),
            opts=inside,
        )
        names = k8s.networking.v1.NetworkPolicy(
            f"{self._name}-dns",
            metadata=self._metadata("allow-dns"),
            spec=as_written(
                {
                    "podSelector": {},
                    "policyTypes": ["Egress"],
                    "egress": [
                        {
                            "to": [{"namespaceSelector": _named("kube-system")}],
                            "ports": [
                                {"protocol": "UDP", "port": 53},
                                {"protocol": "TCP", "port": 53},
                            ],
                        }
                    ],
                }
            ),
            opts=inside,
        )
        return space, [quota, defaults, deny, names]

    def _path(self) -> str:
        return secret_path(self._args.vault.site, self._args.vault.team, CANARY)

    def _role(self) -> str:
        return name(self._args.vault.site, self._args.vault.team, CANARY)

    def _vault(self) -> tuple[KvSecret, JwtRole]:
        """The canary's secret, the policy that lets it read that path alone, and its login."""
        args, parent = self._args, ResourceOptions(parent=self)
        secret = KvSecret(
            f"{self._name}-{CANARY}-secret",
            args.vault.connection,
            mount=args.vault.mount,
            path=self._path(),
            generate={"token": 32},
            rotation=args.rotation,
            opts=parent,
        )
        rules = {f"{args.vault.mount_path}/data/{self._path()}": ["read"]}
        return secret, allow(f"{self._name}-{CANARY}", args.vault, CANARY, rules, parent)

    def _canary(self, inside: ResourceOptions) -> k8s.core.v1.Service:
        args = self._args
        account = k8s.core.v1.ServiceAccount(
            f"{self._name}-{CANARY}",
            metadata=self._metadata(CANARY),
            automount_service_account_token=False,
            opts=inside,
        )
        login = VaultLogin(
            address=args.vault.connection.address,
            ca_pem=args.vault.ca_pem,
            auth=args.vault.login_path,
            role=self._role(),
            secrets={"token": f"{args.vault.mount_path}/data/{self._path()}#token"},
        )
        files = {**vault_agent_files(login, interval=AGENT_INTERVAL), **canary_files()}
        config = k8s.core.v1.ConfigMap(
            f"{self._name}-{CANARY}-files",
            metadata=self._metadata(f"{CANARY}-files"),
            data=files,
            opts=inside,
        )
        match = selector(CANARY)
        k8s.networking.v1.NetworkPolicy(
            f"{self._name}-{CANARY}-traffic",
            metadata=self._metadata(CANARY),
            spec=as_written(
                {
                    "podSelector": {"matchLabels": match},
                    "policyTypes": ["Ingress", "Egress"],
                    "ingress": [
                        {
                            "from": [{"podSelector": {}}],
                            "ports": [{"protocol": "TCP", "port": CANARY_PORT}],
                        }
                    ],
                    "egress": [traffic_to(args.vault.connection.address)],
                }
            ),
            opts=inside,
        )
        spec = pod(
            service_account=CANARY,
            images=[args.image],
            init_containers=[vault_agent(args.image)],
            containers=[
                container(
                    CANARY,
                    args.image,
                    ["python3", "-u", "/vault-agent/canary.py"],
                    mounts=[
                        secrets_mount(),
                        {"name": "vault-agent", "mountPath": "/vault-agent", "readOnly": True},
                    ],
                    ports=[{"name": "http", "containerPort": CANARY_PORT}],
                    resources=resources(cpu="10m", memory="64Mi"),
                    readinessProbe=http_probe("/readyz", "http", periodSeconds=2),
                    livenessProbe=http_probe("/livez", "http", periodSeconds=10),
                )
            ],
            volumes=vault_volumes(f"{CANARY}-files"),
        )
        waiting = {} if args.awaited else {"annotations": {"pulumi.com/skipAwait": "true"}}
        digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
        deployment = k8s.apps.v1.Deployment(
            f"{self._name}-{CANARY}-pods",
            metadata=self._metadata(CANARY, **waiting),
            spec=as_written(
                {
                    "replicas": 1,
                    "revisionHistoryLimit": 2,
                    "selector": {"matchLabels": match},
                    "template": {
                        "metadata": {
                            "labels": {**self._labels, **match},
                            # a changed script or address starts new pods
                            "annotations": {"checksum/files": digest[:16]},
                        },
                        "spec": spec,
                    },
                }
            ),
            opts=ResourceOptions.merge(inside, ResourceOptions(depends_on=[account, config])),
        )
        return k8s.core.v1.Service(
            f"{self._name}-{CANARY}-service",
            metadata=self._metadata(CANARY, **waiting),
            spec=as_written(
                {
                    "selector": match,
                    "ports": [{"name": "http", "port": CANARY_PORT, "targetPort": "http"}],
                }
            ),
            opts=ResourceOptions.merge(inside, ResourceOptions(depends_on=[deployment])),
        )


def _named(namespace: str) -> dict[str, Any]:
    return {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
