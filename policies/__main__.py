"""`python -m policies` is the command line; run by path, as the engine does, it is the policy pack.

The engine starts `pulumi.policy` with this folder as its program, which need not be installed.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __package__:
    from policies.cli import main

    raise SystemExit(main())

HERE = Path(__file__).resolve().parent
# This folder as the first module path would offer `resource` or `values` to anyone who imports so.
sys.path = [
    str(HERE.parent),
    *(entry for entry in sys.path if Path(entry or ".").resolve() != HERE),
]

from policies.pack import serve  # noqa: E402 - the path above must come first
from policies.stacks import FOLDER  # noqa: E402

serve(FOLDER)
