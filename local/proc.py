"""Plain processes as parts of a stand: start, recognise, stop.

A process is known by its pid, its start time and the boot it belongs to, so a reused pid is never
taken for ours. Every process also carries the state folder in its environment: what was started
by an `up` that died before it could write its record is found that way.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from local.errors import StandError
from local.paths import MARKER, Folders, private_dir, write_private


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def start_time(pid: int) -> int | None:
    """Clock ticks since boot at which `pid` started; None when it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


@dataclass(frozen=True)
class Identity:
    pid: int
    started: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        started = start_time(pid)
        return None if started is None else cls(pid, started, boot_id())

    def alive(self) -> bool:
        return self.boot == boot_id() and start_time(self.pid) == self.started

    def since(self) -> float:
        """When it started, in seconds since the epoch."""
        boot = next(
            int(line.split()[1])
            for line in Path("/proc/stat").read_text(encoding="ascii").splitlines()
            if line.startswith("btime")
        )
        return boot + self.started / os.sysconf("SC_CLK_TCK")

    def signal(self, number: signal.Signals) -> None:
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait_gone(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while self.alive():
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, os.WNOHANG)
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True


@dataclass(frozen=True, kw_only=True)
class Part:
    """One process of the stand."""

    name: str  # "private/etcd"
    argv: tuple[str, ...]
    kind: str = "real"  # or "simulated"
    version: str = ""
    address: str = ""
    netns: str | None = None  # None: the host's network
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    files: tuple[Path, ...] = ()  # configuration: a change restarts the part
    ready: Callable[[], bool] = field(default=lambda: True, compare=False)
    ready_in: float = 180.0  # seconds; one that ended is told at once, this is for a busy machine
    stop_with: signal.Signals = signal.SIGTERM
    unshare: tuple[str, ...] = ()  # flags of unshare(1), for nodes
    marker: str = MARKER  # another one: not part of a stand

    def fingerprint(self) -> str:
        """Changes whenever the command, its binary or its configuration does."""
        mixed = hashlib.sha256()
        for word in (*self.argv, *self.unshare, str(self.netns), *sorted(self.env.items())):
            mixed.update(repr(word).encode())
        binary = Path(self.argv[0]).resolve()
        mixed.update(repr((str(binary), binary.stat().st_size if binary.exists() else 0)).encode())
        for path in self.files:
            mixed.update(path.read_bytes())
        return mixed.hexdigest()


@dataclass(frozen=True)
class Record:
    """What `parts/<name>.json` holds."""

    name: str
    identity: Identity
    fingerprint: str
    kind: str
    version: str
    address: str
    stop_with: int

    @classmethod
    def read(cls, path: Path) -> Record | None:
        try:
            raw = cast("dict[str, object]", json.loads(path.read_text(encoding="utf-8")))
            process = cast("dict[str, object]", raw["process"])
            return cls(
                name=str(raw["name"]),
                identity=Identity(
                    int(str(process["pid"])), int(str(process["started"])), str(process["boot"])
                ),
                fingerprint=str(raw["fingerprint"]),
                kind=str(raw["kind"]),
                version=str(raw["version"]),
                address=str(raw["address"]),
                stop_with=int(str(raw["stop_with"])),
            )
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            # half-written by a machine that lost power: the marker in /proc still finds it
            return None

    def write(self, path: Path) -> None:
        one = self.identity
        write_private(
            path,
            json.dumps(
                {
                    "name": self.name,
                    "process": {"pid": one.pid, "started": one.started, "boot": one.boot},
                    "fingerprint": self.fingerprint,
                    "kind": self.kind,
                    "version": self.version,
                    "address": self.address,
                    "stop_with": self.stop_with,
                },
                indent=1,
            ),
        )


def record_path(folders: Folders, name: str) -> Path:
    return folders.parts / f"{name.replace('/', '.')}.json"


def records(folders: Folders) -> list[Record]:
    found = (Record.read(path) for path in sorted(folders.parts.glob("*.json")))
    return [one for one in found if one is not None]


def marked() -> Iterator[tuple[int, Path, str]]:
    """(pid, state folder, part) of every process on this machine that some stand started."""
    needle = f"{MARKER}=".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue  # gone meanwhile, or another user's
        for word in environment.split(b"\0"):
            if word.startswith(needle) and start_time(int(entry.name)) is not None:
                state, _, part = word[len(needle) :].decode(errors="replace").rpartition(":")
                yield int(entry.name), Path(state), part


