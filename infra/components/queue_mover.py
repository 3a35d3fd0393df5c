"""Who decides which waiting jobs leave for the cloud: `infra.clouds.burst_mover` as a pod."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pulumi_kubernetes as k8s
from pulumi import ComponentResource, Input, ResourceOptions

from infra import kueue
from infra.naming import Identity, labels, selector
from infra.pods import Image, as_written, checksum, container, pod, resources, traffic_to

COMPONENT = "queue-mover"
NOTES = "leaving"


@dataclass(frozen=True, kw_only=True)
class QueueMoverArgs:
    identity: Identity
    provider: k8s.Provider
    space: Input[str]
    """Namespace of the queue controller."""
    namespaces: Mapping[str, Input[str]]
    """Of the teams whose jobs may leave."""
    image: Image
    python: str
    folder: str | None
    """Where this project lies in the image; None when it is installed."""
    api: str
    site: str
    """What the plan knows of the site and of what is rented, as JSON."""
    private_queue: str
    cloud_queue: str
    every: int
    """Seconds between two looks at the queue."""


class QueueMover(ComponentResource):
    """One pod, its rights, and the note of jobs that are between their two queues."""

    def __init__(
        self, resource_name: str, args: QueueMoverArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid-recommender:kubernetes:QueueMover", resource_name, {}, opts)
        self._name, self._args = resource_name, args
        self._opts = ResourceOptions(parent=self, provider=args.provider)
        self._labels = labels(args.identity, COMPONENT)
        files = {"site.json": args.site}
        before = [
            *self._rights(),
            k8s.core.v1.ConfigMap(
                f"{resource_name}-site",
                metadata=self._metadata(f"{COMPONENT}-site"),
                data=files,
                opts=self._opts,
            ),
            # its content is the mover's own
            k8s.core.v1.ConfigMap(
                f"{resource_name}-notes", metadata=self._metadata(NOTES), opts=self._opts
            ),
            k8s.networking.v1.NetworkPolicy(
                f"{resource_name}-traffic",
                metadata=self._metadata(COMPONENT),
                spec=as_written(
                    {
                        "podSelector": {"matchLabels": selector(COMPONENT)},
                        "policyTypes": ["Ingress", "Egress"],
                        "egress": [
                            traffic_to(args.api),
                            {"ports": [{"protocol": "TCP", "port": 443}]},
                        ],
                    }
                ),
                opts=self._opts,
            ),
        ]
        self._pod(files, ResourceOptions(depends_on=before))
        self.register_outputs({})

    def _metadata(self, object_name: str, space: Input[str] | None = None) -> Any:
        return {
            "name": object_name,
            "namespace": self._args.space if space is None else space,
            "labels": self._labels,
        }

    def _rights(self) -> list[Any]:
        """Reads every workload, moves jobs of the teams alone, keeps one ConfigMap."""
        subject = {"kind": "ServiceAccount", "name": COMPONENT, "namespace": kueue.NAMESPACE}
        made: list[Any] = [
            k8s.core.v1.ServiceAccount(
                f"{self._name}-account",
                metadata=self._metadata(COMPONENT),
                automount_service_account_token=False,
                opts=self._opts,
            )
        ]

        def role(kind: str) -> Any:
            return {
                "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": COMPONENT,
            }  # fmt: skip

        reads = [
            {"apiGroups": ["kueue.x-k8s.io"], "resources": ["workloads"], "verbs": ["get", "list"]}
        ]
        made.append(
            k8s.rbac.v1.ClusterRole(
                f"{self._name}-read",
                metadata={"name": COMPONENT, "labels": self._labels},
                rules=as_written(reads),  # type: ignore[arg-type]
                opts=self._opts,
            )
        )
        made.append(
            k8s.rbac.v1.ClusterRoleBinding(
                f"{self._name}-read",
                metadata={"name": COMPONENT, "labels": self._labels},
                role_ref=role("ClusterRole"),
                subjects=as_written([subject]),  # type: ignore[arg-type]
                opts=ResourceOptions.merge(self._opts, ResourceOptions(depends_on=made)),
            )
        )
        jobs = {
            "apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "create", "delete"],
        }  # fmt: skip
        notes = {
            "apiGroups": [""], "resources": ["configmaps"], "resourceNames": [NOTES],
            "verbs": ["get", "patch"],
        }  # fmt: skip
        places = {"own": (self._args.space, notes)}
        places |= {team: (space, jobs) for team, space in self._args.namespaces.items()}
        for place, (space, rule) in places.items():
            one = k8s.rbac.v1.Role(
                f"{self._name}-{place}",
                metadata=self._metadata(COMPONENT, space),
                rules=as_written([rule]),  # type: ignore[arg-type]
                opts=self._opts,
            )
            made.append(
                k8s.rbac.v1.RoleBinding(
                    f"{self._name}-{place}",
                    metadata=self._metadata(COMPONENT, space),
                    role_ref=role("Role"),
                    subjects=as_written([subject]),  # type: ignore[arg-type]
                    opts=ResourceOptions.merge(self._opts, ResourceOptions(depends_on=[one])),
                )
            )
        return made

    def _pod(self, files: Mapping[str, str], after: ResourceOptions) -> None:
        args, match = self._args, selector(COMPONENT)
        command = [
            args.python, "-u", "-m", "infra.clouds.burst_mover", "--site", "/config/site.json",
            "--every", str(args.every), "--private-queue", args.private_queue,
            "--cloud-queue", args.cloud_queue,
        ]  # fmt: skip
        spec = pod(
            service_account=COMPONENT,
            images=[args.image],
            containers=[
                container(
                    "mover",
                    args.image,
                    command,
                    env={"PYTHONDONTWRITEBYTECODE": "1"},
                    mounts=[{"name": "config", "mountPath": "/config", "readOnly": True}],
                    resources=resources(cpu="10m", memory="128Mi", memory_limit="256Mi"),
                    **({"workingDir": args.folder} if args.folder else {}),
                )
            ],
            volumes=[{"name": "config", "configMap": {"name": f"{COMPONENT}-site"}}],
            automountServiceAccountToken=True,
        )
        k8s.apps.v1.Deployment(
            f"{self._name}-pods",
            metadata=self._metadata(COMPONENT),
            spec=as_written(
                {
                    # never two at a time: both could move one job
                    "replicas": 1,
                    "strategy": {"type": "Recreate"},
                    "revisionHistoryLimit": 2,
                    "selector": {"matchLabels": match},
                    "template": {
                        "metadata": {
                            "labels": {**self._labels, **match},
                            "annotations": {"checksum/config": checksum(files)},
                        },
                        "spec": spec,
                    },
                }
            ),
            opts=ResourceOptions.merge(self._opts, after),
        )
