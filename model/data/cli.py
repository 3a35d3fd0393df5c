"""Command line of the data part: make a synthetic shop, import, clean and split event logs.

    python -m model.data synthetic --out out/shop
    python -m model.data import --set ml-100k --from path/to/ml-100k --out out/ml-100k
    python -m model.data clean --events out/shop/events.jsonl.gz --core 5 --out out/clean
    python -m model.data split --events out/clean/events.parquet --by last --out out/split

Events are JSON lines or Parquet in the schema of docs/data.md, gzip or plain. Bad rows are counted
and written to `rejects.jsonl.gz` with the reason; they never stop a run. Exit codes: 0 done, 1 the
work failed, 2 the command or its input cannot be used.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.data.files import DataError, write_text

if TYPE_CHECKING:
    import polars as pl

    from model.data.clean import Frame

_BEGAN = time.monotonic()


def say(text: str) -> None:
    """One line of progress on stderr, with the seconds since the start."""
    print(f"[{time.monotonic() - _BEGAN:6.1f}s] {text}", file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command."""
    parser = argparse.ArgumentParser(
        prog="python -m model.data", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, fill, about in (
        ("synthetic", _synthetic, "write a seeded synthetic shop (nothing in it is real)"),
        ("import", _import, "read a public data set as events and products"),
        ("clean", _clean, "check, clean and sort event logs; write sequences to train on"),
        ("split", _split, "split cleaned events into train, valid and test"),
    ):
        fill(commands.add_parser(name, help=about, description=about[0].upper() + about[1:] + "."))
    arguments = parser.parse_args(argv)
    try:
        arguments.run(arguments)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}; check the path, its rights and the free space", file=sys.stderr)
        return 1
    return 0


def _synthetic(made: argparse.ArgumentParser) -> None:
    made.add_argument("--out", type=Path, required=True, help="folder to write into")
    made.add_argument("--seed", type=int, default=0, help="same seed, same shop (default 0)")
    made.add_argument("--users", type=int, default=2000, help="users (default 2000)")
    made.add_argument("--items", type=int, default=1000, help="products (default 1000)")

    def run(arguments: argparse.Namespace) -> None:
        from model.data.synthetic import make_shop, write_shop

        if arguments.users < 1 or arguments.items < 1 or arguments.seed < 0:
            raise DataError("--users and --items must be 1 or more and --seed 0 or more")
        shop = make_shop(arguments.seed, arguments.users, arguments.items)
        for name, rows in write_shop(shop, arguments.out).items():
            print(f"{arguments.out / name}: {rows} rows")
        print(shop.label)

    made.set_defaults(run=run)


def _import(made: argparse.ArgumentParser) -> None:
    from model.data.importers import SETS

    files = "; ".join(f"{name}: {', '.join(one.files)}" for name, one in SETS.items())
    made.add_argument("--set", required=True, choices=list(SETS), help="which data set")
    made.add_argument(
        "--from", dest="source", type=Path, required=True,
        help=f"folder with its files, gzipped or plain ({files})",
    )  # fmt: skip
    made.add_argument("--out", type=Path, required=True, help="folder to write into")

    def run(arguments: argparse.Namespace) -> None:
        from model.data.importers import SETS
        from model.data.ingest import Rejects
        from model.data.store import frames, write_parts, write_products

        if not arguments.source.is_dir():
            raise DataError(f"--from is {arguments.source}, which is no folder")
        chosen = SETS[arguments.set]
        arguments.out.mkdir(parents=True, exist_ok=True)
        rejects = Rejects(arguments.out / "rejects.jsonl.gz")
        chunks = _told(frames(chosen.events(arguments.source, rejects)))
        events = write_parts(chunks, arguments.out / "events.parquet")
        products = write_products(
            chosen.products(arguments.source, rejects), arguments.out / "products.jsonl.gz"
        )
        rejects.write()
        print(f"{events} events, {products} products, {rejects.total} rows refused")

    made.set_defaults(run=run)


