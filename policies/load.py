"""The doors: a preview, a state, manifests, a plain list. Each gives a `Stack`.

Errors a user can cause are `InputError`: the text says what was read, what was expected and what to
do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from policies.resource import Resource, Stack, make
from policies.values import decode


class InputError(Exception):
    """The input cannot be read; the text is for the user."""


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give an existing file") from None
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: not JSON ({error}); give the command's unchanged output"
        ) from None


def _references(state: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    declared = state.get("propertyDependencies")
    for key, urns in declared.items() if isinstance(declared, Mapping) else ():
        if isinstance(urns, list):
            found[str(key)] = tuple(str(urn) for urn in urns)
    return found


def _from_engine(state: Mapping[str, Any], source: str) -> Iterator[Resource]:
    """One resource as previews and states write it (`urn`, `type`, `inputs`, `outputs`)."""
    urn, token = str(state.get("urn", "")), str(state.get("type", ""))
    if not token or token.startswith(("pulumi:pulumi:", "pulumi:providers:")):
        return
    if state.get("custom") is False:  # a component: what it holds comes by itself
        return
    inputs = state.get("inputs")
    props = decode(inputs if isinstance(inputs, Mapping) else {})
    id_ = state.get("id")
    yield from make(
        token,
        urn.rsplit("::", 1)[-1],
        props,
        urn=urn,
        id_=id_ if isinstance(id_, str) else "",
        source_file=source,
        protect=state.get("protect") is True,
        references=_references(state),
        provider=_provider(state),
    )


def _provider(state: Mapping[str, Any]) -> str:
    """`urn:...::pulumi:providers:kubernetes::cloud::id` -> `cloud`."""
    parts = str(state.get("provider", "")).split("::")
    return parts[3] if len(parts) > 3 else ""


_GONE = frozenset(
    {"delete", "delete-replaced", "discard", "discard-replaced", "remove-pending-replace"}
)


def preview(path: Path) -> Stack:
    """`pulumi preview --json`."""
    data = _json(path)
    steps = data.get("steps") if isinstance(data, Mapping) else None
    if not isinstance(steps, list):
        raise InputError(f"{path}: no list `steps`; write it with `pulumi preview --json`")
    found: list[Resource] = []
    for step in steps:
        if isinstance(step, Mapping) and step.get("op") not in _GONE:
            state = step.get("newState") or step.get("oldState")
            if isinstance(state, Mapping):
                found += _from_engine({"urn": step.get("urn", ""), **state}, str(path))
    return Stack(_last_of_each(found))


def _last_of_each(resources: list[Resource]) -> list[Resource]:
    # a replacement is two or three steps of one URN; the last one is what will be
    return list({resource.urn or id(resource): resource for resource in resources}.values())


def state(path: Path) -> Stack:
    """`pulumi stack export`."""
    data = _json(path)
    deployment = data.get("deployment") if isinstance(data, Mapping) else None
    resources = deployment.get("resources") if isinstance(deployment, Mapping) else None
    if resources is None and isinstance(deployment, Mapping):
        resources = []  # an empty stack exports no list
    if not isinstance(resources, list):
        raise InputError(f"{path}: no `deployment.resources`; write it with `pulumi stack export`")
    found: list[Resource] = []
    for entry in resources:
        if isinstance(entry, Mapping) and not entry.get("delete"):
            found += _from_engine(entry, str(path))
    return Stack(found)


def resources(path: Path) -> Stack:
    """A JSON list of `{"type", "name", "properties"}`.

    `urn`, `propertyDependencies`, `protect` and `provider` may stand beside them, as in a state.
    """
    data = _json(path)
    if isinstance(data, Mapping) and isinstance(data.get("resources"), list):
        data = data["resources"]
    return Stack(list(from_list(data, str(path))))


def from_list(data: Any, source: str = "") -> Iterator[Resource]:
    """Plain resources. Raises `InputError` when the list has another form."""
    if isinstance(data, Mapping):
        data = [data]
    if not isinstance(data, list):
        raise InputError(f"{source or 'input'}: not a list; give [{{type, name, properties}}, ...]")
    for position, entry in enumerate(data):
        if not isinstance(entry, Mapping) or not isinstance(entry.get("type"), str):
            raise InputError(
                f"{source or 'input'}: element {position} has no text `type`; "
                "give {type, name, properties}"
            )
        properties = entry.get("properties", {})
        urn, protect = entry.get("urn"), entry.get("protect")
        yield from make(
            entry["type"],
            str(entry.get("name", position)),
            decode(properties) if isinstance(properties, Mapping) else {},
            urn=urn if isinstance(urn, str) else "",
            source_file=source,
            protect=protect is True,
            references=_references(entry),
            provider=_provider(entry),
        )


_SUFFIXES = frozenset({".yaml", ".yml", ".json"})


def manifests(path: Path) -> Stack:
    """Kubernetes manifests: one file, or every YAML and JSON file under a folder."""
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; give manifests in YAML or JSON")
    files = (
        sorted(file for file in path.rglob("*") if file.suffix in _SUFFIXES and file.is_file())
        if path.is_dir()
        else [path]
    )
    if not files:
        raise InputError(f"{path}: holds no .yaml, .yml or .json file")
    found: list[Resource] = []
    for file in files:
        found += _manifest_file(file, strict=not path.is_dir())
    return Stack(found)


def _manifest_file(file: Path, *, strict: bool) -> Iterator[Resource]:
    import yaml  # 20 ms that the other doors need not pay

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    try:
        with file.open(encoding="utf-8") as stream:
            parser = loader(stream)
            try:
                while parser.check_node():
                    node = parser.get_node()
                    line = node.start_mark.line + 1
                    document = parser.construct_document(node)
                    if isinstance(document, Mapping) and isinstance(document.get("kind"), str):
                        yield from make("", "", decode(document), source_file=str(file), line=line)
                    elif isinstance(document, list):
                        for entry in document:
                            if isinstance(entry, Mapping) and isinstance(entry.get("kind"), str):
                                yield from make(
                                    "", "", decode(entry), source_file=str(file), line=line
                                )
                    elif document is not None and strict:
                        raise InputError(f"{file}:{line}: no `kind`; give Kubernetes objects")
            finally:
                parser.dispose()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({error})") from None
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{file}: not YAML ({first})") from None
