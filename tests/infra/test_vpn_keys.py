"""Tunnel keys against a real Vault: legal for AWS, one change a step, never in clear."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from pulumi.dynamic.dynamic import serialize_provider

from infra.components.vpn_keys import LENGTH, TunnelKeyProvider, new_key, tunnel_keys
from infra.components.vpn_link import checked_key
from infra.vault import MountProvider, VaultError
from tests.clouds.engine import Engine, build
from tests.clouds.test_vpn_link import SETTINGS, link

from .conftest import RealVault

KIND = TunnelKeyProvider()

KV = "hybrid-recommender-kv-link"


@pytest.fixture
def kv(vault: RealVault) -> Iterator[str]:
    props = {
        "path": KV, "type": "kv", "description": "t", "options": {"version": "2"},
        "max_lease_ttl": "1h", "connection": vault.connection.props(),
    }  # fmt: skip
    MountProvider().create(props)
    yield KV
    MountProvider().delete(KV, props)


def props(vault: RealVault, generation: int = 0, number: int = 1) -> dict[str, Any]:
    return {
        "mount": KV, "path": f"link/private/tunnel-{number}",
        "generation": str(generation), "connection": vault.connection.props(),
    }  # fmt: skip


def held(vault: RealVault, number: int = 1) -> dict[str, str]:
    answer = vault.root.secrets.kv.v2.read_secret_version(
        f"link/private/tunnel-{number}",
        mount_point=KV,
        raise_on_deleted_version=True,
    )
    return answer["data"]["data"]


def test_every_key_that_is_made_is_one_that_aws_takes() -> None:
    made = {new_key() for _ in range(500)}
    assert len(made) == 500
    for key in made:
        assert checked_key(key) == key
        assert len(key) == LENGTH


def test_the_provider_is_stored_as_a_name_and_never_as_code() -> None:
    assert len(serialize_provider(KIND)) < 200


def test_the_key_is_in_vault_and_is_what_the_connection_gets(vault: RealVault, kv: str) -> None:
    outs = KIND.create(props(vault)).outs
    assert outs is not None
    assert held(vault) == {"psk": outs["value"], "generation": "0"}


def test_a_lost_answer_does_not_change_the_key_a_second_time(vault: RealVault, kv: str) -> None:
    first, again = KIND.create(props(vault)).outs, KIND.create(props(vault)).outs
    assert first == again


def test_a_new_generation_is_an_update_in_place_of_one_key(vault: RealVault, kv: str) -> None:
    olds = [KIND.create(props(vault, 0, number)).outs for number in (1, 2)]
    assert olds[0] is not None
    news = props(vault, 1)
    diff = KIND.diff("", olds[0], news)
    assert (diff.changes, diff.replaces) == (True, [])
    outs = KIND.update("", olds[0], news).outs
    assert outs is not None
    assert outs["value"] != olds[0]["value"]
    assert held(vault) == {"psk": outs["value"], "generation": "1"}
    assert KIND.create(props(vault, 0, 2)).outs == olds[1], "the other tunnel keeps its key"


def test_the_same_generation_is_no_change(vault: RealVault, kv: str) -> None:
    olds = KIND.create(props(vault)).outs
    assert olds is not None
    assert KIND.diff("", olds, props(vault)).changes is False


def test_refresh_sees_a_key_changed_by_hand_and_one_that_is_gone(vault: RealVault, kv: str) -> None:
    outs = KIND.create(props(vault)).outs
    assert outs is not None
    by_hand = {"psk": new_key(), "generation": "by hand"}
    vault.root.secrets.kv.v2.create_or_update_secret(
        "link/private/tunnel-1", mount_point=kv, secret=by_hand
    )
    seen = KIND.read("x", outs).outs
    assert seen is not None
    assert (seen["value"], seen["generation"]) == (by_hand["psk"], "by hand")
    assert KIND.diff("", seen, props(vault)).changes, "the next update must make its own key"
    KIND.delete("x", outs)
    assert KIND.read("x", outs).id == ""


def test_a_path_that_holds_something_else_is_left_alone(vault: RealVault, kv: str) -> None:
    vault.root.secrets.kv.v2.create_or_update_secret(
        "link/private/tunnel-1", mount_point=kv, secret={"password": "of somebody else"}
    )
    with pytest.raises(VaultError, match=r"something else .* choose another path") as error:
        KIND.create(props(vault))
    assert "of somebody else" not in str(error.value)
    assert held(vault) == {"password": "of somebody else"}


def test_a_removed_key_can_be_made_again(vault: RealVault, kv: str) -> None:
    outs = KIND.create(props(vault)).outs
    vault.root.secrets.kv.v2.delete_latest_version_of_secret(
        "link/private/tunnel-1", mount_point=kv
    )
    again = KIND.create(props(vault)).outs
    assert outs is not None
    assert again is not None
    assert again["value"] != outs["value"]


def declared(vault: RealVault, step: int) -> Engine:
    settings = replace(SETTINGS, key_step=step)

    def program() -> None:
        keys = tunnel_keys("private", vault.connection, settings, mount=KV)
        link(settings, keys)

    return build(program)


def test_the_connections_keys_are_those_of_vault_and_one_step_changes_one(
    vault: RealVault,
) -> None:
    before, after = declared(vault, 0), declared(vault, 1)
    connection = before.one("VpnConnection")
    for number in (1, 2):
        given = connection[f"tunnel{number}PresharedKey"]
        assert f"private_key_{number}." in given["value"], "the reference leads to Vault's resource"
    changed = {
        name
        for name, inputs in after.of("TunnelKey").items()
        if inputs != before.of("TunnelKey")[name]
    }
    assert changed == {"private-key-1"}
