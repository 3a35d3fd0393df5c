"""Errors that a user can act on: what was found, the rule, what to do."""

from __future__ import annotations


class StandError(Exception):
    """An expected failure. The command line prints it without a traceback and exits with `code`.

    Exit codes: 1 = something on this machine stops the work, 2 = wrong use or wrong settings.
    """

    def __init__(self, found: str, fix: str = "", *, code: int = 1) -> None:
        super().__init__(f"{found}; {fix}" if fix else found)
        self.code = code
