"""Addresses and ports of a stand: chosen once so that the host's own stay untouched, then kept.

One site is one /16:

    .0.0/24    nodes: .1 router and control plane, .2 to .9 gateways, .11 and up real nodes
    .1.0/30    host (.1) to site (.2)
    .16.0/20   services
    .128.0/17  pods, a /25 per node; real nodes take the first ones
"""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any, cast

from local.errors import StandError
from local.paths import Folders, write_private
from local.proc import run
from local.settings import SITES, SiteName, StandSettings

PREFIX = "hr-"  # of every namespace, link and cgroup that a stand makes
NODE_PREFIX = 25  # of one node's pods, of which a kubelet takes 110
OLD_NODE_PREFIX = 24  # of stands whose file says nothing: a node's range can never change
API_PORT = 6443
VAULT_PORT = 8200


@dataclass(frozen=True)
class SiteLayout:
    """Where one site lives. Without root (`netns` is None) it is a few ports on 127.0.0.1."""

    name: SiteName
    range: IPv4Network
    netns: str | None
    ports: dict[str, int]  # by part
    node_prefix: int = NODE_PREFIX

    @property
    def node_cidr(self) -> IPv4Network:
        return IPv4Network((int(self.range.network_address), 24))

    @property
    def service_cidr(self) -> IPv4Network:
        return IPv4Network((int(self.range.network_address) + (16 << 8), 20))

    @property
    def pod_cidr(self) -> IPv4Network:
        return IPv4Network((int(self.range.network_address) + (128 << 8), 17))

    @property
    def router(self) -> IPv4Address:
        return self.node_cidr[1]

    @property
    def host_end(self) -> IPv4Address:
        return self.range[256 + 1]

    @property
    def site_end(self) -> IPv4Address:
        return self.range[256 + 2]

    @property
    def address(self) -> str:
        """Where the site's own servers listen."""
        return str(self.router) if self.netns else "127.0.0.1"

    @property
    def api(self) -> str:
        return f"https://{self.address}:{self.ports['api']}"

    def node_address(self, index: int) -> IPv4Address:
        return self.node_cidr[11 + index]

    def node_pods(self, index: int) -> IPv4Network:
        return list(self.pod_cidr.subnets(new_prefix=self.node_prefix))[index]

    @property
    def most_nodes(self) -> int:
        """Nodes that there are ranges for."""
        return 1 << (self.node_prefix - self.pod_cidr.prefixlen)


def real_node_names(site: str, count: int) -> list[str]:
    return [f"{site}-{index + 1}" for index in range(count)]


@dataclass(frozen=True)
class Layout:
    """The whole stand. `rooted` says whether it has namespaces and real nodes."""

    stand: str
    rooted: bool
    sites: dict[SiteName, SiteLayout]
    vault_port: int

    @property
    def vault_address(self) -> str:
        private = self.sites["private"]
        return f"https://{private.address}:{self.vault_port}"


# ports of a site's parts; in a namespace of its own a site can always have the usual ones
_PORTS = {
    "api": API_PORT, "etcd": 2379, "etcd-peer": 2380, "controller-manager": 10257,
    "scheduler": 10259, "kwok": 10247, "dns": 53, "dns-health": 8181, "proxy-health": 10256,
    "proxy-metrics": 10249, "artefacts": 7070, "karpenter": 8081, "karpenter-metrics": 8080,
}  # fmt: skip


