"""Event tables on disk: parts of Parquet in, one sorted table out, and sequences made from it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import cast

import polars as pl
import pyarrow.parquet as pq

from model.data.files import write_text
from model.data.ingest import CHUNK, EVENTS
from model.data.schema import Event, EventKind, Product


def write_parts(chunks: Iterable[pl.DataFrame], folder: Path) -> int:
    """Write each chunk as one Parquet part of `folder`, which appears whole; returns the rows."""
    fresh = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    total = 0
    try:
        for number, chunk in enumerate(chunks):
            chunk.write_parquet(fresh / f"part-{number:05d}.parquet")
            total += chunk.height
        if not total:  # an empty table is still a table
            empty = pl.DataFrame(schema={**EVENTS, "row": pl.Int64})
            empty.write_parquet(fresh / "part-00000.parquet")
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return total


def frames(events: Iterable[Event], size: int = CHUNK) -> Iterator[pl.DataFrame]:
    """Events as chunks of `size` rows, numbered in `row` like those that `read_events` gives."""
    held: list[Event] = []
    row = 0

    def chunk() -> pl.DataFrame:
        columns = {name: [getattr(event, name) for event in held] for name in EVENTS}
        return pl.DataFrame(columns, schema=EVENTS).with_columns(
            pl.int_range(row, row + len(held)).alias("row")
        )

    for event in events:
        held.append(event)
        if len(held) == size:
            yield chunk()
            row += size
            held = []
    if held:
        yield chunk()


def write_products(products: Iterable[Product], path: Path) -> int:
    """Write products as JSON lines; returns how many."""
    count = 0
    with write_text(path) as stream:
        for product in products:
            stream.write(product.model_dump_json(exclude_none=True) + "\n")
            count += 1
    return count


def sequence_lines(
    table: Path, kinds: Iterable[EventKind] | None = None, *, repeats: bool = False
) -> Iterator[str]:
    """Lines of the sequence format from a table sorted by user and time, batch by batch.

    `kinds` limits what counts. Without `repeats`, an item that follows itself is written once: a
    view, a cart and a purchase of one product are one interest.
    """
    wanted = [kind.value for kind in (kinds or [k for k in EventKind if k is not EventKind.SEARCH])]
    user, items, last = None, list[str](), None
    for batch in pq.ParquetFile(table).iter_batches(CHUNK, columns=["user", "kind", "item"]):
        frame = cast("pl.DataFrame", pl.from_arrow(batch)).filter(
            pl.col("item").is_not_null() & pl.col("kind").cast(pl.String).is_in(wanted)
        )
        grouped = frame.group_by("user", maintain_order=True).agg("item")
        for name, found in grouped.iter_rows():
            if name != user:
                if items:
                    yield " ".join([str(user), *items])
                user, items, last = name, [], None
            for item in found:
                if repeats or item != last:
                    items.append(item)
                last = item
    if items:
        yield " ".join([str(user), *items])


def write_lines(path: Path, lines: Iterable[str], tick: Callable[[], None] = lambda: None) -> int:
    """Write lines to `path` (gzip if it ends in .gz); returns how many."""
    count = 0
    with write_text(path) as stream:
        for line in lines:
            stream.write(line + "\n")
            count += 1
            tick()
    return count
