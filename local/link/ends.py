"""What the supervisor of one end runs: IKE daemons and a router, as a JSON file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from local.link import cloud_end
from local.link.files import Description, read
from local.paths import private_dir, write_private


@dataclass(frozen=True, kw_only=True)
class Ike:
    """One IKE daemon and the TUN device that its packets go through."""

    name: str
    netns: str
    """Where it speaks to the internet."""
    device: str
    """Name of the TUN there."""
    inside_netns: str
    inside_device: str
    """Where its packets enter and leave; another namespace than `netns` at the cloud."""
    address: str
    """Inside address with prefix length."""
    mtu: int
    table: int
    config: str
    connections: str
    secrets: str
    """Paths of strongswan.conf, swanctl.conf and the key file."""
    initiates: bool
    taken: tuple[str, ...] = ()
    """Device names that other daemons of this namespace use: never to be taken by this one."""

    @property
    def moved(self) -> bool:
        return self.inside_netns != self.netns


@dataclass(frozen=True, kw_only=True)
class End:
    """One end of the link."""

    name: str
    folder: str
    """Sockets, logs and the status file of this end."""
    ikes: tuple[Ike, ...]
    router_netns: str
    router_config: str
    rules: str
    """File for iptables-restore in the router's namespace."""

    @property
    def status_file(self) -> Path:
        return Path(self.folder) / "status.json"

    def run_dir(self, part: str) -> Path:
        """The daemon's own /run."""
        return Path(self.folder) / part / "run"

    def vici(self, ike: str) -> str:
        return f"unix://{self.run_dir(ike)}/charon.vici"

    @property
    def vty(self) -> Path:
        """Folder of the router's command sockets."""
        return self.run_dir("frr") / "frr"

    def ike(self, number: int) -> Ike:
        return self.ikes[number - 1]

    def write(self, path: Path) -> None:
        write_private(path, json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, path: Path) -> End:
        raw = cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))
        made = cast("list[dict[str, Any]]", raw.pop("ikes"))
        ikes = tuple(Ike(taken=tuple(one.pop("taken")), **one) for one in made)
        return cls(ikes=ikes, **raw)


@dataclass(frozen=True, kw_only=True)
class Places:
    """Network namespaces of the link. All names carry the prefix of whoever made them."""

    prefix: str
    internet: str = field(init=False)
    site: str = field(init=False)
    endpoints: tuple[str, str] = field(init=False)
    cloud: str = field(init=False)

    def __post_init__(self) -> None:
        for name, value in {
            "internet": f"{self.prefix}internet",
            "site": f"{self.prefix}gateway",
            "endpoints": (f"{self.prefix}endpoint1", f"{self.prefix}endpoint2"),
            "cloud": f"{self.prefix}vgw",
        }.items():
            object.__setattr__(self, name, value)

    @property
    def all(self) -> tuple[str, ...]:
        return (self.internet, self.site, *self.endpoints, self.cloud)


def site_end(folder: Path, link: Description, places: Places) -> End:
    """The private gateway: its rendered files as they are."""
    rendered = folder / "site"
    devices = [tunnel.device for tunnel in link.tunnels]
    return End(
        name="site",
        folder=str(folder / "run" / "site"),
        router_netns=places.site,
        router_config=str(rendered / "frr" / "frr.conf"),
        rules=str(rendered / "mss.rules"),
        ikes=tuple(
            Ike(
                name=tunnel.folder,
                netns=places.site,
                device=tunnel.device,
                inside_netns=places.site,
                inside_device=tunnel.device,
                address=f"{tunnel.site}/{tunnel.prefix}",
                mtu=link.mtu,
                table=tunnel.table,
                config=str(rendered / tunnel.folder / "strongswan.conf"),
                connections=str(rendered / tunnel.folder / "swanctl.conf"),
                secrets=str(rendered / tunnel.folder / "secrets.conf"),
                initiates=True,
                taken=tuple(one for one in devices if one != tunnel.device),
            )
            for tunnel in link.tunnels
        ),
    )


def key_file(folder: Path, number: int) -> Path:
    return folder / "cloud" / f"tunnel{number}.key"


def write_cloud_secret(folder: Path, link: Description, number: int) -> None:
    """Render the key that the cloud was told into its daemon's secrets."""
    tunnel = link.tunnel(number)
    key = key_file(folder, number).read_text(encoding="utf-8").strip()
    write_private(
        folder / "cloud" / tunnel.folder / "secrets.conf", cloud_end.secrets(link, tunnel, key)
    )


def cloud_end_of(folder: Path, link: Description, places: Places) -> End:
    """The cloud's end; writes its files beside the rendered ones."""
    made = folder / "cloud"
    write_private(made / "frr.conf", cloud_end.frr(link))
    write_private(made / "mss.rules", cloud_end.mss_clamp(link))
    ikes: list[Ike] = []
    for tunnel, netns in zip(link.tunnels, places.endpoints, strict=True):
        own = private_dir(made / tunnel.folder)
        write_private(own / "strongswan.conf", cloud_end.strongswan(tunnel.table))
        write_private(own / "swanctl.conf", cloud_end.swanctl(link, tunnel))
        write_cloud_secret(folder, link, tunnel.number)
        ikes.append(
            Ike(
                name=tunnel.folder,
                netns=netns,
                device="ipsec0",
                inside_netns=places.cloud,
                inside_device=tunnel.device,
                address=f"{tunnel.cloud}/{tunnel.prefix}",
                mtu=link.mtu,
                table=tunnel.table,
                config=str(own / "strongswan.conf"),
                connections=str(own / "swanctl.conf"),
                secrets=str(own / "secrets.conf"),
                initiates=False,
            )
        )
    return End(
        name="cloud",
        folder=str(folder / "run" / "cloud"),
        ikes=tuple(ikes),
        router_netns=places.cloud,
        router_config=str(made / "frr.conf"),
        rules=str(made / "mss.rules"),
    )


def both(folder: Path, places: Places) -> tuple[Description, End, End]:
    link = read(folder)
    return link, site_end(folder, link, places), cloud_end_of(folder, link, places)
