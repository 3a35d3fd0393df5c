"""Vault's share of a stack: engines for values, certificates and encryption, one login per site.

Other components add secrets, roles and policies through `infra.workloads`; this one makes what they
stand on. Nothing here holds a secret value: keys and the authority's private key never leave Vault.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pulumi import ComponentResource, Output, ResourceOptions

from infra.naming import PROJECT, name
from infra.vault import Connection, Mount
from infra.vault_engines import AuditDevice, PkiRoot, TransitKey
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
    audit_file: str | None = None
    """On the Vault server; None where its operator already keeps an audit device."""
    rotation: str = "1"
    """A new text gives the encryption key a new version."""


def pki_path(environment: str) -> str:
    """As text, for a pod's configuration, which a preview must show."""
    return name(PROJECT, environment, "pki")


class SecretStore(ComponentResource):
    """A KV v2 engine, a certificate authority, an encryption key, an audit log and the sites'
    JWT logins."""

    mount: Output[str]
    """Path of the KV engine."""
    pki: Output[str]
    """Path of the authority for services' certificates."""
    transit_key: Output[str]
    """Path of the key that encrypts what leaves the site: backups, state."""
    authority: Output[str]
    """Certificate that clients of the services trust; public."""
    logins: Mapping[str, Output[str]]
    """Site -> path of its login method."""

    def __init__(
        self, resource_name: str, args: SecretStoreArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid-recommender:vault:SecretStore", resource_name, {}, opts)
        parent = ResourceOptions(parent=self)
        values_path = name(PROJECT, args.environment)
        audit = (
            [
                AuditDevice(
                    f"{resource_name}-audit",
                    args.connection,
                    path=values_path,
                    file_path=args.audit_file,
                    opts=parent,
                )
            ]
            if args.audit_file is not None
            else []
        )
        # the log comes first: no request that makes the rest goes by unseen
        after = ResourceOptions.merge(parent, ResourceOptions(depends_on=audit))
        values = Mount(
            f"{resource_name}-values",
            args.connection,
            path=values_path,
            kind="kv",
            description=f"Secrets of {PROJECT}, stack {args.environment}",
            options={"version": "2"},
            opts=after,
        )
        authority = self._authority(resource_name, args, after)
        key = self._key(resource_name, args, after)
        logins = {
            site: JwtAuth(
                f"{resource_name}-login-{site}",
                args.connection,
                path=name(PROJECT, args.environment, site),
                description=f"Workloads of {PROJECT}, stack {args.environment}, site {site}",
                issuer=login.issuer,
                keys=login.keys,
                opts=after,
            )
            for site, login in args.sites.items()
        }
        self.mount = values.path
        self.logins = {site: login.path for site, login in logins.items()}
        self.pki, self.authority = authority.path, authority.certificate
        self.transit_key = Output.concat(key.mount, "/keys/", key.path)
        self.register_outputs(
            {
                "mount": self.mount,
                "logins": self.logins,
                "pki": self.pki,
                "authority": self.authority,
                "transit_key": self.transit_key,
            }
        )

    def _authority(
        self, resource_name: str, args: SecretStoreArgs, opts: ResourceOptions
    ) -> PkiRoot:
        engine = Mount(
            f"{resource_name}-pki",
            args.connection,
            path=pki_path(args.environment),
            kind="pki",
            description=f"Certificates of {PROJECT}'s services, stack {args.environment}",
            max_lease_ttl="43800h",
            opts=opts,
        )
        return PkiRoot(
            f"{resource_name}-authority",
            args.connection,
            mount=engine.path,
            common_name=f"{PROJECT} services, {args.environment}",
            opts=opts,
        )

    def _key(self, resource_name: str, args: SecretStoreArgs, opts: ResourceOptions) -> TransitKey:
        engine = Mount(
            f"{resource_name}-transit",
            args.connection,
            path=name(PROJECT, args.environment, "transit"),
            kind="transit",
            description=f"Encryption for {PROJECT}, stack {args.environment}",
            opts=opts,
        )
        return TransitKey(
            f"{resource_name}-key",
            args.connection,
            mount=engine.path,
            key="backups",
            rotation=args.rotation,
            opts=opts,
        )
