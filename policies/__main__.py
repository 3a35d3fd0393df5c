"""`python -m policies`: the command line. Under the engine this file is the policy pack's entry."""

from __future__ import annotations

from policies.cli import main

raise SystemExit(main())
