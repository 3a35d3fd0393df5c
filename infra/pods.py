"""Pod specifications as plain data: what every container of ours has in common.

No engine and no provider here, so that a policy test can hold these against its rules directly.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from infra.naming import name

USER = 1000  # uid and gid of every container; files of one pod are shared through its group
AUDIENCE = "vault"
"""What a service-account token must be made for before Vault accepts it."""
SECRETS = "/secrets"
AGENT_PORT = 9102
TOKEN = "/var/run/vault-login/token"  # noqa: S105 - a file that the kubelet renews
_SCRIPTS = Path(__file__).with_name("pod_scripts")

Spec = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Image:
    """A container image; on the stand with the host folders that stand in for its content."""

    reference: str
    host_paths: tuple[str, ...] = ()

    @property
    def pull_policy(self) -> str:
        return "Never" if self.host_paths else "IfNotPresent"


@dataclass(frozen=True, kw_only=True)
class Software:
    """A program in its own image; on the stand a program of the host in the one image."""

    image: Image
    program: str
    libraries: str = ""

    @property
    def env(self) -> dict[str, str]:
        return {"LD_LIBRARY_PATH": self.libraries} if self.libraries else {}


@dataclass(frozen=True, kw_only=True)
class VaultLogin:
    """How one workload of one site reaches its own secrets, and what it may read there."""

    address: str
    ca_pem: str
    auth: str
    """Mount of the site's JWT login."""
    role: str
    secrets: Mapping[str, str] = field(default_factory=dict[str, str])
    """File name -> `mount/data/path#key`."""
    certificates: Mapping[str, Mapping[str, Any]] = field(
        default_factory=dict[str, Mapping[str, Any]]
    )
    """File stem -> PKI path and request; gives `<stem>.pem`: certificate, authority, key."""
    authorities: Mapping[str, str] = field(default_factory=dict[str, str])
    """File name -> path of a PKI engine's certificate, for who must trust what it signs."""
    templates: Mapping[str, str] = field(default_factory=dict[str, str])
    """Name of a secret's file -> text around its value, which stands for `{}`."""
    notify: Mapping[str, Sequence[Mapping[str, str]]] = field(
        default_factory=dict[str, Sequence[Mapping[str, str]]]
    )
    """File name -> who is told of a change: `{"haproxy": socket}` or `{"process": name}`."""
    metrics_port: int = 0
    """Where the agent says when certificates end and whether every file is there; 0 for
    `AGENT_PORT`, where nobody but the kubelet asks."""


def as_written(spec: Spec) -> Any:
    """A manifest under Kubernetes' own field names, as an argument of a typed resource.

    The SDK's typed dictionaries name the same fields in snake case and pass these through.
    """
    return spec


def security_context() -> Spec:
    """What Pod Security `restricted` asks of a container, and a read-only root on top."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def pod_security_context() -> Spec:
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "fsGroup": USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def resources(*, cpu: str, memory: str, memory_limit: str | None = None) -> Spec:
    """Requests, and a limit on memory alone: a CPU limit throttles latency for nobody's gain."""
    return {
        "requests": {"cpu": cpu, "memory": memory},
        "limits": {"memory": memory_limit or memory},
    }


def spread(match: Mapping[str, str]) -> list[Spec]:
    """Over nodes, then zones, as far as there are any. Nodes that a pod may not use do not count:
    simulated and GPU nodes carry taints."""
    return [
        {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": unless,
            "nodeTaintsPolicy": "Honor",
            "labelSelector": {"matchLabels": dict(match)},
            # pods of the version before do not count: an update may always place its first pod
            "matchLabelKeys": ["pod-template-hash"],
        }
        for key, unless in (
            ("kubernetes.io/hostname", "DoNotSchedule"),
            ("topology.kubernetes.io/zone", "ScheduleAnyway"),
        )
    ]


def checksum(files: Mapping[str, str]) -> str:
    """For a pod's annotation: changed files start new pods."""
    return hashlib.sha256(json.dumps(dict(files), sort_keys=True).encode()).hexdigest()[:16]


def http_probe(path: str, port: int | str, **more: int) -> Spec:
    return {"httpGet": {"path": path, "port": port}, **more}


def container(
    container_name: str,
    image: Image,
    command: Sequence[str],
    *,
    mounts: Sequence[Spec] = (),
    env: Mapping[str, str] | None = None,
    **more: Any,
) -> Spec:
    """A hardened container with a writable /tmp and, on the stand, the host's files."""
    return {
        "name": container_name,
        "image": image.reference,
        "imagePullPolicy": image.pull_policy,
        "command": list(command),
        "env": [{"name": key, "value": value} for key, value in sorted((env or {}).items())],
        "securityContext": security_context(),
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the pod's own
            *mounts,
            *(
                {"name": _volume(path), "mountPath": path, "readOnly": True}
                for path in image.host_paths
            ),
        ],
        **more,
    }


