"""Users' item sequences as flat arrays, with the catalogue that numbers the items.

An item's index is its place in the catalogue: numeric order if every id is a whole number, else
text order, so that "the lower id" and "the lower index" are the same tie rule. Sequences are
oldest first. Shapes: U users, V items, N events; `events` is (N,), `starts` is (U + 1,).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from model.data.files import DataError, lines
from model.data.sequences import MAX_ID, read_sequences

Ints = NDArray[np.int64]


def catalogue_order(ids: Iterable[str]) -> list[str]:
    """Every id once, in the order that gives the lower id the lower index."""
    unique = set(ids)
    if all(i.isascii() and i.isdigit() for i in unique):
        return sorted(unique, key=lambda i: (int(i), i))
    return sorted(unique)


@dataclass(frozen=True)
class ItemFeatures:
    """Bags of attribute values: item v holds `values[offsets[v]:offsets[v + 1]]`."""

    values: Ints
    offsets: Ints  # (V + 1,)
    names: list[str]  # what each value stands for, by its number

    @property
    def count(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class Corpus:
    """What a model is trained on: users, their events, and the items' features if known."""

    users: list[str]
    items: list[str]
    events: Ints
    starts: Ints
    features: ItemFeatures | None = None
    rejected: int = 0

    def __len__(self) -> int:
        return len(self.users)

    def sequence(self, user: int) -> Ints:
        """The events of one user by number, oldest first."""
        return self.events[self.starts[user] : self.starts[user + 1]]

    @cached_property
    def lengths(self) -> Ints:
        return np.diff(self.starts)

    @cached_property
    def index(self) -> dict[str, int]:
        return {item: number for number, item in enumerate(self.items)}

    def popularity(self) -> Ints:
        """Events per item, (V,)."""
        return np.bincount(self.events, minlength=len(self.items)).astype(np.int64)

    def without_last(self) -> tuple[Corpus, Ints]:
        """The corpus less each user's last event, and those events (-1 where a user has one)."""
        long = self.lengths >= 2
        keep = np.ones(len(self.events), dtype=bool)
        last = self.starts[1:] - 1
        keep[last[long]] = False
        held = np.where(long, self.events[last], -1)
        starts = np.concatenate([[0], np.cumsum(self.lengths - long)])
        return replace(self, events=self.events[keep], starts=starts), held

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over ids, sequences and features: equal data gives an equal fingerprint."""
        digest = hashlib.sha256()
        digest.update("\n".join(self.items).encode())
        digest.update(self.events.astype("<i8").tobytes())
        digest.update(self.starts.astype("<i8").tobytes())
        if self.features is not None:
            digest.update("\n".join(self.features.names).encode())
            digest.update(self.features.values.astype("<i8").tobytes())
            digest.update(self.features.offsets.astype("<i8").tobytes())
        return digest.hexdigest()


def build(
    sequences: Iterable[tuple[str, Sequence[str]]],
    rows: Sequence[dict[str, Any]] = (),
    rejected: int = 0,
) -> Corpus:
    """Number users and items; `rows` are item descriptions (see `read_items`)."""
    users: list[str] = []
    kept: list[Sequence[str]] = []
    for user, events in sequences:
        users.append(user)
        kept.append(events)
    if not users:
        raise DataError("no usable sequence; give lines of `user item item …`, oldest first")
    described = [str(row["item_id"]) for row in rows]
    items = catalogue_order([*(i for events in kept for i in events), *described])
    index = {item: number for number, item in enumerate(items)}
    flat = np.fromiter((index[i] for events in kept for i in events), dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum([len(events) for events in kept])]).astype(np.int64)
    return Corpus(users, items, flat, starts, _features(rows, index), rejected)


def read_corpus(
    sequences: Path, items: Path | None = None, warn: Callable[[str], None] | None = None
) -> Corpus:
    """Read a sequence file and, if given, an item file. Malformed lines are counted and told."""
    rejects: list[str] = []

    def reject(number: int, reason: str, _line: str) -> None:
        rejects.append(f"line {number}: {reason}")

    read = list(read_sequences(sequences, reject))
    rows = read_items(items, rejects.append) if items is not None else []
    if rejects and warn is not None:
        warn(f"{len(rejects)} malformed lines skipped; the first: {rejects[0]}")
    return build(read, rows, len(rejects))


def read_items(path: Path, on_reject: Callable[[str], None] | None = None) -> list[dict[str, Any]]:
    """Item descriptions from JSON lines with `item_id` (or `id`); the rest of a row is free."""
    rows: list[dict[str, Any]] = []
    for number, line in lines(path):
        try:
            row = json.loads(line)
            name = row.get("item_id", row.get("id"))
            rows.append({**cast("dict[str, Any]", row), "item_id": _item_id(name)})
        except (ValueError, AttributeError, RecursionError) as error:
            if on_reject is not None:
                on_reject(f"{path.name} line {number}: {error}")
    return rows


def _item_id(given: object) -> str:
    """The id as sequences and predictions write it; `ValueError` if they cannot."""
    if isinstance(given, bool) or not isinstance(given, str | int) or not str(given).strip():
        raise ValueError("no item_id: give a text or a whole number")
    name = str(given)
    if len(name.split()) != 1 or name != name.strip() or "\x00" in name or len(name) > MAX_ID:
        raise ValueError(
            f"item_id {name[:40]!r} cannot stand in a sequence: no white space, no NUL byte, "
            f"at most {MAX_ID} characters"
        )
    return name


def values_of(row: dict[str, Any]) -> list[str]:
    """The attribute values of one item row, each named so that kinds do not mix.

    Read: `attributes` (a list, or an object of named values), `brand`, `category`/`categories`
    (every step of the path), `genres`, `tags`. Free text is the business of the search encoder.
    """
    found: list[str] = []
    attributes = row.get("attributes")
    if isinstance(attributes, dict):
        named = cast("dict[str, Any]", attributes)
        found += [f"{key}={value}" for key, value in named.items() if value not in (None, "")]
    elif isinstance(attributes, list):
        found += [f"attribute={value}" for value in cast("list[Any]", attributes)]
    for key in ("brand", "category", "categories", "genres", "tags"):
        value = row.get(key)
        several = cast("list[Any]", value) if isinstance(value, list) else [value]
        found += [f"{key}={one}" for one in several if one not in (None, "", [])]
    return list(dict.fromkeys(found))


def _features(
    rows: Sequence[dict[str, Any]], index: dict[str, int], rare: int = 2
) -> ItemFeatures | None:
    """Values that at least `rare` items share; a value of one item says no more than its id."""
    bags: list[list[str]] = [[] for _ in index]
    for row in rows:
        bags[index[str(row["item_id"])]] = values_of(row)
    count: dict[str, int] = {}
    for bag in bags:
        for value in bag:
            count[value] = count.get(value, 0) + 1
    names = sorted(value for value, times in count.items() if times >= rare)
    if not names:
        return None
    number = {name: place for place, name in enumerate(names)}
    kept = [[number[value] for value in bag if value in number] for bag in bags]
    offsets = np.concatenate([[0], np.cumsum([len(bag) for bag in kept])]).astype(np.int64)
    return ItemFeatures(np.array([v for bag in kept for v in bag], np.int64), offsets, names)
