"""`policies report`: the Markdown summary of a stack for a pull request."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from policies.engine import Row
from policies.load import InputError
from policies.report import markdown
from policies.resource import Stack
from policies.rule import Verdict


def _seen_before(base: Path) -> set[tuple[str, str]]:
    try:
        rows = json.loads(base.read_text(encoding="utf-8"))
        return {(row["rule"], row["resource"]) for row in rows if row["verdict"] == "fail"}
    except OSError as error:
        raise InputError(f"{base}: {error.strerror}; give rows of --format json") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{base}: not a list of rows; write it with --format json") from None


def render_summary(stack: Stack, rows: Sequence[Row], base: Path | None) -> str:
    """Findings (new ones first when a base is given)."""
    parts = [markdown(rows)]
    if base is not None:
        old = _seen_before(base)
        new = [
            row
            for row in rows
            if row.verdict is Verdict.FAIL and (row.rule, row.resource) not in old
        ]
        parts.append(f"\n### New since the base: {len(new)}\n\n")
        parts += [f"- `{row.rule}` on `{row.resource}`: {row.message}\n" for row in new]
    return "".join(parts) + f"\n{len(stack.resources)} resources read.\n"