def strays(folders: Folders) -> list[tuple[Identity, str]]:
    """Our processes that no record names: left by an `up` that was killed between two steps."""
    known = {one.identity.pid for one in records(folders) if one.identity.alive()}
    ours = [
        (identity, part)
        for pid, state, part in marked()
        if state == folders.root and (identity := Identity.of(pid)) is not None
    ]
    # children of a known part (a node's kubelet, a container's shim) are that part's business
    return [
        (identity, part)
        for identity, part in ours
        if identity.pid not in known and not (_ancestors(identity.pid) & known)
    ]


def parents() -> Iterator[tuple[int, int]]:
    """(pid, parent) of every process on this machine."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_bytes()
            except OSError:
                continue
            yield int(entry.name), int(stat[stat.rindex(b")") + 2 :].split()[1])


def _ancestors(pid: int) -> set[int]:
    found: set[int] = set()
    while pid > 1:
        try:
            stat = Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            break
        pid = int(stat[stat.rindex(b")") + 2 :].split()[1])
        found.add(pid)
    return found


def start(folders: Folders, part: Part) -> Record:
    """Start a part in its own session, its output in `logs/<name>.log`."""
    private_dir(folders.parts)
    private_dir(folders.logs)
    log = folders.logs / f"{part.name.replace('/', '.')}.log"
    if log.exists():
        log.replace(log.with_suffix(".log.1"))  # the run before: what a crash is read from
    argv = list(part.argv)
    if part.unshare:
        argv = ["unshare", *part.unshare, *argv]
    if part.netns:
        # not `ip netns exec`: that remounts /sys and hides the cgroup mounts
        argv = ["nsenter", f"--net=/run/netns/{part.netns}", *argv]
    environment = {
        "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        "HOME": str(folders.root),
        "LANG": "C.UTF-8",
        **part.env,
        part.marker: f"{folders.root}:{part.name}",
    }
    with log.open("wb") as output:
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            env=environment, cwd="/", start_new_session=True,
        )  # fmt: skip
    identity = Identity.of(child.pid)
    if identity is None:
        raise StandError(f"{part.name} ended at once: {tail(log)}", f"read {log}")
    record = Record(
        part.name, identity, part.fingerprint(), part.kind, part.version, part.address,
        int(part.stop_with),
    )  # fmt: skip
    record.write(record_path(folders, part.name))
    return record


def stop(folders: Folders, record: Record, patience: float = 10.0) -> None:
    """End a part and wait until it is gone; insist after `patience` seconds."""
    number = signal.Signals(record.stop_with)
    # a stopped (SIGSTOP) process takes TERM only once it may run again
    record.identity.signal(signal.SIGCONT)
    record.identity.signal(number)
    if not record.identity.wait_gone(patience):
        record.identity.signal(signal.SIGKILL)
        if not record.identity.wait_gone(patience):
            raise StandError(
                f"{record.name} (pid {record.identity.pid}) survives SIGKILL",
                "it waits in the kernel: see /proc/PID/stack",
            )
    record_path(folders, record.name).unlink(missing_ok=True)


def end(identity: Identity, patience: float = 5.0) -> None:
    """End a process that has no record."""
    identity.signal(signal.SIGTERM)
    if not identity.wait_gone(min(patience, 2.0)):
        identity.signal(signal.SIGKILL)
        identity.wait_gone(patience)


def tail(log: Path, lines: int = 3) -> str:
    """The last lines of a log, on one line: the cause of a part that did not come up."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "no output"
    kept = [line.strip()[:300] for line in text.splitlines() if line.strip()][-lines:]
    return " | ".join(kept) or "no output"


def run(argv: Sequence[str], *, netns: str | None = None, stdin: str | None = None) -> str:
    """Run a short command; its standard output. Raises `StandError` with its standard error."""
    full = ["nsenter", f"--net=/run/netns/{netns}", *argv] if netns else list(argv)
    done = subprocess.run(full, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StandError(f"`{' '.join(argv)}` failed: {done.stderr.strip() or done.returncode}")
    return done.stdout
