"""Ask the service through a site's TLS gateway, as a shopper would: `python -m local.ask`.

Reads `pulumi stack output --json` from standard input. The certificate must be signed by the
stack's own authority and carry the gateway's name; anything else is an error.
"""

from __future__ import annotations

import argparse
import json
import socket
import ssl
import sys
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPSConnection
from typing import Any, cast
from urllib.parse import urlsplit

Json = dict[str, Any]
TIMEOUT = 5.0  # seconds for a connection and for an answer
PATIENCE = 180.0  # seconds until the pods of a site that was down must have come back


class AskError(Exception):
    """The gateway did not answer as it must; the message is one line."""


class NothingServesError(AskError):
    """The stack serves nothing on that site, and is not meant to; the message is one line."""


@dataclass(frozen=True)
class Gateway:
    """Where a site's gateway is, by which name, and who must have signed its certificate."""

    address: str  # ip:port
    host: str
    authority: str  # PEM

    def connect(self) -> _Connection:
        context = ssl.create_default_context(cadata=self.authority)
        return _Connection(self, context)

    def post(self, path: str, body: Json) -> tuple[Json, float]:
        """The answer and the seconds it took over a fresh connection. Raises `AskError`."""
        began = time.perf_counter()
        connection = self.connect()
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read().decode()
        except ssl.SSLError as error:
            raise AskError(f"{self.host} at {self.address}: {error}") from None
        except OSError as error:
            raise AskError(f"{self.host} at {self.address} does not answer: {error}") from None
        finally:
            connection.close()
        if answer.status != 200:
            raise AskError(f"{self.host}{path} answered {answer.status}: {text[:200]}")
        return cast("Json", json.loads(text)), time.perf_counter() - began


class _Connection(HTTPSConnection):
    """To the gateway's address, checked against its name: no name service knows it here."""

    def __init__(self, gateway: Gateway, context: ssl.SSLContext) -> None:
        super().__init__(gateway.host, timeout=TIMEOUT, context=context)
        self._gateway, self._tls = gateway, context

    def connect(self) -> None:
        host, _, port = self._gateway.address.rpartition(":")
        raw = socket.create_connection((host, int(port)), timeout=TIMEOUT)
        self.sock = self._tls.wrap_socket(raw, server_hostname=self._gateway.host)


def gateway_of(outputs: Json, site: str) -> Gateway:
    """Raises `AskError` for a site that was not deployed, `NothingServesError` for one that was and
    has no gateway: it has no real nodes, or is not among `serving.sites`."""
    found = cast("Json", outputs.get(site) or {})
    if not found:
        raise AskError(f"the stack has no site {site}; `pulumi up` first")
    if not found.get("gateway"):
        raise NothingServesError(
            f"site {site} serves nothing: no real node, or not in serving.sites"
        )
    host = str(urlsplit(str(found["url"])).hostname)
    return Gateway(str(found["gateway"]), host, str(outputs["servicesAuthority"]))


def doors_of(outputs: Json, site: str) -> list[Gateway]:
    """The same gateway at each address that clients outside the site's cluster try."""
    inside = gateway_of(outputs, site)
    return [
        Gateway(str(address), inside.host, inside.authority)
        for address in outputs[site]["addresses"]
    ]


def settled(gateway: Gateway, patience: float = PATIENCE) -> None:
    """Return once the model answers: pods of a stand that was down start again by themselves,
    and an update that changes nothing does not wait for them. Raises `AskError` after `patience`.
    """
    deadline, told = time.monotonic() + patience, False
    while True:
        try:
            popular, _ = gateway.post("/recommend", {"user_id": "a-first-visitor", "k": 1})
            history = [str(popular["items"][0]["item_id"])]
            gateway.post("/recommend", {"history": history, "k": 1})
            view(gateway, "a-first-visitor-of-the-report", history[0])
            return
        except AskError as error:
            if time.monotonic() > deadline:
                raise
            if not told:
                print(f"waiting for the service: {error}", file=sys.stderr, flush=True)
                told = True
            time.sleep(2)


def view(gateway: Gateway, visitor: str, item: str) -> None:
    """Post that a visitor looked at an item; returns once it is stored. Raises `AskError`."""
    event: Json = {
        "event_id": f"ask-{uuid.uuid4()}",
        "user_id": visitor,
        "kind": "view",
        "time": datetime.now(UTC).isoformat(),
        "item_id": item,
    }
    gateway.post("/events", {"events": [event]})


def after_a_view(gateway: Gateway) -> str:
    """A new visitor's answers around one event; `AskError` if it changes nothing."""
    visitor, k = f"visitor-{uuid.uuid4()}", 5
    answers: list[str] = []
    seen = ""
    for turn in range(2):
        answer, _ = gateway.post("/recommend", {"user_id": visitor, "k": k})
        items = [str(item["item_id"]) for item in answer["items"]]
        answers.append(f"{', '.join(items)} ({answer['tier']})")
        if turn == 0:
            seen = items[-1]
            view(gateway, visitor, seen)
    if answers[0] == answers[1]:
        raise AskError(f"{gateway.host}: a view of {seen} did not change {answers[0]}")
    return f"  a new visitor gets {answers[0]}; after a view of {seen}: {answers[1]}"


def report(gateway: Gateway) -> list[str]:
    """A recommendation from a history, a search, and what one event changes."""
    popular, _ = gateway.post("/recommend", {"user_id": "a-first-visitor", "k": 2})
    history = [str(item["item_id"]) for item in popular["items"]]
    asked: list[tuple[str, str, Json]] = [
        ("recommendation", "/recommend", {"history": history, "k": 5, "details": True}),
        ("search", "/search", {"query": "blue", "k": 5, "details": True}),
    ]
    lines = [f"https://{gateway.host} at {gateway.address}, certificate verified"]
    for what, path, body in asked:
        try:
            answer, seconds = gateway.post(path, body)
        except AskError as error:
            if what == "recommendation":
                raise
            lines.append(f"  no {what}: {error}")  # a bundle may come without a search index
            continue
        items = ", ".join(str(item["item_id"]) for item in answer["items"])
        wanted = body.get("query") or " ".join(history)
        lines.append(
            f"  {what} for {wanted}: {items} "
            f"(tier {answer['tier']}, {seconds * 1000:.0f} ms over a new connection)"
        )
    return [*lines, after_a_view(gateway)]


def main() -> int:
    """Entry point: 0 answered, or nothing serves there; 1 no answer."""
    parser = argparse.ArgumentParser(prog="python -m local.ask", description=__doc__)
    parser.add_argument("--site", default="private", help="Whose gateway (private).")
    parser.add_argument(
        "--wait", type=float, default=PATIENCE, help=f"Seconds for pods to come up ({PATIENCE:g})."
    )
    words = parser.parse_args()
    try:
        gateway = gateway_of(cast("Json", json.load(sys.stdin)), words.site)
        settled(gateway, words.wait)
        print("\n".join(report(gateway)))
    except NothingServesError as reason:
        print(f"no question asked: {reason}")
    except AskError as error:
        print(f"ask: {error}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"ask: standard input is not the stack's outputs ({error})", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
