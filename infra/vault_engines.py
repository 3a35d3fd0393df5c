"""Vault's certificate and transit engines as Pulumi resources (see `infra.vault` for the rules).

Certificates are not resources: a workload asks for its own with its own login and renews it in
place, so that no private key passes through the engine or its state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from pulumi import Input, Output, ResourceOptions

from infra.vault import Connection, Managed, Props, Provider, found


class PkiRootProvider(Provider):
    """The root certificate of a PKI engine; its key never leaves Vault."""

    replace_on = ("path", "common_name")
    outputs_only = ("certificate",)

    def ensure(self, client: Any, props: Props) -> Props:
        mount = props["path"]
        existing = _root_certificate(client, mount)
        if existing is None:
            client.secrets.pki.generate_root(
                type="internal",
                common_name=props["common_name"],
                mount_point=mount,
                extra_params={"key_type": "ec", "key_bits": 384, "ttl": props["ttl"]},
            )
        return {"certificate": existing or _root_certificate(client, mount)}

    def observe(self, client: Any, props: Props) -> Props | None:
        certificate = _root_certificate(client, props["path"])
        return None if certificate is None else {"certificate": certificate}

    def remove(self, client: Any, props: Props) -> None:
        client.secrets.pki.delete_root(mount_point=props["path"])


def _root_certificate(client: Any, mount: str) -> str | None:
    issuers = found(client, f"{mount}/config/issuers")
    if not (issuers or {}).get("default"):
        return None  # asking for the certificate itself is an error before the first root
    data = found(client, f"{mount}/cert/ca") or {}
    return str(data["certificate"]).strip()


class PkiRoot(Managed, module="vault", name="PkiRoot"):
    """An EC P-384 root that signs the services' certificates."""

    path: Output[str]
    """Of the engine."""
    certificate: Output[str]
    """PEM; public, handed to every client."""

    def __init__(
        self,
        resource_name: str,
        connection: Connection,
        *,
        mount: Input[str],
        common_name: str,
        ttl: str = "43800h",
        opts: ResourceOptions | None = None,
    ) -> None:
        props = {"path": mount, "common_name": common_name, "ttl": ttl}
        super().__init__(PkiRootProvider(), resource_name, connection, props, opts)


class PkiRoleProvider(Provider):
    """What one kind of certificate may contain."""

    replace_on = ("mount", "path")

    def identity(self, props: Props) -> str:
        return f"{props['mount']}/roles/{props['path']}"

    def ensure(self, client: Any, props: Props) -> Props:
        client.adapter.post(
            url=f"/v1/{self.identity(props)}",
            json={
                "allowed_domains": props["domains"],
                "allow_bare_domains": True,
                "allow_subdomains": False,
                "allow_any_name": False,
                "allow_ip_sans": bool(props["allow_ip"]),
                "enforce_hostnames": True,
                "server_flag": True,
                "client_flag": bool(props["client"]),
                "key_type": "ec",
                "key_bits": 256,
                "max_ttl": int(props["max_ttl"]),  # the engine hands numbers over as floats
                "no_store": True,
            },
        )
        return {}

    def observe(self, client: Any, props: Props) -> Props | None:
        data = found(client, self.identity(props))
        if data is None:
            return None
        return {
            "domains": data["allowed_domains"],
            "allow_ip": data["allow_ip_sans"],
            "client": data["client_flag"],
            "max_ttl": data["max_ttl"],
        }

    def remove(self, client: Any, props: Props) -> None:
        client.adapter.delete(url=f"/v1/{self.identity(props)}")


class PkiRole(Managed, module="vault", name="PkiRole"):
    """Server certificates for exactly `domains`, valid for at most `max_ttl` seconds; with
    `client` also for servers that call one another."""

    path: Output[str]

    def __init__(
        self,
        resource_name: str,
        connection: Connection,
        *,
        mount: Input[str],
        role: str,
        domains: Sequence[str],
        allow_ip: bool = False,
        client: bool = False,
        max_ttl: int = 72 * 3600,
        opts: ResourceOptions | None = None,
    ) -> None:
        props = {
            "mount": mount,
            "path": role,
            "domains": list(domains),
            "allow_ip": allow_ip,
            "client": client,
            "max_ttl": max_ttl,
        }
        super().__init__(PkiRoleProvider(), resource_name, connection, props, opts)


class TransitKeyProvider(Provider):
    """An encryption key that stays in Vault."""

    replace_on = ("mount", "path", "type")
    outputs_only = ("latest_version",)

    def identity(self, props: Props) -> str:
        return f"{props['mount']}/keys/{props['path']}"

    def ensure(self, client: Any, props: Props) -> Props:
        where = f"/v1/{self.identity(props)}"
        client.adapter.post(url=where, json={"type": props["type"]})  # no-op when it exists
        return self.observe(client, props) or {}

    def change(self, client: Any, _olds: Props, news: Props) -> Props:
        if _olds["rotation"] != news["rotation"]:
            client.adapter.post(url=f"/v1/{self.identity(news)}/rotate", json={})
        return self.ensure(client, news)

    def observe(self, client: Any, props: Props) -> Props | None:
        data = found(client, self.identity(props))
        return None if data is None else {"latest_version": data["latest_version"]}

    def remove(self, client: Any, props: Props) -> None:
        where = f"/v1/{self.identity(props)}"
        client.adapter.post(url=f"{where}/config", json={"deletion_allowed": True})
        client.adapter.delete(url=where)


class TransitKey(Managed, module="vault", name="TransitKey"):
    """A key for encryption as a service; a new `rotation` adds a version, old data stays."""

    mount: Output[str]
    path: Output[str]
    latest_version: Output[int]

    def __init__(
        self,
        resource_name: str,
        connection: Connection,
        *,
        mount: Input[str],
        key: str,
        kind: str = "aes256-gcm96",
        rotation: str = "1",
        opts: ResourceOptions | None = None,
    ) -> None:
        props = {"mount": mount, "path": key, "type": kind, "rotation": rotation}
        super().__init__(TransitKeyProvider(), resource_name, connection, props, opts)


class AuditDeviceProvider(Provider):
    """A log of every request to Vault."""

    replace_on = ("path", "options")

    def ensure(self, client: Any, props: Props) -> Props:
        if self.observe(client, props) is None:
            client.sys.enable_audit_device(
                "file", path=props["path"], options=cast("dict[str, str]", props["options"])
            )
        return {}

    def observe(self, client: Any, props: Props) -> Props | None:
        devices = cast("Mapping[str, Any]", client.sys.list_enabled_audit_devices()["data"])
        return {} if props["path"] + "/" in devices else None

    def remove(self, client: Any, props: Props) -> None:
        client.sys.disable_audit_device(props["path"])


class AuditDevice(Managed, module="vault", name="AuditDevice"):
    """Every request and answer, values hashed, to a file on the Vault server."""

    path: Output[str]

    def __init__(
        self,
        resource_name: str,
        connection: Connection,
        *,
        path: str,
        file_path: str,
        opts: ResourceOptions | None = None,
    ) -> None:
        props = {"path": path, "options": {"file_path": file_path}}
        super().__init__(AuditDeviceProvider(), resource_name, connection, props, opts)
