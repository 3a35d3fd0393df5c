"""One command at a time over the stand of a user and machine."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from local import owner, paths
from local.errors import StandError


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "owner_file", lambda: tmp_path / "run" / "stand.json")


def test_a_second_command_is_refused_by_the_name_of_the_first() -> None:
    with (
        owner.only_one("link up"),
        pytest.raises(StandError, match=r"`stand link up` \(pid \d+\) is at work"),
        owner.only_one("link down"),
    ):
        pass


def test_a_command_that_may_wait_goes_on_when_the_first_has_ended() -> None:
    said: list[str] = []
    end, begun = threading.Event(), threading.Event()

    def first() -> None:
        with owner.only_one("link up"):
            begun.set()
            end.wait(20)

    def wait(text: str) -> None:
        said.append(text)
        end.set()  # from here on it is on its way out

    thread = threading.Thread(target=first)
    thread.start()
    assert begun.wait(5)
    with owner.only_one("up", wait):
        thread.join(5)
        assert not thread.is_alive()
    assert len(said) == 1
    assert said[0].startswith("waiting for `stand link up`")


def test_a_command_waits_for_so_long_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "PATIENCE", 0.5)
    with (
        owner.only_one("link up"),
        pytest.raises(StandError, match="is at work"),
        owner.only_one("up", lambda _: None),
    ):
        pass
