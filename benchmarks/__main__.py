"""Every measurement, one after the other: `python -m benchmarks [NAME...]`.

A name is a file of this folder without `.py`; each may also be run alone with options of its own,
`python -m benchmarks.stand --help`. One that fails does not stop the others. Exit: 0, or 1 when
one failed.
"""

from __future__ import annotations

import argparse
import pkgutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Files that can be run: those that call a `main` of their own."""
    return sorted(
        one.name
        for one in pkgutil.iter_modules([str(FOLDER)])
        if one.name != "__main__"
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
    for name in words.names or known:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode:
            failed.append(name)
    if failed:
        print(f"benchmarks: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
