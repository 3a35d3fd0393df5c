"""Read products, queries and judgements: tab-separated, with or without a header, or JSON lines.

Malformed rows are counted with their first reason and never stop a run; a file without one usable
row raises `DataError`. Scores, gains: linear, 0 = not relevant.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from model.data.files import DataError, lines
from model.data.schema import Product

MAX_ID = 200
MAX_TEXT = 4000  # characters of one title or query that are read
_HEADERS = {"product_uid", "product_id", "item_id", "query_id", "id", "qid"}


@dataclass
class Rejects:
    """What could not be read, by file."""

    count: int = 0
    first: str = ""

    def add(self, path: Path, number: int, reason: str) -> None:
        """Count one row."""
        self.count += 1
        self.first = self.first or f"{path.name} line {number}: {reason}"


@dataclass(frozen=True)
class Entry:
    """One product as search sees it: what it is called, and what else is said of it."""

    id: str
    title: str
    body: str = ""


@dataclass(frozen=True)
class Judgements:
    """Judged gains by query and product, both by index."""

    queries: list[str]  # texts
    gains: list[dict[int, float]] = field(default_factory=list[dict[int, float]])


def entry_of(product: Product) -> Entry:
    """A product of the shared schema as search sees it."""
    body = [product.brand or "", *product.category, *product.tags, *product.attributes.values()]
    return Entry(product.id, product.title, " ".join([*body, product.text]).strip())


def read_products(path: Path, rejects: Rejects) -> list[Entry]:
    """Products of a file, in file order; a repeated id is rejected."""
    found: dict[str, Entry] = {}
    for number, line in lines(path):
        if not line.strip() or (number == 1 and _header(line)):
            continue
        try:
            entry = _json_entry(line) if line.lstrip().startswith("{") else _entry(line)
            if entry.id in found:
                raise ValueError(f"product {entry.id!r} stands there twice")
        except ValueError as error:
            rejects.add(path, number, str(error))
            continue
        found[entry.id] = entry
    if not found:
        raise DataError(
            f"{path} has no usable product ({rejects.first or 'it is empty'}); "
            "give lines `product_uid<TAB>product_title`"
        )
    return list(found.values())


def read_queries(path: Path, rejects: Rejects) -> list[tuple[str, str]]:
    """(query id, query text) of a file, in file order; a repeated id is rejected."""
    found: dict[str, str] = {}
    for number, line in lines(path):
        if not line.strip() or (number == 1 and _header(line)):
            continue
        try:
            name, text = _fields(line, 2, "query_id<TAB>query")[:2]
            if name in found:
                raise ValueError(f"query {name!r} stands there twice")
        except ValueError as error:
            rejects.add(path, number, str(error))
            continue
        found[name] = text[:MAX_TEXT]
    if not found:
        raise DataError(
            f"{path} has no usable query ({rejects.first or 'it is empty'}); "
            "give lines `query_id<TAB>query`"
        )
    return list(found.items())


def read_judgements(
    qrels: Path, queries: list[tuple[str, str]], products: list[Entry], rejects: Rejects
) -> Judgements:
    """Gains of the given queries; rows of unknown queries or products are rejected."""
    at = {name: place for place, (name, _) in enumerate(queries)}
    item = {entry.id: place for place, entry in enumerate(products)}
    gains: list[dict[int, float]] = [{} for _ in queries]
    for number, line in lines(qrels):
        if not line.strip() or (number == 1 and _header(line)):
            continue
        try:
            name, product, written = _fields(line, 3, "query_id<TAB>product_uid<TAB>gain")[:3]
            if name not in at:
                raise ValueError(f"query {name!r} is not in the query file")
            if product not in item:
                raise ValueError(f"product {product!r} is not in the product file")
            gain = float(written)
            if not math.isfinite(gain) or gain < 0:
                raise ValueError(f"gain {written!r}; give a number from 0 up")
        except ValueError as error:
            rejects.add(qrels, number, str(error))
            continue
        gains[at[name]][item[product]] = gain
    if not any(gains):
        raise DataError(
            f"{qrels} judges none of the given queries ({rejects.first or 'it is empty'}); "
            "give lines `query_id<TAB>product_uid<TAB>gain`"
        )
    return Judgements([text for _, text in queries], gains)


def prediction_lines(names: Iterable[str], lists: Iterable[list[str]]) -> Iterator[str]:
    """Lines `query_id<TAB>item1 item2 …`."""
    for name, items in zip(names, lists, strict=True):
        yield f"{name}\t{' '.join(items)}\n"


def _header(line: str) -> bool:
    return line.split("\t")[0].strip().lower() in _HEADERS


def _fields(line: str, count: int, shape: str) -> list[str]:
    fields = [field.strip() for field in line.split("\t")]
    if len(fields) < count:
        raise ValueError(f"{len(fields)} tab-separated fields; give {shape}")
    if not fields[0] or len(fields[0]) > MAX_ID or len(fields[0].split()) != 1:
        raise ValueError(f"the id {fields[0][:40]!r} is empty, long or holds white space")
    return fields


def _entry(line: str) -> Entry:
    name, title, *rest = _fields(line, 2, "product_uid<TAB>product_title")
    if not title:
        raise ValueError(f"product {name!r} has no title")
    return Entry(name, title[:MAX_TEXT], " ".join(rest)[:MAX_TEXT])


def _json_entry(line: str) -> Entry:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    given = cast("dict[str, Any]", row)
    fields = {key: value for key, value in given.items() if key in Product.model_fields}
    fields["id"] = str(given.get("id", given.get("item_id", "")))
    if "text" not in fields and isinstance(given.get("description"), str):
        fields["text"] = given["description"]
    if not isinstance(fields.get("attributes", {}), dict):
        del fields["attributes"]
    try:
        return entry_of(Product.model_validate(fields))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{where}: {first['msg']}") from error
