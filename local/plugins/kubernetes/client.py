"""HTTP to one API server: discovery, apply, read, delete. Thread-safe.

Errors are three: `ApiError` (the server answered with a refusal), `UnreachableError` (it did not
answer, or it is not the server that the kubeconfig describes) and `NoSuchKindError` (it does not
serve the type).
"""

from __future__ import annotations

import http.client
import json
import queue
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from local.plugins.kubernetes.kubeconfig import Cluster, KubeconfigError
from local.plugins.kubernetes.naming import GroupVersionKind

CONNECT_SECONDS = 4.0
ANSWER_SECONDS = 60.0
RETRY_SECONDS = 10.0  # how long a server that has answered before may be away
APPLY = "application/apply-patch+yaml"  # JSON is YAML
JSON = "application/json"


class UnreachableError(Exception):
    """The cluster cannot be reached; one line that names it and the reason."""


class NoSuchKindError(Exception):
    """The server does not serve this type (its CRD may not be installed yet)."""


class ApiError(Exception):
    """A refusal by the server: `status` is the HTTP code, `reason` Kubernetes' own word for it."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        self.status = status
        self.reason = str(body.get("reason") or "")
        self.message = str(body.get("message") or f"HTTP {status}")
        details = body.get("details") or {}
        self.details: dict[str, Any] = details if isinstance(details, dict) else {}
        super().__init__(self.message)

    @property
    def causes(self) -> list[dict[str, Any]]:
        return list(self.details.get("causes") or [])


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where objects of one type live: `/api/v1`, `pods`, namespaced."""

    root: str
    plural: str
    namespaced: bool

    def path(self, namespace: str | None, name: str | None = None) -> str:
        parts = [self.root]
        if self.namespaced and namespace is not None:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        if name is not None:
            parts.append(quote(name, safe=""))
        return "/".join(parts)


