"""Event and product files: JSON lines or Parquet, checked row by row, never stopped by a bad one.

A file is read in chunks. A chunk is parsed by Arrow and checked by Polars as a whole; only rows
that this fast path does not accept are looked at one by one with `schema.Event`, which either finds
them good after all (ids written as numbers, say) or gives the reason for their rejection. Unknown
keys of a row are ignored. `row` numbers events over all files in reading order: it breaks ties of
`time`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, cast

import polars as pl
import pyarrow as pa
import pyarrow.json as paj
import pyarrow.parquet as pq
from polars.exceptions import PolarsError
from pydantic import BaseModel, ValidationError

from model.data.files import DataError, open_bytes, write_text
from model.data.schema import MAX_TIME_MS, Event, EventKind, Product

CHUNK = 200_000  # rows parsed at once: about 100 MB
MAX_LINE = 1_000_000  # bytes; a longer line is no event
BY_HAND = 16  # rows that are not worth another try together
SHOWN = 500  # characters of a refused row that are written down

PARQUET_MAGIC = b"PAR1"
EVENTS = {
    "user": pl.String, "time": pl.Int64, "kind": pl.String, "item": pl.String,
    "query": pl.String, "session": pl.String, "position": pl.Int64, "value": pl.Float64,
    "source": pl.String,
}  # fmt: skip
_ARROW = {pl.String: pa.string(), pl.Int64: pa.int64(), pl.Float64: pa.float64()}
_READ_OPTIONS = paj.ReadOptions(block_size=64 << 20)
_PARSE_OPTIONS = paj.ParseOptions(
    explicit_schema=pa.schema([(name, _ARROW[kind]) for name, kind in EVENTS.items()]),
    unexpected_field_behavior="ignore",
)
_IDS = ("user", "item", "session")


@dataclass
class Rejects:
    """Counts by reason, and a file with every refused row (JSON lines: file, line, reason, row)."""

    path: Path | None = None
    counts: dict[str, int] = field(default_factory=dict[str, int])
    _rows: list[str] = field(default_factory=list[str])

    def add(self, file: str, line: int, reason: str, row: object) -> None:
        """`reason` is one of few texts, so that counts stay short; `row` is cut when long."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        if self.path is not None:
            told = row if isinstance(row, str) else json.dumps(row, default=str)
            entry = {"file": file, "line": line, "reason": reason, "row": told[:SHOWN]}
            self._rows.append(json.dumps(entry))

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def write(self) -> None:
        """Write the file; none when nothing was refused."""
        if self.path is None:
            return
        if not self._rows:
            self.path.unlink(missing_ok=True)
            return
        with write_text(self.path) as stream:
            stream.writelines(f"{row}\n" for row in self._rows)


def is_parquet(path: Path) -> bool:
    with path.open("rb") as head:
        return head.read(4) == PARQUET_MAGIC


def read_events(paths: Iterable[Path], rejects: Rejects) -> Iterator[pl.DataFrame]:
    """Chunks of valid events with the columns of `EVENTS` and `row`, in reading order.

    Raises `DataError` for a file that cannot be read at all.
    """
    row = 0
    for path in paths:
        for number, chunk, originals in _chunks(path, rejects):
            frame = _checked(path, number, chunk, originals, rejects)
            yield frame.with_columns(pl.int_range(row, row + frame.height).alias("row"))
            row += frame.height


def _chunks(
    path: Path, rejects: Rejects
) -> Iterator[tuple[list[int], pl.DataFrame, list[bytes] | list[dict[str, Any]]]]:
    """(line numbers, parsed rows, the same rows as written) of a file, chunk by chunk."""
    if not path.is_file():
        raise DataError(f"{path} is not a file; give the path of an existing event file")
    if is_parquet(path):
        yield from _parquet(path)
    else:
        yield from _json_lines(path, rejects)


def _json_lines(
    path: Path, rejects: Rejects
) -> Iterator[tuple[list[int], pl.DataFrame, list[bytes]]]:
    numbered = enumerate(_byte_lines(path), 1)
    while taken := list(islice(numbered, CHUNK)):
        numbers: list[int] = []
        texts: list[bytes] = []
        for number, line in taken:
            text = line.strip()
            if not text:
                continue
            if len(text) > MAX_LINE:
                rejects.add(
                    path.name,
                    number,
                    f"longer than {MAX_LINE} bytes",
                    text[:SHOWN].decode(errors="replace"),
                )
                continue
            numbers.append(number)
            texts.append(text)
        yield numbers, _parse(texts), texts


