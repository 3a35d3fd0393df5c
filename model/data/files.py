"""Open data files: gzip is recognised by content, writes appear whole or not at all."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TextIO, cast

GZIP_MAGIC = b"\x1f\x8b"
# gzip's own default; Python's, 9, takes several times as long for hardly fewer bytes of sequences
LEVEL = 6


class DataError(Exception):
    """A file or value the user gave cannot be used; the message says what to do."""


def open_bytes(path: Path) -> IO[bytes]:
    """Read `path` as bytes, unpacking gzip whatever the name says."""
    if not path.is_file():
        raise DataError(f"{path} is not a file; give the path of an existing data file")
    with path.open("rb") as head:
        packed = head.read(2) == GZIP_MAGIC
    return cast("IO[bytes]", gzip.GzipFile(path, "rb")) if packed else path.open("rb")


def open_text(path: Path) -> TextIO:
    """Read `path` as UTF-8, unpacking gzip whatever the name says; bad bytes become U+FFFD."""
    raw = open_bytes(path)
    return io.TextIOWrapper(raw, encoding="utf-8-sig", errors="replace", newline="\n")


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, text without the line end). A cut or corrupt gzip is a `DataError`."""
    number = 0
    with open_text(path) as stream:
        try:
            for line in stream:
                number += 1
                yield number, line.rstrip("\r\n")
        except (EOFError, gzip.BadGzipFile, OSError) as error:
            raise DataError(
                f"{path} breaks off after line {number} ({error}); copy the file again"
            ) from error


@contextmanager
def write_text(path: Path) -> Generator[TextIO]:
    """Write `path` (gzip if it ends in .gz) through a neighbour file that replaces it at the end.

    The gzip header carries no name and no time, so equal content gives equal bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as raw:
            if path.suffix == ".gz":
                packed = gzip.GzipFile(
                    filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=LEVEL
                )
                with packed, io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as stream:
                    yield stream
            else:
                with io.TextIOWrapper(raw, encoding="utf-8", newline="\n") as stream:
                    yield stream
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
