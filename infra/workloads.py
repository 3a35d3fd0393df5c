"""What one workload may do in Vault: its own secrets, its own certificates, and nothing else.

One service account, one policy, one login and, for a server, one PKI role per workload. The paths
are made here and nowhere else: `<site>/<team>/<workload>` in the stack's KV engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pulumi import Input, Resource, ResourceOptions

from infra.naming import name
from infra.pods import AUDIENCE, VaultLogin
from infra.vault import Connection, KvSecret
from infra.vault_engines import PkiRole
from infra.vault_login import JwtRole, Policy

TOKEN_TTL = 600  # seconds; the agent logs in anew for every look


@dataclass(frozen=True, kw_only=True)
class VaultSite:
    """Vault as one site's workloads see it. Paths come twice: as text for a pod's configuration,
    which a preview must show, and as the outputs that order the resources."""

    connection: Connection
    ca_pem: str
    site: str
    team: str
    mount: Input[str]
    mount_path: str
    login: Input[str]
    login_path: str
    pki: Input[str]
    pki_path: str


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What one workload needs of Vault."""

    generate: Mapping[str, int] = field(default_factory=dict[str, int])
    """Secrets of its own, born in Vault: key -> random bytes."""
    rotation: str = "1"
    secrets: Mapping[str, str] = field(default_factory=dict[str, str])
    """File -> key of its own secret, or `<workload>#<key>` of another's that it may read too."""
    templates: Mapping[str, str] = field(default_factory=dict[str, str])
    domains: Sequence[str] = ()
    """Names on its server certificate, written to `tls.pem`; none for no certificate."""
    calls_peers: bool = False
    """Whether the certificate also proves who calls: servers of one cluster among themselves."""
    certificate_ttl: int = 72 * 3600
    """Seconds; renewed after two thirds."""
    trusts_services: bool = False
    """Whether it gets `services-ca.crt`, the authority of the services' certificates."""
    notify: Mapping[str, Sequence[Mapping[str, str]]] = field(
        default_factory=dict[str, Sequence[Mapping[str, str]]]
    )
    metrics_port: int = 0


@dataclass(frozen=True, kw_only=True)
class Access:
    """What a workload's component continues with."""

    login: VaultLogin
    resources: Sequence[Resource]
    """To depend on: a pod that starts before its role exists only waits."""


def secret_path(site: str, team: str, workload: str) -> str:
    return f"{site}/{team}/{workload}"


def allow(
    resource_name: str,
    vault: VaultSite,
    workload: str,
    rules: Mapping[str, Sequence[str]],
    opts: ResourceOptions,
) -> JwtRole:
    """Let the workload's service account log in for these rules alone: path -> capabilities."""
    role = name(vault.site, vault.team, workload)
    policy = Policy(
        f"{resource_name}-policy",
        vault.connection,
        policy_name=name(vault.mount_path, role),
        rules=rules,
        opts=opts,
    )
    return JwtRole(
        f"{resource_name}-login",
        vault.connection,
        auth=vault.login,
        role=role,
        subject=f"system:serviceaccount:{vault.team}:{workload}",
        policies=[policy.path],
        audience=AUDIENCE,
        ttl=TOKEN_TTL,
        opts=opts,
    )


def grant(
    resource_name: str, vault: VaultSite, workload: str, needs: Needs, opts: ResourceOptions
) -> Access:
    """Declare the secret, policy, login and PKI role of one workload."""
    made: list[Resource] = []
    role = name(vault.site, vault.team, workload)
    own = secret_path(vault.site, vault.team, workload)
    if needs.generate:
        made.append(
            KvSecret(
                f"{resource_name}-secret",
                vault.connection,
                mount=vault.mount,
                path=own,
                generate=needs.generate,
                rotation=needs.rotation,
                opts=opts,
            )
        )
    rules: dict[str, Sequence[str]] = {}
    files: dict[str, str] = {}
    for file, wanted in needs.secrets.items():
        other, _, key = wanted.rpartition("#")
        path = f"{vault.mount_path}/data/{secret_path(vault.site, vault.team, other or workload)}"
        files[file] = f"{path}#{key}"
        rules[path] = ["read"]
    certificates: dict[str, Mapping[str, Any]] = {}
    if needs.domains:
        issue = f"{vault.pki_path}/issue/{role}"
        first, *others = needs.domains
        certificates["tls"] = {
            "path": issue,
            "common_name": first,
            "alt_names": ",".join(others),
            "ttl": f"{needs.certificate_ttl}s",
        }
        rules[issue] = ["create", "update"]
        made.append(
            PkiRole(
                f"{resource_name}-certificates",
                vault.connection,
                mount=vault.pki,
                role=role,
                domains=needs.domains,
                client=needs.calls_peers,
                max_ttl=needs.certificate_ttl,
                opts=opts,
            )
        )
    authorities = {"services-ca.crt": f"{vault.pki_path}/cert/ca"} if needs.trusts_services else {}
    rules.update({path: ["read"] for path in authorities.values()})
    account = allow(resource_name, vault, workload, rules, opts)
    return Access(
        login=VaultLogin(
            address=vault.connection.address,
            ca_pem=vault.ca_pem,
            auth=vault.login_path,
            role=role,
            secrets=files,
            templates=needs.templates,
            certificates=certificates,
            authorities=authorities,
            notify=needs.notify,
            metrics_port=needs.metrics_port,
        ),
        resources=[*made, account],
    )
