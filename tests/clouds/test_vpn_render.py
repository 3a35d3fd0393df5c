"""The private gateway's files say the same as the settings, read back by parsers of our own."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.components import vpn_render
from infra.components.vpn_settings import DataPath, Timers
from tests.clouds.test_vpn_link import SETTINGS

OUTSIDE = (IPv4Address("198.51.100.11"), IPv4Address("198.51.100.12"))
USERSPACE = replace(SETTINGS, data_path=DataPath.LIBIPSEC)


def parse_swan(text: str) -> dict[str, Any]:
    """strongSwan's syntax: `name {`, `key = value`, `}` and comments."""
    root: dict[str, Any] = {}
    stack = [root]
    for line in text.splitlines():
        bare = line.split("#")[0].strip()
        if not bare:
            continue
        if bare == "}":
            stack.pop()
        elif bare.endswith("{"):
            name = bare[:-1].strip()
            assert name not in stack[-1], f"{name} twice"
            stack[-1][name] = {}
            stack.append(stack[-1][name])
        else:
            key, value = (part.strip() for part in bare.split("=", 1))
            assert key not in stack[-1], f"{key} twice"
            stack[-1][key] = value
    assert len(stack) == 1, "braces do not match"
    return root


def files(settings=USERSPACE) -> dict[str, str]:
    return vpn_render.gateway_files(settings, OUTSIDE)


@pytest.mark.parametrize("path", list(DataPath))
def test_each_tunnel_goes_to_its_own_endpoint_with_the_one_strong_proposal(path) -> None:
    made = files(replace(SETTINGS, data_path=path))
    connections: dict[str, Any] = {}
    for name, text in made.items():
        if name.endswith("swanctl.conf"):
            connections |= parse_swan(text)["connections"]
    assert set(connections) == {"tunnel1", "tunnel2"}
    for number, outside in enumerate(OUTSIDE, start=1):
        got = connections[f"tunnel{number}"]
        assert got["version"] == "2"
        assert got["remote_addrs"] == got["remote"]["id"] == str(outside)
        assert got["local"] == {"auth": "psk", "id": "203.0.113.2"}
        assert got["proposals"] == "aes256gcm16-prfsha384-ecp384"
        child = got["children"][f"tunnel{number}"]
        assert child["esp_proposals"] == "aes256gcm16-ecp384", "without a group there is no PFS"
        assert (child["dpd_action"], child["start_action"]) == ("restart", "start")
        assert ("if_id_in" in child) == (path is DataPath.XFRM)


def test_behind_nat_the_daemon_binds_its_own_address_and_names_the_public_one() -> None:
    settings = replace(USERSPACE, local_address=IPv4Address("192.168.1.2"))
    got = parse_swan(files(settings)["tunnel1/swanctl.conf"])["connections"]["tunnel1"]
    assert (got["local_addrs"], got["local"]["id"]) == ("192.168.1.2", "203.0.113.2")


def test_two_daemons_on_one_address_share_no_port_and_no_routing_table() -> None:
    made = files()
    both = [parse_swan(made[f"tunnel{n}/strongswan.conf"])["charon"] for n in (1, 2)]
    for key in ("port", "port_nat_t", "routing_table", "routing_table_prio"):
        assert both[0][key] != both[1][key], key
    assert all("kernel-libipsec" in each["load"].split() for each in both)


def test_the_kernels_data_path_loads_no_userspace_esp() -> None:
    made = files(SETTINGS)
    assert "kernel-libipsec" not in made["strongswan.conf"]
    assert "InterfaceId=1" in made["systemd/network/50-ipsec0.netdev"]
    assert "Address=169.254.20.2/30" in made["systemd/network/50-ipsec1.network"]


def prefix_list(text: str, name: str) -> set[str]:
    return set(re.findall(rf"^ip prefix-list {name} seq \d+ permit (\S+)$", text, re.MULTILINE))


