"""Namespaces, links and routes of a stand. Every step may be repeated."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any, cast

from local.errors import StandError
from local.layout import PREFIX, SiteLayout
from local.proc import run

NETNS = Path("/run/netns")


def namespaces(prefix: str = PREFIX) -> list[str]:
    """Network namespaces on this machine with our prefix, whichever stand made them."""
    if not NETNS.is_dir():
        return []
    return sorted(path.name for path in NETNS.iterdir() if path.name.startswith(prefix))


def is_namespace(name: str) -> bool:
    """Whether the name is a live namespace, not the empty file that a killed `ip` leaves."""
    try:
        run(["true"], netns=name)
    except StandError:
        return False
    return True


def ensure_namespace(name: str) -> None:
    if (NETNS / name).exists() and not is_namespace(name):
        (NETNS / name).unlink()
    if not (NETNS / name).exists():
        run(["ip", "netns", "add", name])
    run(["ip", "link", "set", "lo", "up"], netns=name)


def write_sysctls(netns: str, **values: str) -> None:
    """Set sysctls of one network namespace; keys are paths under /proc/sys/net with `__`."""
    lines = "\n".join(
        f"echo {value} > /proc/sys/net/{key.replace('__', '/')}" for key, value in values.items()
    )
    run(["sh", "-e"], netns=netns, stdin=lines)


def links(netns: str | None = None) -> set[str]:
    shown = cast("list[dict[str, Any]]", json.loads(run(["ip", "-j", "link", "show"], netns=netns)))
    return {str(link["ifname"]) for link in shown}


def veth(outer: str, outer_netns: str | None, inner: str, inner_netns: str) -> None:
    """A pair of links between two namespaces; kept when both ends are there."""
    has_outer, has_inner = outer in links(outer_netns), inner in links(inner_netns)
    if has_outer and has_inner:
        return
    if has_outer:
        run(["ip", "link", "del", outer], netns=outer_netns)
    if has_inner:
        run(["ip", "link", "del", inner], netns=inner_netns)
    # made inside, so that a kill between two steps leaves nothing on the host
    temporary = f"t-{os.getpid()}"
    run(
        ["ip", "link", "add", inner, "type", "veth", "peer", "name", temporary],
        netns=inner_netns,
    )
    target = f"/run/netns/{outer_netns}" if outer_netns else str(os.getpid())
    run(["ip", "link", "set", temporary, "netns", target, "name", outer], netns=inner_netns)


def ensure_site(site: SiteLayout) -> None:
    """The site's namespace: a router with a bridge for nodes and gateways, and a way to the host.

    The host gets one link and one route. The site has no default route: what is not in it or
    routed to a gateway by the link is unreachable, as in a private network.
    """
    netns = site.netns
    if netns is None:
        return
    ensure_namespace(netns)
    # answers leave by the link's route even when they arrived by the other tunnel
    write_sysctls(netns, ipv4__ip_forward="1", ipv4__conf__all__rp_filter="0")
    if "br0" not in links(netns):
        run(["ip", "link", "add", "br0", "type", "bridge"], netns=netns)
    run(["ip", "addr", "replace", f"{site.router}/24", "dev", "br0"], netns=netns)
    run(["ip", "link", "set", "br0", "up"], netns=netns)
    # the API server calls webhooks at Service addresses from here: without a route the kernel
    # refuses such a packet before kube-proxy can give it a pod's address
    run(["ip", "route", "replace", str(site.service_cidr), "dev", "br0"], netns=netns)
    outer = netns
    veth(outer, None, "host0", netns)
    run(["ip", "addr", "replace", f"{site.site_end}/30", "dev", "host0"], netns=netns)
    run(["ip", "link", "set", "host0", "up"], netns=netns)
    run(["ip", "addr", "replace", f"{site.host_end}/30", "dev", outer])
    run(["ip", "link", "set", outer, "up"])
    run(["ip", "route", "replace", str(site.range), "via", str(site.site_end), "dev", outer])


def ensure_node(site: SiteLayout, name: str, index: int) -> str:
    """The namespace of a real node, on the site's bridge; its name."""
    if site.netns is None:
        raise StandError(f"node {name} needs root", code=2)
    netns = f"{PREFIX}{name}"
    ensure_namespace(netns)
    write_sysctls(netns, ipv4__ip_forward="1")
    outer = f"n-{name}"
    veth(outer, site.netns, "eth0", netns)
    run(["ip", "link", "set", outer, "master", "br0", "up"], netns=site.netns)
    address = site.node_address(index)
    run(["ip", "addr", "replace", f"{address}/24", "dev", "eth0"], netns=netns)
    run(["ip", "link", "set", "eth0", "up"], netns=netns)
    run(["ip", "route", "replace", "default", "via", str(site.router)], netns=netns)
    run(
        ["ip", "route", "replace", str(site.node_pods(index)), "via", str(address)],
        netns=site.netns,
    )
    return netns


def remove_namespace(name: str) -> None:
    """Delete a namespace; its links and rules go with it."""
    path = NETNS / name
    if not path.exists():
        return
    if is_namespace(name):
        run(["ip", "netns", "del", name])
    else:
        path.unlink()


def host_links() -> list[str]:
    """Our links that are visible on the host."""
    return sorted(name for name in links() if name.startswith(PREFIX))


def host_routes() -> list[str]:
    shown = run(["ip", "route", "show", "table", "all"]).splitlines()
    return [line for line in shown if f"dev {PREFIX}" in line]


def remove_host_links() -> None:
    for name in host_links():
        # its namespace may be taking it along at this moment
        with contextlib.suppress(StandError):
            run(["ip", "link", "del", name])


def netns_is_mount() -> bool:
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return any(line.split()[4] == str(NETNS) for line in lines)


def remove_netns_mount() -> None:
    """Undo what the first `ip netns add` of a machine leaves: /run/netns mounted on itself."""
    if NETNS.is_dir() and not any(NETNS.iterdir()):
        if netns_is_mount():
            run(["umount", str(NETNS)])
        NETNS.rmdir()
