"""The way to another cluster: its kubeconfig, kept fresh by an agent beside Kueue's manager."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from infra import kueue
from infra.pods import (
    Image,
    Spec,
    VaultLogin,
    http_probe,
    vault_agent,
    vault_agent_files,
    vault_volumes,
)

AGENT_FILES = "kueue-vault-agent"


@dataclass(frozen=True, kw_only=True)
class Worker:
    """Another cluster, which this one's Kueue may send jobs to (MultiKueue)."""

    api: str
    login: VaultLogin
    """Brings one file per cluster: its kubeconfig."""
    agent: Image


@dataclass(frozen=True, kw_only=True)
class Beside:
    """What the agent adds to the manager's pod."""

    containers: Sequence[Spec] = ()
    volumes: Sequence[Spec] = ()
    mounts: Sequence[Spec] = ()
    files: Mapping[str, str] = field(default_factory=dict[str, str])


def agent_of(worker: Worker | None) -> Beside:
    """Beside the manager, not before it: without Vault no job leaves, those here are admitted."""
    if worker is None:
        return Beside()
    agent = vault_agent(worker.agent)
    for held_back in ("restartPolicy", "startupProbe"):
        del agent[held_back]
    # whether the agent lives; whether it has its files is Vault's business, not Kueue's
    for probe, seconds in (("readinessProbe", 10), ("livenessProbe", 30)):
        agent[probe] = http_probe("/metrics", "agent", periodSeconds=seconds, timeoutSeconds=5)
    return Beside(
        containers=[agent],
        volumes=vault_volumes(AGENT_FILES),
        mounts=[{"name": "secrets", "mountPath": kueue.KUBECONFIGS, "readOnly": True}],
        files=vault_agent_files(worker.login, interval=60),
    )


def kubeconfig(api: str, ca_base64: str) -> str:
    """A kubeconfig as a template of the agent's: `{}` stands for the token."""
    name = "worker"
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "clusters": [
                {"name": name, "cluster": {"server": api, "certificate-authority-data": ca_base64}}
            ],
            "users": [{"name": name, "user": {"token": "{}"}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        }
    )
