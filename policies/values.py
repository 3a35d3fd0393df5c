"""Reading values that may be absent, malformed, secret or not known yet.

A plan is checked before it runs, so some of its values do not exist. Every loader replaces them by
`UNKNOWN` (or a `Secret`), and the readers below raise `UnknownValue` when a rule needs one of them:
the engine turns that into the verdict *unknown*, never into a pass or a failure. Malformed values
(a text where a mapping belongs) read as absent: a rule judges what a server could read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

UNKNOWN_GUID: Final = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"  # a string not known at preview
_UNKNOWN_GUIDS: Final = frozenset(
    {
        UNKNOWN_GUID,
        "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",  # bool
        "3eeb2bf0-c639-47a8-9e75-3b44932eb421",  # number
        "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",  # array
        "030794c1-ac77-496b-92df-f27374a8bd58",  # asset
        "e48ece36-62e2-4504-bad9-02848725956a",  # archive
        "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",  # object
    }
)
SIGNATURE: Final = "4dabf18193072939515e22adb298388d"
_SECRET: Final = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105 - the engine's public marker
_OUTPUT: Final = "d0e6a833031e9bbcd3f4e8bde6ca49a4"


class Unknown:
    """A value that the plan does not know yet."""

    def __repr__(self) -> str:
        return "UNKNOWN"

    def __bool__(self) -> bool:
        return False


class Secret(Unknown):
    """A value that exists but that this door may not show."""

    def __repr__(self) -> str:
        return "SECRET"


UNKNOWN: Final = Unknown()
SECRET: Final = Secret()


class UnknownValue(Exception):  # noqa: N818 - it is a state of the plan, not an error
    """A rule needed a value that is not known; the text names it."""


def decode(value: Any) -> Any:
    """Plain data with the engine's markers replaced: unknowns, secrets, outputs.

    A secret whose plain text is in the input (`--show-secrets`) still decodes to `SECRET`: reports
    quote what they read, and a secret must not reach one.
    """
    if isinstance(value, str):
        return UNKNOWN if value in _UNKNOWN_GUIDS else SECRET if value == "[secret]" else value
    if isinstance(value, Mapping):
        mark = value.get(SIGNATURE)
        if mark == _SECRET:
            return SECRET
        if mark == _OUTPUT:
            return decode(value["value"]) if "value" in value else UNKNOWN
        return {str(key): decode(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [decode(inner) for inner in value]
    return value


def raw(value: Any, *path: str) -> Any:
    """The value under `path`, `None` when absent; an unknown on the way comes back as it is."""
    for key in path:
        if type(value) is dict:  # what loaders make; the checks below are slower
            value = value.get(key)
            continue
        if isinstance(value, Unknown):
            return value
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def at(value: Any, *path: str) -> Any:
    """The value under `path`, `None` when absent. Raises `UnknownValue`."""
    found = raw(value, *path)
    if isinstance(found, Unknown):
        raise UnknownValue(".".join(path) or "value")
    return found


def items(value: Any, *path: str) -> Iterator[Any]:
    """The elements of a list; known ones first, then `UnknownValue` if any was not known.

    A single value where a list belongs reads as a list of one (IAM documents do this).
    """
    found = at(value, *path)
    if found is None:
        return
    elements: Sequence[Any] = found if isinstance(found, (list, tuple)) else [found]
    missing = False
    for element in elements:
        if isinstance(element, Unknown):
            missing = True
        else:
            yield element
    if missing:
        raise UnknownValue((".".join(path) or "list") + "[*]")


def maps(value: Any, *path: str) -> Iterator[Mapping[str, Any]]:
    """The mappings of a list of blocks (or one block); other elements are skipped."""
    for element in items(value, *path):
        if isinstance(element, Mapping):
            yield element


def block(value: Any, *path: str) -> Mapping[str, Any]:
    """One nested block, also when it is written as a list of one; empty when absent."""
    return next(maps(value, *path), {})


def texts(value: Any, *path: str) -> list[str]:
    """Every text of a list (numbers as their digits). Raises `UnknownValue`."""
    return [str(x) for x in items(value, *path) if isinstance(x, (str, int, float))]


def text(value: Any, *path: str) -> str:
    """A text, empty when absent or of another type."""
    found = at(value, *path)
    return found if isinstance(found, str) else ""


def given(value: Any, *path: str) -> bool:
    """Whether a value is set at all. One that is not known yet is: its text is not asked for."""
    found = raw(value, *path)
    return isinstance(found, Unknown) or bool(found)


def flag(value: Any, *path: str) -> bool | None:
    """A boolean, also when written as text; `None` when absent or something else."""
    found = at(value, *path)
    if isinstance(found, bool):
        return found
    if isinstance(found, str) and found.lower() in {"true", "false"}:
        return found.lower() == "true"
    return None


def number(value: Any, *path: str) -> float | None:
    """A number, also when written as text; `None` when absent or something else."""
    found = at(value, *path)
    if isinstance(found, bool):
        return None
    if isinstance(found, (int, float)):
        return float(found)
    if isinstance(found, str):
        try:
            return float(found)
        except ValueError:
            return None
    return None


def document(value: Any, *path: str) -> Any:
    """A JSON document: parsed when it is text, as it is when already data, `None` when neither."""
    found = at(value, *path)
    if isinstance(found, str):
        if UNKNOWN_GUID in found:
            raise UnknownValue(".".join(path) or "document")
        try:
            return decode(json.loads(found))
        except (ValueError, RecursionError):
            return None
    return found


_QUANTITY = re.compile(r"^([+-]?\d+(?:\.\d*)?|[+-]?\.\d+)(m|[kMGTPE]i?|Ki|n|u|[eE][+-]?\d+)?$")
_SUFFIX: Final[dict[str, float]] = {
    "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60,
}  # fmt: skip


def quantity(value: Any) -> float | None:
    """A Kubernetes quantity in base units (`500m` -> 0.5, `1Gi` -> bytes); `None` if malformed."""
    if isinstance(value, Unknown):
        raise UnknownValue("quantity")
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value)
    match = _QUANTITY.match(value.strip()) if isinstance(value, str) else None
    if match is None:
        return None
    digits, suffix = match.groups()
    if not suffix:
        return float(digits)
    if suffix in _SUFFIX:
        return float(digits) * _SUFFIX[suffix]
    try:
        return float(digits + suffix)
    except (ValueError, OverflowError):
        return None
