"""Bringing parts to the wanted state: keep what is well, restart what is not."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from local import proc
from local.errors import StandError
from local.paths import Folders
from local.proc import Part, Record, record_path
from local.waiting import wait_for

Say = Callable[[str], None]


@dataclass
class Supervisor:
    """Starts parts and remembers which and how long each took."""

    folders: Folders
    say: Say
    parts: dict[str, Part] = field(default_factory=dict[str, Part])
    seconds: dict[str, float] = field(default_factory=dict[str, float])  # only parts (re)started
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ensure(self, part: Part) -> bool:
        """Make sure that `part` runs as described and is ready; True when it was (re)started."""
        with self._lock:
            self.parts[part.name] = part
        record = Record.read(record_path(self.folders, part.name))
        if record is not None and record.identity.alive():
            if record.fingerprint == part.fingerprint() and wait_for(part.ready, 5.0):
                return False
            self.say(f"{part.name}: restarting (changed, or alive without an answer)")
            proc.stop(self.folders, record)
        elif record is not None:
            self.say(f"{part.name}: was dead, starting")
        began = time.monotonic()
        record = proc.start(self.folders, part)
        self._await(part, record)
        with self._lock:
            self.seconds[part.name] = time.monotonic() - began
        return True

    def _await(self, part: Part, record: Record) -> None:
        log = self.folders.logs / f"{part.name.replace('/', '.')}.log"

        def settled() -> bool:
            return not record.identity.alive() or part.ready()

        done = wait_for(settled, part.ready_in)
        if not record.identity.alive():
            record_path(self.folders, part.name).unlink(missing_ok=True)
            raise StandError(f"{part.name} ended: {proc.tail(log)}", f"all of it: {log}")
        if not done:
            raise StandError(
                f"{part.name} is not ready after {part.ready_in:.0f} s: {proc.tail(log)}",
                f"all of it: {log}",
            )

    def end_strays(self) -> None:
        """End what a killed `up` started and could not record any more."""
        for identity, name in proc.strays(self.folders):
            self.say(f"{name}: pid {identity.pid} has no record, ending it")
            proc.end(identity)


def stop_all(folders: Folders, say: Say) -> None:
    """End every part: nodes by SIGKILL first, the databases last, each wave together."""
    waves: list[list[Record]] = [[], [], []]
    for record in proc.records(folders):
        if record.stop_with == signal.SIGKILL:
            waves[0].append(record)
        else:
            last = record.name.endswith("/etcd") or record.name == "vault"
            waves[2 if last else 1].append(record)
    for wave in waves:
        broken: list[str] = []

        def one(record: Record, broken: list[str] = broken) -> None:
            try:
                proc.stop(folders, record)
            except StandError as error:
                broken.append(str(error))

        threads = [threading.Thread(target=one, args=(record,)) for record in wave]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if broken:
            raise StandError("; ".join(broken))
    for identity, name in proc.strays(folders):
        say(f"{name}: pid {identity.pid} had no record, ending it")
        proc.end(identity)
