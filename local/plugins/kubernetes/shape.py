"""Objects as the API server gets them, and as a preview expects them back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from local.plugins.kubernetes.values import UNKNOWN, mark_secrets, reveal

SERVER_MADE = ("uid", "resourceVersion", "generation", "creationTimestamp")


def expected(outputs: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Outputs of an object that is yet to be made: what only the server knows is unknown."""
    result = dict(outputs)
    result["status"] = UNKNOWN
    metadata = result.get("metadata")
    if isinstance(metadata, dict):
        result["metadata"] = {**metadata, **dict.fromkeys(SERVER_MADE, UNKNOWN)}
        if not metadata.get("name"):
            result["metadata"]["name"] = UNKNOWN
    spec = result.get("spec")
    if result.get("kind") == "Service" and isinstance(spec, dict):
        given = reveal(inputs.get("spec") or {})
        addresses = [name for name in ("clusterIP", "clusterIPs") if name not in given]
        result["spec"] = {**spec, **dict.fromkeys(addresses, UNKNOWN)}
    return mark_secrets(result, inputs)


def without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_null(each) for name, each in value.items() if each is not None}
    if isinstance(value, list):
        return [without_null(each) for each in value]
    return value
