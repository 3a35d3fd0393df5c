"""The HTTP surface: a Starlette application that the BentoML service mounts at `/`.

Requests go from bytes to typed models in one step (`model_validate_json`), so that every fault is
answered with the field's name; BentoML's own endpoints answer some malformed bodies with 500
(docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from bento import openapi
from bento.errors import ServiceError, from_validation
from bento.guard import check_media_type, read_body
from bento.logs import request_id
from bento.runtime import Runtime
from bento.types import EventsRequest, RecommendRequest, SearchRequest

PAGE = Path(__file__).with_name("page.html")
Req = TypeVar("Req", bound=BaseModel)


class JsonEndpoint(Generic[Req]):
    """A POST endpoint as a bare ASGI application: JSON to typed request, typed answer to JSON."""

    def __init__(
        self, model: type[Req], handle: Callable[[Req, float, str], Awaitable[BaseModel]]
    ) -> None:
        self.model = model
        self.handle = handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        check_media_type(scope)
        body = await read_body(scope, receive)
        try:
            request = self.model.model_validate_json(body)
        except ValidationError as error:
            raise from_validation(error) from None
        state: dict[str, Any] = scope["state"]
        answer = await self.handle(request, state["began"], state["request_id"])
        # Defaults left out: an item without details is an id and a score.
        text = answer.model_dump_json(exclude_defaults=True).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(text)).encode()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})


async def _refused(_: Request, error: Exception) -> Response:
    """A ServiceError as it is, anything else (the guard logs it) without its text."""
    if not isinstance(error, ServiceError):
        error = ServiceError("internal error; the log has it under this id")
    body = error.body(request_id.get() or "")
    return Response(body, error.status, error.headers(), media_type="application/json")


def endpoints(runtime: Runtime) -> dict[str, ASGIApp]:
    """The POST endpoints by path."""
    return {
        "/recommend": JsonEndpoint(RecommendRequest, runtime.recommend),
        "/search": JsonEndpoint(SearchRequest, runtime.search),
        "/events": JsonEndpoint(EventsRequest, runtime.events),
    }


def create_app(runtime: Runtime) -> Starlette:
    """Routes of one process."""

    async def model(_: Request) -> Response:
        answer = runtime.describe()
        return Response(answer.model_dump_json(), media_type="application/json")

    document = openapi.document()

    async def schema(_: Request) -> Response:
        return Response(document, media_type="application/json")

    async def page(_: Request) -> Response:
        return FileResponse(PAGE, media_type="text/html")

    def post(path: str, endpoint: Any) -> Route:
        return Route(path, endpoint, methods=["POST"])

    return Starlette(
        routes=[
            *(post(path, endpoint) for path, endpoint in endpoints(runtime).items()),
            Route("/model", model, methods=["GET"]),
            Route("/openapi.json", schema, methods=["GET"]),
            Route("/docs.json", schema, methods=["GET"]),
            Route("/", page, methods=["GET"]),
        ],
        exception_handlers={ServiceError: _refused, Exception: _refused},
    )
