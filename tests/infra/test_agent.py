"""The agent beside a workload tells the kubelet over HTTP whether every secret file is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import certifi
import pytest

from infra.pods import AGENT_PORT, Image, VaultLogin, vault_agent, vault_agent_files
from local.layout import free_port

ROOT = Path(__file__).resolve().parents[2]
LOGIN = VaultLogin(
    address="https://127.0.0.1:1",  # nobody listens: the files stay as they are
    ca_pem="",
    auth="jwt/site",
    role="shop",
    secrets={"password": "secret/data/shop#password"},
)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The real script with an unreachable Vault: its address and its folder of secrets."""
    here, secrets, token = tmp_path / "agent", tmp_path / "secrets", tmp_path / "token"
    here.mkdir()
    secrets.mkdir()
    token.write_text("not-a-token", encoding="utf-8")
    port = free_port()
    for name, text in vault_agent_files(LOGIN, interval=60).items():
        if name == "agent.json":
            text = json.dumps({**json.loads(text), "port": port})
        (here / name).write_text(text, encoding="utf-8")
    (here / "ca.crt").write_bytes(Path(certifi.where()).read_bytes())  # any authority will do
    places = {"AGENT_DIR": here, "AGENT_TOKEN": token, "AGENT_SECRETS": secrets}
    process = subprocess.Popen(
        [sys.executable, "-u", str(here / "vault_agent.py")],
        env={**os.environ, **{key: str(place) for key, place in places.items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        yield f"http://127.0.0.1:{port}", secrets
    finally:
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 0, "it ends at once and in order"


def get(url: str) -> tuple[int, str]:
    end = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:  # not listening yet
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def test_it_is_ready_once_every_file_is_there_and_names_those_that_are_not(
    agent: tuple[str, Path],
) -> None:
    url, secrets = agent
    assert get(f"{url}/ready") == (503, "waiting for password\n")
    (secrets / "password").write_text("a value", encoding="utf-8")
    assert get(f"{url}/ready") == (200, "ready\n")


def test_no_path_gives_a_value_away(agent: tuple[str, Path]) -> None:
    url, secrets = agent
    (secrets / "password").write_text("a value", encoding="utf-8")
    for path in ("/", "/password", "/secrets/password", "/../secrets/password", "/metrics"):
        assert "a value" not in get(url + path)[1]


@pytest.mark.parametrize(("asked", "port"), [(0, AGENT_PORT), (9200, 9200)])
def test_the_kubelet_asks_where_the_agent_listens(asked: int, port: int) -> None:
    image = Image(reference="shop@sha256:" + "0" * 64, host_paths=())
    spec = vault_agent(image, metrics_port=asked)
    login = replace(LOGIN, metrics_port=asked)
    told = json.loads(vault_agent_files(login, interval=60)["agent.json"])
    assert spec["startupProbe"]["httpGet"] == {"path": "/ready", "port": port}
    assert spec["ports"][0]["containerPort"] == told["port"] == port
    assert "exec" not in spec["startupProbe"]
