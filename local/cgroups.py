"""Control groups of real nodes, on machines with version 1 (one tree a controller) or 2 (one)."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from local.errors import StandError
from local.layout import PREFIX

ROOT = Path("/sys/fs/cgroup")
NEEDED = ("cpu", "memory", "pids")


def is_v2() -> bool:
    return (ROOT / "cgroup.controllers").exists()


def trees() -> list[Path]:
    """The roots in which a node gets its folder."""
    if is_v2():
        return [ROOT]
    return sorted(path for path in ROOT.iterdir() if path.is_dir() and not path.is_symlink())


def lacking() -> list[str]:
    """Controllers that limits of pods need and this machine does not offer."""
    if is_v2():
        have = (ROOT / "cgroup.subtree_control").read_text(encoding="ascii").split()
    else:
        have = [path.name for path in trees()]
    return [one for one in NEEDED if one not in have]


def ensure(name: str) -> None:
    """The groups of one node. Version 1 wants `cpuset` filled before the first process."""
    for tree in trees():
        group = tree / name
        group.mkdir(exist_ok=True)
        if tree.name == "cpuset":
            for file in ("cpuset.cpus", "cpuset.mems"):
                (group / file).write_text((tree / file).read_text(encoding="ascii"), "ascii")
    if is_v2():
        own = ROOT / name / "cgroup.subtree_control"
        own.write_text(" ".join(f"+{one}" for one in NEEDED), encoding="ascii")


def found() -> list[Path]:
    """Every group of ours, whichever stand made it."""
    return [path for tree in trees() for path in sorted(tree.glob(f"{PREFIX}*")) if path.is_dir()]


def pids(group: Path) -> list[int]:
    found: list[int] = []
    for path, _, _ in os.walk(group):
        with contextlib.suppress(OSError):
            text = (Path(path) / "cgroup.procs").read_text(encoding="ascii")
            found += [int(one) for one in text.split()]
    return found


def remove(group: Path) -> None:
    """Remove a tree of groups from its leaves up. Raises `StandError` when one is still in use."""
    for path, _, _ in os.walk(group, topdown=False):
        try:
            Path(path).rmdir()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise StandError(f"control group {path} stays: {error.strerror}") from error
