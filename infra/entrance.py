"""The shoppers' entrance before both sites, as HAProxy's configuration. No engine here.

Private first: `balance first` fills the private site up to its slots, and only what is above them
spills to the cloud; `cloud_share` sends a fixed part there from the start. A site is left after
`fall` missed health checks and taken back after `rise` good ones, more than it takes to leave: a
site that flaps stays out. A request that got no answer is tried at the other site, which is safe
because every request of the service may be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SITES = ("private", "cloud")


@dataclass(frozen=True, kw_only=True)
class SiteDoor:
    """The gateway of one site."""

    address: str
    """ip:port."""
    host: str
    """Name on its certificate."""
    slots: int
    """Requests at once before the next site gets some."""

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise ValueError(f"slots is {self.slots}; a site that takes nothing is left out")


@dataclass(frozen=True, kw_only=True)
class Health:
    every_ms: int = 500
    fall: int = 2
    rise: int = 6

    def __post_init__(self) -> None:
        if not 0 < self.fall < self.rise:
            raise ValueError(
                f"fall is {self.fall} and rise {self.rise}; a site must come back slower than it "
                "goes, or one that flaps takes traffic with it"
            )


def configuration(
    doors: Mapping[str, SiteDoor],
    *,
    bind: str,
    authority_file: str,
    admin_socket: str,
    cloud_share: int = 0,
    health: Health | None = None,
) -> str:
    """`haproxy.cfg`; `cloud_share` is a percentage. Raises `ValueError` for doors it cannot use."""
    if set(doors) != set(SITES):
        raise ValueError(f"doors are {sorted(doors)}; give {' and '.join(SITES)}")
    if not 0 <= cloud_share <= 100:
        raise ValueError(f"cloud_share is {cloud_share}; give 0 to 100 percent")
    check = health or Health()
    return f"""\
global
  log stdout format raw local0 notice
  stats socket {admin_socket} mode 600 level admin
  maxconn 4000
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
  retries 3
  option redispatch 1
  retry-on conn-failure empty-response response-timeout junk-response 502 503 504
  http-reuse safe

frontend shoppers
  bind {bind}
  http-response set-header X-Site %s
  use_backend cloud-first if {{ rand(100) lt {cloud_share} }}
  default_backend private-first

{_backend("private-first", SITES, doors, authority_file, check)}
{_backend("cloud-first", SITES[::-1], doors, authority_file, check)}"""


def _backend(
    name: str,
    order: tuple[str, ...],
    doors: Mapping[str, SiteDoor],
    authority_file: str,
    check: Health,
) -> str:
    lines = [
        f"backend {name}",
        "  balance first",
        "  option httpchk",
        f"  http-check send meth GET uri /readyz ver HTTP/1.1 hdr Host {doors[order[0]].host}",
        "  http-check expect status 200",
        f"  default-server check inter {check.every_ms}ms fall {check.fall} rise {check.rise} "
        "observe layer4 on-error fastinter fastinter 200ms",
    ]
    for number, site in enumerate(order, start=1):
        door = doors[site]
        lines.append(
            f"  server {site} {door.address} id {number} maxconn {door.slots} ssl verify required "
            f"ca-file {authority_file} verifyhost {door.host} sni str({door.host}) "
            f"check-sni {door.host}"
        )
    return "\n".join([*lines, ""])
