"""Exact and approximate retrieval by size of the catalogue: time, recall, and cost of loading.

    python -m benchmarks.retrieval [--items 12000 --items 100000 --items 1000000] [--checkpoint DIR]

Keys are drawn in clusters of unequal length (an untrained model); candidates are as many as
training would take; `--checkpoint` measures a trained folder instead. Times
are CPU milliseconds for a history, alone and in batches of 64, the links left out. Writes
out/bench/retrieval.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.model import OUT
from model.checkpoint import Fusion, save_model
from model.net import NetConfig, Recommender
from model.predictor import Predictor
from model.retrieval import FILE, ItemIndex, widen
from model.scoring import encode
from model.settings import TrainConfig

WIDTH = 128
K = 100


def cluster(table: torch.Tensor) -> None:
    """Fill (V, W) with vectors of unequal length around a centre for each hundred of them."""
    items, width = table.shape
    centres = torch.randn(max(1, items // 100), width)
    with torch.no_grad():
        for part in torch.arange(items).split(100_000):
            rows = centres[torch.randint(len(centres), (len(part),))]
            rows = rows + 0.7 * torch.randn(len(part), width)
            table[part] = rows * (0.5 + torch.rand(len(part), 1)) / 8


def make(items: int, folder: Path) -> float:
    """An untrained model folder of so many items, with its index; seconds that the index took."""
    torch.manual_seed(0)
    net = Recommender(NetConfig(items=items, width=WIDTH, layers=1, heads=1)).eval()
    cluster(net.item.weight)
    began = time.process_time()
    index = ItemIndex.build(net.keys())
    took = time.process_time() - began
    index.save(folder / FILE)
    metrics = widen(net.keys(), encode(net, drawn(items, seed=0)), index)
    save_model(
        folder / "model", net, items=[str(n) for n in range(items)], users=1,
        popularity=torch.ones(items), links=None, fusion=Fusion(), train=TrainConfig(), size="base",
        data_fingerprint="0", metrics=metrics, extra=[folder / FILE],
    )  # fmt: skip
    return took


def drawn(items: int, seed: int) -> list[NDArray[np.int64]]:
    """Histories of ten."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, items, 10) for _ in range(128)]


def each(run: Callable[[list[list[str]]], Any], histories: list[list[str]], size: int) -> float:
    """CPU milliseconds for a history, asked in batches of `size`."""
    parts = [histories[n : n + size] for n in range(0, len(histories), size)]
    run(parts[0])
    began = time.process_time()
    for part in parts:
        run(part)
    return (time.process_time() - began) / len(histories) * 1000


def apart(folder: Path, threads: int) -> dict[str, Any]:
    """`measure` in a process of its own: memory that this one held would hide the model's."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, folder, threads).result()


def measure(folder: Path, threads: int) -> dict[str, Any]:
    """Times, recall, and what loading costs."""
    torch.set_num_threads(threads)
    before = psutil.Process().memory_info().rss
    began = (time.perf_counter(), time.process_time())
    near = Predictor.load(folder, retrieval="approximate")
    load = (time.perf_counter() - began[0], time.process_time() - began[1])
    memory = psutil.Process().memory_info().rss - before
    exact = Predictor.load(folder, retrieval="exact")
    assert near.index is not None
    names = near.catalogue.items
    histories = [[names[int(i)] for i in one] for one in drawn(len(names), seed=1)]
    lists = [
        [{one.item for one in row} for row in p.recommend(histories, K)] for p in (exact, near)
    ]
    figures: dict[str, Any] = {
        "items": len(names),
        "candidates": near.index.candidates,
        f"recall@{K}": float(np.mean([len(a & b) / K for a, b in zip(*lists, strict=True)])),
        "load_seconds": load[0],
        "load_cpu_seconds": load[1],
        "load_bytes": memory,
    }
    for label, predictor in (("exact", exact), ("approximate", near)):
        for size, some in ((1, histories[:16]), (64, histories)):
            ask = lambda part, p=predictor: p.recommend(part, K)  # noqa: E731
            figures[f"{label} ms, batch {size}"] = each(ask, some, size)
    return figures


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.retrieval",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--items", type=int, action="append", help="catalogue size; repeatable")
    parser.add_argument("--checkpoint", type=Path, help="a trained model folder instead")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    rows: list[dict[str, Any]] = []
    if args.checkpoint is not None:
        rows.append(apart(args.checkpoint, args.threads))
    for items in [] if args.checkpoint else args.items or [12_000, 100_000]:
        with tempfile.TemporaryDirectory() as folder:
            built = make(items, Path(folder))
            row = apart(Path(folder) / "model", args.threads)
            rows.append({**row, "build_cpu_seconds": built})
    table = Table(title=f"{K} items for a history of 10")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*(f"{v:,.4g}" if isinstance(v, float) else f"{v:,}" for v in row.values()))
    Console(width=200).print(table)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "retrieval.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
