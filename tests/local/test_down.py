"""What `down` leaves on the machine, compared with before; and wrecks that others left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pydantic
import pytest

from local import owner, proc
from local.paths import PROJECT
from local.stand import can_root
from tests.conftest import RunningStand, of_this_checkout
from tests.local.test_stand import pids, status
from tests.stack import Stack

pytestmark = pytest.mark.stand


def said(*words: str) -> list[str]:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()


def machine() -> dict[str, list[str]]:
    """What a stand could leave behind, as this machine shows it."""
    found: dict[str, list[str]] = {
        "processes": sorted(
            f"{part} {pid}" for pid, _, part in proc.marked()
        ),
        "mounts": sorted(
            " ".join(line.split()[3:5])
            for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
            if not line.split()[4].startswith("/run/netns/lk-")
        ),
        "folders": [
            place
            for place in (
                "/run/netns", "/run/hybrid-recommender", "/var/lib/kubelet", "/var/lib/cni",
                "/var/log/containers", "/run/containerd",
            )
            if Path(place).exists()
        ],
        "groups": sorted(
            str(path) for path in Path("/sys/fs/cgroup").glob("*/*") if path.is_dir()
        ),
    }  # fmt: skip
    if can_root():
        found |= {
            # the link's tests make some of their own (lk-…) and may run beside these
            "namespaces": [one for one in said("ip", "netns") if not one.startswith("lk-")],
            "links": sorted(line.split(":")[1] for line in said("ip", "-o", "link")),
            "addresses": sorted(line.split("valid_lft")[0] for line in said("ip", "-o", "addr")),
            "routes": sorted(said("ip", "route", "show", "table", "all")),
            "rules": said("ip", "rule"),
            "firewall": said("nft", "list", "ruleset") if shutil.which("nft") else [],
            "sysctls": [
                Path("/proc/sys", name).read_text(encoding="ascii").strip()
                for name in (
                    "net/ipv4/ip_forward", "vm/overcommit_memory", "kernel/panic",
                    "kernel/panic_on_oops", "kernel/keys/root_maxkeys",
                )
            ],
        }  # fmt: skip
    return found


def test_down_leaves_the_machine_as_it_was_and_up_finds_the_data_again(
    stand: RunningStand,
) -> None:
    client = stand.client("private")
    kept = "/api/v1/namespaces/default/configmaps/kept"
    client.apply(kept, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept"}})
    stand.run("down")
    empty = machine()
    assert empty["processes"] == []
    stand.up()
    assert stand.client("private").find(kept) is not None
    assert machine() != empty, "the comparison sees nothing"
    stand.run("down")
    assert machine() == empty
    stand.up()
    stand.client("private").delete(kept)


def power_cut(stand: RunningStand) -> None:
    """Everything dies at once; namespaces, links, routes and control groups stay."""
    for pid in pids(stand).values():
        identity = proc.Identity.of(pid)
        assert identity is not None
        identity.signal(signal.SIGKILL)
        assert identity.wait_gone(10)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Another checkout with an interpreter of its own, which a test may delete."""
    place = tmp_path / "clone"
    shutil.copytree(PROJECT / "local", place / "local")
    (place / "infra").mkdir()
    shutil.copy(PROJECT / "infra" / "deployer.hcl", place / "infra")
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", place / ".venv"], check=True
    )  # fmt: skip
    site = next((place / ".venv").glob("lib/python*/site-packages"))
    libraries = Path(pydantic.__file__).parent.parent
    Path(site, "libraries.pth").write_text(f"{libraries}\n", encoding="utf-8")
    return place


@pytest.fixture
def other(stand: RunningStand, tmp_path: Path) -> Iterator[RunningStand]:
    """A second stand's place, while the session's own is down; it is up again afterwards."""
    stand.run("down")
    one = RunningStand(tmp_path / "other")
    yield one
    one.run("down", "--purge")
    stand.up()


