"""A small client of the Kubernetes API: what the stand itself needs, over the standard library."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from local.errors import StandError
from local.paths import write_private
from local.pki import Pair

Json = dict[str, Any]


class ApiError(StandError):
    """The API server answered with an error status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"the API server answered {status}: {message}")
        self.status = status


@dataclass(frozen=True)
class Client:
    """Talks to one API server as one user."""

    url: str
    ca: Path
    pair: Pair
    timeout: float = 10.0  # seconds

    def request(
        self, method: str, path: str, body: object = None, kind: str = "application/json"
    ) -> Json:
        """One request; the decoded answer, `{"text": ...}` when it is not JSON."""
        context = ssl.create_default_context(cafile=str(self.ca))
        context.load_cert_chain(self.pair.cert, self.pair.key)
        address = urlsplit(self.url)
        connection = http.client.HTTPSConnection(
            address.hostname or "", address.port, timeout=self.timeout, context=context
        )
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": kind} if data else {})
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        decoded: Json = {"text": text}
        if "json" in (response.getheader("Content-Type") or ""):
            decoded = cast("Json", json.loads(text))
        if response.status >= 400:
            raise ApiError(response.status, str(decoded.get("message", text))[:500])
        return decoded

    def get(self, path: str) -> Json:
        return self.request("GET", path)

    def find(self, path: str) -> Json | None:
        """The object, or None when there is none."""
        try:
            return self.get(path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def items(self, path: str) -> list[Json]:
        return cast("list[Json]", self.get(path).get("items") or [])

    def apply(self, path: str, thing: Json) -> Json:
        """Server-side apply: creates the object or changes only the fields that we give."""
        return self.request(
            "PATCH", f"{path}?fieldManager=stand&force=true", thing,
            "application/apply-patch+yaml",
        )  # fmt: skip

    def delete(self, path: str) -> None:
        try:
            self.request("DELETE", path)
        except ApiError as error:
            if error.status != 404:
                raise

    def ready(self) -> bool:
        """Whether `/readyz` says ok. A refused connection is an ordinary "not yet"."""
        try:
            return self.get("/readyz").get("text") == "ok"
        except (OSError, http.client.HTTPException, ApiError):
            return False


def kubeconfig(path: Path, *, name: str, url: str, ca: Path, pair: Pair) -> Path:
    """Write a kubeconfig that stands on its own: certificates inside, mode 0600."""

    def inline(file: Path) -> str:
        return base64.b64encode(file.read_bytes()).decode()

    text = json.dumps(  # JSON is YAML, and every reader of kubeconfigs takes it
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "clusters": [
                {
                    "name": name,
                    "cluster": {"server": url, "certificate-authority-data": inline(ca)},
                }
            ],
            "users": [
                {
                    "name": name,
                    "user": {
                        "client-certificate-data": inline(pair.cert),
                        "client-key-data": inline(pair.key),
                    },
                }
            ],
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        },
        indent=1,
    )
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_private(path, text)
    return path
