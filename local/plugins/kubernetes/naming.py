"""Type tokens, object ids, automatic names and field managers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

AUTONAMED = "pulumi.com/autonamed"
SKIP_AWAIT = "pulumi.com/skipAwait"
TIMEOUT_SECONDS = "pulumi.com/timeoutSeconds"
PATCH_FORCE = "pulumi.com/patchForce"
PATCH_FIELD_MANAGER = "pulumi.com/patchFieldManager"
REPLACE_UNREADY = "pulumi.com/replaceUnready"
WAIT_FOR = "pulumi.com/waitFor"
DELETION_PROPAGATION = "pulumi.com/deletionPropagationPolicy"
MANAGER_PREFIX = "pulumi-kubernetes-"
LONGEST_NAME = 63  # characters; a label value and a DNS label at the same time


@dataclass(frozen=True)
class GroupVersionKind:
    group: str  # "" for the core group
    version: str
    kind: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def __str__(self) -> str:
        return f"{self.api_version}/{self.kind}"

    @classmethod
    def parse(cls, api_version: str, kind: str) -> GroupVersionKind:
        group, _, version = api_version.rpartition("/")
        return cls("" if group == "core" else group, version, kind)


def type_of(urn: str) -> str:
    """`kubernetes:apps/v1:Deployment` out of a URN, parent types dropped."""
    return urn.split("::")[2].rpartition("$")[2]


def name_of(urn: str) -> str:
    """The resource's name in the program; it may contain `::`."""
    return urn.split("::", 3)[3]


def is_patch(urn: str, inputs: Mapping[str, Any]) -> bool:
    """Whether the resource patches an object that somebody else made."""
    kind = type_of(urn).rpartition(":")[2]
    return kind.endswith("Patch") and kind != inputs.get("kind")


def kind_of(urn: str, inputs: Mapping[str, Any]) -> GroupVersionKind:
    """The object's type: from the inputs, else (for an import) from the type token.

    Raises ValueError when neither tells.
    """
    api_version, kind = inputs.get("apiVersion"), inputs.get("kind")
    if isinstance(api_version, str) and isinstance(kind, str) and api_version and kind:
        return GroupVersionKind.parse(api_version, kind)
    parts = type_of(urn).split(":")
    if len(parts) != 3 or not re.fullmatch(r"(.+/)?v\d+\w*", parts[1]):
        raise ValueError(f"{type_of(urn)} does not name an API version; give apiVersion and kind")
    return GroupVersionKind.parse(parts[1], parts[2].removesuffix("Patch") or parts[2])


def object_id(namespace: str | None, name: str) -> str:
    return f"{namespace}/{name}" if namespace else name


def parse_id(text: str) -> tuple[str | None, str]:
    """(namespace, name) of `namespace/name` or `name`; raises ValueError."""
    parts = text.split("/")
    if not all(parts) or len(parts) > 2:
        raise ValueError(f"the id {text!r} is not 'name' or 'namespace/name'")
    return (parts[0], parts[1]) if len(parts) == 2 else (None, parts[0])


def automatic_name(urn: str, previous: str | None) -> str:
    """`<resource name>-<8 hex>`, the same for the same resource and predecessor.

    Random names would leave an orphan behind an update that was killed after the server created
    the object and before the engine wrote its state: the next update would make a second one.
    With this name it finds the first one again and adopts it. `previous` is the name that a
    replacement must avoid.
    """
    suffix = hashlib.sha256(f"{urn}\0{previous or ''}".encode()).hexdigest()[:8]
    stem = re.sub(r"[^a-z0-9.-]+", "-", name_of(urn).lower()).strip("-.") or "object"
    return f"{stem[: LONGEST_NAME - 9].rstrip('-.')}-{suffix}"


def field_manager(urn: str) -> str:
    """One field manager per resource, so that two patches of one object keep apart."""
    return MANAGER_PREFIX + hashlib.sha256(urn.encode()).hexdigest()[:8]


def owned_by(live: Mapping[str, Any], manager: str) -> bool:
    """Whether this field manager has applied the object before."""
    entries: list[Mapping[str, Any]] = live.get("metadata", {}).get("managedFields") or []
    return any(entry.get("manager") == manager for entry in entries)


def annotation(inputs: Mapping[str, Any], name: str) -> str | None:
    annotations = (inputs.get("metadata") or {}).get("annotations") or {}
    value = annotations.get(name) if isinstance(annotations, Mapping) else None
    return value if isinstance(value, str) else None


def is_true(text: str | None) -> bool:
    return (text or "").lower() == "true"
