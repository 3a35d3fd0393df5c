"""Files for a machine that no API manages, and the command that puts them to use there.

A preview compares text and runs nothing. `apply` is run after the files are written, and again
whenever they or `versions` change; it must be idempotent, because an engine killed in between runs
it once more. Files hold no secret: where one belongs, they name its path in Vault.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pulumi import Input, Output, ResourceOptions
from pulumi.dynamic import (
    CreateResult,
    DiffResult,
    ReadResult,
    Resource,
    ResourceProvider,
    UpdateResult,
)

PATIENCE = 300  # seconds for one command
Props = dict[str, Any]


class HandoverError(Exception):
    """The command failed; one line with its own last words."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where the files go and what is run there."""

    folder: str
    apply: tuple[str, ...]
    remove: tuple[str, ...]
    """Undoes `apply`; run before the files are deleted."""


class HandoverProvider(ResourceProvider):
    serialize_as_secret_always = False

    def diff(self, _id: str, _olds: Props, _news: Props) -> DiffResult:
        keys = ("folder", "files", "apply", "remove", "versions")
        changed = [key for key in keys if _olds.get(key) != _news.get(key)]
        return DiffResult(
            changes=bool(changed),
            replaces=["folder"] if "folder" in changed else [],
            delete_before_replace=True,
        )

    def create(self, props: Props) -> CreateResult:
        self._put(props)
        return CreateResult(props["folder"], _inputs(props))

    def update(self, _id: str, _olds: Props, _news: Props) -> UpdateResult:
        for name in set(_olds["files"]) - set(_news["files"]):
            (Path(_news["folder"]) / name).unlink(missing_ok=True)
        self._put(_news)
        return UpdateResult(_inputs(_news))

    def read(self, id_: str, props: Props) -> ReadResult:
        """What lies there now: a file changed by hand is drift, an empty folder is a loss."""
        folder = Path(props["folder"])
        seen: dict[str, str] = {}
        for name in props["files"]:
            if (folder / name).is_file():
                seen[name] = (folder / name).read_text(encoding="utf-8")
        return ReadResult(id_, {**_inputs(props), "files": seen}) if seen else ReadResult("", {})

    def delete(self, _id: str, _props: Props) -> None:
        command(_props["remove"])
        for name in _props["files"]:
            (Path(_props["folder"]) / name).unlink(missing_ok=True)

    def _put(self, props: Props) -> None:
        for name, text in props["files"].items():
            write(Path(props["folder"]) / name, text)
        command(props["apply"])


def write(path: Path, text: str) -> None:
    """In one step, for its owner only; an unchanged file keeps its time."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    fresh.replace(path)


def command(argv: Sequence[str]) -> None:
    """Run one of the target's commands. Raises `HandoverError`."""
    told = " ".join(argv)
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise HandoverError(f"`{told}` did not end within {PATIENCE} s") from None
    except OSError as error:
        raise HandoverError(f"`{told}` cannot be run: {error.strerror}") from None
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise HandoverError(f"`{told}` failed: {lines[-1] if lines else done.returncode}")


def _inputs(props: Props) -> Props:
    return {key: value for key, value in props.items() if key != "__provider"}


class Handover(Resource, module="handover", name="Handover"):
    """`files` (path below the target's folder -> text) on their machine and in use."""

    folder: Output[str]

    def __init__(
        self,
        resource_name: str,
        target: Target,
        files: Input[Mapping[str, str]],
        *,
        versions: Mapping[str, Input[int]] | None = None,
        opts: ResourceOptions | None = None,
    ) -> None:
        """`versions` are those of the secrets that the files name: a new one is applied too."""
        props: dict[str, Any] = {
            "folder": target.folder,
            "files": files,
            "apply": list(target.apply),
            "remove": list(target.remove),
            "versions": dict(versions or {}),
        }
        super().__init__(HandoverProvider(), resource_name, props, opts)
