"""Public data sets in the forms in which they are passed around, as our events and products.

An importer takes the folder that holds a set's files. Sets without times (sequence files) get the
place in the user's sequence as `time`, in milliseconds since 1970: only the order means anything.
A review is taken for a purchase, since the shops in question only list reviews of buyers.
"""

from __future__ import annotations

import ast
import csv
import html
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, cast

from pydantic import ValidationError

from model.data.files import DataError, lines
from model.data.ingest import Rejects, explain
from model.data.schema import Event, EventKind, Product
from model.data.sequences import read_sequences


class DataSet(NamedTuple):
    """One importer: which files it reads, and what it makes of them."""

    files: tuple[str, ...]
    events: Callable[[Path, Rejects], Iterator[Event]]
    products: Callable[[Path, Rejects], Iterator[Product]]


def find(folder: Path, name: str) -> Path:
    """`name` in `folder`, gzipped or not. Raises `DataError` naming what was looked for."""
    for path in (folder / name, folder / name.removesuffix(".gz")):
        if path.is_file():
            return path
    raise DataError(f"{folder} holds no {name}; give the folder with the data set's files")


def _event(rejects: Rejects, file: str, line: int, shown: object, **fields: Any) -> Iterator[Event]:
    try:
        yield Event(**fields)
    except ValidationError as error:
        rejects.add(file, line, explain(error), shown)


def _product(
    rejects: Rejects, file: str, line: int, shown: object, **fields: Any
) -> Iterator[Product]:
    try:
        yield Product(**fields)
    except ValidationError as error:
        rejects.add(file, line, explain(error), shown)


def _table(path: Path, delimiter: str = "\t") -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a delimited file with a header, by column name; RecBole's `name:type` is cut."""
    numbered = lines(path)
    _, head = next(numbered, (0, ""))
    names = [name.partition(":")[0] for name in head.split(delimiter)]
    for number, line in numbered:
        if line.strip():
            row = next(csv.reader([line], delimiter=delimiter, quoting=csv.QUOTE_NONE))
            yield number, dict(zip(names, row, strict=False))


def _nothing(_folder: Path, _rejects: Rejects) -> Iterator[Any]:
    return iter(())


def _sequence_events(source: str, kind: EventKind) -> Callable[[Path, Rejects], Iterator[Event]]:
    def read(folder: Path, rejects: Rejects) -> Iterator[Event]:
        path = find(folder, "sequences.txt.gz")

        def refuse(number: int, reason: str, line: str) -> None:
            rejects.add(path.name, number, reason, line)

        for user, items in read_sequences(path, refuse):
            for place, item in enumerate(items):
                yield Event(user=user, time=place, kind=kind, item=item, source=source)

    return read


def _json_products(
    fields: Callable[[dict[str, Any]], dict[str, Any]],
) -> Callable[[Path, Rejects], Iterator[Product]]:
    def read(folder: Path, rejects: Rejects) -> Iterator[Product]:
        path = find(folder, "items.jsonl.gz")
        for number, line in lines(path):
            try:
                row = cast("dict[str, Any]", json.loads(line))
                made = fields(row)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                rejects.add(path.name, number, f"no item: {type(error).__name__}", line)
                continue
            yield from _product(rejects, path.name, number, row, **made)

    return read


def _beauty(row: dict[str, Any]) -> dict[str, Any]:
    # names of these numbers were never published; they still say which items are alike
    values = [str(value) for value in row.get("attributes", [])]
    return {
        "id": str(row["item_id"]), "title": str(row.get("asin") or row["item_id"]),
        "tags": tuple(values),
    }  # fmt: skip


_TAGS = re.compile(r"<[^>]*>")


def plain(text: str) -> str:
    """HTML reduced to its words."""
    return " ".join(html.unescape(_TAGS.sub(" ", text)).split())


def _office(row: dict[str, Any]) -> dict[str, Any]:
    told = str(row.get("description") or "")
    try:  # a Python list as text
        parts = ast.literal_eval(told) if told.startswith("[") else [told]
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        parts = [told]
    return {
        "id": str(row["item_id"]),
        "title": plain(str(row.get("title") or "")),
        "text": plain(" ".join(str(part) for part in cast("list[Any]", parts))),
        "brand": plain(str(row.get("brand") or "")) or None,
    }


