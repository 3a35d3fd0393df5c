"""Command line of the data part: make a synthetic shop, import, clean and split event logs.

Exit codes: 0 done, 1 the work failed, 2 the command or its input cannot be used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from model.data.files import DataError


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m model.data", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, fill, about in (
        ("synthetic", _synthetic, "write a seeded synthetic shop (nothing in it is real)"),
    ):
        fill(commands.add_parser(name, help=about, description=about[0].upper() + about[1:] + "."))
    arguments = parser.parse_args(argv)
    try:
        arguments.run(arguments)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}; check the path, its rights and the free space", file=sys.stderr)
        return 1
    return 0


def _synthetic(made: argparse.ArgumentParser) -> None:
    made.add_argument("--out", type=Path, required=True, help="folder to write into")
    made.add_argument("--seed", type=int, default=0, help="same seed, same shop (default 0)")
    made.add_argument("--users", type=int, default=2000, help="users (default 2000)")
    made.add_argument("--items", type=int, default=1000, help="products (default 1000)")

    def run(arguments: argparse.Namespace) -> None:
        from model.data.synthetic import make_shop, write_shop

        if arguments.users < 1 or arguments.items < 1 or arguments.seed < 0:
            raise DataError("--users and --items must be 1 or more and --seed 0 or more")
        shop = make_shop(arguments.seed, arguments.users, arguments.items)
        for name, rows in write_shop(shop, arguments.out).items():
            print(f"{arguments.out / name}: {rows} rows")
        print(shop.label)

    made.set_defaults(run=run)