def up_from(clone: Path, state: Path) -> None:
    done = subprocess.run(
        [clone / ".venv/bin/python", "-m", "local", "up"], cwd=clone, check=False,
        env={**os.environ, "STAND_STATE": str(state)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_dead_stand_of_a_removed_clone_is_cleared_with_its_state_folder_gone(
    stand: RunningStand, other: RunningStand, clone: Path
) -> None:
    """A stand that lost all its processes (a crash, a reboot of a container) blocks nobody."""
    if not stand.rooted:
        pytest.skip("without root nothing but processes could be left")
    empty = machine()
    up_from(clone, other.state)
    power_cut(other)
    shutil.rmtree(clone)
    shutil.rmtree(other.state)
    assert Path("/run/netns/hr-private").exists()
    done = stand.run("down")
    assert f"clearing what a dead stand of {clone} left" in done.stderr
    assert machine() == empty


def test_a_living_stand_without_a_state_folder_is_ended(
    stand: RunningStand, other: RunningStand, clone: Path
) -> None:
    """What a cancelled job leaves when its checkout is deleted: processes that nobody can name."""
    up_from(clone, other.state)
    living = [proc.Identity.of(pid) for pid in pids(other).values()]
    assert living
    shutil.rmtree(clone)
    other.state.rename(other.state.with_name("trash"))  # parts write on while a folder is deleted
    done = stand.run("up")
    assert f"whose state folder {other.state} is gone" in done.stderr
    assert not [one for one in living if one is not None and one.alive()]
    assert {line["state"] for line in status(stand).values()} == {"up"}


def test_the_data_of_a_dead_stand_outlives_the_clearing(
    stand: RunningStand, other: RunningStand
) -> None:
    if not stand.rooted:
        pytest.skip("without root nothing is cleared")
    other.up()
    power_cut(other)
    stand.up()
    assert {line["state"] for line in status(other).values()} == {"down"}
    assert (other.state / "vault" / "unseal-key").exists()
    assert list((other.state / "sites" / "private" / "etcd").iterdir())


def test_the_stand_of_a_killed_test_run_is_ended_by_the_next_up(
    stand: RunningStand, other: RunningStand
) -> None:
    gone = subprocess.Popen(["sleep", "600"])
    other.run("up", **{owner.ENDS_WITH: ""})
    assert [one.state for one in of_this_checkout()] == [other.state], "a person's makes room"
    other.run("up", **{owner.ENDS_WITH: str(gone.pid)})
    assert of_this_checkout() == []
    refused = stand.run("up", check=False)
    assert f"STAND_STATE={other.state} stand down" in refused.stderr, "its test run lives"
    gone.kill()
    gone.wait()
    stand.up()
    assert not other.state.exists()


def test_a_full_disk_is_told_before_anything_starts(stand: RunningStand, tmp_path: Path) -> None:
    if not stand.rooted:
        pytest.skip("a small disk needs mount")
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", small], check=True)
    try:
        cramped = RunningStand(small / "state")
        done = cramped.run("up", check=False)
        assert done.returncode == 1
        assert "GiB free" in done.stderr
        assert "Traceback" not in done.stderr
        told = cramped.run("doctor", check=False)
        assert told.returncode == 1
        assert "FAIL  disk: 0.0 GiB free" in told.stdout
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_disk_that_fills_under_a_running_stand_is_told_and_up_repairs_it_once_there_is_room(
    stand: RunningStand, tmp_path: Path
) -> None:
    if not stand.rooted:
        pytest.skip("a disk of its own needs mount")
    stand.run("down")
    disk, made = tmp_path / "disk", "/api/v1/namespaces/default/configmaps/made"
    wanted = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "made"}}
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4g", "tmpfs", disk], check=True)
    cramped = RunningStand(disk / "state")
    try:
        cramped.up()
        cramped.client("private").apply(made, wanted)
        used = shutil.disk_usage(disk).used
        # smaller by a mount option: nothing of the machine's memory has to be filled
        subprocess.run(["mount", "-o", f"remount,size={used + 65536}", disk], check=True)
        (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free))
        parts = pids(cramped)
        for part in ("private/etcd", "vault"):  # what dies now comes back onto a full disk
            if parts[part] is not None:  # one that wrote meanwhile has ended by itself
                os.kill(parts[part], signal.SIGKILL)
        done = cramped.run("up", check=False)
        assert done.returncode == 1
        assert "GiB free" in done.stderr
        assert "Traceback" not in done.stderr
        assert status(cramped)["private/etcd"]["state"] != "up"
        (disk / "filler").unlink()
        subprocess.run(["mount", "-o", "remount,size=4g", disk], check=True)
        cramped.up()
        assert {line["state"] for line in status(cramped).values()} == {"up"}
        assert cramped.client("private").find(made) is not None
    finally:
        cramped.run("down", "--purge", check=False)
        subprocess.run(["umount", disk], check=True)
        stand.up()


def test_without_capabilities_it_says_so_and_runs_the_program_with_simulated_nodes(
    stand: RunningStand, bento: str, tmp_path: Path
) -> None:
    assert bento
    if not stand.rooted:
        pytest.skip("this whole session is without root already")
    stand.run("down")
    bare = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    small = tmp_path / "stand.yaml"
    small.write_text(
        "private: {real_nodes: 2, gpu_nodes: {count: 8, gpus: 8}}\nworkload_tools: [nats-server]\n"
    )
    env = {
        **os.environ, "STAND_STATE": str(tmp_path / "state"), "STAND_SETTINGS": str(small),
        "XDG_RUNTIME_DIR": str(tmp_path),
    }  # fmt: skip

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*bare, sys.executable, "-m", "local", *words],
            cwd=PROJECT, env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip

    try:
        up = run("up")
        assert up.returncode == 0, up.stderr
        assert "no root here: control planes with simulated nodes only" in up.stderr
        other = RunningStand(tmp_path / "state")
        assert other.endpoints["sites"]["private"]["real_nodes"] is False
        assert other.endpoints["sites"]["private"]["api"].startswith("https://127.0.0.1:")
        nodes = other.client("private").items("/api/v1/nodes")
        assert len(nodes) == 8
        shown = run("status")
        assert shown.returncode == 0, shown.stdout + shown.stderr
        stack = Stack.over(tmp_path / "project", {**env, **other.environment()})
        stack.up("--policy-pack", str(PROJECT / "policies"))  # as `make up` does
        stack.up("--expect-no-changes")
        assert stack.outputs()["private"]["namespace"]
        stack.run("destroy", "-s", stack.name, "--yes", "--skip-preview")
        assert run("down").returncode == 0
    finally:
        run("down")
        stand.up()
