"""Kueue on one cluster: its definitions, its controller with the rights it needs, its webhooks.

The controller runs as a pod on the stand as it does elsewhere; only the image differs. It signs its
own webhook certificates and renews them (`internalCertManagement`): a Vault outage must not stop
the admission of jobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pulumi_kubernetes as k8s
import yaml
from pulumi import ComponentResource, Output, ResourceOptions

from infra import kueue
from infra.components.queue_agent import AGENT_FILES, Worker, agent_of
from infra.naming import Identity, labels, selector
from infra.pods import (
    Image,
    as_written,
    checksum,
    container,
    http_probe,
    pod,
    resources,
    traffic_to,
)

CERTS = "/certs"
ACCOUNT = "kueue-controller-manager"
COMPONENT = "queue-controller"


@dataclass(frozen=True, kw_only=True)
class QueueControllerArgs:
    identity: Identity
    provider: k8s.Provider
    upstream: kueue.Upstream
    image: Image
    command: Sequence[str]
    api: str
    """Address of the cluster's API server."""
    replicas: int = 1
    train_jobs: bool = False
    """Whether Kubeflow's `TrainJob` is installed and queued too."""
    worker: Worker | None = None
    """None: jobs stay in this cluster."""
    pods_ready_seconds: int = 300
    """How long a gang may hold its quota before all of its pods are ready."""


