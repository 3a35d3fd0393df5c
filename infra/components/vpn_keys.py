"""The pre-shared keys of the tunnels: made in the provider, kept in Vault, read as secret outputs.

A `KvSecret` keeps its values out of the state altogether; a tunnel key cannot be kept that way,
because AWS takes it as a property of the connection. It is therefore a secret output: encrypted in
the state, never shown in a preview. A new generation is an update in place, of one tunnel alone.
"""

from __future__ import annotations

import secrets
import string
from typing import Any, cast

from pulumi import Input, Output, ResourceOptions

from infra.components.vpn_settings import LinkSettings
from infra.vault import Connection, Managed, Props, Provider, VaultError

ALPHABET = string.ascii_letters + string.digits + "._"  # what AWS takes; 6 bits a character
LENGTH = 48  # 288 bits; AWS takes 8 to 64


def new_key() -> str:
    """A key that AWS and swanctl both take; AWS refuses a leading zero, so a letter leads."""
    first = secrets.choice(string.ascii_letters)
    return first + "".join(secrets.choice(ALPHABET) for _ in range(LENGTH - 1))


class TunnelKeyProvider(Provider):
    """One tunnel's key at `mount`/`path`: its text and its generation in one version of a secret.

    Both are written in one call, so that an engine killed after it finds the new key with its
    generation and adopts it: the key is never changed twice for one step.
    """

    replace_on = ("mount", "path")
    outputs_only = ("value", "version")

    def identity(self, props: Props) -> str:
        return f"{props['mount']}/{props['path']}"

    def ensure(self, client: Any, props: Props) -> Props:
        held = _held(client, props)
        if held is not None and held["data"]["generation"] == props["generation"]:
            return _outputs(held)
        key = new_key()
        answer = client.secrets.kv.v2.create_or_update_secret(
            path=props["path"],
            mount_point=props["mount"],
            secret={"psk": key, "generation": props["generation"]},
            # two programs at once must not each give the tunnel a key of their own
            cas=held["metadata"]["version"] if held is not None else _last_version(client, props),
        )
        return {"value": key, "version": answer["data"]["version"]}

    def observe(self, client: Any, props: Props) -> Props | None:
        held = _held(client, props)
        if held is None:
            return None
        # a generation changed by hand shows as drift, and the next update makes it right
        return {"generation": held["data"]["generation"], **_outputs(held)}

    def remove(self, client: Any, props: Props) -> None:
        client.secrets.kv.v2.delete_metadata_and_all_versions(
            path=props["path"], mount_point=props["mount"]
        )


def _outputs(held: Props) -> Props:
    return {"value": held["data"]["psk"], "version": held["metadata"]["version"]}


def _held(client: Any, props: Props) -> Props | None:
    """Data and metadata of the current version, or None when there is none."""
    from hvac import exceptions as refused

    try:
        answer = client.secrets.kv.v2.read_secret_version(
            path=props["path"], mount_point=props["mount"], raise_on_deleted_version=True
        )
    except refused.InvalidPath:
        return None
    held = cast("Props", answer["data"])
    if not {"psk", "generation"} <= set(held["data"]):
        raise VaultError(
            f"Vault holds something else than a tunnel key at {props['mount']}/{props['path']}; "
            "choose another path, or remove what lies there"
        )
    return held


def _last_version(client: Any, props: Props) -> int:
    """Version that a check-and-set write must name: 0 for a path that never was."""
    from hvac import exceptions as refused

    try:
        answer = client.secrets.kv.v2.read_secret_metadata(
            path=props["path"], mount_point=props["mount"]
        )
    except refused.InvalidPath:
        return 0
    return int(answer["data"]["current_version"])


class TunnelKey(Managed, module="vault", name="TunnelKey"):
    """One tunnel's key. A new `generation` makes a new one in place."""

    value: Output[str]
    """Secret."""
    version: Output[int]

    def __init__(
        self,
        resource_name: str,
        connection: Connection,
        *,
        mount: Input[str],
        path: str,
        generation: int,
        opts: ResourceOptions | None = None,
    ) -> None:
        props: dict[str, Any] = {"mount": mount, "path": path, "generation": str(generation)}
        hidden = ResourceOptions(additional_secret_outputs=["value"])
        super().__init__(
            TunnelKeyProvider(),
            resource_name,
            connection,
            props,
            ResourceOptions.merge(opts, hidden),
        )


def key_path(name: str, number: int) -> str:
    """Where the key of one tunnel is kept; the private gateway's agent reads it there too."""
    return f"link/{name}/tunnel-{number}"


def made_keys(
    name: str,
    connection: Connection,
    settings: LinkSettings,
    *,
    mount: Input[str],
    opts: ResourceOptions | None = None,
) -> tuple[TunnelKey, TunnelKey]:
    """The keys of both tunnels as resources: `settings.key_step` changes one at a time."""
    first, second = (
        TunnelKey(
            f"{name}-key-{number}",
            connection,
            mount=mount,
            path=key_path(name, number),
            generation=generation,
            opts=opts,
        )
        for number, generation in enumerate(settings.key_versions, start=1)
    )
    return first, second


def tunnel_keys(
    name: str,
    connection: Connection,
    settings: LinkSettings,
    *,
    mount: Input[str],
    opts: ResourceOptions | None = None,
) -> tuple[Output[str], Output[str]]:
    """The keys of both tunnels as secret texts, for `VpnLinkArgs.keys`."""
    first, second = made_keys(name, connection, settings, mount=mount, opts=opts)
    return Output.secret(first.value), Output.secret(second.value)
