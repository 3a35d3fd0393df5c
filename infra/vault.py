"""Vault as Pulumi resources: hvac behind dynamic providers.

What holds for every resource here:

* A preview reads nothing: `check` and `diff` compare properties, Vault is called by create, update,
  delete and refresh only.
* The token is read from its file at the moment of a call. Neither it nor its text is ever an input,
  so it cannot reach the state, a preview or a log.
* `ensure` is idempotent: an engine killed between Vault's answer and its own state file finds its
  resource again and adopts it.
* A failure is one line: what was found, and what to do (`VaultError`).

hvac is imported inside functions: the engine pickles these classes by reference, and a preview
does not pay for a library that it does not use.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, ClassVar, cast

from pulumi import Input, Output, ResourceOptions
from pulumi.dynamic import (
    CreateResult,
    DiffResult,
    ReadResult,
    Resource,
    ResourceProvider,
    UpdateResult,
)

from infra.vault_session import Connection, VaultError, preflight, remove_mount, session

__all__ = [
    "Connection",
    "KvSecret",
    "KvSecretProvider",
    "Managed",
    "Mount",
    "MountProvider",
    "Props",
    "Provider",
    "VaultError",
    "found",
    "preflight",
]

Props = dict[str, Any]


class Provider(ResourceProvider):
    """What all resources share; a kind says how to make, see and remove its one thing in Vault."""

    serialize_as_secret_always = False  # the pickle names a class, it holds no value
    replace_on: ClassVar[tuple[str, ...]] = ("path",)
    outputs_only: ClassVar[tuple[str, ...]] = ()

    def ensure(self, client: Any, props: Props) -> Props:
        """Make Vault match `props`; returns the properties that only Vault knows."""
        raise NotImplementedError

    def change(self, client: Any, _olds: Props, news: Props) -> Props:
        """An update; a kind overrides it when what to do depends on what was there."""
        return self.ensure(client, news)

    def observe(self, client: Any, props: Props) -> Props | None:
        """The managed properties as Vault has them now, or None when the thing is gone."""
        raise NotImplementedError

    def remove(self, client: Any, props: Props) -> None:
        raise NotImplementedError

    def identity(self, props: Props) -> str:
        return str(props["path"])

    def diff(self, _id: str, _olds: Props, _news: Props) -> DiffResult:
        keys = (set(_olds) | set(_news)) - set(self.outputs_only) - {"__provider"}
        changed = sorted(
            key for key in keys if (_olds.get(key) or None) != (_news.get(key) or None)
        )
        replaces = [key for key in changed if key in self.replace_on]
        return DiffResult(changes=bool(changed), replaces=replaces, delete_before_replace=True)

    def create(self, props: Props) -> CreateResult:
        with session(props["connection"]) as client:
            made = self.ensure(client, props)
        return CreateResult(self.identity(props), {**_inputs(props), **made})

    def update(self, _id: str, _olds: Props, _news: Props) -> UpdateResult:
        with session(_news["connection"]) as client:
            made = self.change(client, _olds, _news)
        return UpdateResult({**_inputs(_news), **made})

    def read(self, id_: str, props: Props) -> ReadResult:
        with session(props["connection"]) as client:
            seen = self.observe(client, props)
        if seen is None:
            return ReadResult("", {})
        return ReadResult(id_, {**_inputs(props), **seen})

    def delete(self, _id: str, _props: Props) -> None:
        with session(_props["connection"]) as client:
            self.remove(client, _props)


def _inputs(props: Props) -> Props:
    return {key: value for key, value in props.items() if key != "__provider"}


def found(client: Any, path: str) -> Props | None:
    """`data` of a generic read, or None when Vault has nothing there."""
    from hvac import exceptions as refused

    try:
        answer = client.adapter.get(url=f"/v1/{path}")
    except refused.InvalidPath:
        return None
    return cast("Props", answer.get("data", answer))


def _is_gone(error: Any) -> bool:
    """Whether Vault says that the engine or login method itself is no longer mounted."""
    told = " ".join(str(reason) for reason in (error.errors or []))
    return "no handler for route" in told or "no secret engine mount" in told.lower()


class Managed(Resource, module="vault", name="Managed"):
    """Base of the resources below: passes the connection and keeps output-only keys unset."""

    def __init__(
        self,
        kind: Provider,
        resource_name: str,
        connection: Connection,
        props: Mapping[str, Input[Any]],
        opts: ResourceOptions | None,
    ) -> None:
        unset = dict.fromkeys(kind.outputs_only)
        super().__init__(
            kind, resource_name, {**props, **unset, "connection": connection.props()}, opts
        )


class MountProvider(Provider):
    """A secrets engine."""

    replace_on = ("path", "type")

    def ensure(self, client: Any, props: Props) -> Props:
        path, existing = props["path"], _mounts(client).get(props["path"] + "/")
        if existing is None:
            client.sys.enable_secrets_engine(
                props["type"],
                path=path,
                description=props["description"],
                config={"max_lease_ttl": props["max_lease_ttl"]},
                options=props.get("options") or None,
            )
        elif existing["type"] != props["type"]:
            raise VaultError(
                f"Vault path {path} already holds a {existing['type']} engine; "
                f"choose another path for this {props['type']} engine"
            )
        else:
            client.sys.tune_mount_configuration(
                path, max_lease_ttl=props["max_lease_ttl"], description=props["description"]
            )
        return {}

    def observe(self, client: Any, props: Props) -> Props | None:
        existing = _mounts(client).get(props["path"] + "/")
        if existing is None:
            return None
        return {"type": existing["type"], "description": existing["description"]}

    def remove(self, client: Any, props: Props) -> None:
        remove_mount(client, f"mounts/{props['path']}")


def _mounts(client: Any) -> dict[str, Props]:
    return cast("dict[str, Props]", client.sys.list_mounted_secrets_engines()["data"])


class Mount(Managed, module="vault", name="Mount"):
    """A secrets engine of `kind` (kv, pki, transit) at `path`."""

    path: Output[str]

    def __init__(
        self,
        resource_name: str,
        connection: Connection,
        *,
        path: str,
        kind: str,
        description: str,
        options: Mapping[str, str] | None = None,
        max_lease_ttl: str = "768h",
        opts: ResourceOptions | None = None,
    ) -> None:
        props = {
            "path": path,
            "type": kind,
            "description": description,
            "options": dict(options or {}),
            "max_lease_ttl": max_lease_ttl,
        }
        super().__init__(MountProvider(), resource_name, connection, props, opts)


class KvSecretProvider(Provider):
    """A secret in a KV v2 engine."""

    replace_on = ("mount", "path")
    outputs_only = ("version",)

    def identity(self, props: Props) -> str:
        return f"{props['mount']}/{props['path']}"

    def ensure(self, client: Any, props: Props) -> Props:
        kv, where = client.secrets.kv.v2, {"path": props["path"], "mount_point": props["mount"]}
        metadata = found(client, f"{props['mount']}/metadata/{props['path']}")
        alive = metadata is not None and _is_alive(metadata)
        before: Props = {}
        if alive:
            before = kv.read_secret_version(**where, raise_on_deleted_version=True)["data"]["data"]
        marked = (metadata or {}).get("custom_metadata") or {}
        rotate = marked.get("rotation") != props["rotation"]
        generate = cast("Mapping[str, int]", props.get("generate") or {})
        made = {
            key: before[key] if key in before and not rotate else secrets.token_urlsafe(int(size))
            for key, size in generate.items()
        }
        wanted = {**made, **(props.get("data") or {})}
        if alive and wanted == before and metadata is not None:
            return {"version": metadata["current_version"]}
        answer = kv.create_or_update_secret(secret=wanted, **where)
        # the mark comes second: a kill between the two calls rotates once more, never not at all
        if rotate:
            kv.update_metadata(custom_metadata={"rotation": props["rotation"]}, **where)
        return {"version": answer["data"]["version"]}

    def observe(self, client: Any, props: Props) -> Props | None:
        metadata = found(client, f"{props['mount']}/metadata/{props['path']}")
        if metadata is None or not _is_alive(metadata):
            return None
        return {"version": metadata["current_version"]}

    def remove(self, client: Any, props: Props) -> None:
        from hvac import exceptions as refused

        try:
            client.secrets.kv.v2.delete_metadata_and_all_versions(
                path=props["path"], mount_point=props["mount"]
            )
        except refused.InvalidPath as error:
            if not _is_gone(error):
                raise


def _is_alive(metadata: Props) -> bool:
    current = metadata["versions"].get(str(metadata["current_version"]))
    return current is not None and not current["deletion_time"] and not current["destroyed"]


class KvSecret(Managed, module="vault", name="KvSecret"):
    """A secret at `mount`/`path`.

    `generate` maps keys to a number of random bytes: such a value is born in the provider, goes to
    Vault and nowhere else, not even into the encrypted state. `data` holds values that come from
    outside and are secret outputs end to end. A new text in `rotation` makes new values in place.
    """

    mount: Output[str]
    path: Output[str]
    version: Output[int]

    def __init__(
        self,
        resource_name: str,
        connection: Connection,
        *,
        mount: Input[str],
        path: str,
        generate: Mapping[str, int] | None = None,
        data: Mapping[str, Input[str]] | None = None,
        rotation: str = "1",
        opts: ResourceOptions | None = None,
    ) -> None:
        props: dict[str, Any] = {
            "mount": mount,
            "path": path,
            "generate": dict(generate or {}),
            # each value by itself: an engine that logs keys of a map then logs no content
            "data": {key: Output.secret(value) for key, value in (data or {}).items()},
            "rotation": rotation,
        }
        hidden = ResourceOptions(additional_secret_outputs=["data"])
        super().__init__(
            KvSecretProvider(),
            resource_name,
            connection,
            props,
            ResourceOptions.merge(opts, hidden),
        )
