"""Train the synthetic tiny models that a laptop serves: `python -m bento.tiny`.

Two of them on one synthetic shop: the ranker with its search index, and a smaller one that answers
when time is short.
Kept in the user's cache; a second call finds them and returns at once.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bento import models
from bento.bundle import METRIC, make_folder
from model.data.synthetic import make_shop

SEED, USERS, ITEMS = 1, 2000, 600
# Enough to learn the synthetic shop's chains; more costs minutes and adds little.
EPOCHS = 12


def _run(what: str, command: Sequence[str]) -> None:
    print(f"{what} …", file=sys.stderr, flush=True)
    began = time.monotonic()
    done = subprocess.run([sys.executable, *command], check=False)
    if done.returncode:
        raise SystemExit(f"{what} failed; the lines above say why")
    print(f"{what}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def build(
    out: Path, *, users: int = USERS, items: int = ITEMS, epochs: int = EPOCHS, small: bool = True
) -> None:
    """Train the models and put them, bundled, at `out`; replaces what is there."""
    shop = make_shop(seed=SEED, users=users, items=items)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".tiny-") as work:
        folder = Path(work)
        sequences, products = folder / "train.txt", folder / "items.jsonl"
        with sequences.open("w", encoding="utf-8") as file:
            for user, seen in shop.sequences().items():
                file.write(" ".join([user, *seen]) + "\n")
        with products.open("w", encoding="utf-8") as file:
            for product in shop.products:
                file.write(product.model_dump_json() + "\n")
        wanted = {models.RANKER: 1, models.SMALL: 2} if small else {models.RANKER: 1}
        for name, seed in wanted.items():
            command = ["-m", "model.train", "--sequences", str(sequences), "--items", str(products)]
            command += ["--size", "tiny", "--seed", str(seed), "--out", str(folder / name)]
            command += ["--epochs", str(epochs)]
            _run(f"training the {name} on the synthetic shop", command)
        index = ["-m", "model.search", "train", "--model", str(folder / models.RANKER)]
        _run("building the search index of the synthetic shop", index)
        second = folder / models.SMALL if small else None
        make_folder(folder / "bundle", folder / models.RANKER, second, metric=METRIC)
        shutil.rmtree(out, ignore_errors=True)
        (folder / "bundle").rename(out)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m bento.tiny", description=__doc__)
    parser.add_argument("--out", type=Path, default=models.default_folder(), help="Where it goes.")
    parser.add_argument("--again", action="store_true", help="Train even if it is there.")
    given = parser.parse_args(argv)
    if models.signature(given.out) is not None and not given.again:
        print(f"already there: {given.out}", file=sys.stderr)
        return 0
    build(given.out)
    version = models.read_bundle(given.out).version
    print(json.dumps({"model": str(given.out), "version": version}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
