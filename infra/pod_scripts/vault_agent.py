"""Keeps a pod's secret files as Vault has them. Runs inside the pod, on the standard library only.

Logs in with the pod's own service-account token, writes each secret to a file in one step, asks for
certificates and renews them after two thirds of their life. While Vault cannot be reached the files
stay as they are: a running service does not fall over because its Vault restarts.

A file that changed is handed on without a restart of the workload: HAProxy takes a certificate
through its socket, a process that reads its files again on SIGHUP gets one.

GET /ready on `port` answers 200 once every file is there (the start-up probe), 503 before; GET
/metrics says when each certificate ends and when Vault was last read.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import sys
import threading
import time
import urllib.error
import urllib.request
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HERE = Path(os.environ.get("AGENT_DIR", "/vault-agent"))
TOKEN = Path(os.environ.get("AGENT_TOKEN", "/var/run/vault-login/token"))
SECRETS = Path(os.environ.get("AGENT_SECRETS", "/secrets"))
TIMEOUT = 5.0  # seconds for one request


def say(message: str) -> None:
    """One line; never a value, only names."""
    print(datetime.now(timezone.utc).isoformat(timespec="seconds"), message, flush=True)  # noqa: UP017


class Vault:
    """One login of this pod."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.address = str(config["address"])
        self.tls = ssl.create_default_context(cafile=str(HERE / "ca.crt"))
        direct = urllib.request.ProxyHandler({})
        self.open = urllib.request.build_opener(
            direct, urllib.request.HTTPSHandler(context=self.tls)
        ).open
        self.token = ""
        login = {"role": config["role"], "jwt": TOKEN.read_text(encoding="utf-8").strip()}
        self.token = str(self.call(f"auth/{config['auth']}/login", login)["auth"]["client_token"])

    def call(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310 - the address is https, checked in settings
            f"{self.address}/v1/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"X-Vault-Token": self.token, "X-Vault-Request": "true"},
        )
        with self.open(request, timeout=TIMEOUT) as answer:
            return json.loads(answer.read())


def write(file: str, text: str) -> bool:
    """Replace a file in one step, readable by the pod's group, and only when it differs."""
    path = SECRETS / file
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    new = SECRETS / f".{file}.new"
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o440), "w") as handle:
        handle.write(text)
    new.replace(path)
    say(f"wrote {file}")
    return True


def noted(stem: str, what: str) -> float:
    """A moment noted beside a certificate, as a Unix time; 0 when there is none."""
    note = SECRETS / f".{stem}.{what}"
    return float(note.read_text(encoding="utf-8")) if note.exists() else 0.0


def refresh(config: dict[str, Any], changed: set[str]) -> None:
    """Bring every file up to date; the names of those that changed join `changed`, also when a
    later one fails."""
    vault = Vault(config)
    seen: dict[str, dict[str, str]] = {}
    for file, where in config["secrets"].items():
        path, _, key = where.partition("#")
        if path not in seen:
            seen[path] = vault.call(path)["data"]["data"]
        text = config["templates"].get(file, "{}").replace("{}", seen[path][key])
        if write(file, text):
            changed.add(file)
    for file, path in config["authorities"].items():
        if write(file, vault.call(path)["data"]["certificate"].strip() + "\n"):
            changed.add(file)
    for stem, ask in config["certificates"].items():
        if time.time() < noted(stem, "due"):
            continue
        request = {key: value for key, value in ask.items() if key != "path"}
        made = vault.call(ask["path"], request)["data"]
        # one file with both halves: a server that reloads can never see a key without its
        # certificate; no empty line, which would end it where HAProxy's socket takes it
        parts = [made["certificate"], made["issuing_ca"], made["private_key"]]
        if write(f"{stem}.pem", "".join(f"{part.strip()}\n" for part in parts)):
            changed.add(f"{stem}.pem")
        end, now = float(made["expiration"]), time.time()
        (SECRETS / f".{stem}.end").write_text(str(end), encoding="utf-8")
        (SECRETS / f".{stem}.due").write_text(str(now + (end - now) * 2 / 3), encoding="utf-8")


