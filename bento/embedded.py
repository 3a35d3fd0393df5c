"""The history store for one machine: a guarded `nats-server` that lives as long as the service.

`bentoml serve` starts this module once as a child process and keeps its standard input open. The
guardian runs nats-server, restarts it when it dies, and stops it when the pipe closes, so that a
`kill -9` of the service leaves nothing behind. A second service on the same machine waits for the
lock and meanwhile uses the first one's server.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from bento.settings import ServiceSettings, cache_root

ENDPOINT = "endpoint.json"
PR_SET_PDEATHSIG = 1
# Every write reaches the disk before it is acknowledged: an accepted event survives power loss.
CONFIG = """\
listen: "127.0.0.1:{port}"
server_name: "embedded"
max_payload: 2MB
authorization {{ token: {token} }}
jetstream {{ store_dir: {store}, sync_interval: always }}
"""


class StoreMissingError(RuntimeError):
    """The embedded store cannot start; the message says what to do."""


def find_server(settings: ServiceSettings) -> Path:
    """The nats-server binary: the setting, the project's tools cache, PATH, this environment."""
    if settings.nats_server is not None:
        if os.access(settings.nats_server, os.X_OK):
            return settings.nats_server
        raise StoreMissingError(
            f"RECOMMENDER__NATS_SERVER={settings.nats_server} is not an executable file"
        )
    tools = cache_root(os.environ)
    places = [
        *sorted(tools.glob("tools/**/nats-server"), reverse=True),
        *([Path(found)] if (found := shutil.which("nats-server")) else []),
        Path(sys.executable).parent / "nats-server",
    ]
    for place in places:
        if place.is_file() and os.access(place, os.X_OK):
            return place
    raise StoreMissingError(
        f"nats-server was not found in {tools}/tools, on PATH or in this environment. Install the "
        "project's development group (make setup), or name a binary in RECOMMENDER__NATS_SERVER, "
        "or a running server in RECOMMENDER__NATS_URL, or set RECOMMENDER__STORE=off to serve "
        "from the histories that requests carry"
    )


def folder(settings: ServiceSettings) -> Path:
    """Where the embedded store keeps its data."""
    return settings.state_dir / "nats"


def endpoint(settings: ServiceSettings) -> tuple[str, str] | None:
    """Address and token of the embedded store, None before it has ever been up."""
    try:
        found = json.loads((folder(settings) / ENDPOINT).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found["url"], found["token"]


def start(settings: ServiceSettings, wait_s: float = 20) -> subprocess.Popen[bytes]:
    """Start the guardian as a child of this process and wait for the store to listen.

    Keep the returned process: the store stops when its standard input closes.
    Raises StoreMissingError with the guardian's own words if it gives up.
    """
    binary = find_server(settings)
    home = folder(settings)
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    command = [sys.executable, "-m", "bento.embedded", "--home", str(home), "--server", str(binary)]
    with (home / "guardian.log").open("ab") as log:
        guardian = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
    until = time.monotonic() + wait_s
    while time.monotonic() < until:
        where = endpoint(settings)
        if where is not None and _listens(where[0]):
            return guardian
        if guardian.poll() is not None:
            break
        time.sleep(0.05)
    if guardian.poll() is None:
        guardian.terminate()
    raise StoreMissingError(
        f"the embedded store did not start within {wait_s:.0f} s; see {home}/guardian.log and "
        f"{home}/nats.log"
    )


def _listens(url: str) -> bool:
    host, port = url.removeprefix("nats://").split(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1) as connection:
            return connection.recv(4) == b"INFO"
    except OSError:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _write_private(path: Path, text: str) -> None:
    """Write atomically, readable by this user only."""
    fresh = path.with_suffix(".new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    fresh.replace(path)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Guardian:
    """Runs nats-server in `home`, once per machine and folder, until standard input closes."""

    def __init__(self, home: Path, binary: Path) -> None:
        self.home = home
        self.binary = binary
        self.server: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        lock = (self.home / "lock").open("a")
        if not self._wait_for(lock):
            return 0
        while not self._parent_gone(0):
            port, token = self._configure()
            self.server = self._launch()
            print(f"nats-server {self.server.pid} on 127.0.0.1:{port}", flush=True)
            _write_private(
                self.home / ENDPOINT,
                json.dumps({"url": f"nats://127.0.0.1:{port}", "token": token}),
            )
            while self.server.poll() is None and not self._parent_gone(0.1):
                pass
            if self.server.poll() is not None:
                print(f"nats-server ended with {self.server.returncode}; restarting", flush=True)
                time.sleep(0.1)
        self._stop()
        return 0

    def _wait_for(self, lock: IO[str]) -> bool:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if self._parent_gone(0.2):
                    return False
            else:
                return True

    def _parent_gone(self, wait_s: float) -> bool:
        """The pipe's other end is closed; waits at most `wait_s` for it."""
        ready, _, _ = select.select([sys.stdin.buffer], [], [], wait_s)
        return bool(ready) and not os.read(sys.stdin.fileno(), 1)

    def _configure(self) -> tuple[int, str]:
        """Keep the last address so that clients find the server again after a restart."""
        port, token = 0, secrets.token_hex(16)
        known = self.home / ENDPOINT
        if known.exists():
            found = json.loads(known.read_text(encoding="utf-8"))
            port, token = int(found["url"].rsplit(":", 1)[1]), found["token"]
        if not port or not _can_bind(port):
            port = _free_port()
        text = CONFIG.format(
            port=port, token=json.dumps(token), store=json.dumps(str(self.home / "data"))
        )
        _write_private(self.home / "nats.conf", text)
        return port, token

    def _launch(self) -> subprocess.Popen[bytes]:
        with (self.home / "nats.log").open("ab") as log:
            return subprocess.Popen(
                [str(self.binary), "--config", str(self.home / "nats.conf")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,
            )

    def _stop(self) -> None:
        if self.server is None or self.server.poll() is not None:
            return
        self.server.terminate()
        try:
            self.server.wait(10)
        except subprocess.TimeoutExpired:
            self.server.kill()
            self.server.wait()


def main(argv: list[str] | None = None) -> int:
    """Entry point of the guardian process."""
    parser = argparse.ArgumentParser(prog="python -m bento.embedded", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="Folder for data and settings.")
    parser.add_argument("--server", type=Path, required=True, help="The nats-server binary.")
    given = parser.parse_args(argv)
    guardian = Guardian(given.home, given.server)
    # Ctrl-C in a terminal reaches the whole group; the guardian waits for the service instead,
    # which still flushes events.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return guardian.run()


if __name__ == "__main__":
    raise SystemExit(main())
