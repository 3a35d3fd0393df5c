"""One stand per user and machine: the lock, the record of whose it is, and who else is alive."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from local import paths, proc
from local.errors import StandError

ENDS_WITH = "STAND_ENDS_WITH"
"""Variable of `stand up`: the pid of a test run; when it is gone, the next `up` ends the stand."""
PATIENCE = 30.0
"""Seconds: what a killed engine started (`stand link up`) may still be on its way to its end."""
_WHOSE = "session.json"  # in a state folder


@dataclass(frozen=True)
class Owner:
    """What `stand.json` in the owner folder says."""

    state: Path
    project: Path
    stand: str
    boot: str
    made_dirs: tuple[str, ...]  # folders of the host that this stand had to make
    made_netns_mount: bool

    def write(self) -> None:
        paths.write_private(
            paths.owner_file(),
            json.dumps(
                {
                    "state": str(self.state), "project": str(self.project), "stand": self.stand,
                    "boot": self.boot, "made_dirs": self.made_dirs,
                    "made_netns_mount": self.made_netns_mount,
                },
                indent=1,
            ),
        )  # fmt: skip


def read() -> Owner | None:
    try:
        raw = cast("dict[str, object]", json.loads(paths.owner_file().read_text(encoding="utf-8")))
        return Owner(
            Path(str(raw["state"])), Path(str(raw["project"])), str(raw["stand"]),
            str(raw["boot"]), tuple(cast("list[str]", raw["made_dirs"])),
            bool(raw["made_netns_mount"]),
        )  # fmt: skip
    except (FileNotFoundError, ValueError, KeyError):
        return None


@contextlib.contextmanager
def only_one(what: str, wait: Callable[[str], None] | None = None) -> Generator[None]:
    """Hold the lock of this user and machine. It falls with the process, however that ends.

    `wait` is told that it waits, at most `PATIENCE`, for another; without it another is an error.
    """
    path = paths.owner_file().with_name("lock")
    until, told = time.monotonic() + (PATIENCE if wait else 0.0), False
    while True:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        try:
            handle = path.open("a+", encoding="utf-8")
        except FileNotFoundError:
            continue  # a `down` removed the folder between the two lines
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read().strip() or "another run"
            handle.close()
            if wait is not None and time.monotonic() < until:
                if not told:
                    wait(f"waiting for {holder} to end")
                told = True
                time.sleep(0.2)
                continue
            raise StandError(f"{holder} is at work", "wait for it to end") from None
        try:
            same = os.fstat(handle.fileno()).st_ino == path.stat().st_ino
        except FileNotFoundError:
            same = False
        if same:
            break
        handle.close()  # we hold a lock file that a `down` has just removed
    with handle:
        handle.truncate(0)
        handle.write(f"`stand {what}` (pid {os.getpid()})")
        handle.flush()
        yield


def release() -> None:
    """Remove the record, the lock and their folder; the last step of `down`."""
    file = paths.owner_file()
    file.unlink(missing_ok=True)
    file.with_name("lock").unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        file.parent.rmdir()


def others(state: Path) -> dict[Path, list[int]]:
    """Live processes of this user's other stands, by state folder."""
    found: dict[Path, list[int]] = {}
    for pid, folder, _ in proc.marked():
        try:
            mine = Path(f"/proc/{pid}").stat().st_uid == os.geteuid()
        except FileNotFoundError:
            continue
        if mine and folder != state:
            found.setdefault(folder, []).append(pid)
    return found


def bind(state: Path) -> None:
    """Write down whose the stand of this folder is: a person's, or of the process `ENDS_WITH`."""
    pid = os.environ.get(ENDS_WITH, "")
    whose = proc.Identity.of(int(pid)) if pid.isdecimal() else None
    if whose is None:
        (state / _WHOSE).unlink(missing_ok=True)
    else:
        paths.write_private(state / _WHOSE, json.dumps(asdict(whose)))


def whose(state: Path) -> proc.Identity | None:
    """The process that the stand of this folder ends with; None for a person's."""
    try:
        return proc.Identity(**json.loads((state / _WHOSE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def abandoned() -> list[Path]:
    """State folders of live stands whose process, a test run that was killed, is gone."""
    found = ((state, whose(state)) for state in others(Path("/nowhere")))
    return [state for state, process in found if process is not None and not process.alive()]


def refuse_others(state: Path) -> None:
    """Raise `StandError` when another stand of this user is alive on this machine."""
    for folder, pids in others(state).items():
        record = read()
        place = f" of {record.project}" if record and record.state == folder else ""
        raise StandError(
            f"another stand{place} is up here: state {folder}, {len(pids)} processes, "
            f"first pid {min(pids)}",
            f"end it with `STAND_STATE={folder} stand down`; one machine holds one stand",
        )