def hand_on(config: dict[str, Any], changed: set[str]) -> set[str]:
    """Tell the workload of its new files; those that it could not take yet."""
    left: set[str] = set()
    for file in sorted(changed):
        for told in config["notify"].get(file, []):
            done = give_haproxy(file, told["haproxy"]) if "haproxy" in told else hang_up(told)
            if not done:
                left.add(file)
    return left


def give_haproxy(file: str, path: str) -> bool:
    """A certificate for a running HAProxy: no connection notices. Before it runs there is no
    socket, and it will read the file by itself."""
    if not Path(path).exists():
        return True
    where, text = SECRETS / file, (SECRETS / file).read_text(encoding="utf-8")
    for command in (f"set ssl cert {where} <<\n{text}\n", f"commit ssl cert {where}\n"):
        with socket.socket(socket.AF_UNIX) as admin:
            admin.settimeout(TIMEOUT)
            admin.connect(path)
            admin.sendall(command.encode())
            admin.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda admin=admin: admin.recv(4096), b"")).decode()
        if "Transaction" not in answer and "Success" not in answer:
            say(f"HAProxy refused {file}: {' '.join(answer.split())[:200]}")
            return False
    say(f"HAProxy uses the new {file}")
    return True


def hang_up(told: dict[str, str]) -> bool:
    """SIGHUP for every process of that name in this pod (it shares its process table)."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if (place / "comm").read_text(encoding="utf-8").strip() == told["process"]:
                os.kill(int(place.name), signal.SIGHUP)
                say(f"told {told['process']} to read its files again")
        except (FileNotFoundError, ProcessLookupError):
            continue
    return True


def files(config: dict[str, Any]) -> list[str]:
    certificates = [f"{stem}.pem" for stem in config["certificates"]]
    return [*config["secrets"], *config["authorities"], *certificates]


LAST = "vault_agent_last_read_timestamp_seconds"
ENDS = "vault_agent_certificate_expiry_timestamp_seconds"


def metrics(config: dict[str, Any], read_at: float) -> str:
    """Prometheus' text format; names and times, never a value."""
    lines = [f"# TYPE {LAST} gauge", f"{LAST} {read_at}", f"# TYPE {ENDS} gauge"]
    lines += [f'{ENDS}{{file="{stem}"}} {noted(stem, "end")}' for stem in config["certificates"]]
    return "\n".join(lines) + "\n"


def answer(path: str, config: dict[str, Any], read_at: float) -> tuple[int, str]:
    """Status and body of a GET; file names and times, never a value."""
    if path == "/metrics":
        return 200, metrics(config, read_at)
    if path == "/ready":
        missing = [file for file in files(config) if not (SECRETS / file).exists()]
        return (503, f"waiting for {', '.join(missing)}\n") if missing else (200, "ready\n")
    return 404, "use /ready or /metrics\n"


def serve(config: dict[str, Any], state: dict[str, float]) -> None:
    class Handler(BaseHTTPRequestHandler):
        timeout = TIMEOUT  # a peer that sends nothing holds no thread

        def do_GET(self) -> None:
            status, said = answer(self.path, config, state["read_at"])
            body = said.encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
            """A scrape every few seconds is not news."""

    server = ThreadingHTTPServer(("", int(config["port"])), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def stop(signum: int, frame: object) -> None:
    """End at once: nothing here is lost by it."""
    del signum, frame
    sys.exit(0)


def main() -> int:
    config = json.loads((HERE / "agent.json").read_text(encoding="utf-8"))
    # the first process of a container gets no default handler: without one, ending takes 30 s
    signal.signal(signal.SIGTERM, stop)
    state, waiting = {"read_at": 0.0}, set[str]()
    serve(config, state)
    while True:
        try:
            refresh(config, waiting)
            waiting = hand_on(config, waiting)
            state["read_at"] = time.time()
            pause = float(config["interval"])
        except urllib.error.HTTPError as error:
            say(f"Vault answered {error.code} for {error.url}; the files stay as they are")
            pause = 2.0
        except (OSError, KeyError, ValueError) as error:
            say(f"Vault not read ({type(error).__name__}); the files stay as they are")
            pause = 2.0
        time.sleep(pause)


if __name__ == "__main__":
    sys.exit(main())
