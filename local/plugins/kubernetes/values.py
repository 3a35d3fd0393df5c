"""Property values: the engine's wire form, and plain Python with two markers.

A decoded value is None, bool, int, float, str, a list or a dict with str keys; anywhere in it may
stand a `Secret` (around any value) or `UNKNOWN` (only during preview).
"""

from __future__ import annotations

import base64
import threading
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf import struct_pb2

SIGNATURE: Final = "4dabf18193072939515e22adb298388d"
SECRET: Final = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105 - a marker of the wire format
OUTPUT: Final = "d0e6a833031e9bbcd3f4e8bde6ca49a4"
RESOURCE: Final = "5cf8f73096256a8f31e491e813e4eb8e"
UNKNOWN_STRING: Final = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
# The engine writes a different string for an unknown of each type.
UNKNOWN_STRINGS: Final = frozenset(
    {
        UNKNOWN_STRING,
        "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",  # bool
        "3eeb2bf0-c639-47a8-9e75-3b44932eb421",  # number
        "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",  # array
        "030794c1-ac77-496b-92df-f27374a8bd58",  # asset
        "e48ece36-62e2-4504-bad9-02848725956a",  # archive
        "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",  # object
    }
)


class _Unknown:
    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = _Unknown()


@dataclass(frozen=True)
class Secret:
    """A value that must not be shown; `repr` does not."""

    value: Any

    def __repr__(self) -> str:
        return "[secret]"


def decode(struct: struct_pb2.Struct) -> dict[str, Any]:
    return {name: _decode(value) for name, value in struct.fields.items()}


def _decode(value: struct_pb2.Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        text = value.string_value
        return UNKNOWN if text in UNKNOWN_STRINGS else text
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() else number
    if kind == "bool_value":
        return value.bool_value
    if kind == "list_value":
        return [_decode(each) for each in value.list_value.values]
    if kind == "struct_value":
        return _decode_object(value.struct_value)
    return None


def _decode_object(struct: struct_pb2.Struct) -> Any:
    if SIGNATURE not in struct.fields:
        return decode(struct)
    signature = struct.fields[SIGNATURE].string_value
    if signature == SECRET:
        return Secret(_decode(struct.fields["value"]))
    if signature == OUTPUT:
        inner = _decode(struct.fields["value"]) if "value" in struct.fields else UNKNOWN
        return Secret(inner) if struct.fields["secret"].bool_value else inner
    if signature == RESOURCE:
        return struct.fields["id"].string_value or UNKNOWN
    raise ValueError("an asset or archive was given where Kubernetes takes plain values")


def encode(value: Mapping[str, Any]) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    for name, each in value.items():
        _encode(each, struct.fields[name])
    return struct


def _encode(value: Any, into: struct_pb2.Value) -> None:
    if value is None:
        into.null_value = struct_pb2.NULL_VALUE
    elif isinstance(value, bool):
        into.bool_value = value
    elif isinstance(value, (int, float)):
        into.number_value = value
    elif isinstance(value, str):
        into.string_value = value
    elif isinstance(value, _Unknown):
        into.string_value = UNKNOWN_STRING
    elif isinstance(value, Secret):
        into.struct_value.fields[SIGNATURE].string_value = SECRET
        _encode(value.value, into.struct_value.fields["value"])
    elif isinstance(value, Mapping):
        into.struct_value.SetInParent()
        for name, each in value.items():
            _encode(each, into.struct_value.fields[str(name)])
    elif isinstance(value, (list, tuple)):
        into.list_value.SetInParent()
        for each in value:
            _encode(each, into.list_value.values.add())
    else:
        raise TypeError(f"cannot send a {type(value).__name__} to the engine")


def reveal(value: Any) -> Any:
    """The value without its secret marks; only for what goes to the API server."""
    if isinstance(value, Secret):
        return reveal(value.value)
    if isinstance(value, dict):
        return {name: reveal(each) for name, each in value.items()}
    if isinstance(value, list):
        return [reveal(each) for each in value]
    return value


def has_unknown(value: Any) -> bool:
    if isinstance(value, Secret):
        return has_unknown(value.value)
    if isinstance(value, dict):
        return any(has_unknown(each) for each in value.values())
    if isinstance(value, list):
        return any(has_unknown(each) for each in value)
    return value is UNKNOWN


def without_unknown(value: Any) -> Any:
    """The value with unknown leaves left out; UNKNOWN itself stays for the caller to drop."""
    if isinstance(value, Secret):
        return without_unknown(value.value)
    if isinstance(value, dict):
        kept = {name: without_unknown(each) for name, each in value.items()}
        return {name: each for name, each in kept.items() if each is not UNKNOWN}
    if isinstance(value, list):
        return [each for each in map(without_unknown, value) if each is not UNKNOWN]
    return value


def mark_secrets(outputs: Any, inputs: Any) -> Any:
    """`outputs` with a Secret wherever `inputs` has one at the same place."""
    if isinstance(inputs, Secret):
        return outputs if isinstance(outputs, Secret) else Secret(outputs)
    if isinstance(inputs, dict) and isinstance(outputs, dict):
        return {
            name: mark_secrets(each, inputs[name]) if name in inputs else each
            for name, each in outputs.items()
        }
    if isinstance(inputs, list) and isinstance(outputs, list):
        marked = [mark_secrets(o, i) for o, i in zip(outputs, inputs, strict=False)]
        rest = outputs[len(marked) :]
        if len(inputs) != len(outputs) and any(map(has_secret, inputs)):
            return Secret(reveal(outputs))  # which one is which cannot be told
        return marked + rest
    return outputs


def has_secret(value: Any) -> bool:
    if isinstance(value, Secret):
        return True
    if isinstance(value, dict):
        return any(has_secret(each) for each in value.values())
    return isinstance(value, list) and any(has_secret(each) for each in value)


class Redactor:
    """Remembers every secret text that passed through and takes it out of messages.

    API servers quote offending values in their answers; those answers reach terminals and logs.
    """

    SHORTEST = 5  # characters; shorter ones occur in ordinary words

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: set[str] = set()

    def learn(self, value: Any, *, secret: bool = False) -> None:
        if isinstance(value, Secret):
            self.learn(value.value, secret=True)
        elif isinstance(value, dict):
            for each in value.values():
                self.learn(each, secret=secret)
        elif isinstance(value, list):
            for each in value:
                self.learn(each, secret=secret)
        elif secret and isinstance(value, str):
            self._learn_text(value)

    def _learn_text(self, text: str) -> None:
        forms = {text, base64.b64encode(text.encode()).decode(), urllib.parse.quote(text, safe="")}
        try:
            plain = base64.b64decode(text, validate=True).decode()
            forms |= {plain, urllib.parse.quote(plain, safe="")}
        except ValueError:  # not base64 of a text: no further form
            pass
        forms |= {line for line in text.splitlines() if len(line) > self.SHORTEST}
        with self._lock:
            self._texts |= {form for form in forms if len(form) >= self.SHORTEST}

    def clean(self, message: str) -> str:
        with self._lock:
            texts = sorted(self._texts, key=len, reverse=True)
        for text in texts:
            if text in message:
                message = message.replace(text, "[secret]")
        return message
