"""The rendered private end against two cloud endpoints: traffic, failover, and the way back."""

from __future__ import annotations

import pytest

from local.link import control
from local.waiting import wait_for
from tests.link.conftest import MARKER
from tests.link.lab import Lab


def test_traffic_crosses_the_link_both_ways_through_the_first_tunnel(link: Lab) -> None:
    assert link.link.carrying() == (1, 1)
    with link.asking(payload=MARKER) as out, link.asking(backwards=True, payload=MARKER) as back:
        assert wait_for(lambda: link.answers() and link.answers(backwards=True), 5)
    for figures in (out, back):
        assert figures["answered"] == figures["sent"] > 0


def test_what_is_negotiated_is_aes_256_gcm_with_sha_384_and_group_20(link: Lab) -> None:
    for number in (1, 2):
        shown = control.list_sas(link.link.site, link.link.site.ike(number))
        assert "AES_GCM_16-256/PRF_HMAC_SHA2_384/ECP_384" in shown
        assert "ESP:AES_GCM_16-256" in shown
        assert "IKEv2" in shown


@pytest.mark.parametrize(
    ("inbound", "outbound"),
    [(True, True), (True, False), (False, True)],
    ids=["both ways", "towards the cloud", "towards the site"],
)
def test_when_the_active_tunnel_loses_packets_the_other_takes_over_and_hands_back(
    link: Lab, inbound: bool, outbound: bool
) -> None:
    with link.asking(payload=MARKER) as figures:
        link.cut(1, inbound=inbound, outbound=outbound)
        assert wait_for(lambda: link.link.carrying() == (2, 2), 20), link.link.state()
        assert wait_for(link.answers, 5)
        link.heal(1)
        link.settle()
        assert link.answers()
    assert 0 < figures["answered"] < figures["sent"], "the cut must have been felt, and healed"


@pytest.mark.parametrize(
    ("end", "daemon"),
    [
        ("site", "tunnel1"), ("cloud", "tunnel1"), ("site", "tunnel2"), ("cloud", "tunnel2"),
        ("site", "frr/bgpd"), ("site", "frr/zebra"), ("site", "frr/bfdd"), ("cloud", "frr/bgpd"),
    ],
)  # fmt: skip
def test_a_killed_daemon_comes_back_with_no_hand(link: Lab, end: str, daemon: str) -> None:
    before = link.restarts(end, daemon)
    old = link.kill(end, daemon)
    assert wait_for(lambda: link.restarts(end, daemon) == before + 1, 30)
    which = link.link.site if end == "site" else link.link.cloud
    assert link.link.daemons(which)[daemon]["pid"] != old
    link.settle()
    assert link.answers()
    assert link.answers(backwards=True)
