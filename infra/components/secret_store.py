"""Vault's share of a stack: one secrets engine for its values, one login method per site."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pulumi import ComponentResource, Output, ResourceOptions

from infra.naming import PROJECT, name
from infra.vault import Connection, Mount
from infra.vault_login import JwtAuth


@dataclass(frozen=True, kw_only=True)
class SiteLogin:
    """How Vault checks the service-account tokens of one site."""

    issuer: str
    """`iss` of the tokens."""
    keys: Mapping[str, Any]
    """Where their public keys are; see `infra.vault_login.JwtAuth`."""


@dataclass(frozen=True, kw_only=True)
class SecretStoreArgs:
    environment: str
    connection: Connection
    sites: Mapping[str, SiteLogin]


class SecretStore(ComponentResource):
    """A KV v2 engine and the sites' JWT logins; other components add secrets and roles."""

    mount: Output[str]
    """Path of the KV engine."""
    logins: Mapping[str, Output[str]]
    """Site -> path of its login method."""

    def __init__(
        self, resource_name: str, args: SecretStoreArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid-recommender:vault:SecretStore", resource_name, {}, opts)
        parent = ResourceOptions(parent=self)
        values = Mount(
            f"{resource_name}-values",
            args.connection,
            path=name(PROJECT, args.environment),
            kind="kv",
            description=f"Secrets of {PROJECT}, stack {args.environment}",
            options={"version": "2"},
            opts=parent,
        )
        logins = {
            site: JwtAuth(
                f"{resource_name}-login-{site}",
                args.connection,
                path=name(PROJECT, args.environment, site),
                description=f"Workloads of {PROJECT}, stack {args.environment}, site {site}",
                issuer=login.issuer,
                keys=login.keys,
                opts=parent,
            )
            for site, login in args.sites.items()
        }
        self.mount = values.path
        self.logins = {site: login.path for site, login in logins.items()}
        self.register_outputs({"mount": self.mount, "logins": self.logins})
