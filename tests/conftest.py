"""Fixtures that several folders share."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from local import owner
from local.control_plane import ControlPlane
from local.kube import Client
from local.layout import read
from local.paths import PROJECT, Folders
from local.stand import can_root
from local.tools.resolve import Tools
from tests.picture import picture
from tests.stack import Stack

# of a shell that ran `stand env`: it would lead every test's own project to that stand's settings
os.environ.pop("PULUMI_OPTION_CONFIG_FILE", None)
os.environ[owner.ENDS_WITH] = str(os.getpid())  # every stand that a test starts


@dataclass(frozen=True)
class RunningStand:
    """The one stand of a test session. Tests may break it; `up` repairs it."""

    state: Path

    @property
    def endpoints(self) -> dict[str, Any]:
        """What a stack's settings read."""
        return json.loads((self.state / "endpoints.json").read_text(encoding="utf-8"))

    @property
    def rooted(self) -> bool:
        """Whether there are namespaces and real nodes."""
        return can_root()

    def run(self, *words: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        """The `stand` command over this stand's state."""
        done = subprocess.run(
            [sys.executable, "-m", "local", *words],
            cwd=PROJECT, capture_output=True, text=True, check=False,
            env={**os.environ, "STAND_STATE": str(self.state), **env},
        )  # fmt: skip
        assert not check or done.returncode == 0, f"stand {' '.join(words)}: {done.stderr}"
        return done

    def up(self) -> None:
        self.run("up")

    def environment(self) -> dict[str, str]:
        """`stand env` as a dictionary over this process's own: what `pulumi` needs."""
        lines = self.run("env").stdout.splitlines()
        exported = dict(line.removeprefix("export ").split("=", 1) for line in lines)
        values = {name: shlex.split(value)[0] for name, value in exported.items()}
        values.pop("PULUMI_OPTION_CONFIG_FILE")
        return {**os.environ, **values, "STAND_STATE": str(self.state)}

    def client(self, site: str) -> Client:
        """An administrator's client of one site."""
        folders = Folders(self.state)
        where = read(folders)
        assert where is not None
        layout = next(one for name, one in where.sites.items() if name == site)
        return ControlPlane(folders, layout, Tools({})).client


@pytest.fixture(scope="session")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStand]:
    """Brings the stand up once for every `stand` test of every folder, and takes it down.

    It has a state folder of its own, so a developer's databases are safe. A stand of this checkout
    that is up makes room and comes back with its data; any other makes `up` refuse, and the message
    says how to end it.
    """
    aside = of_this_checkout()
    for each in aside:
        each.run("down")
    running = RunningStand(tmp_path_factory.mktemp("stand"))
    try:
        running.up()
        yield running
    finally:
        running.run("down", "--purge")
        for each in aside:
            each.run("up", **{owner.ENDS_WITH: ""})


def of_this_checkout() -> list[RunningStand]:
    """What `make up` left running here."""
    record = owner.read()
    if record is None or record.project != PROJECT or owner.whose(record.state) is not None:
        return []
    return [
        RunningStand(state) for state in owner.others(Path("/nowhere")) if state == record.state
    ]


@pytest.fixture(scope="session")
def bento() -> str:
    """The tag that `Pulumi.local.yaml` ships; made once and kept in the user's cache."""
    done = subprocess.run(
        [sys.executable, "-m", "bento.ship"],
        cwd=PROJECT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="session")
def untouched(stand: RunningStand) -> dict[str, set[str]]:
    """What both sites and Vault held before the stack came."""
    from tests.inventory import settled

    stand.up()  # whatever the tests of the stand itself did to it
    return settled(stand)


@pytest.fixture(scope="session")
def deployed(
    stand: RunningStand,
    bento: str,
    untouched: dict[str, set[str]],  # taken before `up`
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stack]:
    """The local stack on the session's stand, up. Tests may break it; `up` converges.

    Without root no real node runs the stack's pods; the program then waits for none.
    """
    assert bento
    assert untouched
    stack = Stack.over(tmp_path_factory.mktemp("stack") / "project", stand.environment())
    stack.up()
    yield stack
    stand.up()  # whatever the last test did to it
    stack.run("cancel", stack.name, "--yes", check=False)  # and to the engine
    stack.run("destroy", "-s", stack.name, "--yes", "--skip-preview")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test on the stand shows what the sites were doing, while they still are."""
    report = yield
    running = getattr(item, "funcargs", {}).get("stand")
    if report.failed and call.when != "teardown" and isinstance(running, RunningStand):
        for site in ("private", "cloud"):
            report.sections.append((f"site {site}", _picture(running, site)))
    return report


def _picture(stand: RunningStand, site: str) -> str:
    try:
        return picture(site, stand.client(site))
    except Exception as error:  # noqa: BLE001
        # a stand in pieces must not hide why the test failed
        return f"{site}: {error!r}"
