"""Objects as the API server gets them, and as a preview expects them back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from local.plugins.kubernetes import naming
from local.plugins.kubernetes.request import FIELD_MANAGER, Request
from local.plugins.kubernetes.values import UNKNOWN, Secret, mark_secrets, reveal

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


def object_id(live: Mapping[str, Any]) -> str:
    return naming.object_id(live["metadata"].get("namespace"), live["metadata"]["name"])


def outputs(live: Mapping[str, Any], request: Request) -> dict[str, Any]:
    """The state to keep: the live object without its bookkeeping, secrets marked."""
    kept = dict(live)
    metadata = dict(kept.get("metadata") or {})
    metadata.pop("managedFields", None)
    kept["metadata"] = metadata
    kept = mark_secrets(kept, request.inputs)
    if kept.get("kind") == "Secret":
        for name in ("data", "stringData"):
            if name in kept:
                kept[name] = Secret(reveal(kept[name]))
    if request.inputs:
        kept[FIELD_MANAGER] = request.manager
    return kept


def elsewhere(urn: str, obj: Mapping[str, Any]) -> dict[str, Any]:
    """The object's metadata under a name that nobody has, for a dry run."""
    suffix = hashlib.sha256(urn.encode()).hexdigest()[:8]
    kept = {name: value for name, value in obj["metadata"].items() if name != "generateName"}
    return {**kept, "name": f"pulumi-preview-{suffix}"}
