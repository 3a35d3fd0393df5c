"""One link for the whole folder, its wire recorded from the first packet to the last test."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from local.waiting import wait_for
from tests.link.lab import Lab, lab

MARKER = "clear-" + secrets.token_hex(8)
"""Every question of a test carries it; the wire must never show it."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    own = Path(__file__).parent
    for item in items:
        if own in item.path.parents:
            item.add_marker(pytest.mark.slow)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="namespaces and TUN devices need root"))


@dataclass
class Capture:
    """tcpdump on the bridge that plays the internet."""

    path: Path
    process: subprocess.Popen[str]
    said: str = ""

    def stop(self) -> None:
        if self.process.poll() is None:
            time.sleep(1)  # what the kernel holds would be lost with the signal
            self.process.send_signal(signal.SIGINT)
            self.said = self.process.communicate(timeout=20)[1]


def capture(made: Lab, netns: str, device: str, path: Path) -> Capture:
    process = made.spawn(
        netns,
        "tcpdump",
        "-i",
        device,
        "-w",
        str(path),
        "-U",
        "-s",
        "2048",  # a whole frame, and a small slot: the buffer is divided by this
        "-B",
        "32768",
        "-Z",
        "root",
        "--immediate-mode",
    )
    assert wait_for(lambda: path.exists() and path.stat().st_size >= 24, 10), process.poll()
    return Capture(path, process)


@pytest.fixture(scope="package")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab(tmp_path_factory.mktemp("link")) as made:
        yield made


@pytest.fixture(scope="package")
def wire(shared: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Capture]:
    path = tmp_path_factory.mktemp("wire") / "internet.pcap"
    recording = capture(shared, shared.link.places.internet, "internet", path)
    try:
        yield recording
    finally:
        recording.stop()


@pytest.fixture
def link(shared: Lab, wire: Capture) -> Lab:
    """The shared link, settled: a test that breaks it need not repair it."""
    for number in (1, 2):
        shared.heal(number)
    shared.settle()
    return shared
