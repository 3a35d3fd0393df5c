"""Judge a trained model by leave-one-out on a sequence file, or two event windows for drift.

    python -m model.evaluate rank --checkpoint out/model --sequences all.txt.gz --out report.json
    python -m model.evaluate file --predictions pred.tsv --sequences all.txt.gz
    python -m model.evaluate drift --before last_month.txt.gz --after this_month.txt.gz

`rank` holds out the last item of every user of the file, ranks it against the whole catalogue with
seen items removed (no sampled negatives), and prints HR@10, NDCG@10 and MRR with bootstrap
intervals, coverage, popularity bias, cold items and segments. Train on the same file *without*
those last items. `file` judges the lines that `model.predict` wrote. `drift` exits with 3 when a
limit is passed, so that an alert can use it. Exit codes: 0 done, 1 the model cannot be used, 2
wrong use, 3 drift.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # see model.train

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from model.corpus import Corpus, read_corpus
from model.data.files import DataError, lines, write_text
from model.drift import ALERT, drift_report
from model.folder import CheckpointError
from model.metrics import (
    MISSED,
    Ranks,
    bootstrap,
    coverage,
    gains,
    popularity_bias,
)
from model.predictor import Predictor
from model.runlog import say

DEPTH = 100  # items a user that are asked for; a target below them counts as missed
BATCH = 512
Report = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        report: Report = args.run(args)
    except CheckpointError as error:
        say(f"error: {error}")
        return 1
    except (DataError, OSError) as error:
        say(f"error: {error}")
        return 2
    if args.out is not None:
        with write_text(args.out) as stream:
            stream.write(json.dumps(report, indent=2) + "\n")
    _print(report)
    return 3 if report.get("verdict") == ALERT else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m model.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(required=True, metavar="rank|file|drift")
    rank = kinds.add_parser("rank", help="a model folder, leave-one-out")
    rank.add_argument("--checkpoint", type=Path, required=True, help="folder of model.train")
    rank.add_argument("--threads", type=int, help="CPU threads")
    rank.set_defaults(run=_rank)
    file = kinds.add_parser("file", help="the lines of model.predict")
    file.add_argument("--predictions", type=Path, required=True, help="user<TAB>item item …")
    file.set_defaults(run=_file)
    for one in (rank, file):
        one.add_argument("--sequences", type=Path, required=True, help="with the held-out items")
    drift = kinds.add_parser("drift", help="two windows of events")
    drift.add_argument("--before", type=Path, required=True, help="sequences of the old window")
    drift.add_argument("--after", type=Path, required=True, help="sequences of the new window")
    drift.set_defaults(run=_drift)
    for one in (rank, file, drift):
        one.add_argument("--out", type=Path, help="write the report as JSON")
    return parser


def _rank(args: argparse.Namespace) -> Report:
    predictor = Predictor.load(args.checkpoint, threads=args.threads)
    corpus = read_corpus(args.sequences, warn=say)
    history, held = corpus.without_last()
    users = np.flatnonzero(held >= 0)
    lists: dict[str, list[str]] = {}
    steps = range(0, len(users), BATCH)
    for first in track(steps, "ranking", console=Console(stderr=True)):
        part = users[first : first + BATCH]
        asked = [[history.items[i] for i in history.sequence(int(u))] for u in part]
        for user, scored in zip(part, predictor.recommend(asked, DEPTH), strict=True):
            lists[corpus.users[int(user)]] = [one.item for one in scored]
    return {"model": predictor.manifest.version, **judge(corpus, lists)}


def _file(args: argparse.Namespace) -> Report:
    return judge(read_corpus(args.sequences, warn=say), read_lists(args.predictions))


def _drift(args: argparse.Namespace) -> Report:
    return drift_report(read_corpus(args.before, warn=say), read_corpus(args.after, warn=say))


def judge(corpus: Corpus, lists: Mapping[str, Sequence[str]], k: int = 10) -> Report:
    """The full report on ranked lists, held out: each user's last item in `corpus`.

    Users without a list are counted as misses. Segments are by the length of the history and by
    how often the target occurs in the histories (0: a cold item).
    """
    history, held = corpus.without_last()
    users, ranks = places(corpus, lists)
    shown = np.full((len(users), k), -1, np.int64)
    for place, user in enumerate(users):
        ranked = lists.get(corpus.users[int(user)], ())
        top = [corpus.index[item] for item in ranked[:k] if item in corpus.index]
        shown[place, : len(top)] = top
    popularity = history.popularity()
    return {
        "users": len(users),
        "metrics": with_intervals(ranks, k),
        "coverage": coverage(shown, len(corpus.items)),
        "popularity_bias": dict(popularity_bias(shown, popularity)),
        "segments": segments(ranks, history.lengths[users], popularity[held[users]], k),
    }


def places(corpus: Corpus, lists: Mapping[str, Sequence[str]]) -> tuple[NDArray[np.int64], Ranks]:
    """Numbers of the users who have something held out, and where their lists hold it."""
    _, held = corpus.without_last()
    users = np.flatnonzero(held >= 0)
    if len(users) == 0:
        raise DataError("nobody has two events; there is nothing to hold out")
    ranks = np.full(len(users), MISSED, np.int64)
    for place, user in enumerate(users):
        ranked = list(lists.get(corpus.users[int(user)], ()))
        target = corpus.items[held[user]]
        if target in ranked:
            ranks[place] = ranked.index(target)
    return users, ranks


def read_lists(path: Path) -> dict[str, list[str]]:
    """The lines that `model.predict` wrote: user to ranked items."""
    lists: dict[str, list[str]] = {}
    for number, line in lines(path):
        user, tab, items = line.partition("\t")
        if not tab:
            raise DataError(f"{path} line {number} holds no tab; give user<TAB>item item …")
        lists[user] = items.split()
    return lists


def with_intervals(ranks: Ranks, k: int = 10) -> Report:
    """Each metric's mean with its 95 % bootstrap interval."""
    report: Report = {}
    for name, values in gains(ranks, k).items():
        low, high = bootstrap(values)
        report[name] = {"mean": float(values.mean()), "low": low, "high": high}
    return report


