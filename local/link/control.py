"""Speaking to the daemons of one end: swanctl for IKE, vtysh for the router."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

from local.errors import StandError
from local.link.ends import End, Ike
from local.proc import run


def load_secrets(end: End, ike: Ike) -> None:
    """Replace the daemon's keys by those of its file; living SAs keep theirs."""
    _swanctl(end, ike, "--load-creds", "--clear", "--noprompt", "--file", ike.secrets)


def load_connections(end: End, ike: Ike) -> None:
    _swanctl(end, ike, "--load-conns", "--file", ike.connections)


def initiate(end: End, ike: Ike, *, seconds: int = 1) -> None:
    """Call the peer; goes on in the daemon when it takes longer than `seconds`."""
    # exit code 1 also means "still trying after the timeout"
    _swanctl(end, ike, "--initiate", "--child", ike.name, "--timeout", str(seconds), may_fail=True)


def terminate(end: End, ike: Ike) -> None:
    _swanctl(end, ike, "--terminate", "--ike", ike.name, "--timeout", "5", may_fail=True)


def rekey(end: End, ike: Ike, *, child: bool) -> None:
    """New keys for a living tunnel: of the IKE SA, or of the packets' SA."""
    _swanctl(end, ike, "--rekey", "--child" if child else "--ike", ike.name)


def list_sas(end: End, ike: Ike) -> str:
    return _swanctl(end, ike, "--list-sas")


def established(end: End, ike: Ike) -> bool:
    """Whether the daemon holds an IKE SA with an installed pair of packet SAs."""
    try:
        shown = list_sas(end, ike)
    except StandError:
        return False
    return "ESTABLISHED" in shown and "INSTALLED" in shown


def _swanctl(end: End, ike: Ike, *words: str, may_fail: bool = False) -> str:
    try:
        return run(["swanctl", *words, "--uri", end.vici(ike.name)])
    except StandError:
        if may_fail:
            return ""
        raise


def configure_router(end: End) -> None:
    """Give every router daemon its part of the configuration; may be repeated."""
    vtysh(end, "-f", end.router_config)


def router(end: End, *commands: str) -> str:
    """Run commands of the router's shell."""
    return vtysh(end, *(word for command in commands for word in ("-c", command)))


def vtysh(end: End, *words: str) -> str:
    return run(["vtysh", "--vty_socket", str(end.vty), *words])


def bgp_received(end: End) -> dict[str, int]:
    """Neighbour -> number of routes that it has given us; only sessions that are up."""
    shown = cast(
        "dict[str, Any]", json.loads(router(end, "show bgp ipv4 unicast summary json") or "{}")
    )
    peers = cast("dict[str, dict[str, Any]]", shown.get("peers", {}))
    return {
        peer: int(one.get("pfxRcd", 0))
        for peer, one in peers.items()
        if one["state"] == "Established"
    }


def configure(end: End, lines: Sequence[str]) -> None:
    """Change the running configuration, as an operator would."""
    router(end, "configure terminal", *lines)


def routes(netns: str, network: str) -> list[str]:
    """Devices of the kernel's routes to a network."""
    shown = cast(
        "list[dict[str, Any]]",
        json.loads(run(["ip", "-j", "-4", "route", "show", network], netns=netns) or "[]"),
    )
    return [str(route["dev"]) for route in shown if "dev" in route]
