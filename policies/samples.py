"""Short constructors for the samples that every rule carries."""

from __future__ import annotations

from typing import Any

IMAGE = "registry.local/shop/app@sha256:" + "0123456789abcdef" * 4
HARDENED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def resource(type_: str, name: str = "sample", /, **properties: Any) -> dict[str, Any]:
    """A resource as `policies check --resources` reads it."""
    return {"type": type_, "name": name, "properties": properties}


def manifest(api_version: str, kind: str, /, name: str = "sample", **fields: Any) -> dict[str, Any]:
    """A namespaced Kubernetes object."""
    meta = {"name": name, "namespace": "shop", **fields.pop("metadata", {})}
    return resource(
        f"{api_version}/{kind}", name, apiVersion=api_version, kind=kind, metadata=meta, **fields
    )


def container(name: str = "app", **fields: Any) -> dict[str, Any]:
    """A container that is valid to an API server."""
    return {"name": name, "image": IMAGE, **fields}


def pod(*containers: dict[str, Any], metadata: Any = None, **spec: Any) -> dict[str, Any]:
    """A pod; without containers it has one plain container."""
    fields: dict[str, Any] = {"spec": {"containers": list(containers) or [container()], **spec}}
    return manifest("v1", "Pod", metadata=metadata or {}, **fields)


def secured(**context: Any) -> dict[str, Any]:
    """A pod whose only container has this securityContext."""
    return pod(container(securityContext=context))


def init(**context: Any) -> dict[str, Any]:
    """A pod whose init container has this securityContext, its ordinary one is hardened."""
    return pod(
        container(securityContext=HARDENED),
        initContainers=[container("prepare", securityContext=context)],
    )


def ephemeral(**context: Any) -> dict[str, Any]:
    """A pod whose ephemeral container has this securityContext, its ordinary one is hardened."""
    return pod(
        container(securityContext=HARDENED),
        ephemeralContainers=[container("debug", securityContext=context)],
    )


def deployment(
    *containers: dict[str, Any], metadata: Any = None, replicas: int = 2, **spec: Any
) -> dict[str, Any]:
    """A Deployment with this pod template."""
    labels = {"app": "sample"}
    return manifest(
        "apps/v1",
        "Deployment",
        metadata=metadata or {},
        spec={
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": list(containers) or [container()], **spec},
            },
        },
    )


def cron_job(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """A CronJob with this pod template."""
    template = {
        "spec": {
            "containers": list(containers) or [container()], "restartPolicy": "Never", **spec,
        }
    }  # fmt: skip
    return manifest(
        "batch/v1",
        "CronJob",
        spec={"schedule": "0 3 * * *", "jobTemplate": {"spec": {"template": template}}},
    )
