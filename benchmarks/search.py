"""Search against BM25 on queries that nothing has learnt from, and what a user's history adds.

    python -m benchmarks.search --data FOLDER [--part 0] [--parts 5] [--threads 2]
    python -m benchmarks.search [--users 2000] [--items 1000] [--size base]

*Legs*: FOLDER holds `products.tsv.gz`, `queries.tsv.gz` and `qrels.tsv.gz`. The queries are split
by a hash of their text; one part is held out, the rest trains the index. BM25 is the library bm25s
with its own tokenizer and defaults, over titles. Gains are linear and unjudged products count 0;
judged NDCG leaves them out of the first 100. Queries without any gain are left out.
*History*, where no data is given: a synthetic shop (generated, no real users); the last search of
each user is asked with and without the items seen before it, by a model trained on what came
before. Writes out/bench/search.json or out/bench/search_history.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import bm25s
import numpy as np

from model.data.synthetic import make_shop
from model.search.cli import Steps
from model.search.index import SearchConfig, SearchIndex
from model.search.legs import best
from model.search.metrics import measure, summary
from model.search.ranker import Ranker
from model.search.tables import Judgements, Rejects, read_judgements, read_products, read_queries
from model.search.training import fold_of, seeded, train

OUT = Path("out/bench")
DEPTH = 100

Rank = Callable[[str], list[int]]


def bm25(titles: list[str]) -> Rank:
    """The anchor: bm25s as its documentation uses it."""
    index = bm25s.BM25()
    index.index(bm25s.tokenize(titles, show_progress=False), show_progress=False)

    def rank(text: str) -> list[int]:
        tokens = bm25s.tokenize([text], return_ids=False, show_progress=False)
        if not any(token in index.vocab_dict for token in tokens[0]):
            return []
        found, _ = index.retrieve(tokens, k=min(DEPTH, len(titles)), show_progress=False)
        return [int(place) for place in found[0]]

    return rank


def stages(index: SearchIndex) -> dict[str, Rank]:
    """Each leg of an index alone, both fused, and the whole."""
    weight = index.config.dense_weight

    def whole(text: str) -> list[int]:
        items, scores = index.rank(text, DEPTH)
        return [int(i) for i in items[np.lexsort((items, -scores))][:DEPTH]]

    return {
        "lexical": lambda text: best(
            index.legs.lexical.scores(index.catalogue.query(text)), DEPTH
        ).tolist(),
        "dense": lambda text: best(
            index.legs.scores(index.catalogue.query(text))[1], DEPTH
        ).tolist(),
        "fused": lambda text: index.legs.find(index.catalogue.query(text), weight).items.tolist(),
        "whole": whole,
    }


def legs(args: argparse.Namespace) -> dict[str, Any]:
    """Train on all parts but one, measure on that one."""
    rejects = Rejects()
    folder: Path = args.data
    entries = read_products(folder / "products.tsv.gz", rejects)
    queries = read_queries(folder / "queries.tsv.gz", rejects)
    told = read_judgements(folder / "qrels.tsv.gz", queries, entries, rejects)
    held = [fold_of(text, args.parts) == args.part for text in told.queries]
    learnt = [at for at, out in enumerate(held) if not out]
    lesson = Judgements([told.queries[i] for i in learnt], [told.gains[i] for i in learnt])
    asked = [at for at, out in enumerate(held) if out and any(told.gains[at].values())]
    seeded(args.seed, args.threads)
    began = time.monotonic()
    config = SearchConfig(seed=args.seed)
    made = train(entries, lesson, config, Steps(), threads=args.threads)
    took = time.monotonic() - began
    ranker = Ranker(made.ranker) if made.ranker is not None else None
    index = SearchIndex(made.catalogue, made.dense, ranker, made.config)
    highest = max(max(gains.values()) for gains in told.gains if gains)
    ways = {"bm25": bm25([entry.title for entry in entries]), **stages(index)}
    figures: dict[str, dict[str, float]] = {}
    for name, rank in ways.items():
        began = time.monotonic()
        rows = [measure(rank(told.queries[at]), told.gains[at], highest) for at in asked]
        seconds = time.monotonic() - began
        figures[name] = summary(rows) | {"ms_per_query": 1e3 * seconds / len(asked)}
    return {
        "held_out_queries": len(asked), "judged_queries": len(learnt), "products": len(entries),
        "train_seconds": took, "reranker": made.ranker is not None,
        "trained_on": made.metrics, "figures": figures,
        "features": ranker.importance() if ranker is not None else {},
    }  # fmt: skip


def show(figures: dict[str, dict[str, float]]) -> None:
    """A table with each figure's ratio to the first row."""
    first = next(iter(figures.values()))
    names = list(first)
    print(f"{'':10}" + "".join(f"{name:>24}" for name in names))
    for way, row in figures.items():
        cells = "".join(f"{row[n]:16.4f} ({row[n] / max(first[n], 1e-9):4.2f}x)" for n in names)
        print(f"{way:10}{cells}")


