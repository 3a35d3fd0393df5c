"""Every measurement, one after the other: `python -m benchmarks [NAME...]`.

A name is a file of this folder without `.py`; each may also be run alone with options of its own,
`python -m benchmarks.stand --help`. One that fails does not stop the others. The end is one table
of everything measured so far (`benchmarks/table.py`). What asks a deployed stack (failover, served)
is left out. Exit: 0, or 1 when one failed.
"""

from __future__ import annotations

import argparse
import pkgutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from benchmarks import table

FOLDER = Path(__file__).parent
STACK = {"failover", "served"}
"""These ask a deployed stack, whose outputs they read from standard input."""


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


def main() -> int:
    known = names()
    parser = argparse.ArgumentParser(prog="benchmarks", description="Every measurement in turn.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(known)}")
    words = parser.parse_args()
    unknown = sorted(set(words.names) - set(known))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    failed: list[str] = []
    if asked := sorted(STACK & set(words.names)):
        parser.error(
            f"{', '.join(asked)} ask a deployed stack: pulumi stack output -s local --json | "
            f"python -m benchmarks.{asked[0]}"
        )
    for name in words.names or [one for one in known if one not in STACK]:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode:
            failed.append(name)
    print(flush=True)
    table.main()
    if failed:
        print(f"benchmarks: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
