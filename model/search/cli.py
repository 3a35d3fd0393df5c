"""Product search from the command line: build an index, answer queries from it.

    python -m model.search train --products products.tsv.gz --out out/search
    python -m model.search train --products products.tsv.gz --queries queries.tsv.gz \\
        --qrels qrels.tsv.gz --out out/search
    python -m model.search train --model out/model
    python -m model.search query --index out/search --queries queries.tsv.gz --k 100 --out pred.tsv

Files are gzip or plain, tab-separated, with or without a header line: products `product_uid
product_title` (or JSON lines of products), queries `query_id query`, judgements `query_id
product_uid gain`. With judgements a reranker is trained too. Exit codes: 0 done, 1 the work failed
or the index cannot be used, 2 wrong use.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # see model.train

from pydantic import ValidationError
from rich.console import Console
from rich.progress import track

from model.data.files import DataError, write_text
from model.folder import MANIFEST, CheckpointError
from model.runlog import say
from model.search import tables
from model.search.index import SearchConfig, SearchIndex, products_of, save
from model.search.tables import Rejects

SAY_EVERY_S = 10.0
BATCH = 64


def parser() -> argparse.ArgumentParser:
    """Both commands."""
    made = argparse.ArgumentParser(
        prog="python -m model.search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = made.add_subparsers(dest="command", required=True, metavar="COMMAND")
    train = commands.add_parser("train", help="build an index", description="Build an index.")
    source = train.add_mutually_exclusive_group(required=True)
    source.add_argument("--products", type=Path, help="products to search")
    source.add_argument(
        "--model", type=Path, help="folder of model.train: its products, index in its search/"
    )
    train.add_argument("--queries", type=Path, help="judged queries (needs --qrels)")
    train.add_argument("--qrels", type=Path, help="judgements (needs --queries)")
    train.add_argument("--out", type=Path, help="folder of the index to write")
    train.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")
    train.add_argument("--threads", type=int, help="CPU threads (default: all)")
    train.add_argument("--overwrite", action="store_true", help="replace an index in --out")
    query = commands.add_parser("query", help="answer queries", description="Answer queries.")
    query.add_argument("--index", type=Path, required=True, help="folder of `train`")
    query.add_argument("--queries", type=Path, required=True, help="query_id<TAB>query")
    query.add_argument("--k", type=int, default=100, help="products a query (default 100)")
    query.add_argument("--out", type=Path, required=True, help="file to write; .gz is packed")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    made = parser()
    args = made.parse_args(argv)
    if args.command == "query" and args.k < 1:
        made.error(f"--k is {args.k}; give at least 1")
    if args.command == "train":
        if (args.queries is None) != (args.qrels is None):
            made.error("--queries and --qrels belong together; give both or neither")
        if (args.out is None) == (args.model is None):
            made.error("give --out with --products; an index of --model goes into its search/")
        if args.threads is not None and args.threads < 1:
            made.error(f"--threads is {args.threads}; give at least 1")
    try:
        return _train(args) if args.command == "train" else _query(args)
    except CheckpointError as error:
        say(f"error: {error}")
        return 1
    except ValidationError as error:
        first = error.errors()[0]
        say(f"error: {'.'.join(map(str, first['loc']))}: {first['msg']} (got {first['input']!r})")
        return 2
    except (DataError, OSError) as error:
        say(f"error: {error}")
        return 2
    except FloatingPointError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; nothing was written")
        return 1


class Steps:
    """Progress lines: each stage once, and again while it lasts."""

    def __init__(self) -> None:
        self._stage, self._said, self._began = "", 0.0, 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Hear of a step."""
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._began, self._said = stage, now, now
            say(f"{stage}: {total} steps")
        elif done == total or now - self._said > SAY_EVERY_S:
            self._said = now
            left = (total - done) * (now - self._began) / max(done, 1)
            took = f"{now - self._began:.0f} s" if done == total else f"about {left:.0f} s left"
            say(f"{stage}: {done}/{total}, {took}")


def _out(args: argparse.Namespace) -> Path:
    out: Path = args.out if args.out is not None else args.model / "search"
    if out.exists() and not args.overwrite:
        if not out.is_dir():
            raise DataError(f"{out} is a file; give --out a folder that may be written")
        if (out / MANIFEST).exists():
            raise DataError(f"{out} holds an index; add --overwrite or give another --out")
        if any(out.iterdir()):
            raise DataError(f"{out} holds other files; give --out a new or an empty folder")
        out.rmdir()
    return out


def _train(args: argparse.Namespace) -> int:
    # torch and lightgbm are heavy; wrong use is told before they load
    from model.search.training import fingerprint, seeded, train

    out = _out(args)
    config = SearchConfig(seed=args.seed)
    rejects = Rejects()
    path = args.products if args.products is not None else products_of(args.model)
    entries = tables.read_products(path, rejects)
    judgements = None
    if args.queries is not None:
        queries = tables.read_queries(args.queries, rejects)
        judgements = tables.read_judgements(args.qrels, queries, entries, rejects)
    _told(rejects)
    asked = 0 if judgements is None else sum(bool(gains) for gains in judgements.gains)
    say(f"{len(entries)} products, {asked} judged queries")
    seeded(args.seed, args.threads)
    trained = train(entries, judgements, config, Steps(), threads=args.threads or 0)
    manifest = save(
        out, trained.catalogue, trained.dense, trained.ranker, trained.config,
        data_fingerprint=fingerprint(entries, judgements),
        judged_queries=asked, metrics=trained.metrics,
    )  # fmt: skip
    size = sum(record.size for record in manifest.files.values())
    told = "  ".join(f"{k} {v:.4f}" for k, v in manifest.metrics.items() if "_ndcg@10" in k)
    say(f"wrote {out}: {manifest.products} products, {size / 1e6:.0f} MB  {told}")
    return 0


def _query(args: argparse.Namespace) -> int:
    rejects = Rejects()
    queries = tables.read_queries(args.queries, rejects)
    _told(rejects)
    index = SearchIndex.load(args.index)
    empty = 0

    def rows() -> Iterator[str]:
        nonlocal empty
        console = Console(stderr=True)
        for start in track(range(0, len(queries), BATCH), "searching", console=console):
            part = queries[start : start + BATCH]
            answers = index.search([text for _, text in part], args.k)
            empty += sum(not one for one in answers)
            lists = ([hit.item for hit in one] for one in answers)
            yield from tables.prediction_lines((name for name, _ in part), lists)

    with write_text(args.out) as stream:
        stream.writelines(rows())
    if empty:
        say(f"{empty} queries hold no letter or digit; their lists are empty")
    say(f"wrote {len(queries)} queries to {args.out}")
    return 0


def _told(rejects: Rejects) -> None:
    if rejects.count:
        say(f"{rejects.count} malformed rows skipped; the first: {rejects.first}")
