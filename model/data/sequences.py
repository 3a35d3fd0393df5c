"""The shared sequence format: one user per line, `user item item …`, oldest first.

Fields are separated by white space, ids are strings, files are plain or gzip text. A line without
a user or without an item is malformed: it is counted and reported, and never stops the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from model.data.files import lines, write_text

MAX_ID = 200  # as in `schema.Id`; longer fields are binary rubbish, not ids

OnReject = Callable[[int, str, str], None]  # line number, reason, the line


class UserSequence(NamedTuple):
    user: str
    items: list[str]  # oldest first


def parse_line(line: str) -> UserSequence:
    """One line of the format; `ValueError` names what is wrong with it."""
    fields = line.split()
    if not fields:
        raise ValueError("empty line")
    if len(fields) == 1:
        raise ValueError("a user without items")
    if any("\x00" in field or len(field) > MAX_ID for field in fields):
        raise ValueError(f"an id holds a NUL byte or is longer than {MAX_ID} characters")
    return UserSequence(fields[0], fields[1:])


def read_sequences(path: Path, on_reject: OnReject | None = None) -> Iterator[UserSequence]:
    """Every well-formed user of the file, in file order; the others go to `on_reject`."""
    for number, line in lines(path):
        try:
            sequence = parse_line(line)
        except ValueError as error:
            if on_reject is not None:
                on_reject(number, str(error), line)
            continue
        yield sequence


def write_sequences(path: Path, sequences: Iterable[tuple[str, Iterable[str]]]) -> int:
    """Write users to `path` (gzip if it ends in .gz); returns how many."""
    count = 0
    with write_text(path) as stream:
        for user, items in sequences:
            stream.write(" ".join([user, *items]) + "\n")
            count += 1
    return count
