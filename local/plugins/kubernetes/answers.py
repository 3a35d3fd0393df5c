"""Answers in the engine's form: refusals of one line, diffs."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

import grpc
from pulumi.runtime.proto import provider_pb2

from local.plugins.kubernetes.client import ApiError, NoSuchKindError, UnreachableError
from local.plugins.kubernetes.diffs import Change
from local.plugins.kubernetes.request import RefusedError, Severity

UNREACHABLE = "configured Kubernetes cluster is unreachable"
KINDS: dict[tuple[str, bool], Any] = {
    ("add", False): provider_pb2.PropertyDiff.ADD,
    ("add", True): provider_pb2.PropertyDiff.ADD_REPLACE,
    ("delete", False): provider_pb2.PropertyDiff.DELETE,
    ("delete", True): provider_pb2.PropertyDiff.DELETE_REPLACE,
    ("update", False): provider_pb2.PropertyDiff.UPDATE,
    ("update", True): provider_pb2.PropertyDiff.UPDATE_REPLACE,
}


class Servicer(Protocol):
    """What `answered` needs of the class whose methods it guards."""

    def log(self, urn: str, severity: Severity, message: str) -> None: ...

    def abort(self, context: grpc.ServicerContext, message: str) -> NoReturn: ...


class AbortedError(Exception):
    """The request was ended by `context.abort`; nothing more to say."""


def answered(method: Callable[..., Any]) -> Callable[..., Any]:
    """Turn this package's errors into one clean line for the user."""

    @functools.wraps(method)
    def guarded(self: Servicer, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return method(self, request, context)
        except AbortedError:
            raise
        except (RefusedError, UnreachableError, ApiError, NoSuchKindError, ValueError) as error:
            text = str(error)
            if isinstance(error, UnreachableError):
                text = f"{UNREACHABLE}: {text}"
            self.abort(context, text)
        except Exception as error:  # noqa: BLE001 - shown to the user, kept for -v=9
            self.log(getattr(request, "urn", ""), "debug", traceback.format_exc())
            self.abort(context, f"unexpected {type(error).__name__} in the plugin: {error}")

    return guarded


def abort(context: grpc.ServicerContext, code: grpc.StatusCode, message: str) -> NoReturn:
    try:
        context.abort(code, message)
    except Exception as error:  # gRPC raises a bare Exception; `answered` must know it apart
        raise AbortedError from error
    raise AbortedError


def diff_response(found: list[Change], *, delete_first: bool) -> Any:
    response = provider_pb2.DiffResponse(
        changes=(
            provider_pb2.DiffResponse.DIFF_SOME if found else provider_pb2.DiffResponse.DIFF_NONE
        ),
        hasDetailedDiff=True,
        deleteBeforeReplace=delete_first,
        diffs=list(dict.fromkeys(str(each.path[0]) for each in found)),
        replaces=list(dict.fromkeys(each.text for each in found if each.replace)),
    )
    for each in found:
        response.detailedDiff[each.text].CopyFrom(
            provider_pb2.PropertyDiff(kind=KINDS[each.kind, each.replace], inputDiff=True)
        )
    return response
