"""Labels of products from their text: the shipped tagger beside the majority and TF-IDF.

    python -m benchmarks.understand --data DIR [--seeds 3]

On ml-1m genres from titles (several each), on amazon-office brands from titles and texts (one
each). A fifth of the products, by a hash of their text, is held out of learning and of every
choice. F1 over all given labels (micro, with the 95 % bootstrap interval over products) and the
mean of each label's F1 (macro). A label that no learned product has counts as missed. *Majority*
gives the commonest label to all; TF-IDF with linear models runs in an environment of its own.
The tagger's figures are means over seeds. Without --data it runs on brands and
categories of the synthetic shop. Writes out/bench/understand.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.model import OUT, ROOT, SYNTHETIC
from model.data.importers import SETS
from model.data.ingest import Rejects
from model.data.schema import Product
from model.data.synthetic import make_shop
from model.understand.__main__ import LABELS, SEVERAL, train, words

PEER = "scikit-learn==1.7.2"
TASKS = (("ml-1m", "tags"), ("amazon-office", "brand"))
Labels = list[list[str]]


class Task(NamedTuple):
    """Products with the label in question, split."""

    name: str
    label: str
    learn: list[Product]
    held: list[Product]


def task(name: str, label: str, products: Sequence[Product]) -> Task:
    """Products of one text lie on one side, so that none is asked that was learned."""
    usable = [product for product in products if LABELS[label](product) and words(product)]
    held = [zlib.crc32(words(product).lower().encode()) % 5 == 0 for product in usable]
    parts = [
        [p for p, one in zip(usable, held, strict=True) if one is side] for side in (False, True)
    ]
    return Task(name, label, parts[0], parts[1])


def blind(product: Product) -> Product:
    """The product as a shop gives it that knows no label."""
    return product.model_copy(update={"brand": None, "category": (), "tags": ()})


def f1(truth: Labels, given: Labels, rounds: int = 1000) -> dict[str, float]:
    """Micro F1 with its interval over rows, and macro F1 over the labels that occur."""
    counts = np.array([
        (len(set(a) & set(b)), len(set(a)) + len(set(b))) for a, b in zip(truth, given, strict=True)
    ])  # fmt: skip
    rng = np.random.default_rng(0)
    drawn = [counts[rng.integers(0, len(counts), len(counts))].sum(0) for _ in range(rounds)]
    low, high = np.quantile([2 * hit / both for hit, both in drawn], [0.025, 0.975])
    hit, said = Counter[str](), Counter[str]()
    for a, b in zip(truth, given, strict=True):
        hit.update(set(a) & set(b))
        said.update([*set(a), *set(b)])
    macro = np.mean([2 * hit[one] / said[one] for one in {x for row in truth for x in row}])
    whole = counts.sum(0)
    return {"micro": float(2 * whole[0] / whole[1]), "low": float(low), "high": float(high),
            "macro": float(macro)}  # fmt: skip


def peer(asked: Task, texts: list[str]) -> Labels:
    """What TF-IDF gives for the texts."""
    told = {
        "learn": [words(blind(p)) for p in asked.learn],
        "labels": [LABELS[asked.label](p) for p in asked.learn],
        "ask": texts,
        "several": asked.label in SEVERAL,
    }
    done = subprocess.run(
        [str(ROOT / "local/uv.sh"), "run", "--no-project", "--with", PEER, "python",
         str(ROOT / "benchmarks/peers/tfidf_labels.py")],
        input=json.dumps(told), stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def measure(asked: Task, seeds: int) -> dict[str, Any]:
    """Every way to label, judged on the held-out products."""
    read = LABELS[asked.label]
    truth = [read(product) for product in asked.held]
    texts = [words(blind(product)) for product in asked.held]
    commonest = Counter(label for p in asked.learn for label in read(p)).most_common(1)[0][0]
    ours = [
        f1(truth, train(asked.learn, asked.label, seed).predict(texts))
        for seed in range(1, seeds + 1)
    ]
    figures = {
        "ours": {part: float(np.mean([one[part] for one in ours])) for part in ours[0]},
        "TF-IDF": f1(truth, peer(asked, texts)),
        "majority": f1(truth, [[commonest]] * len(texts)),
    }
    known = {label for product in asked.learn for label in read(product)}
    return {"set": asked.name, "label": asked.label, "learned": len(asked.learn),
            "held": len(asked.held), "labels": len(known), "seeds": ours,
            "unknown": sum(not known & set(row) for row in truth), "figures": figures}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.understand",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args(argv)
    if args.data is None:
        products = make_shop().products
        tasks = [task(SYNTHETIC, label, products) for label in ("brand", "category")]
    else:
        tasks = [
            task(name, label, list(SETS[name].products(args.data / name, Rejects())))
            for name, label in TASKS
        ]
    record = [measure(one, args.seeds) for one in tasks]
    table = Table(title="labels from text, products never seen")
    for column in ("", "micro F1", "macro F1"):
        table.add_column(column)
    for one in record:
        table.add_row(
            f"{one['set']} {one['label']}: {one['labels']} labels, {one['learned']} learned, "
            f"{one['held']} asked ({one['unknown']} of labels never learned)", "", "",
        )  # fmt: skip
        for label, found in one["figures"].items():
            told = f"{found['micro']:.4f} ({found['low']:.4f}-{found['high']:.4f})"
            table.add_row(
                f"  {label}", told, f"{found['macro']:.4f}", end_section=label == "majority"
            )
    Console().print(table)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "understand.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
