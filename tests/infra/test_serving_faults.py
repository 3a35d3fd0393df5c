"""What shoppers notice on the real stand while a site is updated, drained or loses a part."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator

import pytest
import yaml

from local.ask import Gateway, gateway_of
from tests.conftest import RunningStand
from tests.infra.load import Load
from tests.infra.test_serving_stand import pods, ready, wait
from tests.local.test_stand import kill
from tests.stack import Stack

pytestmark = [pytest.mark.stand, pytest.mark.slow]
SERVICE = ("bento", "gateway")


@pytest.fixture
def whole(stand: RunningStand, deployed: Stack) -> Iterator[Gateway]:
    """The private site's gateway, two pods of each part behind it; so again afterwards."""
    if not stand.rooted:
        pytest.skip("real nodes need root")
    settle(stand)
    yield gateway_of(deployed.outputs(), "private")
    stand.up()
    settle(stand)


def settle(stand: RunningStand) -> None:
    for name in SERVICE:
        wait(lambda name=name: ready(stand, name, 2), 180, f"two pods of {name} are not ready")


def nodes_of(stand: RunningStand, name: str) -> set[str]:
    return {one["spec"]["nodeName"] for one in pods(stand, name)}


def names_of(stand: RunningStand, name: str) -> set[str]:
    return {one["metadata"]["name"] for one in pods(stand, name)}


def test_a_rolling_update_costs_no_request(
    stand: RunningStand, deployed: Stack, whole: Gateway
) -> None:
    file = deployed.project / "Pulumi.local.yaml"
    before, old = file.read_text(encoding="utf-8"), names_of(stand, "bento")
    wanted = yaml.safe_load(before)
    wanted["config"]["hybrid-recommender:serving"]["deadline-ms"] += 1
    try:
        with Load([whole]) as load:
            time.sleep(2)
            file.write_text(yaml.safe_dump(wanted), encoding="utf-8")
            deployed.up()
            wait(lambda: not names_of(stand, "bento") & old, 120, "old pods are left")
            time.sleep(3)
        assert load.failures == []
        assert load.answered > 200
    finally:
        file.write_text(before, encoding="utf-8")
        deployed.up()


def kubectl(stand: RunningStand, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["kubectl", "--kubeconfig", stand.endpoints["sites"]["private"]["kubeconfig"], *words],
        capture_output=True, text=True, check=False, env=stand.environment(),
    )  # fmt: skip


def test_draining_a_node_costs_no_request(stand: RunningStand, whole: Gateway) -> None:
    (store,) = nodes_of(stand, "nats")  # its volume is on that node and cannot follow
    node = next(one for one in sorted(nodes_of(stand, "bento")) if one != store)
    with Load([whole]) as load:
        time.sleep(2)
        try:
            done = kubectl(
                stand, "drain", node, "--ignore-daemonsets", "--delete-emptydir-data",
                "--timeout=180s",
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            assert node not in nodes_of(stand, "bento") | nodes_of(stand, "gateway")
            time.sleep(3)
        finally:
            kubectl(stand, "uncordon", node)
    assert load.failures == []
    assert load.answered > 200


def test_a_restart_of_vault_costs_no_request(stand: RunningStand, whole: Gateway) -> None:
    with Load([whole]) as load:
        time.sleep(2)
        kill(stand, "vault")
        time.sleep(5)
        stand.up()
        time.sleep(2)
    assert load.failures == []
    assert load.answered > 100