def _clean(made: argparse.ArgumentParser) -> None:
    made.add_argument("--events", type=Path, nargs="+", required=True, help="files, or a folder")
    made.add_argument("--products", type=Path, help="catalogue, checked and copied")
    made.add_argument("--out", type=Path, required=True, help="folder to write into")
    made.add_argument("--core", type=int, default=0, help="k-core: least events of a user and item")
    made.add_argument("--per-minute", type=int, default=60, help="a user above it is a bot (60)")
    made.add_argument("--per-day", type=int, default=2000, help="a user above it is a bot (2000)")
    made.add_argument("--now", help="ISO time; later events are refused (default: the clock)")
    made.add_argument("--repeats", action="store_true", help="keep an item that follows itself")
    made.add_argument(
        "--engine", choices=["polars", "duckdb", "spark"], default="polars",
        help="polars and duckdb: this process; spark: the cluster that pyspark is set up for",
    )  # fmt: skip

    def run(arguments: argparse.Namespace) -> None:
        from model.data.clean import CleanRules, clean
        from model.data.ingest import Rejects, read_events, read_products
        from model.data.store import sequence_lines, write_lines, write_parts, write_products

        now = _time("--now", arguments.now) if arguments.now else int(time.time() * 1000)
        try:
            rules = CleanRules(
                now=now, core=arguments.core, per_minute=arguments.per_minute,
                per_day=arguments.per_day,
            )  # fmt: skip
        except ValueError as error:
            raise DataError(str(error)) from None
        out: Path = arguments.out
        out.mkdir(parents=True, exist_ok=True)
        rejects = Rejects(out / "rejects.jsonl.gz")
        raw = out / ".raw.parquet"
        read = write_parts(_told(read_events(_files(arguments.events), rejects)), raw)
        say(f"{read:,} rows read, {rejects.total:,} refused")
        table = out / "events.parquet"
        report = clean(raw, table, rules, _engine(arguments.engine), say)
        sequences = write_lines(
            out / "sequences.txt.gz", _sequences(table, sequence_lines, arguments)
        )
        found: dict[str, Any] = {"refused": rejects.counts, **asdict(report), "users": sequences}
        if arguments.products is not None:
            found["products"] = write_products(
                read_products(arguments.products, rejects), out / "products.jsonl.gz"
            )
        rejects.write()
        _delete(raw)
        with write_text(out / "report.json") as stream:
            stream.write(json.dumps(found, indent=2) + "\n")
        print(json.dumps(found, indent=2))

    made.set_defaults(run=run)


def _sequences(table: Path, read: Any, arguments: argparse.Namespace) -> Iterator[str]:
    """A cluster writes a folder of parts in order of their names; a process one file."""
    parts = sorted(table.glob("*.parquet")) if table.is_dir() else [table]
    for part in parts:
        yield from read(part, repeats=arguments.repeats)


def _split(made: argparse.ArgumentParser) -> None:
    made.add_argument("--events", type=Path, required=True, help="events.parquet of `clean`")
    made.add_argument("--out", type=Path, required=True, help="folder to write into")
    made.add_argument(
        "--by", choices=["last", "time"], default="last",
        help="last: each user's last event is test, the one before valid; time: two moments",
    )  # fmt: skip
    made.add_argument("--valid-from", help="ISO time, with --by time")
    made.add_argument("--test-from", help="ISO time, with --by time")

    def run(arguments: argparse.Namespace) -> None:
        from model.data.clean import Engine, by_time, leave_last_out
        from model.data.store import sequence_lines, write_lines

        if not arguments.events.exists():
            raise DataError(f"--events is {arguments.events}, which does not exist")
        engine = Engine()
        frame = engine.read(arguments.events)
        if arguments.by == "last":
            parts: dict[str, Frame] = leave_last_out(frame)
        else:
            if not (arguments.valid_from and arguments.test_from):
                raise DataError("--by time needs --valid-from and --test-from")
            try:
                parts = by_time(
                    frame, _time("--valid-from", arguments.valid_from),
                    _time("--test-from", arguments.test_from),
                )  # fmt: skip
            except ValueError as error:
                raise DataError(str(error)) from None
        arguments.out.mkdir(parents=True, exist_ok=True)
        for name, part in parts.items():
            table = arguments.out / f"{name}.parquet"
            engine.write(part.sort("user", "time", "row"), table)
            users = write_lines(
                arguments.out / f"{name}.txt.gz", sequence_lines(table, repeats=True)
            )
            print(f"{table}: {users} users")

    made.set_defaults(run=run)


def _told(chunks: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """The same chunks, with a line of progress every few seconds."""
    total, said = 0, time.monotonic()
    for chunk in chunks:
        total += chunk.height
        if time.monotonic() - said > 5:
            say(f"{total:,} events read")
            said = time.monotonic()
        yield chunk


def _files(given: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.is_file() and p.name[:1] not in "._")
            if not inside:
                raise DataError(f"{path} is an empty folder; give event files")
            found += inside
        else:
            found.append(path)
    return found


def _time(flag: str, text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise DataError(f"{flag} is {text!r}; give an ISO time such as 2026-01-31T12:00") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _engine(name: str) -> Any:
    from model.data.clean import Engine

    if name == "polars" or name == "duckdb":
        return Engine(name)
    try:
        from pyspark.sql import SparkSession  # type: ignore[import-not-found]
    except ImportError:
        raise DataError(
            "--engine spark needs pyspark in the version of your cluster; run with "
            "`uv run --with pyspark==<version>`"
        ) from None
    session: Any = SparkSession.builder.appName("clean-events").getOrCreate()  # pyright: ignore
    return Engine("pyspark", session)


def _delete(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
