"""The document describes the service: Schemathesis tries to find where it does not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bento import openapi
from tests.bento.web import on_socket

HERE = Path(__file__).parent


def test_schemathesis_finds_no_answer_that_the_document_does_not_allow(tmp_path: Path) -> None:
    # Its own pace is the load here, so overload is no part of this test.
    with on_socket(tmp_path, deadline_ms=10_000, max_in_flight=10_000) as url:
        done = subprocess.run(
            [
                sys.executable, "-m", "schemathesis.cli",
                "--config-file", str(HERE / "schemathesis.toml"),
                "run", f"{url}/openapi.json", "--checks", "all", "--max-examples", "25",
                "--seed", "1", "--no-color", "--request-timeout", "60",
                # BentoML answers these two, beside the application that runs here
                "--exclude-path-regex", "^/(livez|readyz)$",
            ],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=600,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "4 selected / 6 total" in done.stdout, done.stdout[-2000:]


def test_every_operation_has_an_example_and_every_field_a_description() -> None:
    document = json.loads(openapi.document())
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if "requestBody" in operation:
                content = operation["requestBody"]["content"]["application/json"]
                assert content["examples"], f"{method} {path} has no example"
    for name, schema in document["components"]["schemas"].items():
        for field, described in schema.get("properties", {}).items():
            assert described.get("description") or described.get("$ref"), f"{name}.{field}"
