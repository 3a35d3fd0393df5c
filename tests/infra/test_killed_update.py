"""`kill -9` of the engine in the middle of an update of the whole program.

One point here; `PROGRAM_TEST_KILLS=20 pytest tests/infra/test_killed_update.py` takes more.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from local import proc
from local.waiting import wait_for
from tests.conftest import RunningStand
from tests.inventory import everything
from tests.plugins.test_killed_engine import alive, descendants
from tests.stack import Stack

pytestmark = [pytest.mark.stand, pytest.mark.slow]
KEY = "hybrid-recommender:secret-rotation"
KILLS = int(os.environ.get("PROGRAM_TEST_KILLS", "1"))


def lasting(processes: set[int]) -> list[str]:
    """Commands of those that live, but for the link's daemons: these are the stand's and stay."""
    found: list[str] = []
    for process in processes - {pid for pid, _, _ in proc.marked()}:
        try:
            words = Path(f"/proc/{process}/cmdline").read_bytes()
        except OSError:  # gone meanwhile
            continue
        if alive(process):
            found.append(words.replace(b"\0", b" ").decode(errors="replace"))
    return found


@pytest.mark.timeout(600 + 240 * KILLS)
def test_an_update_killed_at_any_point_is_finished_by_the_next_without_orphan_or_duplicate(
    stand: RunningStand, deployed: Stack
) -> None:
    seed = int(os.environ.get("PROGRAM_TEST_SEED", random.randrange(10**6)))
    chance, halfway = random.Random(seed), 0
    whole = everything(stand, owned=False)
    made = set(deployed.ids())
    words = ("up", "-s", deployed.name, "--yes", "--skip-preview", "--non-interactive")
    for turn in range(1, KILLS + 1):
        where = f"seed {seed}, turn {turn}"
        deployed.run("config", "set", "-s", deployed.name, KEY, f"turn-{turn}")
        if turn % 2:  # creates and updates in turn
            deployed.run("destroy", "-s", deployed.name, "--yes", "--skip-preview")
        began = time.monotonic()
        engine = subprocess.Popen(
            ["pulumi", *words], cwd=deployed.project, env=deployed.env,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        # the first resource needs seconds of start-up, the last a pod that answers
        time.sleep(chance.uniform(3.0, 25.0 if turn % 2 else 12.0))
        plugins = descendants(engine.pid)
        engine.kill()
        engine.wait()
        halfway += engine.returncode == -9 and bool(lasting(plugins))
        print(f"{where}: killed after {time.monotonic() - began:.1f} s")
        wait_for(lambda plugins=plugins: not lasting(plugins), 90)
        assert not lasting(plugins), f"{where}: these outlive their engine"

        # docs/plugins.md, "An update that was killed"
        deployed.run("cancel", deployed.name, "--yes", check=False)
        deployed.run(
            "refresh", "-s", deployed.name, "--yes", "--skip-preview", "--run-program=false",
            "--clear-pending-creates",
        )  # fmt: skip
        deployed.up()
        assert set(deployed.ids()) == made, where
        assert everything(stand, owned=False) == whole, where
    deployed.up("--expect-no-changes")
    assert halfway, "no engine was hit while its plugins ran: the test proved nothing"
