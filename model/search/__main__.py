"""`python -m model.search`."""

import sys

from model.search.cli import main

if __name__ == "__main__":
    sys.exit(main())
