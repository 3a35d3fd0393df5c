"""The settings that the engine reads on a stand, apart from the checkout's."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from local.engine import SETTINGS, environment, killed, stack_file, untouched
from local.paths import Folders, write_private


def checkout(place: Path, owner: str) -> Path:
    place.mkdir(exist_ok=True)
    (place / "Pulumi.yaml").write_text("name: shop\n", encoding="utf-8")
    (place / SETTINGS).write_text(f"config:\n  shop:owner: {owner}\n", encoding="utf-8")
    return place


def test_what_the_engine_writes_stays_in_the_copy_while_the_checkout_is_as_it_was(
    tmp_path: Path,
) -> None:
    source = checkout(tmp_path / "clone", "platform")
    copy = stack_file(tmp_path / "home", source)
    assert copy.stat().st_mode & 0o077 == 0
    changed = "config:\n  shop:owner: other\nencryptionsalt: v1:abc\n"
    copy.write_text(changed, encoding="utf-8")
    assert stack_file(tmp_path / "home", source) == copy
    assert copy.read_text(encoding="utf-8") == changed
    assert "salt" not in (source / SETTINGS).read_text(encoding="utf-8")


def test_a_changed_checkout_replaces_the_copy_but_for_its_salt(tmp_path: Path) -> None:
    source = checkout(tmp_path / "clone", "platform")
    copy = stack_file(tmp_path / "home", source)
    copy.write_text("encryptionsalt: v1:abc\nconfig:\n  shop:owner: other\n", encoding="utf-8")
    checkout(source, "search")
    stack_file(tmp_path / "home", source)
    assert copy.read_text(encoding="utf-8") == (
        "config:\n  shop:owner: search\nencryptionsalt: v1:abc\n"
    )


def test_threads_that_write_one_file_at_once_all_end_well(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: write_private(tmp_path / "file", str(n)), range(500)))
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_no_sidecar_that_a_kill_can_tear_stands_beside_the_state_nor_is_an_old_one_left(
    tmp_path: Path,
) -> None:
    """An empty one, as a killed engine left it, made every further command fail with `EOF`."""
    folders, project = Folders(tmp_path / "stand"), tmp_path / "project"
    project.mkdir()
    (project / "Pulumi.yaml").write_text("name: shop\nruntime: yaml\n", encoding="utf-8")

    def pulumi(*words: str) -> str:
        lines = (line.removeprefix("export ") for line in environment(folders).splitlines())
        given = {
            name: shlex.split(value)[0] for name, _, value in (x.partition("=") for x in lines)
        }
        given.pop("PULUMI_OPTION_CONFIG_FILE")
        done = subprocess.run(
            ["pulumi", *words, "--non-interactive"], cwd=project, env={**os.environ, **given},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    pulumi("stack", "init", "local")
    (state,) = (folders.pulumi / "state" / ".pulumi" / "stacks").rglob("local.json")
    sidecar = state.with_name("local.json.attrs")
    assert not sidecar.exists()
    sidecar.touch()
    assert '"deployment"' in pulumi("stack", "export")
    assert not sidecar.exists()


def test_an_update_was_killed_when_its_lock_has_outlived_its_engine(tmp_path: Path) -> None:
    folders = Folders(tmp_path / "stand")
    assert not killed(folders)
    locks = folders.pulumi / "state/.pulumi/locks/organization/shop/local"
    locks.mkdir(parents=True)
    engine = tmp_path / "pulumi"
    engine.write_text("#!/bin/sh\necho begun\nread _\n", encoding="utf-8")
    engine.chmod(0o755)
    running = subprocess.Popen([engine], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert running.stdout is not None
    assert running.stdout.readline() == b"begun\n"  # before that it may go by our own name
    lock = locks / "1.json"
    try:
        lock.write_text(json.dumps({"pid": running.pid, "hostname": "here"}), encoding="utf-8")
        (locks / "1.json.attrs").touch()
        assert not killed(folders), "it is at work"
    finally:
        running.kill()
        running.wait()
    assert killed(folders)
    lock.unlink()
    assert not killed(folders), "it ended well"


@pytest.mark.parametrize("text", ["", "{}", '{"pid": "x"}', f'{{"pid": {os.getpid()}}}'])
def test_a_lock_that_no_engine_holds_is_a_dead_ones(tmp_path: Path, text: str) -> None:
    folders = Folders(tmp_path / "stand")
    lock = folders.pulumi / "state/.pulumi/locks/organization/shop/local/1.json"
    lock.parent.mkdir(parents=True)
    lock.write_text(text, encoding="utf-8")
    assert killed(folders)


def test_a_stack_is_untouched_until_its_state_holds_anything(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    assert untouched(folders), "no state yet"
    state = folders.pulumi / "state" / ".pulumi" / "stacks" / "shop" / "local.json"
    state.parent.mkdir(parents=True)
    for held, empty in (
        (None, True),  # `stack init`
        ({"manifest": {}}, True),  # `destroy`
        ({"resources": [{"urn": "urn:pulumi:local::shop::pulumi:pulumi:Stack::it"}]}, False),
        ({"pending_operations": [{"type": "creating"}]}, False),
    ):
        state.write_text(json.dumps({"checkpoint": {"latest": held}}), encoding="utf-8")
        assert untouched(folders) is empty
    state.write_text("{", encoding="utf-8")
    assert not untouched(folders), "what cannot be read is not taken for nothing"
