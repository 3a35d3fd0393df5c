"""Recommend for every user of a sequence file with a trained model.

    python -m model.predict --checkpoint out/model --sequences train.txt.gz --k 100 --out pred.tsv

Writes a line a user, `user<TAB>item1 … item100`, best first: seen items removed, ties to the lower
id. Items that the model does not know are left out of a history and counted. Exit codes: 0 done,
1 the model cannot be used, 2 wrong use.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # see model.train

from rich.console import Console
from rich.progress import track

from model.data.files import DataError
from model.data.sequences import UserSequence, read_sequences, write_sequences
from model.folder import CheckpointError
from model.predictor import Predictor
from model.runlog import say

BATCH = 512


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m model.predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of model.train")
    parser.add_argument("--sequences", type=Path, required=True, help="user item item … per line")
    parser.add_argument("--k", type=int, default=100, help="items a user (default 100)")
    parser.add_argument("--out", type=Path, required=True, help="file to write; .gz is packed")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument(
        "--retrieval",
        default="auto",
        choices=["auto", "exact", "approximate"],
        help="auto: approximate where the folder holds an index of a large catalogue",
    )
    parser.add_argument("--threads", type=int, help="CPU threads")
    args = parser.parse_args(argv)
    if args.k < 1:
        parser.error(f"--k is {args.k}; give at least 1")
    try:
        predictor = Predictor.load(
            args.checkpoint, device=args.device, threads=args.threads, retrieval=args.retrieval
        )
        rejects: list[str] = []
        users = list(
            read_sequences(args.sequences, lambda n, why, _: rejects.append(f"{n}: {why}"))
        )
        written = write(args.out, predictor, users, args.k)
    except CheckpointError as error:
        say(f"error: {error}")
        return 1
    except (DataError, OSError) as error:
        say(f"error: {error}")
        return 2
    unknown = sum(predictor.catalogue.index_of(i) is None for u in users for i in u.items)
    if rejects:
        say(f"{len(rejects)} malformed lines skipped; the first: line {rejects[0]}")
    if unknown:
        say(f"{unknown} events are of items that the model does not know; left out")
    say(f"wrote {written} users to {args.out}")
    return 0


def write(out: Path, predictor: Predictor, users: list[UserSequence], k: int) -> int:
    """Write the predictions; the file appears whole."""

    def rows() -> Iterator[tuple[str, list[str]]]:
        feed = iter(users)
        steps = range(0, len(users), BATCH)
        for _ in track(steps, "predicting", console=Console(stderr=True), disable=not users):
            part = list(islice(feed, BATCH))
            lists = predictor.recommend([u.items for u in part], k)
            for user, scored in zip(part, lists, strict=True):
                yield user.user, [one.item for one in scored]

    return write_predictions(out, rows())


def write_predictions(out: Path, rows: Iterator[tuple[str, list[str]]]) -> int:
    """Lines `user<TAB>item item …`."""
    # the shared writer separates by spaces; a tab in the first field's place makes it ours
    return write_sequences(out, ((f"{user}\t{' '.join(items)}", ()) for user, items in rows))


if __name__ == "__main__":
    sys.exit(main())
