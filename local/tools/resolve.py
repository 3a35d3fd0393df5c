"""Finding every tool: PATH in the pinned version, then the official release, then a build.

A tool appears in the cache by one rename, so a run that was killed leaves nothing half-made there,
and the next one goes on with what Go has compiled so far.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from local.errors import StandError
from local.paths import cache
from local.tools import build, debian, download
from local.tools.table import GROUPS, PACKAGES, UNKNOWN, Group, parse_version

Say = Callable[[str], None]
MEMORY_PER_BUILD = 4 << 30  # bytes; linking the API server peaks at about 3 GiB


@dataclass(frozen=True)
class Found:
    path: Path
    version: str
    source: str  # "PATH", "official", "built", "debian"


@dataclass(frozen=True)
class Tools:
    """Every resolved program."""

    found: dict[str, Found]
    files: dict[str, Path] = field(default_factory=dict[str, Path])  # "group/folder" -> where

    def path(self, name: str) -> Path:
        try:
            return self.found[name].path
        except KeyError:
            raise StandError(f"tool {name} was not resolved", "run `stand tools`") from None

    def version(self, name: str) -> str:
        return self.found[name].version if name in self.found else ""


def folder(group: Group) -> Path:
    return cache() / "tools" / f"{group.name}-{group.version}"


class _Versions:
    """What a program on PATH answered when it was asked for its version; kept per file."""

    def __init__(self) -> None:
        self._file = cache() / "path-versions.json"
        try:
            self._known = cast(
                "dict[str, str | None]", json.loads(self._file.read_text(encoding="utf-8"))
            )
        except (OSError, ValueError):
            self._known = {}

    def of(self, path: Path, arguments: tuple[str, ...]) -> str | None:
        stat = path.stat()
        key = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"
        if key not in self._known:
            try:
                asked = subprocess.run(
                    [path, *arguments], capture_output=True, text=True, check=False, timeout=20,
                    env={**os.environ, "PULUMI_SKIP_UPDATE_CHECK": "true"},
                )  # fmt: skip
                self._known[key] = parse_version(asked.stdout + asked.stderr)
            except (OSError, subprocess.TimeoutExpired):
                self._known[key] = None
            with contextlib.suppress(OSError):  # a read-only cache only costs time
                self._file.parent.mkdir(parents=True, exist_ok=True)
                self._file.write_text(json.dumps(self._known, indent=1), encoding="utf-8")
        return self._known[key]


def on_path(group: Group, say: Say) -> dict[str, Found] | None:
    """All programs of a group from PATH, or None; one that does not fit is named."""
    if set(group.asks) != set(group.programs):
        return None
    versions = _Versions()
    found: dict[str, Found] = {}
    for program, arguments in group.asks.items():
        place = shutil.which(program)
        if place is None:
            return None
        if Path(place).resolve().is_relative_to(cache().resolve()):
            return None  # our own cache, put on PATH by `stand env`
        have = versions.of(Path(place), arguments)
        if have != group.version:
            say(f"{place} is {have or 'of an unknown version'}, not {group.version}: ignored")
            return None
        # the file itself: our own links must never come to point at themselves
        found[program] = Found(Path(place).resolve(), group.version, "PATH")
    return found


def in_cache(group: Group) -> dict[str, Found] | None:
    place = folder(group)
    source = place / "source"
    if not all((place / "bin" / program).exists() for program in group.programs):
        return None
    origin = source.read_text(encoding="utf-8").strip() if source.exists() else "built"
    return {
        program: Found(place / "bin" / program, group.version, origin) for program in group.programs
    }


@contextlib.contextmanager
def _only_one(group: Group, say: Say) -> Generator[None]:
    """Two clones that start together build a tool once."""
    lock = cache() / "tools" / f".{group.name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting: another run is making it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def make(group: Group, say: Say) -> dict[str, Found]:
    """Download or build a group into the cache."""
    with _only_one(group, say):
        if (ready := in_cache(group)) is not None:
            return ready
        target = folder(group)
        _sweep(target)
        fresh = target.with_name(f"{target.name}.new.{os.getpid()}")
        (fresh / "bin").mkdir(parents=True)
        try:
            source = _download_or_build(group, fresh / "bin", say)
            (fresh / "source").write_text(source, encoding="utf-8")
            if target.exists():
                shutil.rmtree(target)  # lacks a program: an older table made it
            fresh.rename(target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        made = in_cache(group)
        if made is None:
            raise StandError(f"{target} lacks a program of {group.name}", "remove it, try again")
        return made


def _download_or_build(group: Group, into: Path, say: Say) -> str:
    release = group.release.get(platform.machine())
    if release is not None and release.sha256 != UNKNOWN:
        try:
            download.fetch(release, into, say)
        except download.WrongSumError as error:
            say(f"refused: {error}")
        except download.UnreachableError as error:
            say(f"no official release: {error}")
        else:
            return "official"
    build.build(group, into, say)
    return "built"


def _sweep(target: Path) -> None:
    """Remove what a killed run left beside the target."""
    for old in target.parent.glob(f"{target.name}.new.*"):
        pid = old.name.split(".new.")[1].split(".")[0]
        if not Path(f"/proc/{pid}").exists():
            shutil.rmtree(old, ignore_errors=True)


def wanted(*, rooted: bool, extra: Collection[str]) -> list[Group]:
    """Groups that a stand needs, and the `extra` ones that its workloads run."""
    unknown = sorted(set(extra) - {group.name for group in GROUPS})
    if unknown:
        known = ", ".join(group.name for group in GROUPS if not group.for_stand)
        raise StandError(f"workload_tools = {unknown}: not in the table", f"give some of {known}")
    return [
        group
        for group in GROUPS
        if (group.for_stand or group.name in extra) and (rooted or not group.needs_root)
    ]


def workers() -> int:
    """Builds at a time: a build's long link steps use one core, its neighbour fills the others."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    by_memory = max(1, memory // MEMORY_PER_BUILD)
    return int(min(by_memory, max(2, (os.cpu_count() or 1) // 2), 4))


def resolve(say: Say, *, rooted: bool, extra: Collection[str] = ()) -> Tools:
    """Every tool that this kind of stand needs; brings what is missing.

    Raises `StandError` naming every group that could not be had; the others stay in the cache.
    """
    began = time.monotonic()
    debian.ensure(rooted=rooted, say=say)
    found: dict[str, Found] = {}
    for package in PACKAGES:
        for program in package.programs:
            path = debian.find(package, program)
            if path is not None:
                found[path.name] = Found(path, "", "debian")
    todo: list[Group] = []
    for group in wanted(rooted=rooted, extra=extra):
        have = on_path(group, say) or in_cache(group)
        if have is None:
            todo.append(group)
        else:
            found.update(have)
    if todo:
        build.check_room()
        found.update(_make_all(todo, say))
        say(f"{len(todo)} tools made in {time.monotonic() - began:.0f} s")
    etcd = found.get("etcd")
    if etcd is not None:
        found["etcd"] = Found(etcd.path, _Versions().of(etcd.path, ("--version",)) or "", "debian")
    files: dict[str, Path] = {}
    for group in wanted(rooted=rooted, extra=extra):
        files.update(bring_files(group, say))
    return Tools(found, files)


def bring_files(group: Group, say: Say) -> dict[str, Path]:
    """The folders that a group has beside its programs; copies what is missing."""
    places = {f"{group.name}/{name}": folder(group) / name for name in group.files or {}}
    if not all(place.exists() for place in places.values()):
        with _only_one(group, say):
            if not all(place.exists() for place in places.values()):
                build.bring_files(group, folder(group), say)
    return places


def _make_all(todo: list[Group], say: Say) -> dict[str, Found]:
    say(f"to make: {', '.join(group.name for group in todo)}; {workers()} at a time")
    found: dict[str, Found] = {}
    broken: list[str] = []

    def one(group: Group) -> dict[str, Found]:
        return make(group, lambda text: say(f"{group.name} {group.version}: {text}"))

    with ThreadPoolExecutor(workers()) as pool:
        for group, job in [(group, pool.submit(one, group)) for group in todo]:
            try:
                found.update(job.result())
            except StandError as error:
                broken.append(f"{group.name}: {error}")
    if broken:
        raise StandError("tools are missing: " + "; ".join(broken))
    return found


def link_all(tools: Tools, into: Path) -> None:
    """One folder with a link per program, for PATH."""
    into.mkdir(parents=True, exist_ok=True)
    for old in into.iterdir():
        if old.is_symlink() and old.name not in tools.found:
            old.unlink()
    for name, one in tools.found.items():
        if one.source == "debian" and one.path.is_relative_to("/usr"):
            continue
        link = into / name
        if link.is_symlink() and link.readlink() == one.path:
            continue
        fresh = into / f".{name}.new"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(one.path)
        fresh.replace(link)
