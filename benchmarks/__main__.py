"""Every measurement, one after the other: `python -m benchmarks [--data FOLDER] [NAME...]`.

A name is a file of this folder without `.py`; each may also be run alone with options of its own,
`python -m benchmarks.stand --help`. One that fails does not stop the others. The end is one table
of everything measured so far (`benchmarks/table.py`). What asks a deployed stack (failover, served)
is left out. FOLDER holds the public sets by the names of docs/model.md and docs/search.md; with it
accuracy is measured on those, which takes many hours, without it on the synthetic shop.
Exit: 0, or 1 when one failed.
"""

from __future__ import annotations

import argparse
import pkgutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from benchmarks import table

FOLDER = Path(__file__).parent
STACK = {"failover", "served"}
"""These ask a deployed stack, whose outputs they read from standard input."""
SEQUENCES, ITEMS = "sequences.txt.gz", "items.jsonl.gz"


def names() -> list[str]:
    """Files that can be run: those that call a `main` of their own."""
    return sorted(
        one.name
        for one in pkgutil.iter_modules([str(FOLDER)])
        if one.name not in ("__main__", "table")
        and (spec := find_spec(f"benchmarks.{one.name}")) is not None
        and spec.origin is not None
        and '__name__ == "__main__"' in Path(spec.origin).read_text(encoding="utf-8")
    )


def runs(name: str, data: Path | None) -> list[list[str]]:
    """The options of each run that a measurement's figures need."""
    if name == "serve":
        return [[], ["--items", "1000000"], ["--kills", "150"], ["--overload", "300", "--apart"]]
    if data is None:
        return [[]]
    beauty, office = data / "amazon-beauty", data / "amazon-office"
    real = {
        "cold": ["--sequences", str(office / SEQUENCES), "--items", str(office / ITEMS)],
        "model": ["--data", str(data), "--set", "amazon-beauty", "--set", "ml-1m"],
        "model_speed": ["--sequences", str(beauty / SEQUENCES)],
        "search": ["--data", str(data / "home-depot-search")],
        "understand": ["--data", str(data)],
    }
    # search also measures what a history adds, which no public set can tell
    return [real.get(name, []), *([[]] if name == "search" else [])]


def main() -> int:
    known = names()
    parser = argparse.ArgumentParser(prog="benchmarks", description="Every measurement in turn.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(known)}")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="of the public sets")
    words = parser.parse_args()
    unknown = sorted(set(words.names) - set(known))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    if asked := sorted(STACK & set(words.names)):
        parser.error(
            f"{', '.join(asked)} ask a deployed stack: pulumi stack output -s local --json | "
            f"python -m benchmarks.{asked[0]}"
        )
    if words.data is not None and not words.data.is_dir():
        parser.error(f"--data {words.data} is no folder")
    failed: list[str] = []
    for name in words.names or [one for one in known if one not in STACK]:
        for options in runs(name, words.data):
            what = " ".join((name, *options))
            print(f"== {what}", flush=True)
            began = time.monotonic()
            command = [sys.executable, "-m", f"benchmarks.{name}", *options]
            if subprocess.run(command, check=False).returncode:
                failed.append(what)
            print(f"-- {time.monotonic() - began:.0f} s", flush=True)
    print(flush=True)
    table.main()
    if failed:
        print(f"benchmarks: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
