"""The private gateway's files: strongSwan, FRR, the MSS clamp and the devices, as text.

Pure functions. The same settings and the two outside addresses of the cloud make every file, so
the two ends cannot disagree. Keys are rendered apart (`secrets`), for a file of mode 0600.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from infra import cidr
from infra.components.vpn_settings import INSIDE_MTU, DataPath, LinkSettings

IKE_PROPOSAL = "aes256gcm16-prfsha384-ecp384"  # AES-256-GCM, SHA-384, group 20
ESP_PROPOSAL = "aes256gcm16-ecp384"  # a new Diffie-Hellman for every rekey: PFS
# Shorter than AWS's lifetimes (28800 and 3600 s): the private side always rekeys first.
IKE_REKEY_SECONDS, ESP_REKEY_SECONDS = 25_200, 3_000
PLUGINS = {
    DataPath.XFRM: "random nonce openssl pem pkcs1 x509 pubkey hmac kdf gcm aes sha2 "
    "kernel-netlink socket-default vici updown",
    DataPath.LIBIPSEC: "random nonce openssl pem pkcs1 x509 pubkey hmac kdf gcm aes sha2 "
    "kernel-libipsec kernel-netlink socket-default vici updown",
}
LOCAL_PREFERENCE, MED = (200, 100), (100, 200)


@dataclass(frozen=True, kw_only=True)
class Tunnel:
    """One tunnel of the private gateway."""

    number: int
    outside: IPv4Address
    ends: cidr.TunnelEnds

    @property
    def device(self) -> str:
        return f"ipsec{self.number - 1}"

    @property
    def folder(self) -> str:
        return f"tunnel{self.number}"

    @property
    def table(self) -> int:
        """Routing table that the daemon may fill; nothing looks it up."""
        return 220 + self.number

    @property
    def ports(self) -> tuple[int, int]:
        """IKE and NAT-T ports: a second daemon on one address needs its own."""
        return (500, 4500) if self.number == 1 else (1500, 14500)


def tunnels(settings: LinkSettings, outside: Sequence[IPv4Address]) -> tuple[Tunnel, ...]:
    """Both tunnels; `outside` are the cloud's two addresses in tunnel order."""
    if len(set(outside)) != 2:
        raise ValueError(f"outside addresses are {list(outside)}; a link has two different ones")
    ends = cidr.tunnel_ends(settings.inside)
    return tuple(
        Tunnel(number=i, outside=address, ends=end)
        for i, (address, end) in enumerate(zip(outside, ends, strict=True), start=1)
    )


def gateway_files(settings: LinkSettings, outside: Sequence[IPv4Address]) -> dict[str, str]:
    """Path -> text of every file of the private gateway that holds no secret."""
    both = tunnels(settings, outside)
    files = {
        "frr/frr.conf": frr(settings, both),
        "mss.rules": mss_clamp(both),
        "link.json": json.dumps(description(settings, both), indent=2) + "\n",
    }
    if settings.data_path is DataPath.LIBIPSEC:
        for tunnel in both:
            files[f"{tunnel.folder}/strongswan.conf"] = strongswan(settings, tunnel)
            files[f"{tunnel.folder}/swanctl.conf"] = swanctl(settings, [tunnel])
    else:
        files["strongswan.conf"] = strongswan(settings, None)
        files["swanctl.conf"] = swanctl(settings, both)
        for tunnel in both:
            files |= networkd(tunnel)
    return files


def secret_path(settings: LinkSettings, number: int) -> str:
    """Where the key of one tunnel belongs, beside the files of `gateway_files`."""
    return (
        f"tunnel{number}/secrets.conf"
        if settings.data_path is DataPath.LIBIPSEC
        else f"secrets-{number}.conf"
    )


def secrets(settings: LinkSettings, number: int, outside: IPv4Address, key: str) -> str:
    """The secret of one tunnel: for a file of mode 0600, never for a log."""
    return (
        f"secrets {{\n  ike-{number} {{\n    id-1 = {settings.gateway_address}\n"
        f'    id-2 = {outside}\n    secret = "{key}"\n  }}\n}}\n'
    )


