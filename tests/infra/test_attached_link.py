"""The link of the stand, as the local stack brings it up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from local import layout
from local.link import control
from local.link.attached import PARTS, StandLink
from local.paths import Folders
from local.proc import Record, record_path
from local.waiting import wait_for
from tests.conftest import RunningStand
from tests.stack import Stack

pytestmark = pytest.mark.stand


def of(stand: RunningStand) -> StandLink:
    where = layout.read(Folders(stand.state))
    assert where is not None
    return StandLink(Folders(stand.state), where, print)


def crosses(stand: RunningStand) -> bool:
    """Whether the cloud's first node gets an answer of a private node's kubelet."""
    target = str(layout.IPv4Network(stand.endpoints["sites"]["private"]["node_cidr"])[11])
    node = stand.endpoints["sites"]["cloud"]["nodes"][0]
    code = f"import socket; socket.create_connection(({target!r}, 10250), 2)"
    done = subprocess.run(
        ["nsenter", f"--net=/run/netns/hr-{node}", sys.executable, "-c", code],
        capture_output=True,
    )
    return done.returncode == 0


def test_the_sites_reach_each_other_through_the_link_and_through_nothing_else(
    stand: RunningStand, deployed: Stack
) -> None:
    assert deployed.outputs()["cloud"]["secretVersion"] >= 1
    assert crosses(stand)
    assert stand.endpoints["sites"]["cloud"]["reaches_vault"] is True
    stand.run("link", "down")
    try:
        assert not crosses(stand)
        assert stand.endpoints["sites"]["cloud"]["reaches_vault"] is False
    finally:
        stand.run("link", "up")
    assert wait_for(lambda: crosses(stand), 60)
    assert stand.endpoints["sites"]["cloud"]["reaches_vault"] is True


def test_killed_daemons_come_back_alone_and_killed_supervisors_with_up(
    stand: RunningStand, deployed: Stack
) -> None:
    link = of(stand).made()
    for end in (link.site, link.cloud):
        for daemon in link.daemons(end).values():
            os.kill(daemon["pid"], signal.SIGKILL)
    assert wait_for(lambda: not link.settled(), 10), "the test must have hurt it"
    assert wait_for(link.settled, 60), link.state()
    for part in PARTS:
        record = Record.read(record_path(link.folders, part))
        assert record is not None
        record.identity.signal(signal.SIGKILL)
    stand.up()
    assert wait_for(link.settled, 60), link.state()
    assert crosses(stand)


def test_a_raised_key_step_changes_the_key_of_one_tunnel_and_no_more(
    stand: RunningStand, deployed: Stack
) -> None:
    link = of(stand).made()
    before = {one: control.list_sas(link.site, link.site.ike(one)) for one in (1, 2)}
    step = int(deployed.run("config", "get", "link-key-step", check=False).stdout or 0)
    assert step == 0
    deployed.run("config", "set", "link-key-step", "1")
    try:
        done = deployed.up("--diff")
        assert "psk" not in done.stdout
        after = {one: control.list_sas(link.site, link.site.ike(one)) for one in (1, 2)}
        assert identity(after[1]) != identity(before[1])
        assert identity(after[2]) == identity(before[2])
        assert link.settled(), link.state()
        deployed.up("--expect-no-changes")
    finally:
        deployed.run("config", "rm", "link-key-step")
        deployed.up()


def identity(sas: str) -> str:
    """The two random numbers of a tunnel's IKE SA."""
    line = next(line for line in sas.splitlines() if "ESTABLISHED" in line)
    return " ".join(word for word in line.split() if word.endswith(("_i*", "_r", "_i", "_r*")))
