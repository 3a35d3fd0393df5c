"""When the stand takes Karpenter's kinds for served."""

from __future__ import annotations

from typing import Any

import pytest

from local.karpenter import served

ESTABLISHED = {"type": "Established", "status": "True"}


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (None, False),
        ({}, False),
        # what a server stores before it has looked at a definition
        ({"conditions": None, "acceptedNames": {"plural": "", "kind": ""}}, False),
        ({"conditions": [{"type": "NamesAccepted", "status": "True"}]}, False),
        ({"conditions": [{**ESTABLISHED, "status": "False"}]}, False),
        ({"conditions": [{"type": "NamesAccepted", "status": "True"}, ESTABLISHED]}, True),
    ],
)
def test_a_kind_is_served_once_the_api_server_says_established(
    status: dict[str, Any] | None, expected: bool
) -> None:
    assert served({"status": status}) is expected