def _byte_lines(path: Path) -> Iterator[bytes]:
    with open_bytes(path) as stream:
        number = 0
        try:
            for line in stream:
                number += 1
                yield line
        except (EOFError, OSError) as error:
            raise DataError(
                f"{path} breaks off after line {number} ({error}); copy the file again"
            ) from error


def _parse(texts: list[bytes]) -> pl.DataFrame:
    """One row a line. Lines that Arrow refuses are closed in on by halves and become nulls.

    Arrow is strict about types, so what it reads is what the line says; a line that is one whole
    object cannot run into the next one, so an equal count means that each row is its own line.
    """
    block = b"\n".join(texts)
    try:
        block.decode()
        if not all(text[:1] == b"{" and text[-1:] == b"}" for text in texts):
            raise ValueError("not one object a line")
        table = paj.read_json(io.BytesIO(block), _READ_OPTIONS, _PARSE_OPTIONS)
        if table.num_rows == len(texts):
            return cast("pl.DataFrame", pl.from_arrow(table)).select(list(EVENTS))
    except ValueError:  # ArrowInvalid and UnicodeDecodeError are kinds of it
        pass
    if len(texts) <= BY_HAND:
        return pl.DataFrame(schema=EVENTS).clear(len(texts))
    half = len(texts) // 2
    return pl.concat([_parse(texts[:half]), _parse(texts[half:])])


def _parquet(path: Path) -> Iterator[tuple[list[int], pl.DataFrame, list[dict[str, Any]]]]:
    try:
        file = pq.ParquetFile(path)
        names = set(file.schema_arrow.names)
        batches = file.iter_batches(
            batch_size=CHUNK, columns=[name for name in EVENTS if name in names]
        )
        if not names & set(EVENTS):
            raise DataError(
                f"{path} has the columns {sorted(names)}; an event needs user, time, kind and item"
            )
        first = 1
        for batch in batches:
            read = cast("pl.DataFrame", pl.from_arrow(batch))
            if "time" in read.columns and read.schema["time"].is_temporal():
                read = read.with_columns(pl.col("time").cast(pl.Datetime("ms")).dt.epoch("ms"))
            yield list(range(first, first + read.height)), _aligned(read), read.to_dicts()
            first += read.height
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no readable Parquet file: {error}") from error


def _aligned(read: pl.DataFrame) -> pl.DataFrame:
    """The columns of `EVENTS`. A row with a value that does not fit is a row of nulls, which sends
    it to the check by hand."""
    columns: list[pl.Expr] = []
    fits: list[pl.Expr] = [pl.lit(value=True)]
    for name, kind in EVENTS.items():
        if name not in read.columns:
            columns.append(pl.lit(None, kind).alias(name))
            continue
        given = pl.col(name)
        column = given.cast(kind, strict=False)
        columns.append(column)
        fits.append(given.is_null() | column.is_not_null())
        if kind == pl.Int64 and read.schema[name].is_float():
            fits.append(given.is_null() | (given == given.floor()))
        if kind == pl.String and read.schema[name] == pl.Boolean:
            fits.append(given.is_null())
    fitting = pl.all_horizontal(fits)
    return read.select(pl.when(fitting).then(column) for column in columns)


def _valid() -> pl.Expr:
    """What `schema.Event` asks, over columns."""

    def id_ok(name: str) -> pl.Expr:
        one = pl.col(name)
        return (one.str.len_chars().is_between(1, 200)) & ~one.str.contains(r"\s")

    search = pl.col("kind") == EventKind.SEARCH.value
    return pl.all_horizontal(
        id_ok("user"),
        pl.col("time").is_between(0, MAX_TIME_MS),
        pl.col("kind").is_in([kind.value for kind in EventKind]),
        pl.col("item").is_null() | id_ok("item"),
        pl.col("session").is_null() | id_ok("session"),
        pl.col("query").is_null() | pl.col("query").str.len_chars().is_between(1, 500),
        pl.when(search).then(pl.col("query").is_not_null()).otherwise(pl.col("item").is_not_null()),
        pl.col("position").is_null() | (pl.col("position") >= 0),
        pl.col("value").is_null() | pl.col("value").is_finite(),
        (pl.col("kind") != EventKind.RATING.value) | pl.col("value").is_not_null(),
        pl.col("source").is_null() | pl.col("source").str.len_chars().is_between(1, 100),
    ).fill_null(value=False)


