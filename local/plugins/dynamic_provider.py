"""Run the SDK's host for dynamic providers and end it with the engine.

Started by path with the program's interpreter, which may not have this project installed: the
project is on the module path only while its one neighbour is imported.
"""

from __future__ import annotations

import runpy
import signal
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    path = [place for place in sys.path if place != str(HERE)]
    before = set(sys.modules)
    sys.path = [str(HERE.parent.parent), *path]
    from local.plugins.lifetime import end_with_the_engine

    for name in set(sys.modules) - before:
        if name.split(".")[0] == "local":  # the program may have a package of that name
            del sys.modules[name]
    # What `python -m` would have here: providers pickled by reference import the program's modules.
    sys.path = [str(Path.cwd()), *path]
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    end_with_the_engine()
    runpy.run_module("pulumi.dynamic", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
