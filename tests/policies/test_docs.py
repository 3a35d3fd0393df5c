"""The rule reference is what the rules say."""

from __future__ import annotations

from policies.docs import render_docs
from tests.policies.conftest import ROOT


def test_the_rule_reference_is_current():
    written = (ROOT / "docs" / "policies.md").read_text(encoding="utf-8")
    assert written == render_docs(), "run: policies docs --output docs/policies.md"
