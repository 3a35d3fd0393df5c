"""A real Vault for tests: dev storage, TLS, one process per session, gone with it.

Its connection is what a stack deploys with: a token of `infra/deployer.hcl`, not the root token.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hvac
import pytest

from infra.vault import Connection
from local.layout import free_port
from local.paths import PROJECT

DEPLOYER = "hybrid-recommender-deployer"


@dataclass(frozen=True)
class RealVault:
    """A running server, the files a `Connection` names, and a root client to look behind it."""

    process: subprocess.Popen[bytes]
    connection: Connection
    root: hvac.Client
    unseal_key: str


def vault_binary() -> str:
    found = shutil.which("vault")
    assert found is not None, "no vault on PATH: `make test` brings it (`stand tools`)"
    return found


def start_vault(folder: Path) -> RealVault:
    folder.mkdir(parents=True, exist_ok=True)
    port, token = free_port(), secrets.token_urlsafe(24)
    log = (folder / "vault.log").open("wb")
    process = subprocess.Popen(
        [vault_binary(), "server", "-dev-tls", f"-dev-tls-cert-dir={folder}",
         f"-dev-listen-address=127.0.0.1:{port}", "-dev-no-store-token"],
        env={**os.environ, "VAULT_DEV_ROOT_TOKEN_ID": token, "HOME": str(folder)},
        stdout=log, stderr=subprocess.STDOUT,
    )  # fmt: skip
    address, ca_file = f"https://127.0.0.1:{port}", folder / "vault-ca.pem"
    root = hvac.Client(url=address, token=token, verify=str(ca_file), timeout=5)
    deadline = time.monotonic() + 30
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RuntimeError((folder / "vault.log").read_text())
        try:
            if (
                ca_file.exists()
                and root.is_authenticated()
                and "Root Token" in (folder / "vault.log").read_text()
            ):
                break
        except (OSError, hvac.exceptions.VaultError):
            pass
        time.sleep(0.1)
    lines = (folder / "vault.log").read_text().splitlines()
    key = next(line.split(": ", 1)[1] for line in lines if line.startswith("Unseal Key:"))
    root.sys.create_or_update_policy(DEPLOYER, (PROJECT / "infra" / "deployer.hcl").read_text())
    token_file = folder / "token"
    token_file.touch(mode=0o600)
    token_file.write_text(
        root.auth.token.create_orphan(policies=[DEPLOYER])["auth"]["client_token"]
    )
    connection = Connection(address=address, ca_file=str(ca_file), token_file=str(token_file))
    return RealVault(process, connection, root, key.strip())


@pytest.fixture(scope="session")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealVault]:
    made = start_vault(tmp_path_factory.mktemp("vault"))
    yield made
    made.process.terminate()
    made.process.wait(10)
