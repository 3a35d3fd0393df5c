"""`python -m model.data`: see `model.data.cli`."""

from model.data.cli import main

raise SystemExit(main())
