r"""Namespaces and wires of the link. Every step may be repeated; nothing touches the host.

    site --- lan [gateway] wan === [internet] === wan [endpoint1] ipsec0 \
                                             \\== wan [endpoint2] ipsec1 --[vgw] lan --- cloud

The internet is one bridge, so that one capture sees everything that crosses it. Nothing is
forwarded between `wan` and any other device of a gateway: no tunnel, no traffic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from local.errors import StandError
from local.link.ends import Places
from local.link.files import Description
from local.net import ensure_namespace, links, remove_namespace, veth, write_sysctls
from local.proc import run

BRIDGE = "internet"


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """Where one end meets its site."""

    netns: str
    """Namespace of the site's router (or, in a test, of its only host)."""
    port: str
    """Name of our wire there, at most 15 characters."""
    bridge: str | None
    """Bridge to join there; None: the wire gets `router` as its own address."""
    gateway: IPv4Interface
    """Our end's address in the site."""
    router: IPv4Address
    networks: tuple[IPv4Network, ...]
    """The site's ranges, reached through `router`."""


def build(places: Places, link: Description, site: Attachment, cloud: Attachment) -> None:
    for name in places.all:
        ensure_namespace(name)
        write_sysctls(
            name, ipv4__ip_forward="1", ipv4__conf__all__rp_filter="0",
            ipv4__conf__default__rp_filter="0", ipv6__conf__all__disable_ipv6="1",
        )  # fmt: skip
    if BRIDGE not in links(places.internet):
        run(["ip", "link", "add", BRIDGE, "type", "bridge"], netns=places.internet)
    run(["ip", "link", "set", BRIDGE, "up"], netns=places.internet)
    outside = [link.own_address, *(tunnel.outside for tunnel in link.tunnels)]
    network = _common(outside)
    for name, address in zip((places.site, *places.endpoints), outside, strict=True):
        port = name.removeprefix(places.prefix)[:15]
        veth("wan", name, port, places.internet)
        run(["ip", "link", "set", port, "master", BRIDGE, "up"], netns=places.internet)
        run(["ip", "addr", "replace", f"{address}/{network.prefixlen}", "dev", "wan"], netns=name)
        run(["ip", "link", "set", "wan", "up"], netns=name)
    _seal(places.site)
    attach(places.site, site, link.accepted)
    attach(places.cloud, cloud, link.announced)


def attach(gateway: str, to: Attachment, beyond: Sequence[IPv4Network]) -> None:
    """Connect a gateway with its site, and the site's router with what lies beyond the link."""
    veth("lan", gateway, to.port, to.netns)
    if to.bridge:
        run(["ip", "link", "set", to.port, "master", to.bridge, "up"], netns=to.netns)
    else:
        run(["ip", "addr", "replace", f"{to.router}/{to.gateway.network.prefixlen}",
             "dev", to.port], netns=to.netns)  # fmt: skip
        run(["ip", "link", "set", to.port, "up"], netns=to.netns)
    run(["ip", "addr", "replace", str(to.gateway), "dev", "lan"], netns=gateway)
    run(["ip", "link", "set", "lan", "up"], netns=gateway)
    # a gateway before this one had the same address and another MAC
    run(["ip", "neigh", "flush", "to", str(to.gateway.ip)], netns=to.netns)
    for network in to.networks:
        if network != to.gateway.network:
            run(["ip", "route", "replace", str(network), "via", str(to.router)], netns=gateway)
    for network in beyond:
        run(["ip", "route", "replace", str(network), "via", str(to.gateway.ip)], netns=to.netns)


def detach(to: Attachment, beyond: Sequence[IPv4Network]) -> None:
    if to.port in links(to.netns):
        for network in beyond:
            run(["ip", "route", "flush", str(network), "via", str(to.gateway.ip)], netns=to.netns)
        run(["ip", "link", "del", to.port], netns=to.netns)


def remove(places: Places) -> None:
    for name in places.all:
        remove_namespace(name)


def _seal(gateway: str) -> None:
    """The private gateway routes nothing in clear: not even while both tunnels are down."""
    run(
        ["iptables-restore"], netns=gateway,
        stdin="*filter\n:FORWARD ACCEPT\n-A FORWARD -i wan -j DROP\n-A FORWARD -o wan -j DROP\n"
        "COMMIT\n",
    )  # fmt: skip


def _common(addresses: Sequence[IPv4Address]) -> IPv4Network:
    """The /24 that plays the internet. Raises `StandError` when the addresses span more."""
    networks = {IPv4Network((int(one) & ~0xFF, 24)) for one in addresses}
    if len(networks) != 1:
        raise StandError(
            f"outside addresses {', '.join(map(str, addresses))} lie in different /24 networks",
            "the stand's internet is one bridge: render the link with addresses of one /24",
            code=2,
        )
    return networks.pop()
