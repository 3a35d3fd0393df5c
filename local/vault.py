"""The Vault server of the stand: raft storage, TLS, an audit file, unsealed by a local key file."""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from local.errors import StandError
from local.layout import Layout
from local.paths import PROJECT, Folders, private_dir, write_private
from local.pki import Authority, Leaf
from local.proc import Part
from local.waiting import wait_for

Json = dict[str, Any]
DEPLOYER = "hybrid-recommender-deployer"
DEPLOYER_POLICY = PROJECT / "infra" / "deployer.hcl"  # the same text that production uses
DEPLOYER_PERIOD = "768h"  # a stand that was down for longer gets a new token


@dataclass(frozen=True)
class Vault:
    folders: Folders
    layout: Layout

    @property
    def root(self) -> Path:
        return self.folders.vault

    @property
    def ca_file(self) -> Path:
        return self.root / "ca.crt"

    @property
    def token_file(self) -> Path:
        return self.root / "root-token"

    @property
    def deployer_file(self) -> Path:
        """The token that stacks deploy with; the root token is for setting Vault up."""
        return self.root / "deployer-token"

    @property
    def key_file(self) -> Path:
        return self.root / "unseal-key"

    @property
    def first_run_done(self) -> Path:
        """Exists once key and token are safely on disk and may have been given to somebody."""
        return self.root / "initialised"

    @property
    def audit_file(self) -> Path:
        return self.root / "audit.log"

    def part(self, binary: Path, version: str) -> Part:
        private_dir(self.root / "raft")
        address = urlsplit(self.layout.vault_address)
        host, port = str(address.hostname), int(address.port or 0)
        pair = Authority(self.root, "ca").issue(
            "server", Leaf("vault", hosts=(host, "127.0.0.1", "localhost", "vault"))
        )
        cluster = port + 1
        config = {
            "ui": False,
            "disable_mlock": True,  # what raft storage wants; there is no swap to guard against
            "api_addr": self.layout.vault_address,
            "cluster_addr": f"https://{host}:{cluster}",
            "log_level": "warn",
            "telemetry": {"prometheus_retention_time": "1h", "disable_hostname": True},
            "storage": {"raft": {"path": str(self.root / "raft"), "node_id": "stand"}},
            "listener": [
                {
                    "tcp": {
                        "address": f"{host}:{port}",
                        "cluster_address": f"{host}:{cluster}",
                        "tls_cert_file": str(pair.cert),
                        "tls_key_file": str(pair.key),
                        "tls_min_version": "tls12",
                        # numbers only; reading them with a token would give that token away
                        "telemetry": {"unauthenticated_metrics_access": True},
                    }
                }
            ],
        }
        path = self.root / "vault.json"
        write_private(path, json.dumps(config, indent=1))
        return Part(
            name="vault",
            argv=(str(binary), "server", f"-config={path}"),
            version=version,
            address=self.layout.vault_address,
            netns=self.layout.sites["private"].netns,
            files=(path, pair.cert),
            env={"VAULT_DISABLE_FILE_PERMISSIONS_CHECK": "true"},
            ready=self.listening,
        )

    def call(self, method: str, path: str, body: Json | None = None, *, token: str = "") -> Json:
        """One request. Status 4xx and 5xx raise, except those of `sys/health`."""
        address = urlsplit(self.layout.vault_address)
        context = ssl.create_default_context(cafile=str(self.ca_file))
        connection = http.client.HTTPSConnection(
            str(address.hostname), address.port, timeout=15, context=context
        )
        try:
            headers = {"X-Vault-Token": token} if token else {}
            connection.request(method, f"/v1/{path}", json.dumps(body) if body else None, headers)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        answer = cast("Json", json.loads(text)) if text.strip() else {}
        if response.status >= 400 and path != "sys/health":
            raise StandError(f"Vault answered {response.status} to {method} {path}: {answer}")
        return answer

    def health(self) -> Json | None:
        """`sys/health`, or None when nobody answers."""
        try:
            return self.call("GET", "sys/health")
        except (OSError, http.client.HTTPException, ValueError):
            return None

    def listening(self) -> bool:
        return self.health() is not None

    def open(self) -> bool:
        health = self.health()
        return health is not None and not health["sealed"] and not health["standby"]

    def first_run_was_cut(self) -> bool:
        """Initialised by an `up` that was killed before it could keep the key: nobody has it."""
        kept = self.key_file.exists() and self.token_file.exists()
        health = self.health() or {}
        return bool(health.get("initialized")) and not kept and not self.first_run_done.exists()

    def unseal(self) -> None:
        """Initialise on the first run, unseal on every one, and see that the audit file is on."""
        health = self.health()
        if health is None:
            raise StandError("Vault does not answer", f"read {self.folders.logs}/vault.log")
        if not health["initialized"]:
            answer = self.call("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
            # the key first: with it and no token, a new root token can still be made
            write_private(self.key_file, str(answer["keys_base64"][0]))
            write_private(self.token_file, str(answer["root_token"]))
        elif not (self.key_file.exists() and self.token_file.exists()):
            raise StandError(
                f"Vault holds data but {self.key_file} or {self.token_file} is gone",
                "put them back, or `stand down --purge` to start afresh",
            )
        if self.call("GET", "sys/seal-status")["sealed"]:
            key = self.key_file.read_text(encoding="ascii").strip()
            self.call("PUT", "sys/unseal", {"key": key})
        self.wait_open()
        token = self.token_file.read_text(encoding="ascii").strip()
        devices = self.call("GET", "sys/audit", token=token)["data"]
        if "file/" not in devices:
            self.call(
                "PUT", "sys/audit/file",
                {"type": "file", "options": {"file_path": str(self.audit_file), "mode": "0600"}},
                token=token,
            )  # fmt: skip
        self._let_deploy(token)
        if not self.first_run_done.exists():
            write_private(self.first_run_done, "")

    def _let_deploy(self, root: str) -> None:
        """The deployer's policy as it is written now, and a token of it that lives."""
        text = DEPLOYER_POLICY.read_text(encoding="utf-8")
        self.call("PUT", f"sys/policies/acl/{DEPLOYER}", {"policy": text}, token=root)
        try:
            held = self.deployer_file.read_text(encoding="ascii").strip()
            self.call("POST", "auth/token/renew-self", {}, token=held)
        except (FileNotFoundError, StandError):  # none yet, or one that ran out
            wanted = {"policies": [DEPLOYER], "period": DEPLOYER_PERIOD, "display_name": "deployer"}
            made = self.call("POST", "auth/token/create-orphan", wanted, token=root)
            write_private(self.deployer_file, str(made["auth"]["client_token"]))

    def wait_open(self, seconds: float = 30.0) -> None:
        if not wait_for(self.open, seconds):
            raise StandError(
                "Vault was unsealed but does not become active",
                f"read {self.folders.logs}/vault.log",
            )
