"""How well items without a single event are recommended, from what is written about them.

    python -m benchmarks.cold --sequences sequences.txt.gz --items items.jsonl.gz [--share 0.1]

A tenth of the items loses all its events; the rest trains a model through its command line, with
every item described. Each event of a held-out item, after at least one other event of its user, is
a case: the item is ranked among the held-out items, and in the whole catalogue. Beside it: the
same ranking by the words alone (cosine to the last five items), and chance. Without arguments it
runs on the synthetic shop. Writes out/bench/cold.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.model import OUT, ROOT
from model.cold import Hashed, words
from model.corpus import read_items
from model.data.sequences import read_sequences, write_sequences
from model.data.synthetic import make_shop, write_shop
from model.metrics import bootstrap
from model.predictor import Predictor

Case = tuple[list[str], str]  # history oldest first, the cold item taken next
LEAST_EVENTS = 3  # of an item that may be held out
DEEP = 100


def split(
    sequences: dict[str, list[str]], described: set[str], share: float, seed: int
) -> tuple[set[str], list[Case]]:
    """Items held out, and a case for each of their events that has a history."""
    counts: dict[str, int] = {}
    for items in sequences.values():
        for item in items:
            counts[item] = counts.get(item, 0) + 1
    usable = sorted(i for i, n in counts.items() if n >= LEAST_EVENTS and i in described)
    rng = np.random.default_rng(seed)
    held = set(rng.choice(usable, max(10, int(share * len(usable))), replace=False).tolist())
    cases: list[Case] = []
    for items in sequences.values():
        warm: list[str] = []
        for item in items:
            if item not in held:
                warm.append(item)
            elif warm:
                cases.append((list(warm), item))
    return held, cases


def placed(lists: Sequence[Sequence[str]], cases: Sequence[Case]) -> dict[str, Any]:
    """HR@10, NDCG@10 and HR@100 of lists, with the interval of the first."""
    ranks = np.array([
        list(row).index(item) if item in row else 10**9
        for row, (_, item) in zip(lists, cases, strict=True)
    ])  # fmt: skip
    hits = (ranks < 10).astype(np.float64)
    low, high = bootstrap(hits)
    ndcg = np.where(ranks < 10, 1 / np.log2(np.minimum(ranks, 10) + 2.0), 0.0)
    return {"hr@10": float(hits.mean()), "low": low, "high": high,
            "ndcg@10": float(ndcg.mean()), "hr@100": float((ranks < DEEP).mean())}  # fmt: skip


def by_words(rows: list[dict[str, Any]], held: list[str], cases: list[Case]) -> list[list[str]]:
    """The held items by the cosine of their words to those of the last five items."""
    place = {str(row["item_id"]): n for n, row in enumerate(rows)}
    hashed = Hashed([words(row) for row in rows], 1 << 14)
    candidates = hashed[np.array([place[item] for item in held])]
    lists: list[list[str]] = []
    for history, _ in cases:
        last = [place[item] for item in history[-5:] if item in place]
        asked = hashed[np.array(last, np.int64)].sum(0) if last else torch.zeros(1 << 14)
        order = torch.argsort(candidates @ asked, descending=True, stable=True)
        lists.append([held[int(n)] for n in order[:DEEP]])
    return lists


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cold",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sequences", type=Path)
    parser.add_argument("--items", type=Path)
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=40, help="at most")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)
    if (args.sequences is None) != (args.items is None):
        parser.error("give both --sequences and --items, or neither for the synthetic shop")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if args.sequences is None:
            write_shop(make_shop(), work)
            args.sequences, args.items = work / "sequences.txt.gz", work / "products.jsonl.gz"
            name = "synthetic shop"
        else:
            name = args.sequences.resolve().parent.name
        rows = read_items(args.items)
        sequences = {s.user: s.items for s in read_sequences(args.sequences)}
        described = {str(row["item_id"]) for row in rows}
        held, cases = split(sequences, described, args.share, args.seed)
        kept = {u: [i for i in items if i not in held] for u, items in sequences.items()}
        write_sequences(work / "train.txt", ((u, items) for u, items in kept.items() if items))
        subprocess.run(
            [sys.executable, "-m", "model.train", "--sequences", str(work / "train.txt"),
             "--items", str(args.items.resolve()), "--out", str(work / "model"),
             "--epochs", str(args.epochs), "--seed", str(args.seed), "--no-refit",
             "--threads", str(args.threads)],
            check=True, cwd=ROOT,
        )  # fmt: skip
        predictor = Predictor.load(work / "model", threads=args.threads)
        figures = judged(predictor, rows, held, cases)
    record = {"set": name, "held_items": len(held), "cases": len(cases), "figures": figures,
              "training": predictor.manifest.metrics}  # fmt: skip
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "cold.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    table = Table(title=f"{name}: {len(held)} items without events, {len(cases)} cases")
    for column in ("", "HR@10", "NDCG@10", "HR@100"):
        table.add_column(column)
    for label, one in figures.items():
        table.add_row(label, f"{one['hr@10']:.4f} ({one['low']:.4f}-{one['high']:.4f})",
                      f"{one['ndcg@10']:.4f}", f"{one['hr@100']:.4f}")  # fmt: skip
    Console().print(table)
    return 0


def judged(
    predictor: Predictor, rows: list[dict[str, Any]], held: set[str], cases: list[Case]
) -> dict[str, dict[str, Any]]:
    """Every way to rank, judged on the same cases."""
    mask = np.array([item in held for item in predictor.catalogue.items])
    asked = [history for history, _ in cases]
    inside = predictor.recommend(asked, DEEP, allowed=[mask] * len(asked))
    whole = predictor.recommend(asked, DEEP)
    names = sorted(held)
    shuffled = np.random.default_rng(0)
    chance = [[names[n] for n in shuffled.permutation(len(names))[:DEEP]] for _ in cases]
    return {
        "ours, among held-out items": placed([[o.item for o in r] for r in inside], cases),
        "words alone, among held-out items": placed(by_words(rows, names, cases), cases),
        "chance, among held-out items": placed(chance, cases),
        "ours, in the whole catalogue": placed([[o.item for o in r] for r in whole], cases),
    }


if __name__ == "__main__":
    sys.exit(main())