def _grocery_events(folder: Path, rejects: Rejects) -> Iterator[Event]:
    path = find(folder, "interactions.tsv.gz")
    for number, row in _table(path):
        yield from _event(
            rejects, path.name, number, row, user=row.get("user_id"), item=row.get("item_id"),
            time=_times(row.get("time"), 1000), kind=EventKind.PURCHASE, source="amazon-grocery",
        )  # fmt: skip


def _grocery_products(folder: Path, rejects: Rejects) -> Iterator[Product]:
    path = find(folder, "item_meta.tsv.gz")
    for number, row in _table(path):
        name = row.get("item_id", "")
        yield from _product(
            rejects, path.name, number, row, id=name, title=name,
            category=(f"category {row.get('i_category', '')}",),
        )  # fmt: skip


def _film_products(folder: Path, rejects: Rejects) -> Iterator[Product]:
    path = find(folder, "items.tsv.gz")
    for number, row in _table(path):
        genres = tuple(one for one in row.get("genres", "").split("|") if one)
        yield from _product(
            rejects, path.name, number, row, id=row.get("item_id"), title=row.get("title"),
            tags=genres,
        )  # fmt: skip


def _recbole_events(folder: Path, rejects: Rejects) -> Iterator[Event]:
    path = find(folder, "ml-100k.inter.gz")
    for number, row in _table(path):
        yield from _event(
            rejects, path.name, number, row, user=row.get("user_id"), item=row.get("item_id"),
            time=_times(row.get("timestamp"), 1000), kind=EventKind.RATING,
            value=row.get("rating"), source="ml-100k",
        )  # fmt: skip


def _recbole_products(folder: Path, rejects: Rejects) -> Iterator[Product]:
    path = find(folder, "ml-100k.item.gz")
    for number, row in _table(path):
        year = row.get("release_year", "")
        yield from _product(
            rejects, path.name, number, row, id=row.get("item_id"), title=row.get("movie_title"),
            tags=tuple(row.get("class", "").split()), attributes={"year": year} if year else {},
        )  # fmt: skip


def _diginetica_events(folder: Path, rejects: Rejects) -> Iterator[Event]:
    path = find(folder, "sample_train-item-views.csv.gz")
    for number, row in _table(path, ";"):
        session = f"s{row.get('session_id', '')}"
        user = row.get("user_id", "NA")
        try:
            day = datetime.strptime(row.get("eventdate", ""), "%Y-%m-%d").replace(tzinfo=UTC)
            # `timeframe` counts milliseconds since the start of the session, on that day
            time: int | None = int(day.timestamp() * 1000) + int(row.get("timeframe", ""))
        except ValueError:
            time = None
        yield from _event(
            rejects, path.name, number, row, user=session if user in ("NA", "") else user,
            session=session, item=row.get("item_id"), time=time, kind=EventKind.VIEW,
            source="diginetica",
        )  # fmt: skip


def _home_depot_products(folder: Path, rejects: Rejects) -> Iterator[Product]:
    path = find(folder, "products.tsv.gz")
    for number, row in _table(path):
        yield from _product(
            rejects, path.name, number, row, id=row.get("product_uid"),
            title=row.get("product_title"),
        )  # fmt: skip


def _times(text: str | None, factor: int) -> int | None:
    """A count of seconds as milliseconds; None (and so a reject) when it is no number."""
    try:
        return int(float(text or "") * factor)
    except (ValueError, OverflowError):
        return None


SETS: dict[str, DataSet] = {
    "amazon-beauty": DataSet(
        ("sequences.txt", "items.jsonl"),
        _sequence_events("amazon-beauty", EventKind.PURCHASE),
        _json_products(_beauty),
    ),
    "amazon-office": DataSet(
        ("sequences.txt", "items.jsonl"),
        _sequence_events("amazon-office", EventKind.PURCHASE),
        _json_products(_office),
    ),
    "amazon-grocery": DataSet(
        ("interactions.tsv", "item_meta.tsv"), _grocery_events, _grocery_products
    ),
    "ml-1m": DataSet(
        ("sequences.txt", "items.tsv"),
        _sequence_events("ml-1m", EventKind.VIEW),
        _film_products,
    ),
    "ml-100k": DataSet(("ml-100k.inter", "ml-100k.item"), _recbole_events, _recbole_products),
    "home-depot-search": DataSet(("products.tsv",), _nothing, _home_depot_products),
    "diginetica-sample": DataSet(("sample_train-item-views.csv",), _diginetica_events, _nothing),
}
