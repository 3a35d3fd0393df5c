"""The Debian packages that the link's daemons come from."""

from __future__ import annotations

from collections.abc import Callable

from local.tools import debian
from local.tools.table import Package

PACKAGES = (
    Package(name="strongswan-charon", programs=("/usr/lib/ipsec/charon",), why="IKE daemon"),
    Package(name="strongswan-swanctl", programs=("swanctl",), why="its configuration"),
    Package(
        name="strongswan-libcharon",
        programs=("/usr/lib/ipsec/libcharon.so.0",),
        why="IKE daemon",
    ),
    Package(
        name="libstrongswan-standard-plugins",
        programs=("/usr/lib/ipsec/plugins/libstrongswan-openssl.so",),
        why="AES-GCM and ECP groups",
    ),
    Package(
        name="libcharon-extra-plugins",
        programs=("/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so",),
        why="ESP in user space, for kernels without it",
    ),
    Package(name="frr", programs=("/usr/lib/frr/bgpd", "vtysh"), why="BGP and BFD"),
    Package(name="iproute2", programs=("ip",), why="namespaces, links and routes"),
    Package(name="iptables", programs=("iptables-restore",), why="the MSS clamp"),
)
MEASURING = (
    Package(name="tcpdump", programs=("tcpdump",), why="what is on the wire"),
    Package(name="iperf3", programs=("iperf3",), why="throughput"),
    Package(name="iputils-ping", programs=("ping",), why="packet sizes"),
)


def ensure(say: Callable[[str], None], *, measuring: bool = False) -> None:
    """Install what is missing. Raises `StandError` naming it where that cannot be done."""
    debian.ensure(rooted=True, say=say, packages=PACKAGES + (MEASURING if measuring else ()))
