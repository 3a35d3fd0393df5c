"""A typed client of the service, on httpx.

    with RecommenderClient("http://127.0.0.1:3000") as client:
        answer = client.recommend(user_id="u42", k=5)

Answers are the models of `bento/types.py`. Refusals (429, 503) and broken connections are tried
again after Retry-After; event batches too, as event ids make that safe.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from bento.types import (
    Answer,
    ErrorAnswer,
    Event,
    EventsAnswer,
    EventsRequest,
    Filters,
    ModelAnswer,
    RecommendRequest,
    SearchRequest,
)

T = TypeVar("T", bound=BaseModel)
TRY_AGAIN = {429, 503}


class ServiceRefusedError(RuntimeError):
    """The service answered with an error; `answer` has the fields at fault."""

    def __init__(self, status: int, answer: ErrorAnswer) -> None:
        faults = "; ".join(f"{f.field}: {f.message}" for f in answer.fields)
        super().__init__(f"{status} {answer.error}: {faults or answer.message}")
        self.status = status
        self.answer = answer


class RecommenderClient:
    """Calls the service; close it or use it in a `with` block."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 5,
        tries: int = 3,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(base_url=url, timeout=timeout_s, transport=transport)
        self._tries = tries

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def recommend(
        self,
        *,
        user_id: str | None = None,
        history: Sequence[str] | None = None,
        context_item: str | None = None,
        k: int = 10,
        filters: Filters | None = None,
        exclude: Sequence[str] = (),
        deadline_ms: int | None = None,
        details: bool = False,
    ) -> Answer:
        """Items for a user or a history."""
        request = RecommendRequest(
            user_id=user_id,
            history=None if history is None else list(history),
            context_item=context_item,
            k=k,
            filters=filters,
            exclude=list(exclude),
            deadline_ms=deadline_ms,
            details=details,
        )
        return self._call("POST", "/recommend", request, Answer)

    def search(
        self,
        query: str,
        *,
        user_id: str | None = None,
        history: Sequence[str] | None = None,
        k: int = 10,
        filters: Filters | None = None,
        exclude: Sequence[str] = (),
        deadline_ms: int | None = None,
        details: bool = False,
    ) -> Answer:
        """Products for a text query."""
        request = SearchRequest(
            query=query,
            user_id=user_id,
            history=None if history is None else list(history),
            k=k,
            filters=filters,
            exclude=list(exclude),
            deadline_ms=deadline_ms,
            details=details,
        )
        return self._call("POST", "/search", request, Answer)

    def post_events(self, events: Sequence[Event]) -> EventsAnswer:
        """Report events; returns when they are durable."""
        return self._call("POST", "/events", EventsRequest(events=list(events)), EventsAnswer)

    def model(self) -> ModelAnswer:
        """What is being served."""
        return self._call("GET", "/model", None, ModelAnswer)

    def ready(self) -> bool:
        """Whether the service is ready; false as well when nothing answers."""
        try:
            return self._http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def _call(self, method: str, path: str, request: BaseModel | None, answer: type[T]) -> T:
        content = None if request is None else request.model_dump_json(exclude_none=True)
        headers = {} if content is None else {"content-type": "application/json"}
        for left in reversed(range(self._tries)):
            try:
                response = self._http.request(method, path, content=content, headers=headers)
            except httpx.TransportError:
                if not left:
                    raise
                time.sleep(0.1)
                continue
            if response.status_code == 200:
                return answer.model_validate_json(response.content)
            if not left or response.status_code not in TRY_AGAIN:
                raise ServiceRefusedError(response.status_code, _error(response))
            time.sleep(float(response.headers.get("retry-after", "1")))
        raise AssertionError("unreachable: the last try returns or raises")


def _error(response: httpx.Response) -> ErrorAnswer:
    try:
        return ErrorAnswer.model_validate_json(response.content)
    except ValidationError:  # a proxy in front answered
        text: Any = response.text[:200]
        return ErrorAnswer(error="unknown", message=text, fields=[], request_id="")