class Client:
    """A pool of connections to one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._idle: queue.LifoQueue[http.client.HTTPConnection] = queue.LifoQueue()
        self._endpoints: dict[tuple[str, str], dict[str, Endpoint]] = {}
        self._discovery = threading.Lock()
        self._unreachable: str | None = None
        self._answered = False

    # One request.

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content: str = JSON,
    ) -> tuple[dict[str, Any], list[str]]:
        """(answer, warnings). Raises ApiError and UnreachableError.

        Safe to repeat: every write is an apply, a create of a named object or a delete.
        """
        if self._unreachable is not None:
            raise UnreachableError(self._unreachable)
        target = self.cluster.prefix + path + (f"?{urlencode(query)}" if query else "")
        payload = None if body is None else json.dumps(body).encode()
        end = time.monotonic() + RETRY_SECONDS
        pause = 0.2
        while True:
            try:
                status, answer, warnings = self._once(method, target, payload, content)
            except (OSError, http.client.HTTPException) as error:
                problem = self._describe(error)
                final = isinstance(error, ssl.SSLError) or not self._answered
                if final or time.monotonic() + pause > end:
                    if not self._answered:
                        self._unreachable = problem  # later requests need not wait again
                    raise UnreachableError(problem) from error
            else:
                self._answered = True
                busy = status == 429 or (status == 503 and method == "GET")
                if not busy or time.monotonic() + pause > end:
                    if status >= 400:
                        raise ApiError(status, answer)
                    return answer, warnings
            time.sleep(pause)
            pause = min(pause * 2, 2.0)

    def _once(
        self, method: str, target: str, payload: bytes | None, content: str
    ) -> tuple[int, dict[str, Any], list[str]]:
        headers = {"Accept": JSON, "User-Agent": "hybrid-recommender-plugins"}
        if payload is not None:
            headers["Content-Type"] = content
        if self.cluster.token is not None:
            headers["Authorization"] = f"Bearer {self.cluster.token}"
        while True:
            connection, used = self._connection()
            try:
                connection.request(method, target, payload, headers)
                response = connection.getresponse()
                raw = response.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                if used:  # the server closed an idle connection: try another or a fresh one
                    continue
                raise
            if response.will_close:
                connection.close()
            else:
                self._idle.put(connection)
            return response.status, _answer(response, raw), _warnings(response)

    def _connection(self) -> tuple[http.client.HTTPConnection, bool]:
        try:
            return self._idle.get_nowait(), True
        except queue.Empty:
            pass
        host, port = self.cluster.address
        tls = self.cluster.tls
        if tls is None:
            return http.client.HTTPConnection(host, port, timeout=ANSWER_SECONDS), False
        raw = socket.create_connection((host, port), timeout=CONNECT_SECONDS)
        try:
            wrapped = tls.wrap_socket(raw, server_hostname=self.cluster.tls_server_name or host)
        except BaseException:
            raw.close()
            raise
        wrapped.settimeout(ANSWER_SECONDS)
        wrapped.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = http.client.HTTPSConnection(host, port, context=tls)
        connection.sock = wrapped
        return connection, False

    def _describe(self, error: Exception) -> str:
        if isinstance(error, ssl.SSLCertVerificationError):
            reason = f"its certificate is not trusted ({error.verify_message})"
        elif isinstance(error, ConnectionRefusedError):
            reason = "connection refused"
        elif isinstance(error, (TimeoutError, socket.timeout)):
            reason = "no answer in time"
        elif isinstance(error, socket.gaierror):
            reason = "no such host"
        elif isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        else:
            reason = str(error) or type(error).__name__
        return f"{self.cluster.server} (context {self.cluster.context!r}): {reason}"

    # Types.

    def endpoint(self, gvk: GroupVersionKind) -> Endpoint:
        """Where objects of this type live; asks the server once, and again for a new CRD."""
        key = (gvk.group, gvk.version)
        with self._discovery:
            known = self._endpoints.get(key, {})
            if gvk.kind in known:
                return known[gvk.kind]
        root = f"/apis/{gvk.group}/{gvk.version}" if gvk.group else f"/api/{gvk.version}"
        try:
            answer, _ = self.request("GET", root)
        except ApiError as error:
            if error.status == 404:
                raise NoSuchKindError(
                    f"the cluster serves no {gvk.api_version} (wanted for {gvk.kind})"
                ) from error
            raise
        found: dict[str, Endpoint] = {}
        for each in answer.get("resources") or []:
            if "/" not in each["name"]:
                found[each["kind"]] = Endpoint(
                    root=root, plural=each["name"], namespaced=bool(each["namespaced"])
                )
        with self._discovery:
            self._endpoints[key] = found
        if gvk.kind not in found:
            raise NoSuchKindError(f"the cluster serves no {gvk.kind} in {gvk.api_version}")
        return found[gvk.kind]

    def forget_types(self) -> None:
        with self._discovery:
            self._endpoints.clear()

    # Objects.

    def get(self, gvk: GroupVersionKind, namespace: str | None, name: str) -> dict[str, Any] | None:
        """The object, or None when there is none (or its type is gone)."""
        try:
            return self.request("GET", self.endpoint(gvk).path(namespace, name))[0]
        except NoSuchKindError:
            return None
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def apply(
        self,
        gvk: GroupVersionKind,
        obj: Mapping[str, Any],
        *,
        manager: str,
        force: bool = False,
        dry_run: bool = False,
    ) -> tuple[dict[str, Any], list[str]]:
        """Server-side apply of an object with a name; unknown fields are refused."""
        metadata = obj["metadata"]
        query = {"fieldManager": manager, "fieldValidation": "Strict"}
        if force:
            query["force"] = "true"
        if dry_run:
            query["dryRun"] = "All"
        path = self.endpoint(gvk).path(metadata.get("namespace"), metadata["name"])
        return self.request("PATCH", path, query=query, body=obj, content=APPLY)

    def create(
        self,
        gvk: GroupVersionKind,
        obj: Mapping[str, Any],
        *,
        manager: str,
        dry_run: bool = False,
    ) -> tuple[dict[str, Any], list[str]]:
        """Plain create, for `generateName`."""
        query = {"fieldManager": manager, "fieldValidation": "Strict"}
        if dry_run:
            query["dryRun"] = "All"
        path = self.endpoint(gvk).path(obj["metadata"].get("namespace"))
        return self.request("POST", path, query=query, body=obj)

    def delete(
        self, gvk: GroupVersionKind, namespace: str | None, name: str, *, propagation: str
    ) -> bool:
        """Ask for deletion; False when the object (or its type) was gone already."""
        options = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation}
        try:
            self.request("DELETE", self.endpoint(gvk).path(namespace, name), body=options)
        except NoSuchKindError:
            return False
        except ApiError as error:
            if error.status == 404:
                return False
            raise
        return True

    def list(
        self,
        gvk: GroupVersionKind,
        namespace: str | None,
        *,
        labels: str | None = None,
        fields: str | None = None,
    ) -> Iterator[dict[str, Any]]:
        query: dict[str, str] = {}
        if labels is not None:
            query["labelSelector"] = labels
        if fields is not None:
            query["fieldSelector"] = fields
        answer, _ = self.request("GET", self.endpoint(gvk).path(namespace), query=query)
        yield from answer.get("items") or []


def _answer(response: http.client.HTTPResponse, raw: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(raw) if raw else {}
    except ValueError:
        # A proxy or another server speaks here; its page is not for a terminal.
        return {"message": f"HTTP {response.status} {response.reason}: not an answer in JSON"}
    return answer if isinstance(answer, dict) else {"message": f"HTTP {response.status}"}


def _warnings(response: http.client.HTTPResponse) -> list[str]:
    """The texts of `Warning: 299 - "text"` headers."""
    return [
        header.split('"', 1)[1].rsplit('"', 1)[0]
        for header in response.headers.get_all("Warning") or []
        if header.count('"') > 1
    ]


__all__ = [
    "ApiError",
    "Client",
    "Endpoint",
    "KubeconfigError",
    "NoSuchKindError",
    "UnreachableError",
]
