"""The files of the cloud's end: what AWS would run, mirrored from the description of the link.

AWS waits for the customer to start a tunnel behind a NAT; here too the cloud never calls first.
Its BGP timers are AWS's own, 10 and 30 s: the session uses the lower hold time of the two ends.
"""

from __future__ import annotations

from local.link.files import Description, Tunnel

KEEPALIVE, HOLD = 10, 30  # seconds


def strongswan(table: int) -> str:
    return f"""\
charon {{
  load = random nonce openssl pem pkcs1 x509 pubkey hmac kdf gcm aes sha2 kernel-libipsec \
kernel-netlink socket-default vici updown
  port = 500
  port_nat_t = 4500
  install_virtual_ip = no
  routing_table = {table}
  routing_table_prio = {table}
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
    kernel-libipsec {{
      allow_peer_ts = yes
    }}
  }}
}}
"""


def swanctl(link: Description, tunnel: Tunnel) -> str:
    return f"""\
connections {{
  {tunnel.folder} {{
    version = 2
    mobike = no
    unique = replace
    encap = yes
    local_addrs = {tunnel.outside}
    remote_addrs = {link.gateway}
    proposals = aes256gcm16-prfsha384-ecp384
    dpd_delay = 10s
    local {{
      auth = psk
      id = {tunnel.outside}
    }}
    remote {{
      auth = psk
      id = {link.gateway}
    }}
    children {{
      {tunnel.folder} {{
        local_ts = 0.0.0.0/0
        remote_ts = 0.0.0.0/0
        esp_proposals = aes256gcm16-ecp384
        start_action = none
        dpd_action = clear
      }}
    }}
  }}
}}
"""


def secrets(link: Description, tunnel: Tunnel, key: str) -> str:
    """For a file of mode 0600."""
    return (
        f"secrets {{\n  ike-{tunnel.number} {{\n    id-1 = {link.gateway}\n"
        f'    id-2 = {tunnel.outside}\n    secret = "{key}"\n  }}\n}}\n'
    )


def mss_clamp(link: Description) -> str:
    rules = [
        f"-A FORWARD -{way} {tunnel.device} -p tcp --tcp-flags SYN,RST SYN "
        f"-j TCPMSS --set-mss {link.mtu - 40}"
        for tunnel in link.tunnels
        for way in ("o", "i")
    ]
    return "\n".join(["*mangle", *rules, "COMMIT", ""])


def frr(link: Description) -> str:
    """One router for both tunnels, as a VPN gateway has; it takes what the site announces."""
    lines = [
        "frr defaults traditional",
        "log stdout informational",
        "route-map ALL permit 10",
        "exit",
    ]
    if link.bfd:
        lines += [
            "bfd", " profile fast", "  transmit-interval 300", "  receive-interval 300",
            "  detect-multiplier 3", " exit", "exit",
        ]  # fmt: skip
    lines += [
        f"router bgp {link.cloud_asn}",
        f" bgp router-id {link.tunnels[0].outside}",
        " no bgp default ipv4-unicast",
        " no bgp network import-check",
        f" timers bgp {KEEPALIVE} {HOLD}",
    ]
    for tunnel in link.tunnels:
        lines += [
            f" neighbor {tunnel.site} remote-as {link.site_asn}",
            f" neighbor {tunnel.site} timers connect 5",
            *([f" neighbor {tunnel.site} bfd profile fast"] if link.bfd else []),
        ]
    lines += [
        " address-family ipv4 unicast",
        *(f"  network {net}" for net in link.accepted),
    ]
    for tunnel in link.tunnels:
        lines += [
            f"  neighbor {tunnel.site} activate",
            f"  neighbor {tunnel.site} route-map ALL in",
            f"  neighbor {tunnel.site} route-map ALL out",
        ]
    return "\n".join([*lines, " exit-address-family", "exit", ""])
