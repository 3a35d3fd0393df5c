"""The supervisor of one end: starts its daemons in order, brings back the dead ones.

    python -m local.link.supervise END.json

A userspace IKE daemon takes its TUN device along when it dies, so each start also redoes what
hangs on the device: the routing rule that must go, the move to the cloud's router, the inside
address, the MTU. The status file names the pid of every daemon and how often it was restarted.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from local import proc
from local.errors import StandError
from local.link import control
from local.link.ends import End, Ike
from local.net import links
from local.paths import private_dir, write_private
from local.proc import run
from local.waiting import wait_for

CHARON = "/usr/lib/ipsec/charon"
FRR = Path("/usr/lib/frr")
POLL = 0.1  # seconds between looks at the children
RECALL = 5.0  # seconds between checks that an initiator has an SA
SETTLED = 20.0  # seconds of life after which a daemon's next restart is immediate again
LONGEST_PAUSE = 20.0  # seconds


def frr_daemons() -> list[str]:
    # newer releases move configuration to mgmtd; static routes only with staticd
    return [name for name in ("zebra", "mgmtd", "staticd", "bfdd", "bgpd") if (FRR / name).exists()]


@dataclass
class Child:
    """One daemon. `restarts` counts what the supervisor had to do, not its first start."""

    name: str
    raise_it: Callable[[Child], None]
    process: subprocess.Popen[bytes] | None = None
    born: float = 0.0
    restarts: int = 0
    pause: float = 0.0
    due: float = 0.0


@dataclass
class Supervisor:
    end: End
    children: list[Child] = field(default_factory=list[Child])
    stopping: bool = False
    _recalled: float = 0.0

    def run(self) -> None:
        """Start everything, then watch until a signal says stop."""
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        private_dir(Path(self.end.folder))
        self.end.status_file.unlink(missing_ok=True)
        self._end_orphans()
        self._prepare_router()
        for ike in self.end.ikes:
            self.children.append(
                Child(ike.name, lambda child, ike=ike: self._raise_ike(child, ike))
            )
        for name in frr_daemons():
            self.children.append(
                Child(f"frr/{name}", lambda child, name=name: self._raise_frr(child, name))
            )
        try:
            for child in self.children:
                child.raise_it(child)
                child.born = time.monotonic()
            control.configure_router(self.end)
            self._write_status()
            say(f"{self.end.name} end is up")
            while not self.stopping:
                self._look()
                time.sleep(POLL)
        finally:
            self._end_children()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.stopping = True

    def _look(self) -> None:
        """Bring back what is dead, one at a time and in order: device names depend on it."""
        now = time.monotonic()
        raised_router = False
        for child in self.children:
            if child.process is not None and child.process.poll() is not None:
                say(f"{child.name} ended with {child.process.returncode}")
                child.process = None
                lived = now - child.born
                child.pause = 0.0 if lived > SETTLED else min(child.pause * 2 or 0.5, LONGEST_PAUSE)
                child.due = now + child.pause
            if child.process is None and now >= child.due:
                child.restarts += 1
                try:
                    child.raise_it(child)
                    raised_router = raised_router or child.name.startswith("frr/")
                    say(f"{child.name} is back (restart {child.restarts})")
                except StandError as error:
                    say(f"{child.name}: {error}")
                    self._discard(child)
                child.born = time.monotonic()
                self._write_status()
        if raised_router:
            control.configure_router(self.end)
        if now - self._recalled > RECALL:
            self._recalled = now
            self._recall()

    def _recall(self) -> None:
        """Start the tunnel of a living daemon that has given up, as after a refused key."""
        for ike in self.end.ikes:
            if not ike.initiates or not self._alive(ike.name):
                continue
            with contextlib.suppress(StandError):  # the daemon died just now: the next look sees it
                if not control.list_sas(self.end, ike).strip():
                    say(f"{ike.name} has no SA; calling the peer")
                    control.initiate(self.end, ike)

    def _alive(self, name: str) -> bool:
        return any(
            child.name == name and child.process is not None and child.process.poll() is None
            for child in self.children
        )

    # -- IKE daemons --

    def _raise_ike(self, child: Child, ike: Ike) -> None:
        run_dir = private_dir(self.end.run_dir(ike.name))
        for old in (run_dir / "charon.vici", run_dir / "charon.pid"):
            old.unlink(missing_ok=True)
        # A TUN takes the first free name. Hold the others' names while their daemons are dead.
        placeholders = [name for name in ike.taken if name not in links(ike.netns)]
        if ike.device in links(ike.netns):
            run(["ip", "link", "del", ike.device], netns=ike.netns)  # decoy of the run before
        for name in placeholders:
            run(["ip", "link", "add", name, "type", "ifb"], netns=ike.netns)
        try:
            self._spawn(child, ike.netns, {"STRONGSWAN_CONF": ike.config}, [CHARON])
            socket = run_dir / "charon.vici"
            if not wait_for(lambda: not self._living(child) or socket.exists(), 10):
                raise StandError(f"{ike.name}: no answer from charon: {self._tail(child)}")
            if not self._living(child):
                raise StandError(f"{ike.name}: charon ended: {self._tail(child)}")
            if not wait_for(lambda: ike.device in links(ike.netns), 5):
                raise StandError(f"{ike.name}: charon made no {ike.device}: {self._tail(child)}")
        finally:
            for name in placeholders:
                run(["ip", "link", "del", name], netns=ike.netns)
        # charon would send everything of this namespace into its own tunnel
        _quiet(["ip", "rule", "del", "pref", str(ike.table)], ike.netns)
        if ike.moved:
            self._move(ike)
        inside, device = ike.inside_netns, ike.inside_device
        run(["ip", "addr", "replace", ike.address, "dev", device], netns=inside)
        run(["ip", "link", "set", device, "mtu", str(ike.mtu), "up"], netns=inside)
        control.load_secrets(self.end, ike)
        control.load_connections(self.end, ike)

    def _move(self, ike: Ike) -> None:
        """Give the TUN to the cloud's router; charon keeps its file descriptor.

        charon refuses SAs when it finds no device of that name, so it gets a decoy.
        """
        if ike.inside_device in links(ike.inside_netns):
            run(["ip", "link", "del", ike.inside_device], netns=ike.inside_netns)
        run(
            ["ip", "link", "set", ike.device, "netns", f"/run/netns/{ike.inside_netns}",
             "name", ike.inside_device],
            netns=ike.netns,
        )  # fmt: skip
        run(["ip", "link", "add", ike.device, "type", "ifb"], netns=ike.netns)
        run(["ip", "link", "set", ike.device, "up"], netns=ike.netns)

    # -- router --

    def _prepare_router(self) -> None:
        vty = self.end.vty
        vty.mkdir(parents=True, exist_ok=True)
        # mounted as /run, where the router's own user must get in; from outside the folders above
        # this one keep everybody out
        vty.parent.chmod(0o755)
        shutil.chown(vty, "frr", "frr")
        run(
            ["iptables-restore"], netns=self.end.router_netns,
            stdin=Path(self.end.rules).read_text(encoding="utf-8"),
        )  # fmt: skip

    def _raise_frr(self, child: Child, name: str) -> None:
        run_dir = self.end.run_dir("frr")
        socket = run_dir / "frr" / f"{name}.vty"
        socket.unlink(missing_ok=True)
        argv = [
            str(FRR / name), "-f", "/dev/null", "-u", "frr", "-g", "frr",
            "--vty_socket", "/run/frr", "-z", "/run/frr/zserv.api", "-i", f"/run/frr/{name}.pid",
        ]  # fmt: skip
        if name == "bfdd":
            argv += ["--bfdctl", "/run/frr/bfdd.sock"]
        self._spawn(child, self.end.router_netns, {}, argv)
        if not wait_for(lambda: not self._living(child) or socket.exists(), 10):
            raise StandError(f"{name} does not answer: {self._tail(child)}")
        if not self._living(child):
            raise StandError(f"{name} ended: {self._tail(child)}")

    # -- processes --

    def _spawn(self, child: Child, netns: str, env: dict[str, str], argv: list[str]) -> None:
        """Start a daemon with a /run of its own, so that two of a kind share nothing."""
        part = child.name.split("/")[0]
        log = private_dir(Path(self.end.folder) / "logs") / f"{child.name.replace('/', '.')}.log"
        script = 'mount --bind "$0" /run && exec "$@"'
        full = [
            "setpriv", "--pdeathsig", "KILL", "nsenter", f"--net=/run/netns/{netns}",
            "unshare", "--mount", "--propagation", "private",
            "sh", "-c", script, str(self.end.run_dir(part)), *argv,
        ]  # fmt: skip
        with log.open("ab") as output:
            child.process = subprocess.Popen(
                full, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                env={**os.environ, **env}, cwd="/",
            )  # fmt: skip

    def _living(self, child: Child) -> bool:
        return child.process is not None and child.process.poll() is None

    def _tail(self, child: Child) -> str:
        return proc.tail(Path(self.end.folder) / "logs" / f"{child.name.replace('/', '.')}.log")

    def _discard(self, child: Child) -> None:
        """End a daemon that came up wrong; it is due again after a pause."""
        if child.process is not None:
            child.process.kill()
            child.process.wait()
            child.process = None
        child.pause = min(child.pause * 2 or 0.5, LONGEST_PAUSE)
        child.due = time.monotonic() + child.pause

    def _end_orphans(self) -> None:
        """End daemons of a supervisor that was killed: one that changes its user outlives it."""
        places = {self.end.router_netns, *(ike.netns for ike in self.end.ikes)}
        for place in sorted(places):
            for pid in run(["ip", "netns", "pids", place]).split():
                identity = proc.Identity.of(int(pid))
                if identity is not None:
                    say(f"ending pid {pid} of an earlier run")
                    proc.end(identity)

    def _end_children(self) -> None:
        living = [child.process for child in self.children if self._living(child) and child.process]
        for process in living:
            process.terminate()
        end = time.monotonic() + 5
        for process in living:
            try:
                process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.end.status_file.unlink(missing_ok=True)

    def _write_status(self) -> None:
        write_private(
            self.end.status_file,
            json.dumps(
                {
                    child.name: {
                        "pid": child.process.pid if child.process else None,
                        "restarts": child.restarts,
                    }
                    for child in self.children
                },
                indent=1,
            ),
        )


def _quiet(argv: list[str], netns: str) -> None:
    """A step that may find nothing to do."""
    with contextlib.suppress(StandError):
        run(argv, netns=netns)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    if len(words) != 1:
        print("usage: python -m local.link.supervise END.json", file=sys.stderr)
        return 2
    try:
        Supervisor(End.load(Path(words[0]))).run()
    except StandError as error:
        say(f"error: {error}")
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