nets = st.integers(0, 2**12 - 1).map(lambda i: IPv4Network((0x0A000000 + (i << 12), 20)))


@given(st.lists(nets, min_size=2, max_size=8, unique=True), st.data())
def test_exactly_the_declared_ranges_are_announced_and_accepted(ranges, data) -> None:
    cut = data.draw(st.integers(1, len(ranges) - 1))
    ours = {f"r{i}": net for i, net in enumerate(ranges[:cut])}
    theirs = {f"r{i}": net for i, net in enumerate(ranges[cut:])}
    text = files(replace(USERSPACE, announced=ours, accepted=theirs))["frr/frr.conf"]
    assert prefix_list(text, "SITE") == {str(net) for net in ours.values()}
    assert prefix_list(text, "CLOUD") == {str(net) for net in theirs.values()}
    assert set(re.findall(r"^  network (\S+)$", text, re.MULTILINE)) == prefix_list(text, "SITE")


def test_every_neighbour_is_filtered_both_ways_and_tunnel_1_is_preferred_both_ways() -> None:
    text = files()["frr/frr.conf"]
    for n, peer in ((1, "169.254.10.1"), (2, "169.254.20.1")):
        assert f"  neighbor {peer} route-map IN{n} in" in text
        assert f"  neighbor {peer} route-map OUT{n} out" in text
        assert f" neighbor {peer} remote-as 64512" in text
    maps = {m[0]: m[1] for m in re.findall(r"^route-map (\S+) permit 10\n((?: .*\n)+)", text, re.M)}
    assert all("match ip address prefix-list" in body for body in maps.values())
    number = {
        k: int(re.search(r"(?:local-preference|metric) (\d+)", v)[1]) for k, v in maps.items()
    }
    assert number["IN1"] > number["IN2"], "higher preference wins on the way out"
    assert number["OUT1"] < number["OUT2"], "lower MED wins on the way back"


@pytest.mark.parametrize("bfd", [True, False])
def test_bfd_is_asked_of_a_peer_only_where_the_settings_say_so(bfd: bool) -> None:
    text = files(replace(USERSPACE, bfd=bfd))["frr/frr.conf"]
    assert text.count("bfd profile fast") == (2 if bfd else 0)
    assert ("\nbfd\n" in text) is bfd


def test_timers_reach_bgp() -> None:
    text = files(replace(USERSPACE, timers=Timers(keepalive=3, hold=9)))["frr/frr.conf"]
    assert " timers bgp 3 9" in text


def test_a_static_link_has_a_second_route_and_no_bgp() -> None:
    static = replace(USERSPACE, routing="static", static_reason="no BGP on the firewall")
    text = files(static)["frr/frr.conf"]
    assert "router bgp" not in text
    assert "ip route 10.50.0.0/16 169.254.10.1 ipsec0 10" in text
    assert "ip route 10.50.0.0/16 169.254.20.1 ipsec1 20" in text


def test_tcp_is_held_below_the_tunnels_mtu_in_both_directions() -> None:
    rules = files()["mss.rules"]
    for device in ("ipsec0", "ipsec1"):
        for way in ("o", "i"):
            assert re.search(rf"-A FORWARD -{way} {device} .*--set-mss 1360$", rules, re.M)


def test_the_description_repeats_the_settings_for_the_supervisor() -> None:
    told = json.loads(files()["link.json"])
    assert [t["outside"] for t in told["tunnels"]] == [str(a) for a in OUTSIDE]
    assert told["mtu"] == 1400
    assert [(t["cloud"], t["site"]) for t in told["tunnels"]] == [
        ("169.254.10.1", "169.254.10.2"), ("169.254.20.1", "169.254.20.2"),
    ]  # fmt: skip


def test_one_address_for_both_tunnels_is_refused() -> None:
    with pytest.raises(ValueError, match="two different"):
        vpn_render.gateway_files(USERSPACE, (OUTSIDE[0], OUTSIDE[0]))
