"""Who may send jobs to this cluster: one account, for the Kueue of another cluster (MultiKueue).

It reads jobs and workloads everywhere (MultiKueue watches the whole cluster), and makes and removes
them in the teams' namespaces alone. Its token is a Secret of the cluster; it leaves it for Vault.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pulumi_kubernetes as k8s
from pulumi import ComponentResource, Input, Output, ResourceOptions

from infra import kueue, trainer
from infra.naming import Identity, labels
from infra.pods import as_written

ACCOUNT = "multikueue"
_JOBS = {"apiGroups": ["batch"], "resources": ["jobs"]}
_WORKLOADS = {"apiGroups": ["kueue.x-k8s.io"], "resources": ["workloads"]}
_READ = {"verbs": ["get", "list", "watch"]}
_TRAIN_JOBS = {"apiGroups": [trainer.GROUP], "resources": ["trainjobs"]}
RULES: Mapping[str, list[dict[str, Any]]] = {
    "read": [
        {**_JOBS, **_READ},
        {**_WORKLOADS, **_READ},
    ],
    "write": [
        {**_JOBS, "verbs": ["create", "delete"]},
        {**_WORKLOADS, "verbs": ["create", "delete", "patch", "update"]},
        {
            "apiGroups": ["kueue.x-k8s.io"],
            "resources": ["workloads/status"],
            "verbs": ["get", "patch", "update"],
        },
    ],
}


@dataclass(frozen=True, kw_only=True)
class QueueWorkerArgs:
    identity: Identity
    provider: k8s.Provider
    space: Input[str]
    """Namespace of the queue controller."""
    namespaces: Mapping[str, Input[str]]
    """Of the teams whose jobs may come."""
    train_jobs: bool = False
    """Whether the other Kueue queues TrainJobs: it watches here what it queues there."""


class QueueWorker(ComponentResource):
    """The account, its rights and its token."""

    token: Output[str]
    """Secret."""

    def __init__(
        self, resource_name: str, args: QueueWorkerArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid-recommender:kubernetes:QueueWorker", resource_name, {}, opts)
        self._name, self._args = resource_name, args
        self._opts = ResourceOptions(parent=self, provider=args.provider)
        self._labels = labels(args.identity, "queue-worker")
        account = k8s.core.v1.ServiceAccount(
            f"{resource_name}-account",
            metadata=self._metadata(ACCOUNT, args.space),
            automount_service_account_token=False,
            opts=self._opts,
        )
        after = ResourceOptions.merge(self._opts, ResourceOptions(depends_on=[account]))
        for what, rules in RULES.items():
            more = [{**_TRAIN_JOBS, **_READ}] if args.train_jobs and what == "read" else []
            k8s.rbac.v1.ClusterRole(
                f"{resource_name}-{what}",
                metadata=self._metadata(f"{ACCOUNT}-{what}"),
                rules=as_written([*rules, *more]),  # type: ignore[arg-type]
                opts=self._opts,
            )
        k8s.rbac.v1.ClusterRoleBinding(
            f"{resource_name}-read",
            metadata=self._metadata(f"{ACCOUNT}-read"),
            opts=after,
            **self._binding("read"),
        )
        for team, space in args.namespaces.items():
            k8s.rbac.v1.RoleBinding(
                f"{resource_name}-{team}",
                metadata=self._metadata(f"{ACCOUNT}-write", space),
                opts=after,
                **self._binding("write"),
            )
        secret = k8s.core.v1.Secret(
            f"{resource_name}-token",
            metadata=self._metadata(
                f"{ACCOUNT}-token",
                args.space,
                annotations={
                    "kubernetes.io/service-account.name": ACCOUNT,
                    "pulumi.com/waitFor": "jsonpath={.data.token}",
                },
            ),
            type="kubernetes.io/service-account-token",
            opts=after,
        )
        self.token = Output.secret(
            secret.data.apply(lambda data: base64.b64decode((data or {}).get("token", "")).decode())
        )
        self.register_outputs({"token": self.token})

    def _metadata(self, object_name: str, space: Input[str] | None = None, **more: Any) -> Any:
        where = {} if space is None else {"namespace": space}
        return {"name": object_name, **where, "labels": self._labels, **more}

    def _binding(self, what: str) -> dict[str, Any]:
        subject = {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": kueue.NAMESPACE}
        return {
            "role_ref": {
                "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                "name": f"{ACCOUNT}-{what}",
            },
            "subjects": [subject],
        }  # fmt: skip
