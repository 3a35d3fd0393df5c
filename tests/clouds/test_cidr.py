"""infra/cidr.py: ranges, subnets and tunnel addresses for any input that settings may hold."""

from __future__ import annotations

from ipaddress import IPv4Network
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra import cidr

ZONES = tuple(f"eu-central-1{letter}" for letter in "abcdefg")


@st.composite
def networks(draw: st.DrawFn, shortest: int = 8, longest: int = 28) -> IPv4Network:
    prefix = draw(st.integers(shortest, longest))
    block = draw(st.integers(0, 2 ** (prefix - 8) - 1))
    return IPv4Network((10 * 2**24 + block * 2 ** (32 - prefix), prefix))


@given(st.dictionaries(st.text(min_size=1, max_size=8), networks(), max_size=6))
def test_ranges_are_accepted_exactly_when_no_two_share_an_address(declared) -> None:
    shared = any(
        max(a[0], b[0]) <= min(a[-1], b[-1]) for a, b in combinations(declared.values(), 2)
    )
    if shared:
        with pytest.raises(cidr.CidrError, match="overlap"):
            cidr.require_disjoint(declared)
    else:
        cidr.require_disjoint(declared)


def test_an_overlap_names_every_clash_and_the_addresses_they_share() -> None:
    declared = {
        "site nodes": IPv4Network("10.0.0.0/16"),
        "site pods": IPv4Network("10.0.4.0/24"),
        "vpc": IPv4Network("10.0.0.0/8"),
    }
    with pytest.raises(cidr.CidrError) as error:
        cidr.require_disjoint(declared)
    for words in ("site nodes and site pods share 10.0.4.0/24", "site nodes and vpc share"):
        assert words in str(error.value)


@given(networks(16, 20), st.integers(1, 7))
def test_subnets_stay_in_the_vpc_and_never_touch_each_other(vpc: IPv4Network, count: int) -> None:
    layout = cidr.subnet_layout(vpc, ZONES[:count])
    every = [net for zone in layout for net in (zone.nodes, zone.control, zone.edge)]
    assert all(net.subnet_of(vpc) and net.prefixlen <= 28 for net in every)
    assert not any(a.overlaps(b) for a, b in combinations(every, 2))
    assert [zone.zone for zone in layout] == list(ZONES[:count])


@given(networks(16, 20), st.integers(1, 2))
def test_adding_a_zone_within_a_cut_moves_no_existing_subnet(vpc: IPv4Network, count: int) -> None:
    assert (
        cidr.subnet_layout(vpc, ZONES[: count + 1])[:count]
        == cidr.subnet_layout(vpc, ZONES[:count])
    )  # fmt: skip


def test_three_zones_of_a_16_get_16379_node_addresses_each() -> None:
    layout = cidr.subnet_layout(IPv4Network("10.50.0.0/16"), ZONES[:3])
    assert [str(zone.nodes) for zone in layout] == [
        "10.50.0.0/18",
        "10.50.64.0/18",
        "10.50.128.0/18",
    ]
    assert layout[0].usable_nodes == 16379
    assert str(layout[0].control) == "10.50.192.0/20"
    assert str(layout[2].edge) == "10.50.248.0/22"


@pytest.mark.parametrize(
    ("vpc", "zones", "says"),
    [
        ("10.0.0.0/15", ZONES[:3], "AWS takes /16 to /28"),
        ("10.0.0.0/24", ZONES[:3], "too small"),
        ("10.0.0.0/16", (), "at least one"),
        ("10.0.0.0/16", (ZONES[0], ZONES[0]), "each zone once"),
    ],
)
def test_a_vpc_that_cannot_be_cut_says_what_to_give_instead(vpc, zones, says) -> None:
    with pytest.raises(cidr.CidrError, match=says):
        cidr.subnet_layout(IPv4Network(vpc), zones)


@given(st.integers(0, 2**14 - 1), st.integers(0, 2**14 - 1))
def test_tunnel_addresses_are_distinct_hosts_outside_what_aws_reserves(a: int, b: int) -> None:
    nets = [IPv4Network((0xA9FE0000 + 4 * i, 30)) for i in (a, b)]
    reserved = any(
        net in cidr.AWS_RESERVED_TUNNEL_CIDRS or net.overlaps(cidr.AWS_METADATA) for net in nets
    )
    if a == b or reserved:
        with pytest.raises(cidr.CidrError):
            cidr.tunnel_ends(nets)
        return
    ends = cidr.tunnel_ends(nets)
    assert len({end.cloud for end in ends} | {end.site for end in ends}) == 4
    assert all(int(end.site) == int(end.cloud) + 1 for end in ends)


@pytest.mark.parametrize("net", ["169.254.5.0/30", "169.254.10.0/29", "10.0.0.0/30"])
def test_a_tunnel_range_that_aws_refuses_is_refused_before_aws_sees_it(net: str) -> None:
    with pytest.raises(cidr.CidrError, match=net):
        cidr.tunnel_ends([IPv4Network(net)])
