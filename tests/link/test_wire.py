"""What crossed the internet, from the first packet of this folder's tests to here.

Runs last (pytest goes by name): the capture then holds failovers, restarts, new keys and outages.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address
from pathlib import Path

from tests.link.conftest import MARKER, Capture, capture
from tests.link.lab import OUTSIDE, Lab
from tests.link.pcap import frames

ARP, IPV4, UDP = 0x0806, 0x0800, 17
IKE = {500, 4500, 1500, 14500}


def test_nothing_crosses_the_internet_in_clear(link: Lab, wire: Capture, tmp_path: Path) -> None:
    inside = capture(link, link.site_host, "tolink", tmp_path / "inside.pcap")
    with link.asking(payload=MARKER) as figures:
        link.answers()
    inside.stop()
    wire.stop()
    assert figures["answered"] > 0
    assert MARKER.encode() in inside.path.read_bytes(), "captures must be able to show the marker"
    assert MARKER.encode() not in wire.path.read_bytes()
    counted = re.search(
        r"^(\d+) packets captured\n\1 packets received by filter\n0 packets dropped",
        wire.said,
        re.M,
    )
    assert counted, f"the capture must be whole: {wire.said}"
    ends = {IPv4Address("203.0.113.2"), *OUTSIDE}
    seen: set[int] = set()
    strangers: list[str] = []
    for frame in frames(wire.path):
        if frame.ethertype == ARP:
            continue
        if frame.ethertype == IPV4 and frame.reports_a_closed_port(IKE):
            continue  # of a killed daemon: the kernel repeats the head of what came encrypted
        if frame.ethertype != IPV4 or frame.protocol != UDP or not ends >= set(frame.addresses):
            strangers.append(frame.data[:42].hex())
        elif frame.fragment_offset == 0:
            assert set(frame.ports) <= IKE, frame.ports
            seen |= set(frame.ports)
    assert strangers == []
    assert seen >= {4500, 14500}, "both tunnels were used"
