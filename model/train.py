"""Train a recommender on users' item sequences.

    python -m model.train --sequences train.txt.gz --out out/model
    python -m model.train --sequences train.txt.gz --items items.jsonl.gz --out out/model
    torchrun --nproc-per-node 2 -m model.train --sequences train.txt.gz --out out/model

Sequences: one user a line, `user item item …`, oldest first, gzip or plain. Items: JSON lines with
`item_id` and any of attributes, brand, category, genres, tags. Settings follow from the data; flags
replace single ones. The run holds out items inside the file to stop early, then fits on all of it.
Killed at any moment, the same command goes on where it stood. Exit codes: 0 done, 1 the run
failed, 2 wrong use.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Idle threads must sleep, not spin: on a shared machine spinning makes every small step 100 x
# slower. OpenMP reads this when torch is first loaded, so it stands before the imports.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from pydantic import ValidationError

from model import recipe
from model.corpus import Corpus, read_corpus, read_items
from model.data.files import DataError
from model.data.schema import Product
from model.device import check_device
from model.fit import Run, train_model
from model.folder import MANIFEST
from model.memory import keep_memory
from model.runlog import say
from model.sizes import SIZES, human
from model.workers import Workers


def parser() -> argparse.ArgumentParser:
    """All flags; the defaults of most follow from the data."""
    made = argparse.ArgumentParser(
        prog="python -m model.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--sequences", type=Path, required=True, help="user item item … per line")
    made.add_argument("--items", type=Path, help="item descriptions, JSON lines")
    made.add_argument("--out", type=Path, required=True, help="folder of the model to write")
    made.add_argument("--size", choices=list(SIZES), default="base", help="default: base")
    made.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")
    made.add_argument(
        "--epochs", type=int, help="at most so many passes; early stopping may end it"
    )
    made.add_argument("--batch", type=int, help="sequences a step, over all workers")
    made.add_argument("--lr", type=float, help="learning rate")
    made.add_argument("--max-length", type=int, help="events of a history that are read")
    made.add_argument("--dropout", type=float, help="0 to below 1")
    made.add_argument("--negatives", type=int, help="sampled softmax; 0: full softmax")
    made.add_argument("--ema", type=float, help="averaging of weights; 0: none")
    made.add_argument("--patience", type=int, help="evaluations without a better NDCG@10")
    made.add_argument("--save-every", type=int, help="steps between saved states")
    made.add_argument("--precision", choices=["fp32", "bf16"], help="default: bf16 on a GPU")
    made.add_argument("--no-links", action="store_true", help="the network alone, no item links")
    made.add_argument("--no-refit", action="store_true", help="do not fit again on held-out items")
    made.add_argument("--compile", action="store_true", help="torch.compile the training step")
    made.add_argument("--sharded", action="store_true", help="FSDP2; default for size xl")
    made.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    made.add_argument("--threads", type=int, help="CPU threads of each worker")
    made.add_argument("--overwrite", action="store_true", help="replace a finished model in --out")
    return made


def configs(
    args: argparse.Namespace, corpus: Corpus, workers: Workers
) -> tuple[recipe.NetConfig, recipe.TrainConfig]:
    """Settings from the data, with the given flags on top."""
    net: dict[str, Any] = {"max_length": args.max_length, "dropout": args.dropout}
    train: dict[str, Any] = {
        name: getattr(args, name)
        for name in ("seed", "epochs", "batch", "lr", "negatives", "ema", "patience",
                     "save_every", "precision")
    }  # fmt: skip
    if args.precision is None and workers.device.type == "cuda":
        train["precision"] = "bf16"
    train["links"] = False if args.no_links else None
    train["refit"] = False if args.no_refit else None
    train["compile"] = True if args.compile else None
    train["sharded"] = True if args.sharded or args.size == "xl" else None
    given = {name: value for name, value in train.items() if value is not None}
    shape = {name: value for name, value in net.items() if value is not None}
    return (
        recipe.net_config(corpus, args.size, **shape),
        recipe.train_config(corpus, **given),
    )


def products(path: Path | None, corpus: Corpus) -> list[dict[str, Any]]:
    """The rows of an item file that describe a product (a title at least), schema-checked."""
    found: list[dict[str, Any]] = []
    for row in read_items(path) if path is not None else []:
        fields = {k: v for k, v in row.items() if k in Product.model_fields and k != "id"}
        if "text" not in fields and isinstance(row.get("description"), str):
            fields["text"] = row["description"]
        if not isinstance(fields.get("attributes", {}), dict):
            del fields["attributes"]
        try:
            product = Product.model_validate({"id": row["item_id"], **fields})
        except ValidationError:
            continue  # an item file may hold features only; such items have no product
        if product.id in corpus.index:
            found.append(product.model_dump(mode="json", exclude_defaults=True))
    return found


def _mute(_text: str) -> None:
    """What every worker but the first says."""


def check_out(out: Path, overwrite: bool) -> None:
    """Refuse to replace anything that is not an empty folder, unless told to."""
    if not out.exists() or overwrite:
        return
    if not out.is_dir():
        raise DataError(f"{out} is a file; give --out a folder that may be written")
    if (out / MANIFEST).exists():
        raise DataError(f"{out} holds a finished model; add --overwrite or give another --out")
    if any(out.iterdir()):
        raise DataError(f"{out} holds other files; give --out a new or an empty folder")
    out.rmdir()


def main(argv: Sequence[str] | None = None, workers: Workers | None = None) -> int:
    """Command line; returns the exit code. `workers`: those of a run without a shared disk."""
    args = parser().parse_args(argv)
    keep_memory()
    try:
        workers = workers or Workers(check_device(args.device))
    except DataError as error:
        say(f"error: {error}")
        return 2
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        if workers.first:
            check_out(args.out, args.overwrite)
        corpus = read_corpus(args.sequences, args.items, say if workers.first else None)
        net, train = configs(args, corpus, workers)
        workers.start(always=train.sharded)
        if workers.first:
            say(
                f"{len(corpus)} users, {len(corpus.items)} items, {len(corpus.events)} events; "
                f"size {args.size}, width {net.width}, {net.layers} layers, "
                f"{workers.count} workers on {workers.device.type}"
            )
        quiet = say if workers.first else _mute
        run = Run(corpus, net, train, args.size, args.out, workers, quiet,
                  products(args.items, corpus),
                  read_items(args.items) if args.items is not None else [])  # fmt: skip
        manifest = train_model(run)
    except ValidationError as error:
        first = error.errors()[0]
        say(f"error: {'.'.join(map(str, first['loc']))}: {first['msg']} (got {first['input']!r})")
        return 2
    except DataError as error:
        say(f"error: {error}")
        return 2
    except FloatingPointError as error:
        say(f"error: {error}")
        return 1
    except OSError as error:  # no such place, no right, no space left
        say(f"error: {error.filename or args.out}: {error.strerror or error}; what was saved stays")
        return 1
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from the last saved state")
        return 1
    finally:
        workers.stop()
    if manifest is not None:
        told = "  ".join(f"{k} {v:.4f}" for k, v in manifest.metrics.items())
        say(f"wrote {args.out}: {human(manifest.parameters)} parameters  {told}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
