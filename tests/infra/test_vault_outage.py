"""A Vault that cannot serve, met by `pulumi up` of the real program: one line, nothing changed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import RunningStand
from tests.inventory import root
from tests.local.test_stand import kill, status
from tests.stack import Stack

pytestmark = pytest.mark.stand


@pytest.fixture
def healthy(stand: RunningStand, deployed: Stack) -> Iterator[RunningStand]:
    """The stand, repaired after the test; what `up` takes after an outage is thereby shown."""
    yield stand
    stand.up()


def refused(stack: Stack, **env: str) -> str:
    """The one line with which `up` ends; nothing of the stack is another than before."""
    causes = all_refused(stack, **env)
    assert len(causes) == 1, causes
    return causes[0]


def all_refused(stack: Stack, **env: str) -> list[str]:
    """The lines of an `up` that fails in several resources at once."""
    before = stack.ids()
    began = time.monotonic()
    done = stack.up(check=False, **env)
    print(f"`pulumi up` ended after {time.monotonic() - began:.1f} s")
    said = done.stdout + done.stderr
    assert done.returncode != 0, said
    assert "Traceback" not in said
    assert stack.ids() == before
    told = {line.strip().removeprefix("error: ") for line in said.splitlines() if "Vault" in line}
    return sorted({line[line.index("Vault at") :] for line in told if "Vault at" in line})


def endpoints(stand: RunningStand, folder: Path, **vault: str) -> dict[str, str]:
    """The environment that names a copy of the stand's endpoints with another Vault in it."""
    described = stand.endpoints
    described["vault"] |= vault
    file = folder / "endpoints.json"
    file.write_text(json.dumps(described), encoding="utf-8")
    return {"HYBRID_RECOMMENDER_ENDPOINTS": str(file)}


def test_a_sealed_vault_is_told_as_sealed(healthy: RunningStand, deployed: Stack) -> None:
    root(healthy).sys.seal()
    assert "is sealed; unseal it" in refused(deployed)


def test_a_stopped_vault_is_told_as_not_reachable(healthy: RunningStand, deployed: Stack) -> None:
    kill(healthy, "vault")
    assert "is not reachable; start it" in refused(deployed)


def test_a_vault_that_does_not_answer_is_not_waited_for(
    healthy: RunningStand, deployed: Stack
) -> None:
    frozen = status(healthy)["vault"]["pid"]
    os.kill(frozen, signal.SIGSTOP)  # connections are taken and nothing comes back
    try:
        assert "gave no answer within 9 s" in refused(deployed)
    finally:
        os.kill(frozen, signal.SIGCONT)


def test_a_wrong_token_is_told_by_its_file_and_not_by_its_text(
    healthy: RunningStand, deployed: Stack, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("hvs.not-a-token-of-this-vault", encoding="ascii")
    said = refused(deployed, **endpoints(healthy, tmp_path, token_file=str(token)))
    assert f"refuses the token in {token}" in said
    assert "not-a-token" not in said


def test_a_certificate_of_another_authority_is_refused(
    healthy: RunningStand, deployed: Stack, tmp_path: Path
) -> None:
    other = str(healthy.state / "sites" / "private" / "pki" / "ca.crt")
    said = refused(deployed, **endpoints(healthy, tmp_path, ca_file=other))
    assert f"shows a certificate that {other} does not sign" in said


def test_an_engine_removed_by_hand_is_a_missing_path_and_refresh_and_up_make_it_again(
    healthy: RunningStand, deployed: Stack
) -> None:
    client, mount = root(healthy), "hybrid-recommender-local"
    client.sys.disable_secrets_engine(mount)
    deployed.run("config", "set", "-s", "local", "hybrid-recommender:secret-rotation", "after")
    said = all_refused(deployed)
    assert [line for line in said if f"has nothing at {mount}/data/" in line], said
    deployed.run("refresh", "-s", "local", "--yes", "--skip-preview")
    deployed.up()
    assert f"{mount}/" in client.sys.list_mounted_secrets_engines()["data"]
    deployed.up("--expect-no-changes")
