"""`python -m local`: the same as `stand`, where the console script is not installed."""

import sys

from local.cli import main

sys.exit(main())