def segments(
    ranks: Ranks, lengths: NDArray[np.int64], seen: NDArray[np.int64], k: int = 10
) -> list[Report]:
    """Metrics by history length and by the target's popularity; empty segments are left out."""
    found: list[Report] = []
    for axis, values, bounds in (
        ("history length", lengths, (0, 4, 8, 16, 64, None)),
        ("target's events", seen, (0, 1, 5, 20, 100, None)),
    ):
        for low, high in pairwise(bounds):
            assert low is not None
            inside = (values >= low) & (values < high if high is not None else True)
            if inside.any():
                name = f"{low} to {high - 1}" if high is not None else f"{low} and more"
                means = {m: float(v[inside].mean()) for m, v in gains(ranks, k).items()}
                found.append({"axis": axis, "range": name, "users": int(inside.sum()), **means})
    return found


def _print(report: Report) -> None:
    console = Console()
    if "metrics" in report:
        table = Table(title=f"{report['users']} users, whole catalogue ranked")
        for column in ("", "mean", "95 % low", "95 % high"):
            table.add_column(column)
        for name, one in report["metrics"].items():
            table.add_row(name, *(f"{one[part]:.4f}" for part in ("mean", "low", "high")))
        console.print(table)
        bias = "  ".join(f"{n} {v:.3f}" for n, v in report["popularity_bias"].items())
        console.print(f"coverage@10 {report['coverage']:.3f}  {bias}", highlight=False)
        table = Table(title="segments")
        for column in ("axis", "range", "users", "hr@10", "ndcg@10", "mrr"):
            table.add_column(column)
        for one in report["segments"]:
            figures = (f"{one[name]:.4f}" for name in ("hr@10", "ndcg@10", "mrr"))
            table.add_row(one["axis"], one["range"], str(one["users"]), *figures)
        console.print(table)
    else:
        table = Table(title=f"drift: {report['verdict']}")
        for column in ("what", "value", "watch from", "alert from", "verdict"):
            table.add_column(column)
        for one in report["checks"]:
            table.add_row(
                one["what"], f"{one['value']:.4f}", str(one["watch"]), str(one["alert"]),
                one["verdict"],
            )  # fmt: skip
        console.print(table)


if __name__ == "__main__":
    sys.exit(main())
