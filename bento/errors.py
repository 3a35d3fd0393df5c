"""Errors a caller sees: a status, a stable code, one line for people, and the fields at fault."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from bento.types import ErrorAnswer, FieldError

# Long lists of faults help nobody and cost time.
MAX_FIELDS = 20


class ServiceError(Exception):
    """Becomes the JSON answer with this status."""

    status = 500
    code = "internal"

    def __init__(
        self,
        message: str,
        fields: Sequence[FieldError] = (),
        *,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.fields = list(fields)
        self.retry_after_s = retry_after_s

    def headers(self) -> dict[str, str]:
        """Headers that go with it."""
        if self.retry_after_s is None:
            return {}
        return {"retry-after": str(max(1, math.ceil(self.retry_after_s)))}

    def body(self, request_id: str) -> bytes:
        """The JSON answer."""
        answer = ErrorAnswer(
            error=self.code, message=self.message, fields=self.fields, request_id=request_id
        )
        return answer.model_dump_json().encode()


class InvalidError(ServiceError):
    """The request breaks the contract."""

    status = 422
    code = "invalid_request"


class BadBodyError(ServiceError):
    """The body is not what its headers say."""

    status = 400
    code = "bad_body"


class TooLargeError(ServiceError):
    """The body is over its limit."""

    status = 413
    code = "too_large"


class MediaTypeError(ServiceError):
    """The body is of a kind that is not taken."""

    status = 415
    code = "unsupported_media_type"


class NotFoundError(ServiceError):
    """No such path."""

    status = 404
    code = "not_found"


class MethodError(ServiceError):
    """The path exists, the method does not."""

    status = 405
    code = "method_not_allowed"


class RefusedError(ServiceError):
    """Too much to do now; refused early rather than late."""

    status = 429
    code = "overloaded"


class NotReadyError(ServiceError):
    """Something needed is not there now."""

    status = 503
    code = "unavailable"


def shorten(value: Any, most: int = 80) -> str:
    """A value as the caller can recognise it, cut."""
    text = str(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= most else text[:most] + f"… ({len(text)} characters)"


def field_refused(field: str, rule: str, found: Any) -> InvalidError:
    """One field is at fault."""
    fault = FieldError(field=field, message=rule, found=shorten(found))
    return InvalidError(f"{field} {rule}", [fault])


def path_of(location: Sequence[int | str]) -> str:
    """`("events", 3, "time")` as `events[3].time`; the whole document as `body`."""
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return shorten(path, 160) or "body"


def from_validation(error: ValidationError) -> ServiceError:
    """What pydantic found, as 400 (not JSON at all) or 422 (breaks the contract)."""
    found = error.errors(include_url=False, include_context=False)
    if found and found[0]["type"] == "json_invalid":
        message = found[0]["msg"].removeprefix("Invalid JSON: ")
        fault = FieldError(field="body", message=f"is not valid JSON: {message}")
        return BadBodyError("body is not valid JSON", [fault])
    faults = [
        FieldError(
            field=path_of(e["loc"]),
            message=shorten(e["msg"].removeprefix("Value error, "), 300),
            found=None if e["type"] == "missing" else _found(e["input"]),
        )
        for e in found[:MAX_FIELDS]
    ]
    plural = "field" if len(found) == 1 else "fields"
    return InvalidError(f"{len(found)} {plural} refused", faults)


def _found(value: Any) -> str | None:
    """Scalars are shown; a list or an object only by kind and size."""
    if isinstance(value, str | int | float | bool) or value is None:
        # An int may have any number of digits, and printing it takes quadratic time.
        if isinstance(value, int) and abs(value) > 10**40:
            return "an integer of more than 40 digits"
        return shorten(value)
    if isinstance(value, list | dict):
        kind = "array" if isinstance(value, list) else "object"
        return f"{kind} of {len(value)}"  # pyright: ignore[reportUnknownArgumentType]
    return type(value).__name__