def strongswan(settings: LinkSettings, tunnel: Tunnel | None) -> str:
    """strongswan.conf: of one tunnel's daemon, or of the only daemon (`tunnel` None)."""
    path = settings.data_path
    ike, nat_t = tunnel.ports if tunnel else (500, 4500)
    table = tunnel.table if tunnel else 220
    userspace = "    kernel-libipsec {\n      allow_peer_ts = yes\n    }\n" if tunnel else ""
    return f"""\
charon {{
  load = {PLUGINS[path]}
  port = {ike}
  port_nat_t = {nat_t}
  install_virtual_ip = no
  install_routes = no
  routing_table = {table}
  routing_table_prio = {table}
  # A dead peer is given up after about 6 s, then dpd_action starts the tunnel anew.
  retransmit_timeout = 1.0
  retransmit_base = 1.2
  retransmit_tries = 3
  filelog {{
    stderr {{
      default = 1
      ike_name = yes
      time_format = %Y-%m-%dT%H:%M:%S
    }}
  }}
  plugins {{
    vici {{
      socket = unix:///run/charon.vici
    }}
{userspace}  }}
}}
"""


def swanctl(settings: LinkSettings, of: Sequence[Tunnel]) -> str:
    """swanctl.conf: the connections of the given tunnels, without their keys."""
    return "connections {\n" + "".join(_connection(settings, t) for t in of) + "}\n"


def _connection(settings: LinkSettings, tunnel: Tunnel) -> str:
    marks = (
        f"        if_id_in = {tunnel.number}\n        if_id_out = {tunnel.number}\n"
        if settings.data_path is DataPath.XFRM
        else ""
    )
    return f"""\
  {tunnel.folder} {{
    version = 2
    mobike = no
    unique = replace
    encap = yes
    local_addrs = {settings.own_address}
    remote_addrs = {tunnel.outside}
    proposals = {IKE_PROPOSAL}
    keyingtries = 0
    dpd_delay = 10s
    rekey_time = {IKE_REKEY_SECONDS}s
    local {{
      auth = psk
      id = {settings.gateway_address}
    }}
    remote {{
      auth = psk
      id = {tunnel.outside}
    }}
    children {{
      {tunnel.folder} {{
        local_ts = 0.0.0.0/0
        remote_ts = 0.0.0.0/0
{marks}        esp_proposals = {ESP_PROPOSAL}
        rekey_time = {ESP_REKEY_SECONDS}s
        start_action = start
        dpd_action = restart
        close_action = start
      }}
    }}
  }}
"""