class QueueController(ComponentResource):
    """Ready means: certificates signed, webhooks served, queues may be declared."""

    namespace: Output[str]
    version: Output[str]

    def __init__(
        self, resource_name: str, args: QueueControllerArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid-recommender:kubernetes:QueueController", resource_name, {}, opts)
        self._args = args
        self._name = resource_name
        self._opts = ResourceOptions(parent=self, provider=args.provider)
        self._labels = labels(args.identity, COMPONENT)
        space = self._fence()
        inside = ResourceOptions.merge(self._opts, ResourceOptions(depends_on=[space]))
        before = [*self._definitions(), *self._rights(inside), *self._webhooks(inside)]
        deployment = self._controller(
            ResourceOptions.merge(inside, ResourceOptions(depends_on=before))
        )
        self.namespace = space.metadata.name
        # whoever waits for this output waits for the controller
        self.version = deployment.metadata.name.apply(lambda _: kueue.VERSION)
        self.register_outputs({"namespace": self.namespace, "version": self.version})

    def _metadata(self, object_name: str, *, cluster: bool = False, **more: Any) -> Any:
        where = {} if cluster else {"namespace": kueue.NAMESPACE}
        return {"name": object_name, **where, "labels": self._labels, **more}

    def _fence(self) -> k8s.core.v1.Namespace:
        level = "privileged" if self._args.image.host_paths else "restricted"
        space = k8s.core.v1.Namespace(
            f"{self._name}-namespace",
            metadata=as_written(
                {
                    "name": kueue.NAMESPACE,
                    "labels": {
                        **self._labels,
                        "pod-security.kubernetes.io/enforce": level,
                        "pod-security.kubernetes.io/audit": "restricted",
                    },
                }
            ),
            opts=self._opts,
        )
        inside = ResourceOptions.merge(self._opts, ResourceOptions(depends_on=[space]))
        policies: dict[str, dict[str, Any]] = {
            "default-deny": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
            "controller": {
                "podSelector": {"matchLabels": selector(COMPONENT)},
                "policyTypes": ["Ingress", "Egress"],
                # the API server calls from the node's network, which no selector can name
                "ingress": [{"ports": [_port(9443), _port(8081)]},
                            {"from": [{"namespaceSelector": {}}], "ports": [_port(8443)]}],
                "egress": [
                    traffic_to(self._args.api),
                    *self._far(),
                    {"ports": [_port(443)]},  # the API server's address inside the cluster
                    {"ports": [{"protocol": "UDP", "port": 53}, _port(53)]},
                ],
            },
        }  # fmt: skip
        for policy, spec in policies.items():
            k8s.networking.v1.NetworkPolicy(
                f"{self._name}-{policy}",
                metadata=self._metadata(policy),
                spec=as_written(spec),
                opts=inside,
            )
        hard = {
            "requests.cpu": "4", "requests.memory": "4Gi", "limits.memory": "4Gi", "pods": "10",
            "services.loadbalancers": "0", "services.nodeports": "0",
        }  # fmt: skip
        k8s.core.v1.ResourceQuota(
            f"{self._name}-quota",
            metadata=self._metadata("kueue"),
            spec=as_written({"hard": hard}),
            opts=inside,
        )
        k8s.core.v1.LimitRange(
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
        return space

    def _far(self) -> list[dict[str, Any]]:
        worker = self._args.worker
        return [traffic_to(worker.api), traffic_to(worker.login.address)] if worker else []

    def _definitions(self) -> list[k8s.apiextensions.v1.CustomResourceDefinition]:
        return [
            k8s.apiextensions.v1.CustomResourceDefinition(
                f"{self._name}-{crd['name'].partition('.')[0]}",
                metadata=self._metadata(crd["name"], cluster=True),
                spec=as_written(crd["spec"]),
                opts=self._opts,
            )
            for crd in self._args.upstream.crds
        ]

    def _rights(self, inside: ResourceOptions) -> list[Any]:
        """Cluster-wide what upstream lists; secrets and leases in its own namespace alone."""
        args, subject = self._args, {"kind": "ServiceAccount", "name": ACCOUNT}
        subject["namespace"] = kueue.NAMESPACE
        account = k8s.core.v1.ServiceAccount(
            f"{self._name}-account",
            metadata=self._metadata(ACCOUNT),
            automount_service_account_token=False,
            opts=inside,
        )
        made: list[Any] = [account]
        review = {"verbs": ["create"]}
        cluster: dict[str, list[dict[str, Any]]] = {
            "kueue-manager-role": kueue.manager_rules(args.upstream, train_jobs=args.train_jobs),
            # asks the API server who may read its metrics
            "kueue-metrics-auth-role": [
                {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], **review},
                {
                    "apiGroups": ["authorization.k8s.io"],
                    "resources": ["subjectaccessreviews"],
                    **review,
                },
            ],
        }
        for role, rules in cluster.items():
            stem = f"{self._name}-{role.removeprefix('kueue-')}"
            one = k8s.rbac.v1.ClusterRole(
                stem,
                metadata=self._metadata(role, cluster=True),
                rules=as_written(rules),  # type: ignore[arg-type]
                opts=self._opts,
            )
            made.append(
                k8s.rbac.v1.ClusterRoleBinding(
                    f"{stem}-binding",
                    metadata=self._metadata(f"{role}binding", cluster=True),
                    role_ref=_role("ClusterRole", role),
                    subjects=as_written([subject]),  # type: ignore[arg-type]
                    opts=ResourceOptions.merge(self._opts, ResourceOptions(depends_on=[one])),
                )
            )
        lead = ["get", "list", "watch", "create", "update", "patch", "delete"]
        own = [
            {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": lead},
            {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
            # a list cannot be held to one name; this namespace has no other secret to hide
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "watch"]},
            {
                "apiGroups": [""],
                "resources": ["secrets"],
                "resourceNames": ["kueue-webhook-server-cert"],
                "verbs": ["update"],
            },
        ]
        role = k8s.rbac.v1.Role(
            f"{self._name}-own-role",
            metadata=self._metadata("kueue-own"),
            rules=as_written(own),  # type: ignore[arg-type]
            opts=inside,
        )
        made.append(
            k8s.rbac.v1.RoleBinding(
                f"{self._name}-own-binding",
                metadata=self._metadata("kueue-own"),
                role_ref=_role("Role", "kueue-own"),
                subjects=as_written([subject]),  # type: ignore[arg-type]
                opts=ResourceOptions.merge(inside, ResourceOptions(depends_on=[role])),
            )
        )
        return made

    def _webhooks(self, inside: ResourceOptions) -> list[Any]:
        """Before the controller: it writes its authority's certificate into them as it starts."""
        match = selector(COMPONENT)
        made: list[Any] = [
            k8s.core.v1.Service(
                f"{self._name}-{service}",
                metadata=self._metadata(
                    f"kueue-{service}", annotations={"pulumi.com/skipAwait": "true"}
                ),
                spec=as_written(
                    {
                        "selector": match,
                        "ports": [{"name": "https", "port": port, "targetPort": target}],
                    }
                ),
                opts=inside,
            )
            for service, port, target in (
                ("webhook-service", 443, 9443), ("metrics-service", 8443, 8443),
            )
        ]  # fmt: skip
        made.append(
            k8s.core.v1.Secret(
                f"{self._name}-webhook-cert",
                metadata=self._metadata("kueue-webhook-server-cert"),
                opts=inside,
            )
        )
        admission = k8s.admissionregistration.v1
        kinds = {
            "MutatingWebhookConfiguration": admission.MutatingWebhookConfiguration,
            "ValidatingWebhookConfiguration": admission.ValidatingWebhookConfiguration,
        }
        for kind, resource in kinds.items():
            word = kind.removesuffix("WebhookConfiguration").lower()
            made.append(
                resource(
                    f"{self._name}-{word}",
                    metadata=self._metadata(f"kueue-{word}-webhook-configuration", cluster=True),
                    webhooks=as_written(
                        kueue.webhooks(self._args.upstream, kind, train_jobs=self._args.train_jobs)  # type: ignore[arg-type]
                    ),
                    opts=inside,
                )
            )
        return made

    def _controller(self, inside: ResourceOptions) -> k8s.apps.v1.Deployment:
        args = self._args
        settings = yaml.safe_dump(
            kueue.configuration(
                train_jobs=args.train_jobs,
                cert_dir=CERTS,
                pods_ready_seconds=args.pods_ready_seconds,
                leader_election=args.replicas > 1,
            ),
            sort_keys=False,
        )
        config = k8s.core.v1.ConfigMap(
            f"{self._name}-config",
            metadata=self._metadata("kueue-manager-config"),
            data={"controller.yaml": settings},
            opts=inside,
        )
        match = selector(COMPONENT)
        beside = agent_of(args.worker)
        if beside.files:
            k8s.core.v1.ConfigMap(
                f"{self._name}-agent",
                metadata=self._metadata(AGENT_FILES),
                data=dict(beside.files),
                opts=inside,
            )
        spec = pod(
            service_account=ACCOUNT,
            images=[args.image, *([args.worker.agent] if args.worker else [])],
            containers=[
                container(
                    "manager",
                    args.image,
                    [*args.command, "--config=/config/controller.yaml", "--zap-log-level=2"],
                    mounts=[
                        {"name": "config", "mountPath": "/config", "readOnly": True},
                        {"name": "certs", "mountPath": CERTS, "readOnly": True},
                        *beside.mounts,
                    ],
                    ports=[
                        {"name": "webhook", "containerPort": 9443},
                        {"name": "metrics", "containerPort": 8443},
                        {"name": "health", "containerPort": 8081},
                    ],
                    resources=resources(cpu="100m", memory="256Mi", memory_limit="1Gi"),
                    readinessProbe=http_probe("/readyz", "health", periodSeconds=5),
                    livenessProbe=http_probe("/healthz", "health", periodSeconds=20),
                ),
                *beside.containers,
            ],
            volumes=[
                *beside.volumes,
                {"name": "config", "configMap": {"name": "kueue-manager-config"}},
                {
                    "name": "certs",
                    "secret": {"secretName": "kueue-webhook-server-cert", "defaultMode": 0o440},
                },
            ],
            automountServiceAccountToken=True,
            priorityClassName="system-cluster-critical",
        )
        return k8s.apps.v1.Deployment(
            f"{self._name}-pods",
            metadata=self._metadata("kueue-controller-manager"),
            spec=as_written(
                {
                    "replicas": args.replicas,
                    # alone it asks nobody whether it leads: two at once would both give quota, and
                    # what the older says last of the way to the cloud would stand
                    **({} if args.replicas > 1 else {"strategy": {"type": "Recreate"}}),
                    "revisionHistoryLimit": 2,
                    "selector": {"matchLabels": match},
                    "template": {
                        "metadata": {
                            "labels": {**self._labels, **match},
                            "annotations": {
                                "checksum/config": checksum({"settings": settings, **beside.files}),
                            },
                        },
                        "spec": spec,
                    },
                }
            ),
            opts=ResourceOptions.merge(inside, ResourceOptions(depends_on=[config])),
        )


def _port(number: int) -> dict[str, Any]:
    return {"protocol": "TCP", "port": number}


def _role(kind: str, name: str) -> Any:
    return {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name}
