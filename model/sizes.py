"""Named sizes of the network, and what each needs: `python -m model.sizes`.

Memory is counted, not guessed, from the shapes: parameters, gradients, Adam's two moments and the
averaged copy at 4 bytes each; activations for `--tokens` packed events (2 bytes under bf16), and
the scores of the loss (full softmax: tokens x items; sampled: tokens x negatives).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from model.net import NetConfig, Recommender


class Size(NamedTuple):
    """The shape of a network; `model.recipe` adds what depends on the data."""

    width: int
    layers: int
    heads: int
    ffn: float
    meant_for: str


SIZES: dict[str, Size] = {
    "tiny": Size(32, 1, 1, 2.0, "tests on a busy CPU"),
    "small": Size(64, 1, 1, 2.0, "a first look on a CPU"),
    "base": Size(128, 1, 1, 2.0, "the default: minutes on two cores"),
    "large": Size(512, 8, 8, 2.7, "one GPU"),
    "xl": Size(2048, 24, 16, 2.7, "several GPUs, FSDP2, embeddings sharded"),
}


class Plan(NamedTuple):
    """Counts are parameters, memory is bytes on one worker."""

    embedding: int
    blocks: int
    state: int
    activations: int
    scores: int

    @property
    def parameters(self) -> int:
        return self.embedding + self.blocks

    @property
    def total(self) -> int:
        return self.state + self.activations + self.scores


def plan(
    net: NetConfig, *, tokens: int, negatives: int = 0, workers: int = 1, bf16: bool = False
) -> Plan:
    """Memory of one of `workers` when parameters are sharded over all of them."""
    with torch.device("meta"):
        model = Recommender(net)
    total = sum(p.numel() for p in model.parameters())
    embedding = model.item.weight.numel()
    if model.attribute is not None:
        embedding += model.attribute.weight.numel()
    copies = 5  # weights, gradients, two moments, averaged weights
    byte = 2 if bf16 else 4
    hidden = int(net.width * net.ffn)
    # kept for backward per layer: 2 norms, qkv, attended, mixed, 2 gates, 2 residuals, 3 x hidden
    per_token = net.layers * (11 * net.width + 3 * hidden) + 4 * net.width
    compared = negatives + 1 if negatives else net.items
    return Plan(
        embedding=embedding,
        blocks=total - embedding,
        state=copies * 4 * total // workers,
        activations=byte * per_token * tokens,
        scores=2 * 4 * compared * tokens,
    )


def human(count: float, unit: str = "") -> str:
    """1536 -> '1.54 k': thousands, one scale for parameters and bytes."""
    for scale in ("", "k", "M", "G"):
        if abs(count) < 1000:
            return f"{count:.3g} {scale}{unit}".rstrip()
        count /= 1000
    return f"{count:.3g} T{unit}"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table of sizes."""
    parser = argparse.ArgumentParser(prog="python -m model.sizes", description=__doc__)
    parser.add_argument("--items", type=int, default=12_101, help="catalogue size V")
    parser.add_argument("--tokens", type=int, default=2_048, help="packed events of one batch")
    parser.add_argument("--negatives", type=int, default=0, help="0: full softmax")
    parser.add_argument("--workers", type=int, default=1, help="workers that share the parameters")
    parser.add_argument("--bf16", action="store_true", help="activations in bfloat16")
    args = parser.parse_args(argv)
    table = Table(title=f"{args.items} items, {args.tokens} events a batch, {args.workers} workers")
    for column in ("size", "width", "layers", "heads", "parameters", "of them items", "state",
                   "activations", "scores", "memory a worker", "meant for"):  # fmt: skip
        table.add_column(column, justify="left" if column in ("size", "meant for") else "right")
    for name, size in SIZES.items():
        config = NetConfig(
            items=args.items,
            width=size.width,
            layers=size.layers,
            heads=size.heads,
            ffn=size.ffn,
            max_length=200,
        )
        need = plan(
            config,
            tokens=args.tokens,
            negatives=args.negatives,
            workers=args.workers,
            bf16=args.bf16,
        )
        table.add_row(
            name, str(size.width), str(size.layers), str(size.heads), human(need.parameters),
            human(need.embedding), human(need.state, "B"), human(need.activations, "B"),
            human(need.scores, "B"), human(need.total, "B"), size.meant_for,
        )  # fmt: skip
    Console(width=150).print(table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
