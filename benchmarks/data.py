"""How time and memory of reading and cleaning grow with the event log.

    python -m benchmarks.data [--events 1000000 10000000 50000000] [--engine polars]
    uv run --with pyspark python -m benchmarks.data --events 1000000 --check spark

Each log is generated (power laws of users and items, 1 % duplicates, 0.1 % future times, one bot a
thousand users), then `python -m model.data clean --core 5` runs on it in a process of its own,
whose wall time, processor time and peak memory the kernel reports. `--json` writes the log as JSON
lines instead. `--check ENGINE` cleans the smallest log with a second engine and
fails unless both tables are equal row by row. Writes out/bench/data.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

OUT = Path("out/bench/data.json")
PART = 2_000_000
NOW_MS = 1_767_225_600_000  # 2026-01-01
DAYS = 180


def generate(folder: Path, events: int, *, as_json: bool) -> None:
    """A log of `events` rows in parts, the same for the same number."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(events)
    users, items = max(10, events // 40), max(10, events // 200)
    for part, start in enumerate(range(0, events, PART)):
        n = min(PART, events - start)
        # a power law over ids: few heavy users and items, many light ones
        user = (users * rng.random(n) ** 2).astype(np.int64)
        item = (items * rng.random(n) ** 3).astype(np.int64)
        when = NOW_MS - rng.integers(0, DAYS * 86_400_000, n)
        bot = user % 1000 == 7
        when[bot] = NOW_MS - 86_400_000 + rng.integers(0, 60_000, int(bot.sum()))
        late = rng.random(n) < 0.001
        when[late] = NOW_MS + 86_400_000
        kind = np.where(rng.random(n) < 0.9, "view", "purchase")
        frame = pl.DataFrame({"user": user, "time": when, "kind": kind, "item": item}).with_columns(
            pl.format("u{}", "user").alias("user"), pl.format("i{}", "item").alias("item")
        )
        copies = frame.sample(n // 100, seed=part)
        frame = pl.concat([frame.head(n - copies.height), copies])
        if as_json:
            frame.write_ndjson(folder / f"part-{part:03d}.jsonl")
        else:
            frame.write_parquet(folder / f"part-{part:03d}.parquet")


def clean(log: Path, out: Path, engine: str) -> dict[str, Any]:
    """Seconds, processor seconds and peak bytes of one run, with its report."""
    words = [
        sys.executable, "-m", "model.data", "clean", "--events", str(log), "--out", str(out),
        "--core", "5", "--now", "2026-01-01", "--engine", engine,
    ]  # fmt: skip
    began = time.monotonic()
    pid = os.posix_spawn(
        sys.executable, words, os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )  # fmt: skip
    _, status, used = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"benchmarks.data: {' '.join(words)} ended with {status}")
    return {
        "wall_s": time.monotonic() - began,
        "cpu_s": used.ru_utime + used.ru_stime,
        "peak_bytes": used.ru_maxrss * 1024,
        "report": json.loads((out / "report.json").read_text(encoding="utf-8")),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="benchmarks.data", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--events", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--engine", choices=["polars", "duckdb", "spark"], default="polars")
    parser.add_argument("--check", choices=["duckdb", "spark"], help="must give the same table")
    parser.add_argument("--json", action="store_true", help="logs as JSON lines, not Parquet")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="bench-data-") as place:
        for events in sorted(args.events):
            log, out = Path(place) / f"log-{events}", Path(place) / "out"
            generate(log, events, as_json=args.json)
            rows.append({"events": events, **clean(log, out, args.engine)})
            print(f"{events:,} events: {rows[-1]['wall_s']:.1f} s", file=sys.stderr, flush=True)
            if args.check and events == min(args.events):
                clean(log, out.with_name("other"), args.check)
                mine, other = (
                    pl.read_parquet(found if found.is_file() else found / "*.parquet").sort(
                        "user", "time", "row"
                    )
                    for found in (out / "events.parquet", out.with_name("other") / "events.parquet")
                )
                if not mine.equals(other.select(mine.columns)):
                    raise SystemExit(f"benchmarks.data: {args.engine} and {args.check} differ")
                print(f"{args.engine} and {args.check} give the same {mine.height:,} rows")
            for part in log.iterdir():
                part.unlink()
    first = rows[0]
    table = Table("events", "kept", "wall s", "x first", "cpu s", "peak GB", "x first")
    for row in rows:
        table.add_row(
            f"{row['events']:,}", f"{row['report']['kept']:,}", f"{row['wall_s']:.1f}",
            f"{row['wall_s'] / first['wall_s']:.1f}", f"{row['cpu_s']:.1f}",
            f"{row['peak_bytes'] / 1e9:.2f}", f"{row['peak_bytes'] / first['peak_bytes']:.1f}",
        )  # fmt: skip
    Console().print(table)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