def history(args: argparse.Namespace) -> dict[str, Any]:
    """The last search of each user, with and without what the user saw before it."""
    from model.predictor import Predictor

    shop = make_shop(args.seed, args.users, args.items)
    last = {search.user: search for search in shop.searches}
    before: dict[str, list[str]] = {}
    for event in shop.events:
        search = last.get(event.user)
        if event.item is not None and (search is None or event.time < search.time):
            seen = before.setdefault(event.user, [])
            if seen[-1:] != [event.item]:
                seen.append(event.item)
    asked = [s for user, s in last.items() if s.gains and len(before.get(user, [])) >= 3]
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        (folder / "train.txt").write_text(
            "".join(f"{user} {' '.join(items)}\n" for user, items in before.items() if items)
        )
        (folder / "items.jsonl").write_text(
            "".join(product.model_dump_json() + "\n" for product in shop.products)
        )
        _run("model.train", "--sequences", folder / "train.txt", "--items",
             folder / "items.jsonl", "--size", args.size, "--epochs", args.epochs, "--out",
             folder / "model")  # fmt: skip
        _run("model.search", "train", "--model", folder / "model")
        predictor = Predictor.load(folder / "model")
    figures: dict[str, dict[str, float]] = {}
    texts = [search.query for search in asked]
    histories = [before[search.user] for search in asked]
    for name, given in (("query", None), ("history", histories)):
        began = time.monotonic()
        lists = predictor.search(texts, 100, histories=given)
        seconds = time.monotonic() - began
        at = {item: place for place, item in enumerate(predictor.catalogue.items)}
        rows = [
            measure(
                [at[hit.item] for hit in found],
                {at[item]: gain for item, gain in search.gains.items() if item in at},
                2.0,
            )
            for found, search in zip(lists, asked, strict=True)
        ]
        figures[name] = summary(rows) | {"ms_per_query": 1e3 * seconds / len(asked)}
    return {"label": shop.label, "queries": len(asked), "figures": figures}


def _run(module: str, *arguments: object) -> None:
    subprocess.run([sys.executable, "-m", module, *map(str, arguments)], check=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of products, queries and qrels")
    parser.add_argument("--part", type=int, default=0, help="the part held out (default 0)")
    parser.add_argument("--parts", type=int, default=5, help="parts in all (default 5)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--users", type=int, default=2000, help="of the synthetic shop")
    parser.add_argument("--items", type=int, default=1000, help="of the synthetic shop")
    parser.add_argument("--size", default="base", help="of the synthetic shop's model")
    parser.add_argument("--epochs", type=int, default=30, help="of the synthetic shop's model")
    args = parser.parse_args(argv)
    report = legs(args) if args.data is not None else history(args)
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / ("search.json" if args.data is not None else "search_history.json")
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    show(report["figures"])
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
