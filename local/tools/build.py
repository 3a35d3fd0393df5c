"""Building a group from its pinned Go module. Go checks every module against the committed sums."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from local.errors import StandError
from local.tools.table import Group

ROOM = 8 << 30  # bytes: modules and build cache of everything together took 7 GiB
HEARTBEAT = 20.0  # seconds between two progress lines of one build
OLDEST_GO = (1, 21)  # from here on Go fetches the newer toolchain that a go.mod asks for


def go() -> str:
    """The Go command. Raises `StandError` when there is none or it is too old."""
    found = shutil.which("go")
    if not found:
        raise StandError("no `go` on PATH", "install Go 1.21 or newer")
    text = subprocess.run([found, "version"], capture_output=True, text=True, check=True).stdout
    words = text.split()[2].removeprefix("go").split(".")
    if (int(words[0]), int(words[1])) < OLDEST_GO:
        raise StandError(f"{found} is {words[0]}.{words[1]}", "install Go 1.21 or newer")
    return found


def _environment() -> dict[str, str]:
    # a user's GOFLAGS or a go.work around the project must not change what is built; the compiler
    # collects its garbage less often: an eighth less CPU, at most so much memory a process
    return {
        **os.environ, "GOWORK": "off", "GOFLAGS": "", "CGO_ENABLED": "0",
        "GOGC": "400", "GOMEMLIMIT": "2GiB",
    }  # fmt: skip


def check_room() -> None:
    """Fail before an hour of work, not at its end."""
    cache = subprocess.run(
        [go(), "env", "GOCACHE"], capture_output=True, text=True, check=True
    ).stdout.strip()
    place = Path(cache)
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    used = sum(1 for _ in place.iterdir())
    if used < 100 and free < ROOM:  # an empty cache: everything is still to be built
        raise StandError(
            f"{free / 2**30:.1f} GiB free at {place}",
            f"a first build needs {ROOM / 2**30:.0f}: make room or point GOCACHE elsewhere",
        )


def build(group: Group, into: Path, say: Callable[[str], None]) -> None:
    """Put the programs of a group into the folder `into`."""
    work = into.parent / f"{into.name}.mod"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(group.folder, work)
    packages = list(group.programs.values())
    try:
        _compile(group, work, packages, into, say)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    # Go names a program after its package path
    for program, package in group.programs.items():
        last = package.rsplit("/", 1)[-1]
        if last.startswith("v") and last[1:].isdigit():
            last = package.rsplit("/", 2)[-2]
        made = into / last
        if made.name != program:
            made.rename(into / program)


def bring_files(group: Group, into: Path, say: Callable[[str], None]) -> None:
    """Copy a group's files from its module, which Go checks against the committed sums."""
    into.mkdir(parents=True, exist_ok=True)
    work = into / f".mod.{os.getpid()}"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(group.folder, work)
    try:
        done = subprocess.run(
            [go(), "mod", "download", "-json", group.module],
            cwd=work, env=_environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise StandError(
                f"{group.name}: its module cannot be had: {_cause(done.stdout + done.stderr)}",
                "check the network and GOPROXY, then run this again",
            )
        module = Path(json.loads(done.stdout)["Dir"])
        for name, inside in (group.files or {}).items():
            fresh = into / f".{name}.new.{os.getpid()}"
            shutil.rmtree(fresh, ignore_errors=True)
            # Go's module cache is read-only; a copy that cannot be removed would be a nuisance
            shutil.copytree(module / inside, fresh, copy_function=shutil.copyfile)
            for folder in [fresh, *(one for one in fresh.rglob("*") if one.is_dir())]:
                folder.chmod(0o755)
            fresh.replace(into / name)
        say("files copied from its module")
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _compile(
    group: Group, work: Path, packages: list[str], into: Path, say: Callable[[str], None]
) -> None:
    command = go()
    flags = ["-mod=readonly", "-trimpath", "-buildvcs=false"]
    if group.tags:
        flags += ["-tags", group.tags]
    say("modules (1 of 2)")
    listed = subprocess.run(
        [command, "list", "-mod=readonly", *(["-tags", group.tags] if group.tags else []),
         "-deps", *packages],
        cwd=work, env=_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode != 0:
        raise StandError(
            f"{group.name}: modules cannot be had: {_cause(listed.stderr)}",
            "check the network and GOPROXY, then run this again: it goes on where it stopped",
        )
    total = len(listed.stdout.split())
    began = spoken = time.monotonic()
    ldflags = f"-s -w {group.ldflags}".strip()
    with subprocess.Popen(
        [command, "build", "-v", *flags, "-ldflags", ldflags, "-o", f"{into}/", *packages],
        cwd=work, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as running:  # fmt: skip
        lines: list[str] = []
        assert running.stderr is not None
        for line in running.stderr:
            lines.append(line.rstrip())
            if time.monotonic() - spoken > HEARTBEAT:
                spoken = time.monotonic()
                say(f"compiling (2 of 2), {len(lines)} packages of at most {total}")
    if running.returncode != 0:
        raise StandError(
            f"{group.name} does not build: {_cause(chr(10).join(lines))}",
            "run this again after mending that: what was compiled is kept",
        )
    say(f"built in {time.monotonic() - began:.0f} s")


def _cause(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if " " in line]  # a bare word is a package that compiled
    return " | ".join((told or lines)[-3:])[:600] or "no message"
