"""The way into a site of the real stand when one of its nodes loses power."""

from __future__ import annotations

import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.failover import Shown, entrance
from local.ask import Gateway, doors_of
from local.pki import Authority, Leaf
from local.proc import run
from tests.conftest import RunningStand
from tests.infra.load import Load
from tests.infra.test_serving_faults import nodes_of, settle
from tests.infra.test_serving_stand import pods, wait
from tests.stack import Stack

pytestmark = [pytest.mark.stand, pytest.mark.slow]
HEALTH_PORT = 30881
NAME = "one-node"


@pytest.fixture
def outputs(stand: RunningStand, deployed: Stack) -> Iterator[dict[str, Any]]:
    """What the stack says, with two pods of each part of the service; so again afterwards."""
    if not stand.rooted:
        pytest.skip("real nodes need root")
    settle(stand)
    yield deployed.outputs()
    stand.up()
    settle(stand)


def shown(folder: Path) -> tuple[Shown, str]:
    """What the entrance shows shoppers, and who signed it."""
    authority = Authority(folder, "ca")
    pair = authority.issue("entrance", Leaf("entrance", hosts=("localhost",)))
    file = folder / "shown.pem"
    file.write_bytes(pair.cert.read_bytes() + pair.key.read_bytes())
    trust = ssl.create_default_context(cafile=str(authority.cert))
    return Shown(file, trust), authority.cert.read_text(encoding="utf-8")


def cut_power(stand: RunningStand, node: str) -> None:
    """First its cable, so that no dying process says goodbye to anybody; `stand up` mends both."""
    run(
        ["ip", "link", "set", f"n-{node}", "down"],
        netns=stand.endpoints["sites"]["private"]["netns"],
    )
    stand.run("kill-node", node)


def test_each_node_takes_requests_over_verified_tls(outputs: dict[str, Any]) -> None:
    doors = doors_of(outputs, "private")
    assert len(doors) == 2
    for door in doors:
        answer, _ = door.post("/recommend", {"user_id": "a-first-visitor", "k": 2})
        assert len(answer["items"]) == 2


def test_a_health_port_answers_200_only_on_a_node_with_a_pod_of_its_own(
    stand: RunningStand, outputs: dict[str, Any]
) -> None:
    """Of a Service as a load balancer needs it, before the one part that stands on one node.

    It is in a namespace without quota, so it names the pod itself instead of selecting it."""
    client, (pod,) = stand.client("private"), pods(stand, "nats")
    there, port = pod["spec"]["nodeName"], {"name": "nats", "port": 4222}
    balanced = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": NAME},
        "spec": {
            "type": "LoadBalancer",
            "externalTrafficPolicy": "Local",
            "allocateLoadBalancerNodePorts": False,
            "healthCheckNodePort": HEALTH_PORT,
            "ports": [port],
        },
    }
    behind = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": NAME, "labels": {"kubernetes.io/service-name": NAME}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [pod["status"]["podIP"]], "nodeName": there}],
        "ports": [port],
    }
    made = {
        "/api/v1/namespaces/default/services": balanced,
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices": behind,
    }
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def health(address: str) -> int | None:
        try:
            with direct.open(f"http://{address}:{HEALTH_PORT}/healthz", timeout=2) as got:
                return int(got.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    site = stand.endpoints["sites"]["private"]
    expected = {
        address: 200 if node == there else 503
        for node, address in zip(site["nodes"], site["way_in"]["nodes"], strict=True)
    }
    try:
        for path, body in made.items():
            client.request("POST", path, body, "application/json")
        wait(
            lambda: {one: health(one) for one in expected} == expected,
            30,
            f"the nodes' health ports do not answer {expected}",
        )
    finally:
        for path in made:
            client.delete(f"{path}/{NAME}")


def test_the_power_loss_of_a_node_costs_at_most_one_request_in_a_thousand(
    stand: RunningStand, outputs: dict[str, Any], tmp_path: Path
) -> None:
    client = stand.client("private")
    (store,) = nodes_of(stand, "nats")  # its volume is on that node and cannot follow
    node = next(one for one in sorted(nodes_of(stand, "bento")) if one != store)
    assert node in nodes_of(stand, "gateway")
    own, authority = shown(tmp_path)

    def gone() -> bool:
        states = client.get(f"/api/v1/nodes/{node}")["status"]["conditions"]
        return any(one["type"] == "Ready" and one["status"] != "True" for one in states)

    # the private site alone: no other one helps out
    with (
        entrance(outputs, stand.endpoints, 64, ("private",), own) as port,
        Load([Gateway(f"127.0.0.1:{port}", "localhost", authority)]) as load,
    ):
        time.sleep(5)
        cut_power(stand, node)
        wait(gone, 90, "the node is not NotReady")
        time.sleep(10)
        while_away = load.answered
        stand.up()
        settle(stand)
        time.sleep(5)
    print(f"{load.answered} answered ({while_away} before the node came back), {load.failures}")
    assert while_away > 500
    assert load.share_failed <= 0.001, load.failures
