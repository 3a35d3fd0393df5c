"""The OpenAPI 3.1 document, made from the same models that check the requests."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from bento.types import (
    Answer,
    ErrorAnswer,
    EventsAnswer,
    EventsRequest,
    ModelAnswer,
    RecommendRequest,
    SearchRequest,
)

REF = "#/components/schemas/{model}"
REQUESTS: tuple[type[BaseModel], ...] = (RecommendRequest, SearchRequest, EventsRequest)
ANSWERS: tuple[type[BaseModel], ...] = (Answer, EventsAnswer, ModelAnswer, ErrorAnswer)

REFUSALS = {
    "400": "The body is not valid JSON.",
    "413": "The body is over its size limit.",
    "415": "The body is not UTF-8 JSON.",
    "422": "A field breaks the contract; `fields` names each.",
    "429": "Overloaded; come back after Retry-After.",
    "503": "The model or the store is not there; come back after Retry-After.",
}
RETRY = {
    "Retry-After": {
        "description": "Seconds to wait before trying again.",
        "schema": {"type": "integer", "minimum": 1},
    }
}


def _content(model: type[BaseModel]) -> dict[str, Any]:
    ref = {"$ref": REF.format(model=model.__name__)}
    extra = model.model_config.get("json_schema_extra")
    examples = extra.get("examples") if isinstance(extra, dict) else None
    if not isinstance(examples, list):
        return {"application/json": {"schema": ref}}
    named = {f"example {n}": {"value": value} for n, value in enumerate(examples, 1)}
    return {"application/json": {"schema": ref, "examples": named}}


def _errors(*statuses: str) -> dict[str, Any]:
    return {
        status: {
            "description": REFUSALS[status],
            "content": _content(ErrorAnswer),
            **({"headers": RETRY} if status in ("429", "503") else {}),
        }
        for status in statuses
    }


def _post(
    name: str, summary: str, text: str, request: type[BaseModel], answer: type[BaseModel]
) -> dict[str, Any]:
    return {
        "post": {
            "operationId": name,
            "summary": summary,
            "description": text,
            "requestBody": {"required": True, "content": _content(request)},
            "responses": {
                "200": {"description": "The answer.", "content": _content(answer)},
                **_errors("400", "413", "415", "422", "429", "503"),
            },
        }
    }


def _probe(name: str, summary: str, ready: bool) -> dict[str, Any]:
    text = {"content": {"text/plain": {"schema": {"type": "string"}}}}
    answers: dict[str, Any] = {"200": {"description": "Yes.", **text}}
    if ready:
        answers["503"] = {"description": "Not yet.", **text}
    return {"get": {"operationId": name, "summary": summary, "responses": answers}}


def _version() -> str:
    try:
        return version("hybrid-recommender")
    except PackageNotFoundError:  # inside a bento only the sources are there
        return "0"


def document() -> bytes:
    """The document as JSON."""
    _, schemas = models_json_schema(
        [*((m, "validation") for m in REQUESTS), *((m, "serialization") for m in ANSWERS)],
        ref_template=REF,
    )
    paths = {
        "/recommend": _post(
            "recommend",
            "Items for a user or a history",
            "An explicit `history` replaces the stored one; with neither, and for an unknown "
            "user, the popular list answers. Seen items are never answered.",
            RecommendRequest,
            Answer,
        ),
        "/search": _post(
            "search",
            "Products for a text query",
            "With a user or a history, the order follows them.",
            SearchRequest,
            Answer,
        ),
        "/events": _post(
            "events",
            "Report what shoppers did",
            "Answered only when every event is on disk; post the same batch again after any "
            "error: event ids make that safe. The next recommendation knows the events.",
            EventsRequest,
            EventsAnswer,
        ),
        "/model": {
            "get": {
                "operationId": "model",
                "summary": "What is being served",
                "responses": {
                    "200": {"description": "The model.", "content": _content(ModelAnswer)},
                    **_errors("503"),
                },
            }
        },
        "/livez": _probe("livez", "The process is alive", ready=False),
        "/readyz": _probe("readyz", "Model, index and history store are usable", ready=True),
    }
    return json.dumps(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "hybrid-recommender",
                "version": _version(),
                "description": "Recommendation and search. Every answer carries an X-Request-Id; "
                "one given with the request (8 to 64 letters, digits, `.`, `_`, `-`) is kept.",
            },
            "paths": paths,
            "components": {"schemas": schemas["$defs"]},
        }
    ).encode()
