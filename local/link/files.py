"""What the link is made from: the folder that the infrastructure program renders.

site/link.json                 what a supervisor must know (below); no secret
site/tunnelN/strongswan.conf   one IKE daemon per tunnel
site/tunnelN/swanctl.conf
site/tunnelN/secrets.conf      mode 0600
site/frr/frr.conf
site/mss.rules                 for iptables-restore
cloud/tunnelN.key              the key that the cloud was told, mode 0600
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, cast

from local.errors import StandError


@dataclass(frozen=True, kw_only=True)
class Tunnel:
    number: int
    device: str
    folder: str
    outside: IPv4Address
    """The cloud's public address."""
    site: IPv4Address
    cloud: IPv4Address
    """Both addresses inside the tunnel."""
    prefix: int
    table: int
    """Routing table that the daemon fills; nothing may look it up."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """`link.json`."""

    mtu: int
    gateway: IPv4Address
    own_address: IPv4Address
    site_asn: int
    cloud_asn: int
    announced: tuple[IPv4Network, ...]
    accepted: tuple[IPv4Network, ...]
    bfd: bool
    tunnels: tuple[Tunnel, ...]

    def tunnel(self, number: int) -> Tunnel:
        for one in self.tunnels:
            if one.number == number:
                return one
        raise StandError(f"no tunnel {number}; this link has 1 and 2", code=2)


def read(folder: Path) -> Description:
    """Read `link.json` of a rendered folder. Raises `StandError` naming what does not fit."""
    path = folder / "site" / "link.json"
    try:
        raw = cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))
        if raw["data_path"] != "libipsec":
            raise StandError(
                f"{path} is rendered for data path {raw['data_path']}",
                "the stand's kernel has no ESP: render it with data path libipsec",
                code=2,
            )
        return Description(
            mtu=int(raw["mtu"]),
            gateway=IPv4Address(raw["gateway"]),
            own_address=IPv4Address(raw["own_address"]),
            site_asn=int(raw["site_asn"]),
            cloud_asn=int(raw["cloud_asn"]),
            announced=tuple(IPv4Network(net) for net in raw["announced"]),
            accepted=tuple(IPv4Network(net) for net in raw["accepted"]),
            bfd=bool(raw["bfd"]),
            tunnels=tuple(
                Tunnel(
                    number=int(one["number"]),
                    device=str(one["device"]),
                    folder=str(one["folder"]),
                    outside=IPv4Address(one["outside"]),
                    site=IPv4Address(one["site"]),
                    cloud=IPv4Address(one["cloud"]),
                    prefix=int(one["prefix"]),
                    table=int(one["table"]),
                )
                for one in raw["tunnels"]
            ),
        )
    except FileNotFoundError as error:
        raise StandError(
            f"no {path}", "render the private gateway's files into it first"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise StandError(f"{path} is not a description of a link: {error!r}", code=2) from error
