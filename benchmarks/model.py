"""Accuracy of the recommender by full-rank leave-one-out, beside a peer and published figures.

    python -m benchmarks.model --data ../data --set amazon-beauty --set ml-1m [--seeds 3]

The last item of every user is held out by writing a training file without it; the model trains
through its own command line, predicts through its own, and the same judge reads its file and the
peer's: HR@10, NDCG@10, MRR with 95 % bootstrap intervals, and the ratio of NDCG@10 over the same
users drawn together. The peer is RecTools' SASRec in an environment of its own (`--no-peer` leaves
it out; `--peer-*` replace single settings). Finished parts lie in out/bench/model/ and are used
again by the next call, unfinished ones go on. Without `--data` it runs on the synthetic shop, and
without the peer. Writes out/bench/model-SET.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from model.corpus import Corpus, read_corpus
from model.data.sequences import read_sequences, write_sequences
from model.data.synthetic import make_shop, write_shop
from model.evaluate import Report, judge, places, read_lists
from model.metrics import gains

ROOT = Path(__file__).resolve().parent.parent
OUT = Path("out/bench")
SYNTHETIC = "synthetic-shop"
PEER = "rectools[torch]==0.19.0"
# As its authors chose them by grid search for leave-one-out, their best layers and loss (eSASRec,
# arXiv 2508.06450, configs/paper/loo of their repository).
BEST = {"loss": "sampled_softmax", "negatives": 256, "ligr": 4}
PEERS: dict[str, dict[str, Any]] = {
    "amazon-beauty": {"width": 256, "blocks": 1, "heads": 1, "dropout": 0.2, "length": 50,
                      "epochs": 200, **BEST},
    "ml-1m": {"width": 64, "blocks": 2, "heads": 1, "dropout": 0.1, "length": 200, "epochs": 100,
              **BEST},
}  # fmt: skip
# For the peer, what `model.memory` does for ours: large tensors are not given back and zeroed anew.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}
PEER_FLAGS = ("epochs", "patience", "batch", "width", "blocks", "loss", "negatives", "ligr")
OTHERS = {"width": 64, "blocks": 2, "heads": 1, "dropout": 0.2, "length": 50, "epochs": 100,
          **BEST}  # fmt: skip
PUBLISHED: dict[str, dict[str, tuple[float, float]]] = {
    "amazon-beauty": {
        "eSASRec (published)": (0.0928, 0.0523),
        "SASRec + sampled softmax (published)": (0.0921, 0.0531),
    }
}


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    args = _parser().parse_args(argv)
    if args.data is None:
        args.data, args.set, args.no_peer = OUT / "model", [SYNTHETIC], True
        write_shop(make_shop(), args.data / SYNTHETIC)
    for name in args.set:
        whole = args.data / name / "sequences.txt.gz"
        work = OUT / "model" / name
        work.mkdir(parents=True, exist_ok=True)
        train = work / "train.txt.gz"
        write_sequences(train, ((s.user, s.items[:-1] or s.items) for s in read_sequences(whole)))
        corpus = read_corpus(whole)
        seeds = range(args.first_seed, args.first_seed + args.seeds)
        runs = [ours(args, work, train, seed) for seed in seeds]
        peers = [] if args.no_peer else [
            peer(args, name, work, train, seed) for seed in range(1, args.peer_seeds + 1)
        ]  # fmt: skip
        result = compare(corpus, runs, peers)
        record = {"set": name, "peer": None if args.no_peer else PEER, **result,
                  "published": PUBLISHED.get(name, {})}  # fmt: skip
        (OUT / f"model-{name}.json").write_text(json.dumps(record, indent=2) + "\n")
        show(name, record)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.model",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--set", action="append", default=[], help="a folder of it; repeatable")
    parser.add_argument("--seeds", type=int, default=3, help="runs of ours (default 3)")
    parser.add_argument("--first-seed", type=int, default=1, help="of these (default 1)")
    parser.add_argument("--size", default="base")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-links", action="store_true", help="the network alone")
    parser.add_argument("--no-refit", action="store_true", help="as published figures: no last fit")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--peer-seeds", type=int, default=1)
    for name in PEER_FLAGS:
        parser.add_argument(f"--peer-{name}", help="replaces the documented setting")
    return parser


def timed(
    command: Sequence[str], more: dict[str, str] | None = None
) -> tuple[str, dict[str, float]]:
    """A command's stdout, and its wall and CPU seconds; `more` joins its environment."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT,
        env={**os.environ, **(more or {})},
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return done.stdout, {"seconds": time.monotonic() - began, "cpu_seconds": cpu}


def once(path: Path, make: Any) -> dict[str, Any]:
    """The record of a finished part, made if it is not there yet."""
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    record = make()
    path.write_text(json.dumps(record) + "\n", encoding="utf-8")
    return record


