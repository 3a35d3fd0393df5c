"""The shoppers' entrance before both sites, as HAProxy's configuration. No engine here.

Two steps in one process. Which site: private first, `balance first` fills it up to its slots and
only what is above them spills to the cloud; `cloud_share` sends a fixed part there from the start.
Which node of it: any that passes its check, as each node of a site has a door of its own that dies
with it. A request without an answer is tried at another node of the site, then at the other site,
which is safe because every request of the service may be repeated.

A node is left after `fall` missed health checks and taken back after `rise` good ones, more than it
takes to leave: one that flaps stays out. A site is there as long as one of its nodes is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address

SITES = ("private", "cloud")
ALIVE = "/-/alive"  # asked inside the process only: whether a site has a node that answers
_ADDRESS = re.compile(r"^(?P<host>[A-Za-z0-9.-]+):(?P<port>[1-9][0-9]{0,4})$")


@dataclass(frozen=True, kw_only=True)
class SiteDoor:
    """The gateway of one site."""

    addresses: tuple[str, ...]
    """Where it is reached, `ip:port` or `name:port`: one for each node or load balancer."""
    host: str
    """Name on its certificate."""
    slots: int
    """Requests at once before the next site gets some."""

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise ValueError(f"slots is {self.slots}; a site that takes nothing is left out")
        if not self.addresses or len(set(self.addresses)) < len(self.addresses):
            raise ValueError(f"addresses are {list(self.addresses)}; give each node once")
        for one in self.addresses:
            if not _ADDRESS.match(one):
                raise ValueError(f"addresses holds {one!r}; give ip:port or name:port")

    @property
    def named(self) -> bool:
        """Whether a name server is needed: load balancers have names that change their address."""
        return any(not _is_ip(one) for one in self.addresses)


def _is_ip(address: str) -> bool:
    try:
        ip_address(address.rpartition(":")[0])
    except ValueError:
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class Health:
    every_ms: int = 500
    fall: int = 2
    rise: int = 6

    def __post_init__(self) -> None:
        if not 0 < self.fall < self.rise:
            raise ValueError(
                f"fall is {self.fall} and rise {self.rise}; a node must come back slower than it "
                "goes, or one that flaps takes traffic with it"
            )


def configuration(
    doors: Mapping[str, SiteDoor],
    *,
    bind: str,
    authority_file: str,
    admin_socket: str,
    certificate_file: str | None = None,
    cloud_share: int = 0,
    health: Health | None = None,
) -> str:
    """`haproxy.cfg`; `cloud_share` is a percentage, `certificate_file` holds what shoppers are
    shown (certificate and key; without it they speak HTTP). A stack without a cloud site gives the
    private door alone. Raises `ValueError` for doors it cannot use.
    """
    if "private" not in doors or not set(doors) <= set(SITES):
        raise ValueError(
            f"doors are {sorted(doors)}; give private, and cloud where it serves, no others"
        )
    if not 0 <= cloud_share <= 100:
        raise ValueError(f"cloud_share is {cloud_share}; give 0 to 100 percent")
    if cloud_share and "cloud" not in doors:
        raise ValueError(f"cloud_share is {cloud_share}, but doors have no cloud; drop it")
    order = tuple(site for site in SITES if site in doors)
    # of this process alone: no other can listen at the same address and port
    inside = "abns@entrance-" + re.sub(r"[^A-Za-z0-9.]", "-", bind)
    tls = f" ssl crt {certificate_file} alpn h2,http/1.1" if certificate_file else ""
    parts = [_HEAD.format(admin=admin_socket)]
    if any(door.named for door in doors.values()):
        parts.append(_NAMES)
    parts.append(_FRONT.format(bind=bind, tls=tls, alive=ALIVE))
    if "cloud" in doors:
        parts[-1] += f"  use_backend cloud-first if {{ rand(100) lt {cloud_share} }}\n"
    parts[-1] += "  default_backend private-first\n"
    parts.append(_choice("private-first", order, doors, inside))
    if "cloud" in doors:
        parts.append(_choice("cloud-first", order[::-1], doors, inside))
    check = health or Health()
    parts += [_site(site, doors[site], len(order), inside, authority_file, check) for site in order]
    return "\n".join(parts)


_HEAD = """\
global
  log stdout format raw local0 notice
  stats socket {admin} mode 600 level admin
  maxconn 4000
  ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets
  tune.bufsize 65536
  tune.ssl.default-dh-param 2048

defaults
  mode http
  log global
  timeout http-request 10s
  timeout client 30s
  timeout connect 500ms
  timeout queue 2s
  timeout check 1s
  timeout server 3s
  option redispatch 1
  option abortonclose
  # only what came in whole can be sent again: many clients send head and body apart
  option http-buffer-request
  retry-on conn-failure empty-response response-timeout junk-response 502 503 504
  http-reuse safe
"""
_NAMES = """\
resolvers names
  parse-resolv-conf
  hold valid 10s
"""
_FRONT = """\
frontend shoppers
  bind {bind}{tls}
  http-request deny deny_status 404 if {{ path {alive} }}
  http-response set-header X-Site %s
"""


def _choice(name: str, order: tuple[str, ...], doors: Mapping[str, SiteDoor], inside: str) -> str:
    """The sites in their order; each is a server that stands for its nodes."""
    lines = [
        f"backend {name}",
        "  balance first",
        # a site answers after its own tries at its nodes; alone, there is nowhere else to go sooner
        f"  timeout server {5 if len(order) > 1 else 10}s",
        f"  retries {len(order) - 1}",
        "  option httpchk",
        f"  http-check send meth GET uri {ALIVE} ver HTTP/1.1 hdr Host entrance",
        "  http-check expect status 200",
        # its nodes come back slowly enough; the site itself only follows them
        "  default-server check inter 100ms fall 1 rise 1",
    ]
    for number, site in enumerate(order, start=1):
        lines.append(f"  server {site} {inside}-{site} id {number} maxconn {doors[site].slots}")
    return "\n".join([*lines, ""])


def _site(
    site: str, door: SiteDoor, sites: int, inside: str, authority_file: str, check: Health
) -> str:
    """The nodes of one site, each with a check through TLS at the gateway behind it."""
    # with another site to go to, each other node once; alone, patience is all there is
    retries = min(3, len(door.addresses) - 1) if sites > 1 else 3
    lines = [
        f"frontend {site}",
        f"  bind {inside}-{site}",
        f"  monitor-uri {ALIVE}",
        f"  monitor fail if {{ nbsrv({site}-nodes) lt 1 }}",
        f"  default_backend {site}-nodes",
        "",
        f"backend {site}-nodes",
        # the less busy of two; unlike leastconn it tries the next node at once after a refusal
        "  balance random(2)",
        f"  retries {retries}",
        "  option httpchk",
        f"  http-check send meth GET uri /readyz ver HTTP/1.1 hdr Host {door.host}",
        "  http-check expect status 200",
        f"  default-server check inter {check.every_ms}ms fall {check.fall} rise {check.rise} "
        "observe layer4 on-error fastinter fastinter 200ms"
        + (" resolvers names init-addr last,libc,none" if door.named else ""),
    ]
    for number, address in enumerate(door.addresses, start=1):
        lines.append(
            f"  server {site}-{number} {address} ssl verify required "
            f"ca-file {authority_file} verifyhost {door.host} sni str({door.host}) "
            f"check-sni {door.host}"
        )
    return "\n".join([*lines, ""])
