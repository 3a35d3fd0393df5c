"""Work on a link in use: withdrawal, new keys, rekeying. Nobody may notice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from local.errors import StandError
from local.link import control
from local.waiting import wait_for
from tests.link.conftest import MARKER
from tests.link.lab import Lab, new_key, site_secret, write_site_key


def sa_number(link: Lab, number: int) -> str:
    """strongSwan's running number of the tunnel's IKE SA."""
    shown = control.list_sas(link.link.site, link.link.site.ike(number))
    found = re.search(r"#(\d+), ESTABLISHED", shown)
    assert found, shown
    return found[1]


def test_a_withdrawn_route_moves_traffic_without_a_lost_answer(link: Lab) -> None:
    peer = link.link.described.tunnel(1).site
    router = [f"router bgp {link.settings.cloud_asn}"]
    with link.asking(payload=MARKER) as figures:
        control.configure(link.link.cloud, [*router, f"neighbor {peer} shutdown"])
        assert wait_for(lambda: link.link.carrying() == (2, 2), 10), link.link.state()
        assert link.answers()
        control.configure(link.link.cloud, [*router, f"no neighbor {peer} shutdown"])
        link.settle()
    assert figures["answered"] == figures["sent"] > 0


def test_every_key_is_changed_one_tunnel_at_a_time_without_a_lost_answer(link: Lab) -> None:
    before = [sa_number(link, number) for number in (1, 2)]
    with link.asking(payload=MARKER) as out, link.asking(backwards=True, payload=MARKER) as back:
        for number in (1, 2):
            key = new_key()
            link.link.change_key(number, key, site_secret(link.settings, number, key))
            link.settle()
    assert [sa_number(link, number) for number in (1, 2)] != before, "the SAs must be new ones"
    for figures in (out, back):
        assert figures["answered"] == figures["sent"] > 0


def test_a_tunnel_with_a_wrong_key_stays_down_and_comes_up_with_the_right_one(link: Lab) -> None:
    site, ike = link.link.site, link.link.site.ike(2)
    kept = Path(ike.secrets).read_text(encoding="utf-8")
    write_site_key(link.folder, link.settings, 2, new_key())
    try:
        control.load_secrets(site, ike)
        control.terminate(site, ike)
        control.initiate(site, ike, seconds=5)
        assert not control.established(site, ike), "a key that nobody else has must not open it"
        assert link.answers(), "the other tunnel carries"
    finally:
        Path(ike.secrets).write_text(kept, encoding="utf-8")
    control.load_secrets(site, ike)
    link.settle()  # the supervisor calls again: nobody initiates here


def test_the_key_of_the_only_living_tunnel_is_not_changed(link: Lab) -> None:
    link.cut(1)
    assert wait_for(lambda: link.link.carrying() == (2, 2), 20), link.link.state()
    key = new_key()
    with pytest.raises(StandError, match="tunnel 1 is down"):
        link.link.change_key(2, key, site_secret(link.settings, 2, key))
    assert link.answers()


@pytest.mark.parametrize("child", [True, False], ids=["packets", "IKE"])
def test_rekeying_under_traffic_loses_no_answer(link: Lab, child: bool) -> None:
    site, ike = link.link.site, link.link.site.ike(1)
    before = control.list_sas(site, ike)
    with link.asking(payload=MARKER) as figures:
        control.rekey(site, ike, child=child)
        assert wait_for(lambda: spis(control.list_sas(site, ike), child) != spis(before, child), 10)
        assert link.answers()
    assert figures["answered"] == figures["sent"] > 0
    assert link.link.carrying() == (1, 1)


def spis(shown: str, child: bool) -> list[str]:
    pattern = r"^\s+(?:in|out) +([0-9a-f]{8})" if child else r"([0-9a-f]{16})_[io]"
    found = re.findall(pattern, shown, re.MULTILINE)
    assert found, shown
    return sorted(found)


def test_a_range_that_was_never_declared_is_not_accepted(link: Lab) -> None:
    router = [f"router bgp {link.settings.cloud_asn}", "address-family ipv4 unicast"]
    extra = ["10.99.0.0/16", "0.0.0.0/0", "192.168.10.0/25"]
    peer = link.link.described.tunnel(1).cloud
    control.configure(link.link.cloud, [*router, *(f"network {net}" for net in extra)])
    try:
        shown = f"show bgp ipv4 unicast neighbors {peer} received-routes"
        assert wait_for(
            lambda: all(net in control.router(link.link.site, shown) for net in extra), 20
        ), "the cloud must have offered them, or this proves nothing"
        for net in extra:
            assert control.routes(link.link.site.router_netns, net) == []
        assert link.answers()
    finally:
        control.configure(link.link.cloud, [*router, *(f"no network {net}" for net in extra)])