def _checked(
    path: Path,
    numbers: list[int],
    chunk: pl.DataFrame,
    originals: list[bytes] | list[dict[str, Any]],
    rejects: Rejects,
) -> pl.DataFrame:
    good = chunk.select(_valid().alias("good"))["good"]
    frame = chunk.filter(good).with_columns(pl.col("source").fill_null("unknown"))
    frame = frame.select([pl.col(name).cast(kind) for name, kind in EVENTS.items()])
    doubtful = (~good).arg_true().to_list()
    if not doubtful:
        return frame
    saved: list[tuple[int, Event]] = []
    for at in doubtful:
        event = _by_hand(path.name, numbers[at], originals[at], rejects)
        if event is not None:
            saved.append((at, event))
    if not saved:
        return frame
    # back to where they stood: order within a file breaks ties of time
    rows = pl.DataFrame([event.model_dump(mode="json") for _, event in saved], schema=EVENTS)
    places = pl.Series("at", [*good.arg_true().to_list(), *(at for at, _ in saved)])
    return pl.concat([frame, rows]).with_columns(places).sort("at").drop("at")


def _by_hand(
    file: str, line: int, original: bytes | dict[str, Any], rejects: Rejects
) -> Event | None:
    shown: object = original
    try:
        if isinstance(original, bytes):
            shown = original.decode("utf-8", errors="replace")
            original = json.loads(original)
        if not isinstance(original, dict):
            raise ValueError("not a JSON object")
        return Event.model_validate(_tidy(original, Event))
    except ValidationError as error:
        rejects.add(file, line, explain(error), shown)
    except (ValueError, RecursionError) as error:
        # the position of a JSON error differs from row to row; the kind of error does not
        reason = "not JSON" if isinstance(error, json.JSONDecodeError) else str(error)[:80]
        rejects.add(file, line, reason, shown)
    return None


def _tidy(row: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Known, given fields; ids written as numbers become text, as other systems write them."""
    tidy = {key: row[key] for key in model.model_fields if row.get(key) is not None}
    for name in (*_IDS, "id"):
        if name in tidy and isinstance(tidy[name], int) and not isinstance(tidy[name], bool):
            tidy[name] = str(tidy[name])
    return tidy


def explain(error: ValidationError) -> str:
    """The first problem as `field: rule`, without the value: one text for all rows alike."""
    problem = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    rule = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {rule}" if where else rule


def read_products(path: Path, rejects: Rejects) -> Iterator[Product]:
    """Valid products of a JSON-lines or Parquet file; a second product with one id is refused."""
    known: set[str] = set()
    for line, row in _product_rows(path, rejects):
        try:
            product = Product.model_validate(_tidy(row, Product))
        except ValidationError as error:
            rejects.add(path.name, line, explain(error), row)
            continue
        if product.id in known:
            rejects.add(path.name, line, "id: given before", row)
            continue
        known.add(product.id)
        yield product


def _product_rows(path: Path, rejects: Rejects) -> Iterator[tuple[int, dict[str, Any]]]:
    if not path.is_file():
        raise DataError(f"{path} is not a file; give the path of an existing product file")
    if is_parquet(path):
        try:
            for number, row in enumerate(pl.read_parquet(path).iter_rows(named=True), 1):
                yield number, row
        except (PolarsError, OSError) as error:
            raise DataError(f"{path} is no readable Parquet file: {error}") from error
        return
    for number, line in enumerate(_byte_lines(path), 1):
        if not line.strip():
            continue
        text = line.decode("utf-8", errors="replace")
        try:
            row: Any = json.loads(text)
        except (ValueError, RecursionError):
            rejects.add(path.name, number, "not JSON", text.strip())
            continue
        if isinstance(row, dict):
            yield number, cast("dict[str, Any]", row)
        else:
            rejects.add(path.name, number, "not a JSON object", text.strip())
