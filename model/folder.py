"""Folders of files with a manifest: written whole or not at all, checked before anything is used.

`manifest.json` says what a folder is and holds the SHA-256 and size of each other file. Models
(`model.checkpoint`) and search indices (`model.search.index`) are such folders. Whatever is wrong
with one raises `CheckpointError`, whose text says what was found and what to do.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

MANIFEST = "manifest.json"
M = TypeVar("M", bound=BaseModel)


class CheckpointError(Exception):
    """A model folder cannot be used; the message says why and what to do."""


class FileRecord(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0, description="bytes")


def sha256(path: Path) -> str:
    """The SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def replace_folder(out: Path, fill: Callable[[Path], None]) -> None:
    """Fill a neighbour folder, flush it to disk, then put it in the place of `out`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    fresh = out.with_name(f".{out.name}.{uuid.uuid4().hex}.new")
    fresh.mkdir()
    try:
        fill(fresh)
        for path in fresh.rglob("*"):
            if path.is_file():
                _flush(path)
        _flush(fresh)
        stale = out.with_name(f".{out.name}.{uuid.uuid4().hex}.old")
        if out.exists():
            out.rename(stale)
        fresh.rename(out)
        _flush(out.parent)
        shutil.rmtree(stale, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def records(folder: Path) -> dict[str, FileRecord]:
    """What a manifest says of the files that lie in the folder now."""
    return {
        path.name: FileRecord(sha256=sha256(path), size=path.stat().st_size)
        for path in sorted(folder.iterdir())
    }


def version(created: datetime, weights: FileRecord) -> str:
    """Sorts by time, and tells apart what was made in one second."""
    return f"{created:%Y%m%dT%H%M%SZ}-{weights.sha256[:12]}"


def write_manifest(folder: Path, manifest: BaseModel) -> None:
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_checked(folder: Path, kind: type[M], what: str, writer: str) -> M:
    """The manifest of a folder by its schema; `what` and `writer` name both in the message."""
    path = folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no {MANIFEST}; give the folder that {writer} wrote")
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise CheckpointError(
            f"{path} is not the manifest of {what}: {where}: {first['msg']}; train it again"
        ) from error


def check_files(folder: Path, files: Mapping[str, FileRecord], needed: Iterable[str]) -> None:
    """Refuse a folder unless every listed file is present and unchanged."""
    for name in needed:
        if name not in files:
            raise CheckpointError(f"{folder / MANIFEST} lists no {name}; train it again")
    for name, record in files.items():
        path = folder / name
        if Path(name).name != name:
            raise CheckpointError(f"{folder / MANIFEST} lists {name!r}, which is not a file name")
        if not path.is_file():
            raise CheckpointError(f"{path} is listed but missing; copy the whole folder again")
        found = sha256(path)
        if found != record.sha256:
            raise CheckpointError(
                f"{path} has SHA-256 {found[:12]}…, the manifest says {record.sha256[:12]}…; "
                "the file is damaged or was changed: copy the folder again or train it again"
            )