def taken() -> list[tuple[IPv4Network, str]]:
    """Networks that this host already has a route or an address in, ours left out."""
    found: list[tuple[IPv4Network, str]] = []
    routes = cast(
        "list[dict[str, Any]]",
        json.loads(run(["ip", "-j", "-4", "route", "show", "table", "all"])),
    )
    for route in routes:
        if route.get("dst") in (None, "default") or str(route.get("dev", "")).startswith(PREFIX):
            continue
        found.append(
            (
                IPv4Network(str(route["dst"]), strict=False),
                f"route via {route.get('dev', 'a table')}",
            )
        )
    links = cast("list[dict[str, Any]]", json.loads(run(["ip", "-j", "-4", "addr", "show"])))
    for link in links:
        if str(link["ifname"]).startswith(PREFIX):
            continue
        for one in cast("list[dict[str, Any]]", link.get("addr_info", [])):
            network = IPv4Network(f"{one['local']}/{one['prefixlen']}", strict=False)
            found.append((network, f"address of {link['ifname']}"))
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def choose(folders: Folders, settings: StandSettings, *, rooted: bool, stand: str) -> Layout:
    """The layout of this state folder; made on the first `up`, read on every later one."""
    kept = read(folders)
    busy = taken() if rooted else []
    if kept is not None:
        if kept.rooted != rooted:
            had, now = ("with", "without") if kept.rooted else ("without", "with")
            raise StandError(
                f"the stand in {folders.root} was made {had} root and this is {now} root",
                "run it as before, or `stand down --purge` first",
                code=2,
            )
        for site in kept.sites.values():
            for network, what in busy:
                if site.range.overlaps(network):
                    raise StandError(
                        f"site {site.name} uses {site.range}, which now overlaps {network} "
                        f"({what})",
                        "remove that route, or `stand down --purge` to move the stand",
                    )
            wanted = settings.site(site.name)
            if (nodes := wanted.real_nodes + wanted.gpu_nodes.count) > site.most_nodes:
                raise StandError(
                    f"site {site.name} was made with pod ranges for {site.most_nodes} nodes, the "
                    f"settings ask for {nodes}",
                    "`stand down --purge` to make it anew, or ask for fewer",
                )
        _write(folders, kept)  # with the ports of parts that are new since
        return kept
    free = [one for one in settings.ranges if not any(one.overlaps(network) for network, _ in busy)]
    if len(free) < len(SITES):
        raise StandError(
            f"{len(free)} of the {len(settings.ranges)} networks in `ranges` are free here, "
            f"two are needed",
            "add some to local/stand.yaml",
            code=2,
        )
    # far apart, so that one summary route of another tool is unlikely to swallow both
    ranges = (free[0], free[min(10, len(free) - 1)])
    sites: dict[SiteName, SiteLayout] = {}
    for name, network in zip(SITES, ranges, strict=True):
        ports = dict(_PORTS) if rooted else {part: free_port() for part in _PORTS}
        sites[name] = SiteLayout(name, network, f"{PREFIX}{name}" if rooted else None, ports)
    layout = Layout(stand, rooted, sites, VAULT_PORT if rooted else free_port())
    _write(folders, layout)
    return layout


def _write(folders: Folders, layout: Layout) -> None:
    write_private(
        folders.layout,
        json.dumps(
            {
                "stand": layout.stand,
                "rooted": layout.rooted,
                "vault_port": layout.vault_port,
                "sites": {
                    name: {
                        "range": str(site.range), "netns": site.netns, "ports": site.ports,
                        "node_prefix": site.node_prefix,
                    }
                    for name, site in layout.sites.items()
                },
            },
            indent=1,
        ),
    )  # fmt: skip


def _ports(kept: dict[str, int], rooted: bool) -> dict[str, int]:
    """Ports as written, with those of parts that an older version did not have yet."""
    return {part: kept.get(part, port if rooted else free_port()) for part, port in _PORTS.items()}


def read(folders: Folders) -> Layout | None:
    try:
        raw = cast("dict[str, Any]", json.loads(folders.layout.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StandError(
            f"{folders.layout} is damaged ({error})", "`stand down --purge`"
        ) from error
    return Layout(
        str(raw["stand"]),
        bool(raw["rooted"]),
        {
            name: SiteLayout(
                name, IPv4Network(raw["sites"][name]["range"]), raw["sites"][name]["netns"],
                _ports(cast("dict[str, int]", raw["sites"][name]["ports"]), bool(raw["rooted"])),
                int(raw["sites"][name].get("node_prefix", OLD_NODE_PREFIX)),
            )
            for name in SITES
        },
        int(raw["vault_port"]),
    )  # fmt: skip
