"""The dynamic providers against a real Vault: made, seen, changed in place, removed."""

from __future__ import annotations

import base64
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dill
import hvac
import pytest
from pulumi.dynamic import ResourceProvider
from pulumi.dynamic.dynamic import serialize_provider

from infra import vault_engines as engines
from infra import vault_login as login
from infra.vault import Connection, KvSecretProvider, MountProvider, VaultError, preflight
from infra.vault_session import ANSWER_TIMEOUT, CONNECT_TIMEOUT

from .conftest import RealVault, start_vault

OURS = "hybrid-recommender-"  # what `infra/deployer.hcl` lets a stack touch
KV = {
    "path": f"{OURS}kv-test",
    "type": "kv",
    "description": "t",
    "options": {"version": "2"},
    "max_lease_ttl": "1h",
}


@pytest.fixture
def kv(vault: RealVault) -> Iterator[dict[str, Any]]:
    props = {**KV, "connection": vault.connection.props()}
    MountProvider().create(props)
    yield props
    MountProvider().delete(f"{OURS}kv-test", props)


def secret_props(vault: RealVault, **more: Any) -> dict[str, Any]:
    return {
        "mount": f"{OURS}kv-test", "path": "private/canary", "generate": {"token": 32}, "data": {},
        "rotation": "1", "connection": vault.connection.props(), **more,
    }  # fmt: skip


def value(vault: RealVault) -> dict[str, str]:
    answer = vault.root.secrets.kv.v2.read_secret_version(
        "private/canary", mount_point=f"{OURS}kv-test", raise_on_deleted_version=True
    )
    return answer["data"]["data"]


PROVIDERS: list[type[ResourceProvider]] = [
    MountProvider, KvSecretProvider, login.PolicyProvider, login.JwtAuthProvider,
    login.JwtRoleProvider, engines.PkiRootProvider, engines.PkiRoleProvider,
    engines.TransitKeyProvider, engines.AuditDeviceProvider,
]  # fmt: skip


@pytest.mark.parametrize("kind", PROVIDERS)
def test_a_provider_is_stored_as_a_name_and_never_as_code(kind: type[ResourceProvider]) -> None:
    text = serialize_provider(kind())
    assert len(text) < 200, "a pickled function would make every edit of this file a diff"
    assert isinstance(dill.loads(base64.b64decode(text)), kind)
    assert kind.serialize_as_secret_always is False


def test_a_generated_value_goes_to_vault_and_not_into_the_outputs(
    vault: RealVault, kv: Any
) -> None:
    made = KvSecretProvider().create(secret_props(vault))
    assert made.outs is not None
    assert len(value(vault)["token"]) >= 40
    assert value(vault)["token"] not in repr(made.outs)
    assert made.outs["version"] == 1


def test_creating_again_after_a_lost_answer_adopts_the_same_value(
    vault: RealVault, kv: Any
) -> None:
    KvSecretProvider().create(secret_props(vault))
    before = value(vault)
    again = KvSecretProvider().create(secret_props(vault))
    assert value(vault) == before
    assert again.outs is not None
    assert again.outs["version"] == 1, "an engine killed before it saved must not rotate secrets"


def test_rotation_is_an_update_in_place_with_a_new_value(vault: RealVault, kv: Any) -> None:
    olds = KvSecretProvider().create(secret_props(vault)).outs
    assert olds is not None
    before, news = value(vault), secret_props(vault, rotation="2")
    diff = KvSecretProvider().diff("", olds, news)
    assert (diff.changes, diff.replaces) == (True, [])
    outs = KvSecretProvider().update("", olds, news).outs
    assert outs is not None
    assert outs["version"] == 2
    assert value(vault)["token"] != before["token"]


def test_a_key_added_later_leaves_the_others_as_they_are(vault: RealVault, kv: Any) -> None:
    olds = KvSecretProvider().create(secret_props(vault)).outs
    assert olds is not None
    before = value(vault)
    news = secret_props(vault, generate={"token": 32, "other": 16})
    KvSecretProvider().update("", olds, news)
    assert value(vault)["token"] == before["token"]
    assert set(value(vault)) == {"token", "other"}


def test_refresh_reads_the_version_only_and_sees_what_is_gone(vault: RealVault, kv: Any) -> None:
    outs = KvSecretProvider().create(secret_props(vault)).outs
    assert outs is not None
    seen = KvSecretProvider().read(f"{OURS}kv-test/private/canary", outs)
    assert seen.outs == outs
    vault.root.secrets.kv.v2.delete_metadata_and_all_versions(
        "private/canary", mount_point=f"{OURS}kv-test"
    )
    assert KvSecretProvider().read(f"{OURS}kv-test/private/canary", outs).id == ""


