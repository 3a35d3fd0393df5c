"""Vault's policies and logins as Pulumi resources (see `infra.vault` for the rules)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pulumi import Input, Output, ResourceOptions

from infra.vault import Connection, Managed, Props, Provider, VaultError, found
from infra.vault_session import remove_mount


class PolicyProvider(Provider):
    """A named policy."""

    def ensure(self, client: Any, props: Props) -> Props:
        client.sys.create_or_update_policy(props["path"], props["document"])
        return {}

    def observe(self, client: Any, props: Props) -> Props | None:
        data = found(client, f"sys/policies/acl/{props['path']}")
        return None if data is None else {"document": data["policy"]}

    def remove(self, client: Any, props: Props) -> None:
        client.sys.delete_policy(props["path"])


class Policy(Managed, module="vault", name="Policy"):
    """What a token may do, path by path: `rules` maps a Vault path to its capabilities."""

    path: Output[str]

    def __init__(
        self,
        resource_name: str,
        connection: Connection,
        *,
        policy_name: str,
        rules: Mapping[str, Sequence[str]],
        opts: ResourceOptions | None = None,
    ) -> None:
        props = {"path": policy_name, "document": policy_document(rules)}
        super().__init__(PolicyProvider(), resource_name, connection, props, opts)


def policy_document(rules: Mapping[str, Sequence[str]]) -> str:
    """Vault's policy text; paths in order, so that the same rules give the same text."""
    for path in rules:
        if '"' in path or "\n" in path:
            raise ValueError(f"policy path {path!r} holds a quote or a line break")
    return "".join(
        f'path "{path}" {{\n  capabilities = ['
        + ", ".join(f'"{capability}"' for capability in rules[path])
        + "]\n}\n"
        for path in sorted(rules)
    )


class JwtAuthProvider(Provider):
    """The login method for one cluster's service-account tokens."""

    def ensure(self, client: Any, props: Props) -> Props:
        path = props["path"]
        existing = client.sys.list_auth_methods()["data"].get(path + "/")
        if existing is None:
            client.sys.enable_auth_method("jwt", path=path, description=props["description"])
        elif existing["type"] != "jwt":
            raise VaultError(
                f"Vault auth path {path} already holds {existing['type']}; choose another"
            )
        client.adapter.post(
            url=f"/v1/auth/{path}/config", json={**props["keys"], "bound_issuer": props["issuer"]}
        )
        return {}

    def observe(self, client: Any, props: Props) -> Props | None:
        if client.sys.list_auth_methods()["data"].get(props["path"] + "/") is None:
            return None
        data = found(client, f"auth/{props['path']}/config")
        return {} if data is None else {"issuer": data["bound_issuer"]}

    def remove(self, client: Any, props: Props) -> None:
        # Vault makes one at a workload's first login and would keep it. Before the method itself:
        # whoever tries again after a failure finds those that are left only by way of it.
        for entity in _only_here(client, props["path"]):
            client.adapter.delete(url=f"/v1/identity/entity/id/{entity}")
        remove_mount(client, f"auth/{props['path']}")


def _only_here(client: Any, path: str) -> list[str]:
    """Ids of identities that log in by this method and by no other."""
    mount = client.sys.list_auth_methods()["data"].get(path + "/")
    answer = client.list("identity/entity-alias/id")
    if mount is None or answer is None:
        return []
    methods: dict[str, set[str]] = {}
    for alias in answer["data"]["key_info"].values():
        methods.setdefault(alias["canonical_id"], set()).add(alias["mount_accessor"])
    return sorted(entity for entity, used in methods.items() if used == {mount["accessor"]})


class JwtAuth(Managed, module="vault", name="JwtAuth"):
    """Login with a cluster's service-account tokens, checked by the cluster's public keys.

    `keys` is one of Vault's ways to know them: `jwks_url` with `jwks_ca_pem` (an API server),
    `oidc_discovery_url` (a cloud's public issuer) or `jwt_validation_pubkeys`.
    """

    path: Output[str]

    def __init__(
        self,
        resource_name: str,
        connection: Connection,
        *,
        path: str,
        description: str,
        issuer: Input[str],
        keys: Mapping[str, Input[Any]],
        opts: ResourceOptions | None = None,
    ) -> None:
        props = {"path": path, "description": description, "issuer": issuer, "keys": dict(keys)}
        super().__init__(JwtAuthProvider(), resource_name, connection, props, opts)


class JwtRoleProvider(Provider):
    """One workload's login."""

    replace_on = ("auth", "path")

    def _url(self, props: Props) -> str:
        return f"auth/{props['auth']}/role/{props['path']}"

    def identity(self, props: Props) -> str:
        return self._url(props)

    def ensure(self, client: Any, props: Props) -> Props:
        client.adapter.post(
            url=f"/v1/{self._url(props)}",
            json={
                "role_type": "jwt",
                "user_claim": "sub",
                "bound_audiences": [props["audience"]],
                "bound_subject": props["subject"],
                "token_policies": props["policies"],
                "token_no_default_policy": True,
                "token_ttl": int(props["ttl"]),
                "token_max_ttl": int(props["ttl"]),  # the engine hands numbers over as floats
            },
        )
        return {}

    def observe(self, client: Any, props: Props) -> Props | None:
        data = found(client, self._url(props))
        if data is None:
            return None
        return {
            "subject": data["bound_subject"],
            "policies": data["token_policies"],
            "ttl": data["token_ttl"],
            "audience": (data["bound_audiences"] or [""])[0],
        }

    def remove(self, client: Any, props: Props) -> None:
        client.adapter.delete(url=f"/v1/{self._url(props)}")


class JwtRole(Managed, module="vault", name="JwtRole"):
    """Lets exactly one service account (`subject`) log in and use exactly `policies`."""

    path: Output[str]

    def __init__(
        self,
        resource_name: str,
        connection: Connection,
        *,
        auth: Input[str],
        role: str,
        subject: str,
        policies: Sequence[Input[str]],
        audience: str,
        ttl: int,
        opts: ResourceOptions | None = None,
    ) -> None:
        props = {
            "auth": auth,
            "path": role,
            "subject": subject,
            "policies": list(policies),
            "audience": audience,
            "ttl": ttl,  # seconds
        }
        super().__init__(JwtRoleProvider(), resource_name, connection, props, opts)
