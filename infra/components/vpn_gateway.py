"""The private gateway: its files and both keys, handed to the machine that runs the daemons.

The files are those of `vpn_render`; a key file is handed over as a Vault template, which an agent
on the gateway fills in (`vault agent` of HashiCorp, or the stand's). So no key leaves Vault except
for the two ends that use it, and a new generation reaches the gateway as a new version to fetch.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from pulumi import ComponentResource, Input, Output, ResourceOptions

from infra.components import vpn_render
from infra.components.vpn_keys import key_path, made_keys
from infra.components.vpn_settings import LinkSettings
from infra.handover import Handover, Target
from infra.vault import Connection


@dataclass(frozen=True, kw_only=True)
class PrivateGatewayArgs:
    settings: LinkSettings
    outside: tuple[IPv4Address, IPv4Address]
    """Public address of each tunnel's cloud end."""
    target: Target
    connection: Connection
    mount: Input[str]
    """The stack's KV engine."""
    mount_path: str
    """The same as text: it stands in the templates, which a preview must show."""


class PrivateGateway(ComponentResource):
    """Both keys in Vault, and a gateway that runs with them; ready means: both tunnels are up."""

    folder: Output[str]

    def __init__(
        self, name: str, args: PrivateGatewayArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid-recommender:link:PrivateGateway", name, {}, opts)
        keys = made_keys(
            name,
            args.connection,
            args.settings,
            mount=args.mount,
            opts=ResourceOptions(parent=self),
        )
        files = {
            **vpn_render.gateway_files(args.settings, args.outside),
            **templates(name, args),
        }
        handed = Handover(
            name,
            args.target,
            files,
            versions={f"tunnel-{number}": key.version for number, key in enumerate(keys, start=1)},
            opts=ResourceOptions(parent=self, depends_on=[*keys]),
        )
        self.folder = handed.folder
        self.register_outputs({"folder": self.folder})


def templates(name: str, args: PrivateGatewayArgs) -> dict[str, str]:
    """Path -> text of the key files for Vault's agent (KV version 2)."""
    found: dict[str, str] = {}
    for number, outside in enumerate(args.outside, start=1):
        path = f"{args.mount_path}/data/{key_path(name, number)}"
        value = f'{{{{ with secret "{path}" }}}}{{{{ .Data.data.psk }}}}{{{{ end }}}}'
        found[f"{vpn_render.secret_path(args.settings, number)}.ctmpl"] = vpn_render.secrets(
            args.settings, number, outside, value
        )
    return found