def ours(args: argparse.Namespace, work: Path, train: Path, seed: int) -> dict[str, Any]:
    """One run of the two commands that a user would type."""
    less = [f"--{flag.replace('_', '-')}" for flag in ("no_links", "no_refit") if vars(args)[flag]]
    name = f"ours-{args.size}{''.join(less)}-{seed}"
    folder, out = (work / name).resolve(), (work / f"{name}.tsv").resolve()
    given = ["--sequences", str(train.resolve()), "--threads", str(args.threads)]

    def make() -> dict[str, Any]:
        _, spent = timed([sys.executable, "-m", "model.train", *given, *less, "--size", args.size,
                          "--seed", str(seed), "--out", str(folder), "--overwrite"])  # fmt: skip
        _, asked = timed([sys.executable, "-m", "model.predict", *given, "--k", "100",
                          "--checkpoint", str(folder), "--out", str(out)])  # fmt: skip
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        kept = {name: manifest[name] for name in ("parameters", "fusion", "metrics")}
        return {"seed": seed, "predictions": str(out), "train": spent, "predict": asked, **kept}

    return once(work / f"{name}.json", make)


def peer(args: argparse.Namespace, name: str, work: Path, train: Path, seed: int) -> dict[str, Any]:
    """One run of the peer."""
    settings = dict(PEERS.get(name, OTHERS))
    for key in PEER_FLAGS:
        given = getattr(args, f"peer_{key}")
        settings |= {} if given is None else {key: given}
    kept = f"peer-{hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]}-{seed}"
    out, state = ((work / f"{kept}{end}").resolve() for end in (".tsv", ".partial"))
    flags = [part for key, value in settings.items() for part in (f"--{key}", str(value))]

    def make() -> dict[str, Any]:
        said, _ = timed(["local/uv.sh", "run", "--no-project", "--with", PEER, "python",
                             "benchmarks/peers/rectools_sasrec.py", "--train", str(train.resolve()),
                             "--out", str(out), "--seed", str(seed),
                             "--state", str(state), "--threads", str(args.threads),
                             *flags], KEEP_MEMORY)  # fmt: skip
        told = json.loads(said.splitlines()[-1])
        spent = {part: told.pop(part) for part in ("seconds", "cpu_seconds")}  # killed runs too
        return {"seed": seed, "predictions": str(out), "settings": settings, "train": spent, **told}

    record = once(work / f"{kept}.json", make)
    shutil.rmtree(state, ignore_errors=True)  # hours of work: not before the record is there
    return record


def compare(
    corpus: Corpus, runs: list[dict[str, Any]], peers: list[dict[str, Any]]
) -> dict[str, Any]:
    """Judge every file of predictions, and ours against the peer on the same users."""
    result: dict[str, Any] = {"ours": [], "peers": []}
    gained: dict[str, list[NDArray[np.float64]]] = {"ours": [], "peers": []}
    for side, group in (("ours", runs), ("peers", peers)):
        for run in group:
            lists = read_lists(Path(run["predictions"]))
            report = judge(corpus, lists)
            gained[side].append(gains(places(corpus, lists)[1])["ndcg@10"])
            told = {key: value for key, value in run.items() if key != "predictions"}
            result[side].append({**told, "report": report})
    if runs and peers:
        result["ratio_ndcg"] = ratio(np.mean(gained["ours"], 0), np.mean(gained["peers"], 0))
    return result


def ratio(
    first: NDArray[np.float64], second: NDArray[np.float64], rounds: int = 1000
) -> dict[str, float]:
    """Ratio of two means over the same users, with its 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    found = np.empty(rounds)
    for each in range(rounds):
        drawn = rng.integers(0, len(first), len(first))
        found[each] = first[drawn].mean() / second[drawn].mean()
    low, high = np.quantile(found, [0.025, 0.975])
    return {"mean": float(first.mean() / second.mean()), "low": float(low), "high": float(high)}


def show(name: str, record: dict[str, Any]) -> None:
    """The table of one data set."""
    table = Table(title=f"{name}: full rank, last item of each user held out")
    for column in ("", "HR@10", "NDCG@10", "MRR", "train CPU s", "wall s"):
        table.add_column(column)
    sides = (("ours", "ours, seed"), ("peers", "RecTools SASRec, seed"))
    for side, label in sides:
        for run in record[side]:
            metrics: Report = run["report"]["metrics"]
            cells = [
                f"{metrics[m]['mean']:.4f} ({metrics[m]['low']:.4f}-{metrics[m]['high']:.4f})"
                for m in ("hr@10", "ndcg@10", "mrr")
            ]
            spent = [f"{run['train'][part]:.0f}" for part in ("cpu_seconds", "seconds")]
            table.add_row(f"{label} {run['seed']}", *cells, *spent)
    for label, (hit, ndcg) in record["published"].items():
        table.add_row(label, f"{hit:.4f}", f"{ndcg:.4f}", "", "", "")
    console = Console()
    console.print(table)
    if "ratio_ndcg" in record:
        one = record["ratio_ndcg"]
        told = f"{one['mean']:.3f} ({one['low']:.3f}-{one['high']:.3f})"
        console.print(f"NDCG@10, ours over the peer: {told}", highlight=False)
    mean = {
        m: np.mean([run["report"]["metrics"][m]["mean"] for run in record["ours"]])
        for m in ("hr@10", "ndcg@10")
    }
    for label, (hit, ndcg) in record["published"].items():
        told = f"HR@10 x {mean['hr@10'] / hit:.3f}, NDCG@10 x {mean['ndcg@10'] / ndcg:.3f}"
        console.print(f"ours over {label}: {told}", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
