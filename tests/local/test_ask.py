"""What the report of `make up` says where there is no gateway to ask."""

from __future__ import annotations

import io
import json

import pytest

from local import ask


@pytest.mark.parametrize(
    ("outputs", "code", "says"),
    [
        ({"private": {"gateway": None}}, 0, "site private serves nothing"),
        ({"vault": "https://127.0.0.1:1"}, 1, "the stack has no site private"),
    ],
    ids=["no-real-node", "not-deployed"],
)
def test_a_site_without_a_gateway_is_no_failure_and_one_that_was_never_deployed_is(
    outputs: dict[str, object],
    code: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["ask"])
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(outputs)))
    assert ask.main() == code
    shown = capsys.readouterr()
    assert says in (shown.err if code else shown.out)
