"""Training speed on a CPU beside RecTools' SASRec: same layers, width, loss, batch and length.

    python -m benchmarks.model_speed --sequences train.txt.gz [--length 50] [--batch 128]

Both train a gated SwiGLU transformer (LiGR) with the full softmax loss over the same file. Counted
are real targets (events to predict, no padding) a second of wall time and of CPU time, batches made
included, the first steps left out. Rounds alternate, so that a busy machine slows both; the table
gives medians. RecTools runs in an environment of its own. Without `--sequences` both train on the
synthetic shop. Writes out/bench/model-speed.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # see model.train

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.model import OUT, PEER, ROOT, SYNTHETIC
from model.corpus import Corpus, read_corpus
from model.data.synthetic import make_shop, write_shop
from model.loop import Fit, Place
from model.net import NetConfig, Recommender
from model.runlog import Silence
from model.settings import TrainConfig
from model.workers import Workers

SKIP = 5  # steps of warming up
AIM = 2.0


class Clock(Silence):
    """Targets and seconds after the first steps, as the peer's script counts them."""

    def __init__(self) -> None:
        self.targets, self.steps = 0, 0
        self.wall = self.cpu = 0.0
        self._from = (0.0, 0.0)

    def step(self, place: Place, loss: float, targets: int) -> None:  # noqa: ARG002
        """After every update."""
        now = (time.perf_counter(), time.process_time())
        if place.total <= SKIP:
            self._from = now
            return
        self.wall, self.cpu = now[0] - self._from[0], now[1] - self._from[1]
        self.targets += targets
        self.steps += 1


def ours(args: argparse.Namespace, corpus: Corpus) -> dict[str, Any]:
    """Targets a second of our loop, weight averaging and checks included."""
    torch.manual_seed(0)
    net = Recommender(
        NetConfig(items=len(corpus.items), width=args.width, layers=args.blocks, heads=args.heads,
                  ffn=args.ffn, max_length=args.length, dropout=args.dropout)
    )  # fmt: skip
    train = TrainConfig(batch=args.batch, negatives=0, save_every=10**9)
    fit = Fit(net, corpus, train, Workers("cpu"), epochs=10**6)
    clock = Clock()
    fit.run(clock, lambda: None, stop_after=SKIP + args.steps)
    return {
        "items_per_second": clock.targets / clock.wall,
        "items_per_cpu_second": clock.targets / clock.cpu,
        "parameters": sum(p.numel() for p in net.parameters()),
    }


def theirs(args: argparse.Namespace) -> dict[str, Any]:
    """The peer's."""
    command = [
        str(ROOT / "local/uv.sh"), "run", "--no-project", "--with", PEER, "python",
        str(ROOT / "benchmarks/peers/rectools_sasrec.py"), "--train", str(args.sequences),
        "--width", str(args.width), "--blocks", str(args.blocks), "--heads", str(args.heads),
        "--dropout", str(args.dropout), "--length", str(args.length), "--batch", str(args.batch),
        "--ligr", str(args.ffn), "--steps", str(args.steps), "--threads", str(args.threads),
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.model_speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sequences", type=Path)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--heads", type=int, default=1)
    parser.add_argument("--ffn", type=int, default=2, help="hidden width over width")
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20, help="counted steps of a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.sequences is None:
        write_shop(make_shop(), OUT / "model" / SYNTHETIC)
        args.sequences = OUT / "model" / SYNTHETIC / "sequences.txt.gz"
    corpus = read_corpus(args.sequences)
    rounds: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
    for _ in range(args.rounds):
        rounds["ours"].append(ours(args, corpus))
        rounds["peer"].append(theirs(args))
    table = Table(title=f"{args.sequences.name}: batch {args.batch}, length {args.length}")
    for column in ("", "items/s", "items/CPU s", "parameters"):
        table.add_column(column)
    middle: dict[str, dict[str, float]] = {}
    for side, found in rounds.items():
        middle[side] = {
            part: statistics.median(one[part] for one in found)
            for part in ("items_per_second", "items_per_cpu_second")
        }
        table.add_row(
            side, *(f"{v:,.0f}" for v in middle[side].values()), f"{found[0]['parameters']:,}"
        )
    ratios = {part: value / middle["peer"][part] for part, value in middle["ours"].items()}
    table.add_row("ratio", *(f"{value:.2f}" for value in ratios.values()), "")
    Console().print(table)
    told = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
    record = {"settings": told, "rounds": rounds, "ratios": ratios, "aim": AIM, "peer": PEER}
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "model-speed.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
