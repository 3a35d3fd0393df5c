"""Proves that a secret from Vault arrived, without showing it. Standard library only.

GET /readyz        200 while the secret's file is there and not empty
GET /livez         200
GET /proof?nonce=  HMAC-SHA256 of the nonce, keyed by the secret: whoever knows the secret can check
                   that this pod knows it too
"""

from __future__ import annotations

import hmac
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

SECRET = Path(os.environ.get("CANARY_SECRET", "/secrets/token"))
PORT = int(os.environ.get("CANARY_PORT", "8080"))
NONCE_LIMIT = 256  # characters


def answer(target: str) -> tuple[int, str]:
    """Status and text for one request target."""
    url = urlsplit(target)
    if url.path == "/livez":
        return 200, "ok"
    secret = SECRET.read_bytes().strip() if SECRET.exists() else b""
    if url.path == "/readyz":
        return (200, "ok") if secret else (503, "the secret has not arrived")
    if url.path == "/proof":
        nonce = parse_qs(url.query).get("nonce", [""])[0]
        if not 16 <= len(nonce) <= NONCE_LIMIT:
            return 400, f"nonce has {len(nonce)} characters; give 16 to {NONCE_LIMIT}"
        if not secret:
            return 503, "the secret has not arrived"
        return 200, hmac.new(secret, nonce.encode(), "sha256").hexdigest()
    return 404, "use /livez, /readyz or /proof?nonce="


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, text = answer(self.path)
        body = f"{text}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Probes every few seconds are not news."""


def stop(signum: int, frame: object) -> None:
    """End at once: nothing here is lost by it."""
    del signum, frame
    sys.exit(0)


if __name__ == "__main__":
    # the first process of a container gets no default handler: without one, ending takes 30 s
    signal.signal(signal.SIGTERM, stop)
    ThreadingHTTPServer(("", PORT), Handler).serve_forever()
