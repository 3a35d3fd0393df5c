"""Files and commands for a machine without an API: what runs when, what is told of a failure."""

from __future__ import annotations

import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from infra.handover import HandoverError, HandoverProvider

KIND = HandoverProvider()


def props(place: Path, **changed: Any) -> dict[str, Any]:
    log = place.with_name("log")
    say = "import sys; open(sys.argv[1], 'a').write(sys.argv[2])"
    return {
        "folder": str(place),
        "files": {"a.conf": "one\n", "deep/b.conf": "two\n"},
        "apply": [sys.executable, "-c", say, str(log), "applied "],
        "remove": [sys.executable, "-c", say, str(log), "removed "],
        "versions": {"key": 1},
        **changed,
    }


def test_files_are_there_for_their_owner_alone_before_the_command_runs(tmp_path: Path) -> None:
    folder = tmp_path / "gateway"
    look = "import sys; assert open(sys.argv[1]).read() == 'two\\n'"
    KIND.create(props(folder, apply=[sys.executable, "-c", look, str(folder / "deep/b.conf")]))
    assert stat.S_IMODE((folder / "deep/b.conf").stat().st_mode) == 0o600


def test_an_update_drops_files_that_are_no_longer_wanted(tmp_path: Path) -> None:
    folder = tmp_path / "gateway"
    old, new = props(folder), props(folder, files={"a.conf": "changed\n"})
    KIND.create(old)
    KIND.update("id", old, new)
    assert (folder / "a.conf").read_text() == "changed\n"
    assert not (folder / "deep/b.conf").exists()
    assert (tmp_path / "log").read_text() == "applied applied "


def test_a_delete_runs_its_command_before_the_files_go(tmp_path: Path) -> None:
    folder = tmp_path / "gateway"
    KIND.create(props(folder))
    KIND.delete("id", props(folder))
    assert (tmp_path / "log").read_text() == "applied removed "
    assert not (folder / "a.conf").exists()


@pytest.mark.parametrize(
    ("changed", "differs", "replaced"),
    [
        ({}, False, []),
        ({"versions": {"key": 2}}, True, []),
        ({"files": {"a.conf": "other\n"}}, True, []),
        ({"folder": "/elsewhere"}, True, ["folder"]),
    ],
    ids=["nothing", "a secret", "a file", "the folder"],
)
def test_a_preview_sees_what_changed_without_running_anything(
    tmp_path: Path, changed: dict[str, Any], differs: bool, replaced: list[str]
) -> None:
    folder = tmp_path / "gateway"
    found = KIND.diff("id", props(folder), props(folder, **changed))
    assert (found.changes, found.replaces) == (differs, replaced)
    assert not folder.exists()


def test_a_file_changed_by_hand_is_drift_and_an_empty_folder_is_a_loss(tmp_path: Path) -> None:
    folder = tmp_path / "gateway"
    wanted = props(folder)
    KIND.create(wanted)
    (folder / "a.conf").write_text("by hand\n")
    seen = KIND.read("id", wanted)
    assert seen.outs is not None
    assert KIND.diff("id", seen.outs, wanted).changes
    for name in wanted["files"]:
        (folder / name).unlink()
    assert KIND.read("id", wanted).id == ""


def test_a_failed_command_is_told_in_one_line_with_its_last_words(tmp_path: Path) -> None:
    fails = [sys.executable, "-c", "import sys; sys.exit('no\\nroute to the site')"]
    with pytest.raises(HandoverError, match=r"failed: route to the site$"):
        KIND.create(props(tmp_path / "gateway", apply=fails))
    with pytest.raises(HandoverError, match="cannot be run: No such file"):
        KIND.create(props(tmp_path / "gateway", apply=["/nowhere/to/be/found"]))
