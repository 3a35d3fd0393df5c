"""One resource in one operation, and its refusal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from local.plugins.kubernetes import naming
from local.plugins.kubernetes.naming import GroupVersionKind
from local.plugins.kubernetes.values import reveal, without_unknown

Severity = Literal["debug", "info", "warning"]
FIELD_MANAGER = "__fieldManager"  # an output: which field manager owns what the program set


class RefusedError(Exception):
    """The operation was refused; one line for the user."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One resource in one operation."""

    urn: str
    inputs: dict[str, Any]
    state: dict[str, Any]  # outputs of the last operation; empty for a create
    seconds: float  # the program's custom timeout; 0 for none
    log: Callable[[Severity, str], None]

    @property
    def gvk(self) -> GroupVersionKind:
        return naming.kind_of(self.urn, reveal(self.inputs) or reveal(self.state))

    @property
    def patch(self) -> bool:
        return naming.is_patch(self.urn, reveal(self.inputs))

    @property
    def manager(self) -> str:
        named = naming.annotation(reveal(self.inputs), naming.PATCH_FIELD_MANAGER)
        return (
            (named if self.patch else None)
            or self.state.get(FIELD_MANAGER)
            or naming.field_manager(self.urn)
        )

    def annotation(self, name: str) -> str | None:
        return naming.annotation(without_unknown(self.inputs), name)
