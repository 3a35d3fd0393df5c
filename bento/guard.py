"""The layer around the product's paths: request ids, early refusal, a log line, errors as JSON.

Nothing that a client sends may become a status of 500 or above: what the handlers do not expect is
logged with its place in the code and answered as JSON without details.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager

from starlette.applications import Starlette
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bento import metrics
from bento.errors import (
    BadBodyError,
    MediaTypeError,
    MethodError,
    NotFoundError,
    RefusedError,
    ServiceError,
    TooLargeError,
)
from bento.logs import request_id as current_request
from bento.types import FieldError

log = logging.getLogger("bento.access")

LIMITED = {"/recommend": 128 * 1024, "/search": 128 * 1024, "/events": 1024 * 1024}
KNOWN = {*LIMITED, "/", "/model", "/metrics", "/livez", "/readyz", "/healthz", "/openapi.json"}
QUIET = {"/livez", "/readyz", "/healthz", "/metrics"}
# A body over its limit is read to its end up to here, so that the client sees the answer instead
# of a broken connection; beyond, the connection is closed.
DRAIN = 16 * 1024 * 1024
BODY_TIMEOUT_S = 10
WHOLE_S = 60  # ends a request that something broken holds; deadlines are the engine's work
TICK_S = 0.01
USUAL_S = 0.1  # over which the requests under way are averaged
# Requests, under way or begun in the last turns of the event loop, from which a late loop means
# load of our own: with fewer, the machine is short of processor time for other reasons, and
# refusing a lone shopper would not bring it back.
FEW = 4
# Share of the time that the event loop's thread computes, from which it is late by its own work;
# below, others hold the processor, and only a lag of so many times the limit refuses.
BUSY, GRAVE = 0.4, 4.0
GIVEN_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")


class Admission:
    """Says when this process has more to do than it can answer in time."""

    def __init__(self, max_in_flight: int, max_lag_s: float) -> None:
        self.max_in_flight = max_in_flight
        self.max_lag_s = max_lag_s
        self.in_flight = 0
        # of the last tenth of a second or so: requests under way, share of time computing
        self.usual, self.busy = 0.0, 0.0
        self._begun = 0  # since the last tick
        self._before = 0  # in the tick before
        self._lag = 0.0
        self._last = 0.0  # how late the last tick was
        self._loading = False
        self._due = 0.0
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin measuring; needs a running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._measure(), name="lag")

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _measure(self) -> None:
        before, spent = time.perf_counter(), time.thread_time()
        while True:
            self._due = time.perf_counter() + TICK_S
            await asyncio.sleep(TICK_S)
            now, cpu = time.perf_counter(), time.thread_time()
            lag, took = max(0.0, now - self._due), now - before
            share = min(1.0, (cpu - spent) / took)
            self.busy += (share - self.busy) * min(1.0, took / USUAL_S)
            before, spent = now, cpu
            # Rises at once, falls over a few ticks: refusing, which is quick, must not look like an
            # end of the load.
            self._lag = max(self._now(lag), self._lag * 0.7)
            self._last = lag
            self._before, self._begun = self._begun, 0
            self.usual += (self.in_flight - self.usual) * TICK_S / USUAL_S
            metrics.LOOP_LAG.set(self._lag)
            metrics.IN_FLIGHT.set(self.in_flight)

    def _now(self, late: float) -> float:
        """How late the loop is, `late` in this tick; while a model is loaded the less of two."""
        return min(late, self._last) if self._loading else late

    @property
    def lag(self) -> float:
        """Seconds that work waits for the event loop, the tick now overdue included."""
        overdue = time.perf_counter() - self._due if self._due else 0.0
        return max(self._lag, self._now(overdue))

    @contextmanager
    def loading(self) -> Generator[None]:
        """While a model is loaded beside the one in use: a single pause is the loading's, and over
        when it is seen."""
        self._loading = True
        try:
            yield
        finally:
            self._loading = False

    @property
    def load(self) -> int:
        """Requests under way, or begun in this tick or the last: most answers end where they began,
        and are never under way together."""
        return max(self.in_flight, self._begun, self._before)

    @property
    def wait(self) -> float:
        """Seconds that requests wait for each other in the event loop, unseen by any queue."""
        return self.lag if self.load > FEW else 0.0

    def begin(self) -> None:
        """A request is under way."""
        self.in_flight += 1
        self._begun += 1

    def end(self) -> None:
        """It is not any more."""
        self.in_flight -= 1

    def refuse(self) -> RefusedError | None:
        """The refusal, if one is due, of a request that has begun."""
        if self.in_flight >= self.max_in_flight:
            metrics.REFUSED.labels("in_flight").inc()
            return RefusedError("too many requests are under way", retry_after_s=1)
        if self.wait > self.max_lag_s * (1 if self.busy >= BUSY else GRAVE):
            metrics.REFUSED.labels("lag").inc()
            return RefusedError("the service is overloaded", retry_after_s=1)
        return None


class Guard:
    """ASGI middleware around the whole service."""

    def __init__(
        self,
        app: ASGIApp,
        admission: Admission,
        direct: Mapping[str, ASGIApp] | None = None,
        ends: Callable[[], bool] = lambda: False,
    ) -> None:
        self.app = app
        self.admission = admission
        # whether the answer that is sent next ends its connection
        self.ends = ends
        # POST endpoints that are called from here, past the frameworks' middleware and routing
        # (docs/decisions.md, 13)
        self.direct = direct or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" and self.direct:
            # a service's middleware lies inside BentoML's; the application's start is the moment
            # to take the place before all of them
            application: Starlette = scope["app"]
            if application.middleware_stack is not None:
                application.middleware_stack = _Shortcut(application.middleware_stack, self)
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        path: str = scope["path"]
        request_id = _request_id(scope)
        token = current_request.set(request_id)
        state = scope.setdefault("state", {})
        state["request_id"], state["began"] = request_id, began
        limited = path in LIMITED
        answered = _Answer(send, request_id, self.ends if limited else None)
        if limited:
            self.admission.begin()
        try:
            if limited and (refusal := self.admission.refuse()) is not None:
                raise refusal
            endpoint = self.direct.get(path) if scope["method"] == "POST" else None
            if endpoint is None:
                await self.app(scope, receive, answered)
            else:
                async with asyncio.timeout(WHOLE_S):
                    await endpoint(scope, receive, answered)
        except ServiceError as error:
            await answered.error(error)
        except Exception:
            log.exception("request failed")
            await answered.error(ServiceError("internal error; the log has it under this id"))
        finally:
            if limited:
                self.admission.end()
            _finish(path, scope["method"], answered.status, began)
            current_request.reset(token)


class _Shortcut:
    """Before everything: only what the guard does not answer itself passes BentoML's middleware."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self.app = app
        self.guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        direct = scope["type"] == "http" and scope["method"] == "POST"
        if direct and scope["path"] in self.guard.direct:
            await self.guard(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and GIVEN_ID.fullmatch(value):
            return value.decode("ascii")
    return secrets.token_hex(8)


def _finish(path: str, method: str, status: int, began: float) -> None:
    # A path that a client made up may hold personal data and would be a metric label without end.
    endpoint = path if path in KNOWN else "other"
    metrics.child(metrics.REQUESTS, endpoint, str(status)).inc()
    level = logging.DEBUG if endpoint in QUIET else logging.INFO
    if log.isEnabledFor(level):
        took = round((time.perf_counter() - began) * 1000, 2)
        extra = {"endpoint": endpoint, "method": method, "status": status, "ms": took}
        log.log(level, "request", extra=extra)


class _Answer:
    """Passes messages on, adds the request id, and turns bare 404 and 405 into JSON."""

    def __init__(self, send: Send, request_id: str, ends: Callable[[], bool] | None) -> None:
        self._send = send
        self._ends = ends
        self.request_id = request_id
        self.status = 0
        self._replaced = False

    async def __call__(self, message: Message) -> None:
        if self._replaced:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = message.setdefault("headers", [])
            if self.status in (404, 405) and _is_text(headers):
                self._replaced = True
                await self._bare(self.status, headers)
                return
            headers.append((b"x-request-id", self.request_id.encode()))
            if self._ends is not None and self._ends():
                headers.append((b"connection", b"close"))
        await self._send(message)

    async def _bare(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        if status == 404:
            error: ServiceError = NotFoundError(
                "no such path; see /openapi.json",
                [FieldError(field="path", message="is not one of the service's paths")],
            )
        else:
            error = MethodError(
                "this path takes another method; see /openapi.json",
                [FieldError(field="method", message="is not allowed here")],
            )
        allow = {k.decode(): v.decode() for k, v in headers if k == b"allow"}
        await self._write(error, allow)

    async def error(self, error: ServiceError) -> None:
        """Answer with an error unless an answer has begun."""
        if self.status == 0:
            await self._write(error, {})

    async def _write(self, error: ServiceError, more: dict[str, str]) -> None:
        self.status = error.status
        body = error.body(self.request_id)
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "x-request-id": self.request_id,
            **error.headers(),
            **more,
        }
        raw = [(k.encode(), v.encode()) for k, v in headers.items()]
        await self._send({"type": "http.response.start", "status": error.status, "headers": raw})
        await self._send({"type": "http.response.body", "body": body})


def _is_text(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(k == b"content-type" and v.startswith(b"text/plain") for k, v in headers)


def check_media_type(scope: Scope) -> None:
    """Refuse everything but UTF-8 JSON, sent as it is."""
    for name, value in scope["headers"]:
        if name == b"content-type":
            kind, _, rest = value.decode("latin-1").partition(";")
            charset = re.search(r"charset\s*=\s*\"?([^\s;\"]+)", rest, re.IGNORECASE)
            if kind.strip().lower() != "application/json":
                raise _media("content-type", "must be application/json", kind)
            if charset and charset[1].lower() not in ("utf-8", "utf8"):
                raise _media("content-type", "must have charset utf-8 or none", charset[1])
        elif name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise _media(
                "content-encoding", "is not taken; send the body as it is", value.decode("latin-1")
            )
    if not any(name == b"content-type" for name, _ in scope["headers"]):
        raise _media("content-type", "is missing; send application/json", None)


def _media(field: str, rule: str, found: str | None) -> MediaTypeError:
    shown = None if found is None else json.dumps(found)[1:81]
    return MediaTypeError(f"{field} {rule}", [FieldError(field=field, message=rule, found=shown)])


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """The whole body, or TooLargeError; never holds more than the path's limit."""
    limit = LIMITED[scope["path"]]
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise BadBodyError("the connection closed before the body ended")
                part: bytes = message.get("body", b"")
                more = message.get("more_body", False)
                size += len(part)
                if size <= limit:
                    parts.append(part)
                elif size > DRAIN:
                    break
    except TimeoutError:
        fault = FieldError(field="body", message=f"did not arrive within {BODY_TIMEOUT_S} s")
        raise BadBodyError("body did not arrive in time", [fault]) from None
    if size > limit:
        rule = f"has more than {limit} bytes; send fewer or shorter values"
        found = f"{size} bytes" if size <= DRAIN else f"over {DRAIN} bytes"
        fault = FieldError(field="body", message=rule, found=found)
        raise TooLargeError(f"body {rule}", [fault])
    return b"".join(parts)