@pytest.mark.parametrize(
    ("kind", "props"),
    [
        (login.PolicyProvider,
         {"path": f"{OURS}t-policy", "document": login.policy_document({"a/b": ["read"]})}),
        (login.JwtAuthProvider,
         {"path": f"{OURS}jwt-t", "description": "t", "issuer": "https://i", "keys": {}}),
        (engines.AuditDeviceProvider,
         {"path": f"{OURS}t-audit", "options": {"file_path": "discard"}}),
    ],
)  # fmt: skip
def test_a_resource_is_made_twice_seen_unchanged_and_removed(
    vault: RealVault, kind: Any, props: dict[str, Any]
) -> None:
    if kind is login.JwtAuthProvider:
        props = {**props, "keys": {"jwt_validation_pubkeys": [public_key()]}}
    props = {**props, "connection": vault.connection.props()}
    provider = kind()
    outs = provider.create(props).outs
    assert provider.create(props).outs == outs
    assert provider.read("id", outs).outs == outs
    assert provider.diff("id", outs, props).changes is False
    provider.delete("id", outs)
    assert provider.read("id", outs).id == ""


def public_key() -> str:
    key = subprocess.run(
        ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    return subprocess.run(
        ["openssl", "pkey", "-pubout"], input=key, capture_output=True, check=True
    ).stdout.decode()


def test_pki_makes_one_root_and_signs_only_the_names_of_the_role(vault: RealVault) -> None:
    mount = {
        **KV,
        "max_lease_ttl": "20h",
        "path": f"{OURS}pki-t",
        "type": "pki",
        "options": {},
        "connection": vault.connection.props(),
    }
    MountProvider().create(mount)
    try:
        root_props = {
            "path": f"{OURS}pki-t",
            "common_name": "t",
            "ttl": "10h",
            "connection": vault.connection.props(),
        }
        made = engines.PkiRootProvider().create(root_props).outs
        assert made is not None
        assert made["certificate"].startswith("-----BEGIN CERTIFICATE-----")
        assert engines.PkiRootProvider().create(root_props).outs == made, "one root, not two"
        role = {
            "mount": f"{OURS}pki-t",
            "path": "gw",
            "domains": ["shop.test"],
            "allow_ip": False,
            "client": False,
            "max_ttl": 3600,
            "connection": vault.connection.props(),
        }
        outs = engines.PkiRoleProvider().create(role).outs
        assert engines.PkiRoleProvider().read("x", outs or {}).outs == outs
        vault.root.secrets.pki.generate_certificate("gw", "shop.test", mount_point=f"{OURS}pki-t")
        with pytest.raises(hvac.exceptions.InvalidRequest, match="not allowed"):
            vault.root.secrets.pki.generate_certificate(
                "gw", "other.test", mount_point=f"{OURS}pki-t"
            )
        engines.PkiRoleProvider().delete("x", outs or {})
        engines.PkiRootProvider().delete("x", made)
        assert engines.PkiRootProvider().read("x", made).id == ""
    finally:
        MountProvider().delete(f"{OURS}pki-t", mount)


def test_a_transit_key_rotates_in_place_and_old_data_stays_readable(vault: RealVault) -> None:
    mount = {
        **KV,
        "path": f"{OURS}tr-t",
        "type": "transit",
        "options": {},
        "connection": vault.connection.props(),
    }
    MountProvider().create(mount)
    try:
        props = {"mount": f"{OURS}tr-t", "path": "state", "type": "aes256-gcm96", "rotation": "1",
                 "connection": vault.connection.props()}  # fmt: skip
        olds = engines.TransitKeyProvider().create(props).outs or {}
        transit = vault.root.secrets.transit
        plain = base64.b64encode(b"x").decode()
        sealed = transit.encrypt_data("state", plain, mount_point=f"{OURS}tr-t")["data"][
            "ciphertext"
        ]
        news = {**props, "rotation": "2"}
        assert engines.TransitKeyProvider().diff("", olds, news).replaces == []
        outs = engines.TransitKeyProvider().update("", olds, news).outs or {}
        assert outs["latest_version"] == 2
        opened = transit.decrypt_data("state", sealed, mount_point=f"{OURS}tr-t")["data"][
            "plaintext"
        ]
        assert opened == plain
        engines.TransitKeyProvider().delete("", outs)
        assert engines.TransitKeyProvider().read("", outs).id == ""
    finally:
        MountProvider().delete(f"{OURS}tr-t", mount)


def test_a_policy_path_cannot_smuggle_in_a_second_rule() -> None:
    with pytest.raises(ValueError, match="quote or a line break"):
        login.policy_document({'a" { capabilities = ["root"] } path "b': ["read"]})


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("post", "sys/policies/acl/hybrid-recommender-deployer"),
        ("post", "sys/policy/hybrid-recommender-deployer"),
        ("post", "sys/policy/other"),
        ("post", "sys/mounts/other"),
        ("delete", "sys/mounts/secret"),
        ("post", "sys/auth/other"),
        ("get", "secret/data/of-somebody-else"),
        ("post", "sys/audit/other"),
        ("post", "auth/token/create-orphan"),
        ("get", "sys/raw/core"),
    ],
)
def test_the_token_that_deploys_reaches_nothing_beside_the_stacks(
    vault: RealVault, method: str, path: str
) -> None:
    token = Path(vault.connection.token_file).read_text(encoding="ascii")
    deployer = hvac.Client(
        url=vault.connection.address, token=token, verify=vault.connection.ca_file
    )
    with pytest.raises(hvac.exceptions.Forbidden):
        getattr(deployer.adapter, method)(url=f"/v1/{path}")


