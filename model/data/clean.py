"""Event logs cleaned: future times, duplicates, bots, thin users and items removed and counted.

One code for two kinds of engine, through Narwhals: Polars in this process (streaming, the default)
and an existing Spark cluster, which most shops that have a cluster for data run. DuckDB works too.
Every step reads Parquet and writes Parquet, so memory stays bounded and any engine can take over.

Order of the rules: a row leaves by the first that it breaks.

1. `future`: later than `now` plus the clock tolerance.
2. `duplicate`: same user, time, kind, item and query as a row before it.
3. `bot`: all rows of a user who ever acted more often than `per_minute` times in one minute, or
   `per_day` times in one day.
4. `k-core`: users and items with fewer than `core` events, again and again until none is left
   (searches carry no item: they stay as long as their user does).

Times that run backwards within a user's rows are counted (`out_of_order`) and mended by sorting.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import narwhals as nw

MINUTE_MS = 60_000
DAY_MS = 86_400_000
SAME = ("user", "time", "kind", "item", "query")

Frame = nw.LazyFrame[Any]
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class CleanRules:
    """Limits; `now` in Unix milliseconds. A limit of 0 switches its rule off."""

    now: int
    tolerance_ms: int = 5 * MINUTE_MS  # clocks of phones and tills differ
    per_minute: int = 60
    per_day: int = 2000
    core: int = 0

    def __post_init__(self) -> None:
        for name in ("tolerance_ms", "per_minute", "per_day", "core"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; give 0 or more")


@dataclass
class CleanReport:
    """Rows read and kept, and rows removed by each rule."""

    read: int = 0
    kept: int = 0
    out_of_order: int = 0
    removed: dict[str, int] = field(default_factory=dict[str, int])
    core_rounds: int = 0


@dataclass(frozen=True)
class Engine:
    """Where frames are computed. `session` is the Spark session of an existing cluster."""

    backend: Literal["polars", "duckdb", "pyspark"] = "polars"
    session: Any = None

    def read(self, place: Path) -> Frame:
        """The frame in `place`, a Parquet file or a folder of parts."""
        several = place.is_dir() and self.backend != "pyspark"
        more = {"session": self.session} if self.session is not None else {}
        source = str(place / "*.parquet") if several else str(place)
        return nw.scan_parquet(source, backend=self.backend, **more)

    def write(self, frame: Frame, place: Path) -> Frame:
        """Compute `frame` once, into `place`, and go on from there."""
        frame.sink_parquet(str(place))
        return self.read(place)


def rows(frame: Frame) -> int:
    """How many."""
    return int(frame.select(nw.len().alias("n")).collect()["n"][0])


def clean(
    events: Path,
    out: Path,
    rules: CleanRules,
    engine: Engine | None = None,
    say: Say = lambda _text: None,
) -> CleanReport:
    """Clean the events under `events` into `out` (Parquet, sorted by user, time, row).

    `out` is replaced; a folder beside it holds what is between the steps and goes at the end.
    """
    engine = engine or Engine()
    work = out.with_name(f".{out.name}.steps")
    _remove(work)
    work.mkdir(parents=True)
    try:
        report = CleanReport()
        frame = engine.read(events)
        report.read = rows(frame)
        report.out_of_order = _out_of_order(frame)
        say(f"{report.read:,} events, {report.out_of_order:,} out of order")
        steps: list[tuple[str, Callable[[Frame], Frame]]] = [
            ("future", lambda frame: frame.filter(nw.col("time") <= rules.now + rules.tolerance_ms))
        ]
        steps.append(("duplicate", _first_of_same))
        steps.append(("bot", lambda frame: _without_bots(frame, rules)))
        before = report.read
        for name, step in steps:
            frame = engine.write(step(frame), work / f"{name}.parquet")
            left = rows(frame)
            report.removed[name] = before - left
            say(f"{name}: {before - left:,} removed")
            before = left
        if rules.core > 1:
            frame, report.core_rounds = _k_core(frame, rules.core, engine, work, say)
            left = rows(frame)
            report.removed["k-core"] = before - left
            say(f"k-core: {before - left:,} removed in {report.core_rounds} rounds")
        _remove(out)
        report.kept = rows(engine.write(frame.sort("user", "time", "row"), out))
        return report
    finally:
        _remove(work)


def _remove(place: Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def _out_of_order(frame: Frame) -> int:
    earlier = nw.col("time").shift(1).over("user", order_by="row")
    late = frame.select("user", "time", "row").filter(nw.col("time") < earlier)
    return rows(late)


def _first_of_same(frame: Frame) -> Frame:
    """Of rows that say the same, the one read first."""
    # a null is equal to no null in a join, but is a group of its own here
    first = frame.group_by(*SAME).agg(nw.col("row").min()).select("row")
    return frame.join(first, on="row", how="semi")


def _without_bots(frame: Frame, rules: CleanRules) -> Frame:
    for limit, span in ((rules.per_minute, MINUTE_MS), (rules.per_day, DAY_MS)):
        if limit:
            busy = (
                frame.select("user", (nw.col("time") // span).alias("span"))
                .group_by("user", "span")
                .agg(nw.len().alias("events"))
                .filter(nw.col("events") > limit)
                .select("user")
                .unique()
            )
            frame = frame.join(busy, on="user", how="anti")
    return frame


def _k_core(frame: Frame, core: int, engine: Engine, work: Path, say: Say) -> tuple[Frame, int]:
    """The largest part in which every user and item has `core` events with an item."""
    pairs = engine.write(
        frame.filter(~nw.col("item").is_null()).select("user", "item"), work / "pairs-0.parquet"
    )
    left, rounds = rows(pairs), 0
    while True:
        rounds += 1
        pairs = engine.write(
            _enough(_enough(pairs, "item", core), "user", core), work / f"pairs-{rounds}.parquet"
        )
        before, left = left, rows(pairs)
        say(f"k-core: round {rounds}, {left:,} events with an item")
        if left == before:
            break
    users, items = pairs.select("user").unique(), pairs.select("item").unique()
    bought = frame.filter(~nw.col("item").is_null())
    searched = frame.filter(nw.col("item").is_null())
    kept = nw.concat([bought.join(items, on="item", how="semi"), searched])
    return engine.write(kept.join(users, on="user", how="semi"), work / "core.parquet"), rounds


def _enough(pairs: Frame, column: str, core: int) -> Frame:
    some = pairs.group_by(column).agg(nw.len().alias("n")).filter(nw.col("n") >= core)
    return pairs.join(some.select(column), on=column, how="semi")


# --- splits ---------------------------------------------------------------------------------------


def leave_last_out(frame: Frame) -> dict[str, Frame]:
    """`test`: each user's last event with an item; `valid`: the one before; `train`: the rest.

    Users with fewer than three such events stay in `train` whole, searches as well.
    """
    order: dict[str, Any] = {"order_by": ["time", "row"]}
    has = frame.filter(~nw.col("item").is_null())
    ranked = has.with_columns(
        place=nw.col("row").cum_count().over("user", **order),
        count=nw.len().over("user"),
    ).with_columns(left=nw.col("count") - nw.col("place"))
    long = nw.col("count") >= 3
    columns = list(frame.collect_schema().names())
    train = ranked.filter(~long | (nw.col("left") >= 2)).select(columns)
    return {
        "train": nw.concat([train, frame.filter(nw.col("item").is_null()).select(columns)]),
        "valid": ranked.filter(long & (nw.col("left") == 1)).select(columns),
        "test": ranked.filter(long & (nw.col("left") == 0)).select(columns),
    }


def by_time(frame: Frame, valid_from: int, test_from: int) -> dict[str, Frame]:
    """Events before `valid_from`, up to `test_from`, and after it (Unix milliseconds)."""
    if not valid_from < test_from:
        raise ValueError(f"valid_from is {valid_from}; it must lie before test_from, {test_from}")
    time = nw.col("time")
    return {
        "train": frame.filter(time < valid_from),
        "valid": frame.filter((time >= valid_from) & (time < test_from)),
        "test": frame.filter(time >= test_from),
    }
