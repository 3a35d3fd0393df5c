"""Product understanding from the command line.

    python -m model.understand train --products products.jsonl.gz --label brand --out out/brand
    python -m model.understand apply --products products.jsonl.gz --taggers out/brand --out enriched.jsonl.gz

`train` learns one label (brand, the top or the last step of the category, or tags) from products
that have it. `apply` adds to every product what it lacks: attributes by rule, then each tagger's
label; what the shop itself said is never changed. Exit codes: 0 done, 2 wrong use or input.
"""  # noqa: E501 - a command is one line

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from model.data.files import DataError
from model.data.ingest import Rejects, read_products
from model.data.schema import Product
from model.data.store import write_products
from model.understand.attributes import attributes
from model.understand.tagger import Tagger, TaggerConfig

LABELS: dict[str, Callable[[Product], list[str]]] = {
    "brand": lambda product: [product.brand] if product.brand else [],
    "department": lambda product: list(product.category[:1]),
    "category": lambda product: [" > ".join(product.category)] if product.category else [],
    "tags": lambda product: list(product.tags),
}
SEVERAL = {"tags"}
_BEGAN = time.monotonic()


def say(text: str) -> None:
    """One line of progress on stderr, with the seconds since the start."""
    print(f"[{time.monotonic() - _BEGAN:6.1f}s] {text}", file=sys.stderr, flush=True)


def words(product: Product) -> str:
    """What a tagger reads of a product: the title, and the start of the text."""
    return f"{product.title} {product.text[:300]}".strip()


def train(products: Sequence[Product], label: str, seed: int = 0) -> Tagger:
    """A tagger for one of `LABELS`. Raises `DataError` when too few products have it."""
    read = LABELS[label]
    labelled = [product for product in products if read(product)]
    say(f"{len(labelled)} of {len(products)} products have a {label}")
    config = TaggerConfig(several=label in SEVERAL, seed=seed)
    return Tagger.train(
        [words(product) for product in labelled], [read(product) for product in labelled],
        config, say,
    )  # fmt: skip


def enrich(products: Sequence[Product], taggers: dict[str, Tagger]) -> list[Product]:
    """Products with the attributes, brand, category and tags that they lacked."""
    texts = [words(product) for product in products]
    found = {label: tagger.predict(texts) for label, tagger in taggers.items()}
    made: list[Product] = []
    for place, product in enumerate(products):
        more: dict[str, object] = {
            "attributes": {**attributes(product.title, product.text), **product.attributes}
        }
        if "brand" in found and not product.brand:
            more["brand"] = found["brand"][place][0]
        for label in ("department", "category"):
            if label in found and not product.category and "category" not in more:
                more["category"] = tuple(found[label][place][0].split(" > "))
        if "tags" in found and not product.tags:
            more["tags"] = tuple(found["tags"][place])
        made.append(product.model_copy(update=more))
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command."""
    parser = argparse.ArgumentParser(
        prog="python -m model.understand", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    learn = commands.add_parser("train", help="learn one label from products that have it")
    learn.add_argument("--products", type=Path, required=True, help="JSON lines or Parquet")
    learn.add_argument("--label", choices=list(LABELS), required=True)
    learn.add_argument("--seed", type=int, default=0)
    learn.add_argument("--out", type=Path, required=True, help="folder of the tagger")
    use = commands.add_parser("apply", help="add what products lack")
    use.add_argument("--products", type=Path, required=True, help="JSON lines or Parquet")
    use.add_argument(
        "--taggers", type=Path, nargs="*", default=[],
        help="folders that `train` wrote; a folder's name ends in the label it gives",
    )  # fmt: skip
    use.add_argument("--out", type=Path, required=True, help="file to write, JSON lines")
    args = parser.parse_args(argv)
    try:
        rejects = Rejects()
        products = list(read_products(args.products, rejects))
        if rejects.total:
            say(f"{rejects.total} products refused: {rejects.counts}")
        if args.command == "train":
            train(products, args.label, args.seed).save(args.out)
            print(f"{args.out}: tagger of {args.label}")
            return 0
        taggers: dict[str, Tagger] = {}
        for folder in args.taggers:
            label = next((one for one in LABELS if folder.name.endswith(one)), None)
            if label is None:
                raise DataError(f"{folder} names no label; its name must end in {list(LABELS)}")
            taggers[label] = Tagger.load(folder)
        count = write_products(enrich(products, taggers), args.out)
        print(f"{args.out}: {count} products")
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