def traffic_to(address: str) -> Spec:
    """Egress of a NetworkPolicy to one https address: its own IP, or any host for a name."""
    url = urlsplit(address)
    ports = [{"protocol": "TCP", "port": url.port or 443}]
    try:
        return {
            "to": [{"ipBlock": {"cidr": f"{ip_address(str(url.hostname))}/32"}}],
            "ports": ports,
        }
    except ValueError:  # NetworkPolicy knows no names: the port is all that can be said
        return {"ports": ports}


def _volume(path: str) -> str:
    return name("host", path)


def pod(
    *,
    service_account: str,
    containers: Sequence[Spec],
    images: Sequence[Image],
    init_containers: Sequence[Spec] = (),
    volumes: Sequence[Spec] = (),
    **more: Any,
) -> Spec:
    """A pod spec that passes `restricted`, hostPath volumes of the stand's images aside."""
    host_paths = dict.fromkeys(path for image in images for path in image.host_paths)
    spec: Spec = {
        "serviceAccountName": service_account,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security_context(),
        "containers": list(containers),
        "volumes": [
            {"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}},
            *volumes,
            *(
                {"name": _volume(path), "hostPath": {"path": path, "type": "Directory"}}
                for path in host_paths
            ),
        ],
        **more,
    }
    if init_containers:
        spec["initContainers"] = list(init_containers)
    return spec


# --- secrets from Vault as files ------------------------------------------------------------------


def vault_volumes(agent_config: str) -> list[Spec]:
    """The login token, the agent's script with its configuration, and the files it writes.

    The files lie in memory, are lost with the pod and are readable by its own group only.
    """
    return [
        {
            "name": "vault-login",
            "projected": {
                "defaultMode": 0o440,
                "sources": [
                    {
                        "serviceAccountToken": {
                            "audience": AUDIENCE,
                            "expirationSeconds": 600,
                            "path": "token",
                        }
                    }
                ],
            },
        },
        {"name": "vault-agent", "configMap": {"name": agent_config, "defaultMode": 0o444}},
        {"name": "secrets", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
    ]


def secrets_mount() -> Spec:
    return {"name": "secrets", "mountPath": SECRETS, "readOnly": True}


def vault_agent_files(login: VaultLogin, *, interval: int) -> dict[str, str]:
    """The ConfigMap's content: the agent, what it fetches, and whom it trusts. Nothing secret."""
    wanted = {
        "address": login.address,
        "auth": login.auth,
        "role": login.role,
        "secrets": dict(login.secrets),
        "certificates": {stem: dict(ask) for stem, ask in login.certificates.items()},
        "authorities": dict(login.authorities),
        "templates": dict(login.templates),
        "notify": {file: [dict(one) for one in told] for file, told in login.notify.items()},
        "port": login.metrics_port or AGENT_PORT,
        "interval": interval,  # seconds between looks at Vault
    }
    return {
        "vault_agent.py": (_SCRIPTS / "vault_agent.py").read_text(encoding="utf-8"),
        "agent.json": json.dumps(wanted, sort_keys=True),
        "ca.crt": login.ca_pem,
    }


def canary_files() -> dict[str, str]:
    """The canary's script, for the same ConfigMap."""
    return {"canary.py": (_SCRIPTS / "canary.py").read_text(encoding="utf-8")}


def vault_agent(image: Image, *, mounts: Sequence[Spec] = (), metrics_port: int = 0) -> Spec:
    """A sidecar that starts before the workload, holds it back until every file is there, then
    keeps the files current. One container does both, as an init container that stays."""
    name = "agent-metrics" if metrics_port else "agent"
    port = metrics_port or AGENT_PORT
    return container(
        "vault-agent",
        image,
        ["python3", "-u", "/vault-agent/vault_agent.py"],
        mounts=[
            {"name": "vault-login", "mountPath": str(Path(TOKEN).parent), "readOnly": True},
            {"name": "vault-agent", "mountPath": "/vault-agent", "readOnly": True},
            {"name": "secrets", "mountPath": SECRETS},
            *mounts,
        ],
        restartPolicy="Always",
        resources=resources(cpu="10m", memory="64Mi"),
        ports=[{"name": name, "containerPort": port}],
        # asked over HTTP: a command would start a Python every two seconds on a node that is busy
        startupProbe=http_probe(
            "/ready", port, periodSeconds=2, timeoutSeconds=5, failureThreshold=60
        ),
    )
