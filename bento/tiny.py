"""Train the synthetic tiny models that a laptop serves: `python -m bento.tiny`.

Two of them on one synthetic shop: the ranker with its search index, and a smaller one that answers
when time is short.
Kept in the user's cache; a second call finds them and returns at once.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bento import models, trained
from model.data.synthetic import make_shop

SEED, USERS, ITEMS = 1, 2000, 600
# Enough to learn the synthetic shop's chains; more costs minutes and adds little.
EPOCHS = 12


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
        data = trained.Data(sequences, products)
        trained.build(
            out, data, work=folder / "work", size="tiny", of="the synthetic shop",
            epochs=epochs, small=small,
        )  # fmt: skip


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
