"""Keeps a pod's secret files as Vault has them. Runs inside the pod, on the standard library only.

Logs in with the pod's own service-account token, writes each secret to a file in one step, asks for
certificates and renews them after two thirds of their life. While Vault cannot be reached the files
stay as they are: a running service does not fall over because its Vault restarts.

`--ready` exits 0 once every file is there (the start-up probe).
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import sys
import time
import urllib.error
import urllib.request
from datetime import datetime, timezone
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


def write(file: str, text: str) -> None:
    """Replace a file in one step, readable by the pod's group, and only when it differs."""
    path = SECRETS / file
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    new = SECRETS / f".{file}.new"
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o440), "w") as handle:
        handle.write(text)
    new.replace(path)
    say(f"wrote {file}")


def renew_at(file: str) -> float:
    """When the certificate in `file` is due, as a Unix time; 0 when there is none."""
    due = SECRETS / f".{file}.due"
    return float(due.read_text(encoding="utf-8")) if due.exists() else 0.0


def refresh(config: dict[str, Any]) -> None:
    """Bring every file up to date."""
    vault = Vault(config)
    seen: dict[str, dict[str, str]] = {}
    for file, where in config["secrets"].items():
        path, _, key = where.partition("#")
        if path not in seen:
            seen[path] = vault.call(path)["data"]["data"]
        write(file, seen[path][key])
    for stem, ask in config["certificates"].items():
        if time.time() < renew_at(stem):
            continue
        request = {key: value for key, value in ask.items() if key != "path"}
        made = vault.call(ask["path"], request)["data"]
        chain = "\n".join([made["certificate"], made["issuing_ca"]])
        # one file with both halves: a server that reloads can never see a key without its
        # certificate
        write(f"{stem}.pem", f"{chain}\n{made['private_key']}\n")
        life = float(made["expiration"]) - time.time()
        (SECRETS / f".{stem}.due").write_text(str(time.time() + life * 2 / 3), encoding="utf-8")


def files(config: dict[str, Any]) -> list[str]:
    return [*config["secrets"], *(f"{stem}.pem" for stem in config["certificates"])]


def stop(signum: int, frame: object) -> None:
    """End at once: nothing here is lost by it."""
    del signum, frame
    sys.exit(0)


def main() -> int:
    config = json.loads((HERE / "agent.json").read_text(encoding="utf-8"))
    if "--ready" in sys.argv[1:]:
        return 0 if all((SECRETS / file).exists() for file in files(config)) else 1
    # the first process of a container gets no default handler: without one, ending takes 30 s
    signal.signal(signal.SIGTERM, stop)
    while True:
        try:
            refresh(config)
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
