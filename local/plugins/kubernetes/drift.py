"""What changed in the cluster since the last update, told in terms of the program's inputs.

Live objects never equal inputs: servers fill in defaults and rewrite quantities. So the server is
asked what applying the inputs again would change; where the answer differs from the live object,
and only there, the inputs are given the live value. Without drift they come back as they were.
"""

from __future__ import annotations

import base64
import copy
from collections.abc import Mapping
from typing import Any, cast

from local.plugins.kubernetes.diffs import Path, changes
from local.plugins.kubernetes.values import Secret, has_secret, reveal

ABSENT: Any = object()
EMPTY: tuple[Any, ...] = (None, False, "", 0, [], {})
SERVER_METADATA = (
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
)


def drifted_inputs(
    inputs: Mapping[str, Any], live: Mapping[str, Any], applied: Mapping[str, Any]
) -> dict[str, Any]:
    """`inputs` with the live value wherever `applied` (a dry run of `inputs`) differs from it."""
    result = copy.deepcopy(dict(inputs))
    before = {name: value for name, value in live.items() if name != "status"}
    after = {name: value for name, value in applied.items() if name != "status"}
    for change in changes(before, after):
        if change.path[0] == "metadata" and change.path[1:2] and change.path[1] in SERVER_METADATA:
            continue
        _set(result, change.path, live)
    return result


def projected_inputs(
    inputs: Mapping[str, Any], live: Mapping[str, Any], made: Mapping[str, Any] | None
) -> dict[str, Any]:
    """`inputs` with live values wherever both have a place and differ.

    For where the server refuses to apply the inputs to the live object. `made` is what it would
    make of them under another name: what is the same there and in the live object is no drift,
    whatever it looks like. None when that cannot be had either.
    """
    return _project(dict(inputs), live, ABSENT if made is None else made)


def imported_inputs(live: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs that describe a live object: all of it but what servers fill in."""
    result = {name: value for name, value in live.items() if name != "status"}
    result["metadata"] = {
        name: value
        for name, value in (live.get("metadata") or {}).items()
        if name not in SERVER_METADATA
    }
    if live.get("kind") == "Secret":
        for name in ("data", "stringData"):
            if name in result:
                result[name] = Secret(result[name])
    return result


def _project(wanted: Any, live: Any, made: Any) -> Any:
    if isinstance(wanted, Secret):
        return Secret(_project(wanted.value, live, made))
    if made is not ABSENT and live == made:
        return wanted
    if isinstance(wanted, dict) and isinstance(live, Mapping):
        kept: dict[str, Any] = {}
        for name, value in wanted.items():
            there = made.get(name, ABSENT) if isinstance(made, Mapping) else ABSENT
            if name in live:
                kept[name] = _project(value, live[name], there)
            elif (
                reveal(value) in EMPTY  # the server stores none of these
                or (isinstance(made, Mapping) and there is ABSENT)
                or (name == "stringData" and isinstance(live.get("data"), Mapping))
            ):
                kept[name] = value
        return kept
    if isinstance(wanted, list) and isinstance(live, list):
        others = cast("list[Any]", made if isinstance(made, list) else [])
        count = min(len(wanted), len(live))
        common = [
            _project(wanted[at], live[at], others[at] if at < len(others) else ABSENT)
            for at in range(count)
        ]
        rest = live[count:]
        return common if rest == others[count:] else common + rest
    return live


def _lookup(obj: Any, path: Path) -> tuple[bool, Any]:
    for segment in path:
        if _step(obj, segment) is None:
            return False, None
        obj = _step(obj, segment)
    return True, obj


def _set(result: dict[str, Any], path: Path, live: Mapping[str, Any]) -> None:
    """Give `result` the live value at `path`, as near to it as the inputs go."""
    exists, value = _lookup(live, path)
    string_data = reveal(result.get("stringData")) or {}
    if path[0] == "data" and len(path) == 2 and path[1] in string_data:
        path = ("stringData", path[1])
        value = base64.b64decode(value).decode(errors="replace") if exists else None
    here: Any = result
    for depth, segment in enumerate(path[:-1]):
        if isinstance(here, Secret):
            here = here.value
        following = _step(here, segment)
        if following is None:
            if exists:
                _write(here, segment, _lookup(live, path[: depth + 1])[1])
            return
        here = following
    if isinstance(here, Secret):
        here = here.value
    if exists:
        _write(here, path[-1], value)
    elif isinstance(here, dict):
        here.pop(path[-1], None)
    elif isinstance(here, list) and isinstance(path[-1], int) and path[-1] < len(here):
        del here[path[-1] :]  # the live list ends here


def _step(here: Any, segment: Any) -> Any:
    if isinstance(here, Mapping):
        return here.get(segment)
    if isinstance(here, list) and isinstance(segment, int) and segment < len(here):
        return here[segment]
    return None


def _write(here: Any, segment: Any, value: Any) -> None:
    if isinstance(here, dict):
        here[segment] = Secret(value) if has_secret(here.get(segment)) else value
    elif isinstance(here, list) and isinstance(segment, int):
        if segment < len(here):
            here[segment] = Secret(value) if has_secret(here[segment]) else value
        else:
            here.append(value)