def frr(settings: LinkSettings, both: Sequence[Tunnel]) -> str:
    """frr.conf: only declared ranges go out, only declared ranges come in, tunnel 1 preferred."""
    lines = [
        "frr defaults traditional",
        "log stdout informational",
        "service integrated-vtysh-config",
        *(
            f"ip prefix-list SITE seq {5 * i} permit {net}"
            for i, net in enumerate(settings.announced.values(), start=1)
        ),
        *(
            f"ip prefix-list CLOUD seq {5 * i} permit {net}"
            for i, net in enumerate(settings.accepted.values(), start=1)
        ),
    ]
    if settings.routing == "static":
        # The device of a dead tunnel goes down with its daemon; the second route then wins.
        lines += [
            f"ip route {net} {tunnel.ends.cloud} {tunnel.device} {10 * tunnel.number}"
            for net in settings.accepted.values()
            for tunnel in both
        ]
        return "\n".join([*lines, ""])
    for tunnel in both:
        n = tunnel.number
        lines += [
            f"route-map IN{n} permit 10",
            " match ip address prefix-list CLOUD",
            f" set local-preference {LOCAL_PREFERENCE[n - 1]}",
            "exit",
            f"route-map OUT{n} permit 10",
            " match ip address prefix-list SITE",
            f" set metric {MED[n - 1]}",
            "exit",
        ]
    if settings.bfd:
        lines += [
            "bfd", " profile fast", "  transmit-interval 300", "  receive-interval 300",
            "  detect-multiplier 3", " exit", "exit",
        ]  # fmt: skip
    timers = settings.timers
    lines += [
        f"router bgp {settings.site_asn}",
        f" bgp router-id {settings.own_address}",
        " no bgp default ipv4-unicast",
        # A range is announced because it is declared, not because a route happens to exist.
        " no bgp network import-check",
        f" timers bgp {timers.keepalive} {timers.hold}",
    ]
    for tunnel in both:
        peer = tunnel.ends.cloud
        lines += [
            f" neighbor {peer} remote-as {settings.cloud_asn}",
            f" neighbor {peer} description {tunnel.folder}",
            f" neighbor {peer} timers connect 5",
            *([f" neighbor {peer} bfd profile fast"] if settings.bfd else []),
        ]
    lines += [
        " address-family ipv4 unicast",
        *(f"  network {net}" for net in settings.announced.values()),
    ]
    for tunnel in both:
        peer, n = tunnel.ends.cloud, tunnel.number
        lines += [
            f"  neighbor {peer} activate",
            f"  neighbor {peer} soft-reconfiguration inbound",
            f"  neighbor {peer} maximum-prefix {4 * len(settings.accepted)} restart 5",
            f"  neighbor {peer} route-map IN{n} in",
            f"  neighbor {peer} route-map OUT{n} out",
        ]
    return "\n".join([*lines, " exit-address-family", "exit", ""])


def mss_clamp(both: Sequence[Tunnel]) -> str:
    """iptables-restore rules: no TCP session may start with segments that a tunnel cannot carry."""
    rules = [
        f"-A FORWARD -{way} {tunnel.device} -p tcp --tcp-flags SYN,RST SYN "
        f"-j TCPMSS --set-mss {INSIDE_MTU - 40}"
        for tunnel in both
        for way in ("o", "i")
    ]
    return "\n".join(["*mangle", *rules, "COMMIT", ""])


def networkd(tunnel: Tunnel) -> dict[str, str]:
    """systemd-networkd files of one tunnel's XFRM interface."""
    base = f"systemd/network/50-{tunnel.device}"
    return {
        f"{base}.netdev": (
            f"[NetDev]\nName={tunnel.device}\nKind=xfrm\nMTUBytes={INSIDE_MTU}\n\n"
            f"[Xfrm]\nInterfaceId={tunnel.number}\nIndependent=yes\n"
        ),
        f"{base}.network": (
            f"[Match]\nName={tunnel.device}\n\n[Link]\nMTUBytes={INSIDE_MTU}\n\n"
            f"[Network]\nAddress={tunnel.ends.site}/30\nLinkLocalAddressing=no\n"
        ),
    }


def description(settings: LinkSettings, both: Sequence[Tunnel]) -> dict[str, Any]:
    """What a supervisor of the daemons must know; holds no secret."""
    return {
        "data_path": str(settings.data_path),
        "mtu": INSIDE_MTU,
        "gateway": str(settings.gateway_address),
        "own_address": str(settings.own_address),
        "site_asn": settings.site_asn,
        "cloud_asn": settings.cloud_asn,
        "announced": [str(net) for net in settings.announced.values()],
        "accepted": [str(net) for net in settings.accepted.values()],
        "timers": [settings.timers.keepalive, settings.timers.hold],
        "bfd": settings.bfd,
        "tunnels": [
            {
                "number": t.number,
                "device": t.device,
                "folder": t.folder,
                "outside": str(t.outside),
                "site": str(t.ends.site),
                "cloud": str(t.ends.cloud),
                "prefix": t.ends.inside.prefixlen,
                "table": t.table,
            }
            for t in both
        ],
    }
