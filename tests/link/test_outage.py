"""Both tunnels down, a dead supervisor, packets of every size, and leaving nothing behind."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from infra.components.vpn_settings import LinkDemand, preflight
from local import net, proc
from local.waiting import wait_for
from tests.link.conftest import MARKER
from tests.link.lab import CLOUD_HOST, MARK, SITE_HOST, Lab, lab


def test_both_tunnels_down_means_no_route_and_both_come_back_with_no_hand(link: Lab) -> None:
    with link.asking(payload=MARKER) as figures:
        for number in (1, 2):
            link.cut(number)
        assert wait_for(lambda: link.link.carrying() == (None, None), 30), link.link.state()
        assert not link.answers()
        for number in (1, 2):
            link.heal(number)
        link.settle()
        assert link.answers()
        assert link.answers(backwards=True)
    assert 0 < figures["answered"] < figures["sent"]


def test_a_killed_supervisor_is_replaced_without_leaving_daemons_behind(link: Lab) -> None:
    record = proc.Record.read(proc.record_path(link.link.folders, "link/site"))
    assert record is not None
    daemons = {one["pid"] for one in link.link.daemons(link.link.site).values()}
    record.identity.signal(signal.SIGKILL)
    assert record.identity.wait_gone(5)
    link.link.up()
    link.settle()
    assert link.answers()
    now = {one["pid"] for one in link.link.daemons(link.link.site).values()}
    assert not daemons & now
    assert not [pid for pid in daemons if proc.start_time(pid) is not None]


PING_OK = "1 received"
PING_REFUSED = ("Frag needed", "Message too long", "message too long")


@pytest.mark.parametrize("backwards", [False, True], ids=["to the cloud", "to the site"])
def test_a_packet_of_1200_to_1500_bytes_arrives_or_is_refused_never_lost(
    link: Lab, backwards: bool
) -> None:
    asker, target = (link.cloud_host, SITE_HOST) if backwards else (link.site_host, CLOUD_HOST)
    sizes = sorted({*range(1200, 1501, 20), 1399, 1400, 1401, 1437, 1438, 1439, 1499, 1500})
    fate: dict[int, str] = {}
    for size in sizes:
        # 28 bytes of headers; do: may not be fragmented
        done = subprocess.run(
            ["nsenter", f"--net=/run/netns/{asker}", "ping", "-M", "do", "-c", "1", "-W", "2",
             "-s", str(size - 28), str(target)],
            capture_output=True, text=True,
        )  # fmt: skip
        said = done.stdout + done.stderr
        fate[size] = (
            "arrived" if PING_OK in said
            else "refused" if any(word in said for word in PING_REFUSED)
            else "lost"
        )  # fmt: skip
    assert {size for size, what in fate.items() if what == "lost"} == set()
    assert {size for size, what in fate.items() if what == "arrived"} == {
        size for size in sizes if size <= 1400
    }


@pytest.mark.parametrize("size", [1401, 1472, 1500])
def test_a_larger_packet_that_may_be_fragmented_arrives(link: Lab, size: int) -> None:
    said = link.run(
        link.site_host, "ping", "-M", "dont", "-c", "3", "-i", "0.2", "-W", "2",
        "-s", str(size - 28), str(CLOUD_HOST),
    )  # fmt: skip
    assert "3 received" in said


RECEIVE = """
import hashlib, socket, sys
with socket.create_server((sys.argv[1], 7008)) as server:
    print("ready", flush=True)
    peer, _ = server.accept()
    mixed = hashlib.sha256()
    while data := peer.recv(1 << 16):
        mixed.update(data)
    print(mixed.hexdigest(), flush=True)
"""
SEND = """
import hashlib, socket, sys
block = hashlib.sha256(sys.argv[2].encode()).digest() * 2048
with socket.create_connection((sys.argv[1], 7008), timeout=20) as peer:
    for _ in range(64):
        peer.sendall(block)
"""
SENT = hashlib.sha256(hashlib.sha256(b"seed").digest() * 2048 * 64).hexdigest()


@pytest.mark.parametrize("backwards", [False, True], ids=["to the cloud", "to the site"])
def test_four_megabytes_of_tcp_arrive_whole(link: Lab, backwards: bool) -> None:
    sender, receiver, address = link.site_host, link.cloud_host, CLOUD_HOST
    if backwards:
        sender, receiver, address = receiver, sender, SITE_HOST
    server = link.spawn(receiver, sys.executable, "-c", RECEIVE, str(address))
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        link.run(sender, sys.executable, "-c", SEND, str(address), "seed")
        assert server.communicate(timeout=30)[0].strip() == SENT
    finally:
        server.kill()
        server.wait()


def test_a_path_with_a_smaller_mtu_is_a_black_hole_that_the_preflight_names(link: Lab) -> None:
    narrow = 1300
    link.run(link.link.places.internet, "ip", "link", "set", "endpoint1", "mtu", str(narrow))
    try:
        small = link.run(link.site_host, "ping", "-c", "1", "-W", "1", "-s", "500", str(CLOUD_HOST))
        large = link.run(
            link.site_host, "ping", "-c", "1", "-W", "1", "-s", "1372", str(CLOUD_HOST), check=False
        )
        assert PING_OK in small
        assert PING_OK not in large, "the hole must be there, or the preflight warns of nothing"
    finally:
        link.run(link.link.places.internet, "ip", "link", "set", "endpoint1", "mtu", "1500")
    demand = LinkDemand(replication_mbps=10, burst_gb=1, burst_minutes=10)
    named = preflight(link.settings, path_mtu=narrow, capacity_mbps=1250, demand=demand)
    assert len(named) == 1
    assert "path MTU is 1300" in named[0]
    assert preflight(link.settings, path_mtu=1500, capacity_mbps=1250, demand=demand) == []


def test_down_leaves_no_process_and_no_namespace(tmp_path, shared: Lab) -> None:
    before = set(net.namespaces("lk-"))
    with lab(tmp_path, name="second") as made:
        assert made.answers()
        assert set(net.namespaces("lk-")) > before
    assert set(net.namespaces("lk-")) == before
    mark = f"{MARK}={tmp_path}".encode()
    assert [one for one in Path("/proc").glob("[0-9]*/environ") if mark in content(one)] == []


def content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:  # gone meanwhile
        return b""