# --- the six failures -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealVault]:
    """A second server that these tests seal and stop."""
    made = start_vault(tmp_path_factory.mktemp("broken"))
    yield made
    made.process.kill()
    made.process.wait()


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that accepts and says nothing for longer than anybody waits."""
    import socket

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        held: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        for connection in held:
            connection.close()


def failure(connection: Connection, **more: Any) -> str:
    started = time.monotonic()
    with pytest.raises(VaultError) as told:
        preflight(connection, **more)
    message = str(told.value)
    assert "\n" not in message
    assert time.monotonic() - started < 10, "the issue's limit: an operator waits ten seconds"
    with pytest.raises(VaultError) as by_provider:
        KvSecretProvider().update("", {}, {
            "mount": "missing", "path": "p", "generate": {}, "data": {"a": "b"}, "rotation": "1",
            "connection": connection.props(),
        })  # fmt: skip
    assert "\n" not in str(by_provider.value)
    return message


def test_six_ways_for_vault_to_fail_give_six_lines_that_say_what_to_do(
    broken: RealVault, vault: RealVault, silent: int, tmp_path: Path
) -> None:
    good = broken.connection
    broken.root.sys.enable_secrets_engine("kv", path=f"{OURS}kv", options={"version": "2"})
    wrong_token = tmp_path / "token"
    wrong_token.write_text("hvs.wrong")
    messages = {
        "wrong token": failure(Connection(
            address=good.address, ca_file=good.ca_file, token_file=str(wrong_token))),
        "wrong CA": failure(Connection(
            address=good.address, ca_file=vault.connection.ca_file, token_file=good.token_file)),
        "missing path": failure(good, kv_mount=f"{OURS}kv", must_exist=["no/such/secret"]),
        "slow": failure(Connection(
            address=f"https://127.0.0.1:{silent}", ca_file=good.ca_file,
            token_file=good.token_file)),
    }  # fmt: skip
    broken.root.sys.seal()
    messages["sealed"] = failure(good)
    broken.process.kill()
    broken.process.wait()
    messages["stopped"] = failure(good)
    assert len(set(messages.values())) == 6
    words = {
        "wrong token": "refuses the token", "wrong CA": "does not sign", "missing path":
        f"nothing at {OURS}kv/metadata/no/such/secret", "slow": "no answer within 9 s",
        "sealed": "is sealed", "stopped": "is not reachable",
    }  # fmt: skip
    for case, word in words.items():
        assert word in messages[case], f"{case}: {messages[case]}"
        assert "hvs.wrong" not in messages[case]


def test_the_limits_add_up_to_less_than_ten_seconds() -> None:
    assert CONNECT_TIMEOUT + ANSWER_TIMEOUT < 10


def test_a_missing_token_file_is_told_by_its_path() -> None:
    nowhere = Connection(address="https://127.0.0.1:1", ca_file="/dev/null", token_file="/no/token")
    with pytest.raises(VaultError, match="token cannot be read from /no/token: No such file"):
        preflight(nowhere)


def test_another_engine_at_our_path_is_named_and_left_alone(vault: RealVault, kv: Any) -> None:
    with pytest.raises(VaultError, match="kv-test already holds a kv engine"):
        MountProvider().create({**kv, "type": "transit"})
    assert vault.root.sys.list_mounted_secrets_engines()["data"][f"{OURS}kv-test/"]["type"] == "kv"
