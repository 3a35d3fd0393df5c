"""What this host lacks, and what follows from it."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from local import cgroups, images, layout, owner
from local.errors import StandError
from local.paths import Folders
from local.settings import load
from local.stand import ROOM, can_root
from local.tools import build, debian, resolve

LEAST_MEMORY = 4 << 30  # bytes available: 2.5 GiB for the stand, the rest for pods
WATCHERS = 64  # inotify instances of the three nodes' kubelets and runtimes, with room


@dataclass(frozen=True)
class Finding:
    """One check. `grave`: `stand up` would fail; otherwise something is left out."""

    good: bool
    what: str
    follows: str = ""

    @property
    def grave(self) -> bool:
        return not self.good and self.follows.startswith("`stand up`")


def examine(folders: Folders) -> list[Finding]:
    """Every check, without changing anything."""
    rooted = can_root()
    return [
        Finding(
            rooted, "may make namespaces (root)",
            "control planes with simulated nodes only: no real node, no link",
        ),
        *(_for_nodes() if rooted else []),
        *_tools(rooted),
        *_resources(folders),
        *_neighbours(folders, rooted),
    ]  # fmt: skip


def _for_nodes() -> list[Finding]:
    systems = Path("/proc/filesystems").read_text(encoding="ascii").split()
    version = "2" if cgroups.is_v2() else "1"
    lacking = cgroups.lacking()
    capabilities = next(
        int(line.split()[1], 16)
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        if line.startswith("CapEff")
    )
    closed = images.unreadable()
    most = int(Path("/proc/sys/fs/inotify/max_user_instances").read_text(encoding="ascii"))
    free = most - _watchers()
    return [
        Finding("overlay" in systems, "overlay file system", "`stand up` fails: no containers"),
        Finding(
            not lacking, f"control groups version {version}",
            f"`stand up` fails: no {', '.join(lacking)} controller for limits of pods",
        ),
        Finding(
            free >= WATCHERS, f"inotify instances: {free} of {most} free",
            f"nodes may stay NotReady: sysctl fs.inotify.max_user_instances={most + WATCHERS}",
        ),
        Finding(Path("/dev/kmsg").exists(), "/dev/kmsg", "`stand up` fails: kubelet reads it"),
        Finding(
            bool(capabilities >> 24 & 1), "CAP_SYS_RESOURCE",
            "containers cannot lower their OOM score; the stand does without",
        ),
        Finding(
            not closed, "folders that pods mount are readable",
            f"`stand up` fails: chmod o+rx {' '.join(map(str, closed))}",
        ),
    ]  # fmt: skip


def _watchers() -> int:
    """Inotify instances that this user's processes hold."""
    held = 0
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            mine = link.lstat().st_uid == os.geteuid()
            held += mine and str(link.readlink()) == "anon_inode:inotify"
        except OSError:
            continue  # ended meanwhile
    return held


def _tools(rooted: bool) -> list[Finding]:
    lacking = debian.missing(rooted=rooted)
    names = " ".join(one.name for one in lacking)
    notes: list[str] = []
    to_make = [
        group.name
        for group in resolve.wanted(rooted=rooted, extra=load().workload_tools)
        if (resolve.on_path(group, notes.append) or resolve.in_cache(group)) is None
    ]
    try:
        go = Finding(True, f"Go ({build.go()})")
    except StandError as error:
        follows = f"`stand up` fails: {error}" if to_make else "nothing: every tool is here"
        go = Finding(False, "Go", follows)
    return [
        Finding(
            not lacking, f"Debian packages{': ' + names if names else ''}",
            "`stand up` installs them" if os.geteuid() == 0 else f"`stand up` fails: {names}",
        ),
        go,
        Finding(
            not to_make, "pinned tools" + (f": {', '.join(to_make)} to make" if to_make else ""),
            "the first `stand up` downloads or builds them: up to half an hour on two cores",
        ),
        *(Finding(False, note, "the pinned version is used instead") for note in notes),
        Finding(
            shutil.which("kubectl") is not None, "kubectl",
            "nothing: the stand needs none, it is only handy",
        ),
    ]  # fmt: skip


def _resources(folders: Folders) -> list[Finding]:
    place = folders.root
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    available = next(
        int(line.split()[1]) << 10
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        if line.startswith("MemAvailable")
    )
    return [
        Finding(
            free >= ROOM, f"disk: {free / 2**30:.1f} GiB free at {place}",
            f"`stand up` fails: it needs {ROOM / 2**30:.0f}",
        ),
        Finding(
            available >= LEAST_MEMORY, f"memory: {available / 2**30:.1f} GiB available",
            f"pods may be killed: {LEAST_MEMORY / 2**30:.0f} are wanted",
        ),
    ]  # fmt: skip


def _neighbours(folders: Folders, rooted: bool) -> list[Finding]:
    found: list[Finding] = []
    try:
        owner.refuse_others(folders.root)
        found.append(Finding(True, "no other stand is up"))
    except StandError as error:
        found.append(Finding(False, "another stand", f"`stand up` fails: {error}"))
    if rooted and shutil.which("ip"):
        settings = load()
        busy = layout.taken()
        free = [one for one in settings.ranges if not any(one.overlaps(other) for other, _ in busy)]
        kept = layout.read(folders)
        where = ", ".join(str(site.range) for site in kept.sites.values()) if kept else ""
        found.append(
            Finding(
                len(free) >= 2 or kept is not None,
                f"networks: {where or f'{len(free)} of {len(settings.ranges)} free'}",
                "`stand up` fails: add free /16 networks to `ranges`",
            )
        )
    return found


def report(findings: list[Finding]) -> str:
    return "\n".join(
        f"{'ok  ' if one.good else 'FAIL' if one.grave else 'note'}  {one.what}"
        + ("" if one.good or not one.follows else f" -> {one.follows}")
        for one in findings
    )
