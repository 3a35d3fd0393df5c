"""The recommender on the real stand: asked through its TLS gateway while parts of the site fail."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hvac
import pytest
from hvac import exceptions as refused

from benchmarks import served
from local.ask import Gateway, gateway_of
from tests.conftest import RunningStand
from tests.infra.load import Load
from tests.inventory import root
from tests.stack import Stack

pytestmark = pytest.mark.stand
SPACE = "/api/v1/namespaces/recommender"


@pytest.fixture
def gateway(deployed: Stack) -> Gateway:
    return gateway_of(deployed.outputs(), "private")


def wait(what: Callable[[], bool], seconds: float, told: str) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, told
        time.sleep(1)


def pods(stand: RunningStand, name: str) -> list[dict[str, Any]]:
    found = stand.client("private").get(
        f"{SPACE}/pods?labelSelector=app.kubernetes.io/name%3D{name}"
    )
    return found["items"]


def ready(stand: RunningStand, name: str, count: int) -> bool:
    alive = [one for one in pods(stand, name) if "deletionTimestamp" not in one["metadata"]]
    states = [
        {each["type"]: each["status"] for each in one["status"].get("conditions", [])}
        for one in alive
    ]
    return len(alive) == count and all(state.get("Ready") == "True" for state in states)


def test_a_recommendation_comes_through_the_gateway_over_verified_tls(gateway: Gateway) -> None:
    known, _ = gateway.post("/recommend", {"user_id": "a-first-visitor", "k": 2})
    history = [one["item_id"] for one in known["items"]]
    answer, _ = gateway.post("/recommend", {"history": history, "k": 5, "deadline_ms": 4000})
    assert len(answer["items"]) == 5
    assert answer["model_version"]
    stranger = ssl.create_default_context()
    with pytest.raises(ssl.SSLCertVerificationError):
        type(gateway.connect())(gateway, stranger).connect()


def test_the_service_answers_what_the_model_says_offline(
    deployed: Stack, gateway: Gateway, tmp_path: Path
) -> None:
    model = served.shipped_model(deployed.outputs()["private"]["bento"])
    users = served.sequences_of(None, tmp_path)[:300]
    found = served.compare(gateway, model, users, tmp_path, close=1e-4)
    assert found.same + found.swapped == len(users), found
    assert found.swapped < len(users) / 20


def test_the_gateway_shows_no_metrics(gateway: Gateway) -> None:
    connection = gateway.connect()
    connection.request("GET", "/metrics")
    assert connection.getresponse().status == 404


def counted(stand: RunningStand) -> list[int]:
    """How often each container of the gateways was started again."""
    return [
        each["restartCount"]
        for one in pods(stand, "gateway")
        for each in one["status"]["containerStatuses"]
    ]


def in_agent(stand: RunningStand, pod: str, code: str) -> str:
    done = subprocess.run(
        ["kubectl", "--kubeconfig", stand.endpoints["sites"]["private"]["kubeconfig"],
         "-n", "recommender", "exec", pod, "-c", "vault-agent", "--", "python3", "-c", code],
        capture_output=True, text=True, check=True, env=os.environ | stand.environment(),
    )  # fmt: skip
    return done.stdout


def test_a_new_certificate_costs_no_request_and_no_restart(
    stand: RunningStand, gateway: Gateway
) -> None:
    names, restarts = [one["metadata"]["name"] for one in pods(stand, "gateway")], counted(stand)
    with Load([gateway]) as load:
        time.sleep(2)
        before = set(load.certificates)
        for name in names:
            in_agent(stand, name, "open('/secrets/.tls.due', 'w').write('0')")

        def renewed() -> bool:
            with Load([gateway], shoppers=6) as fresh:
                time.sleep(1)
            return not fresh.certificates & before and not fresh.failures

        wait(renewed, 60, "the gateways kept their old certificates")
    assert load.failures == []
    assert [one["metadata"]["name"] for one in pods(stand, "gateway")] == names
    assert counted(stand) == restarts


def test_a_restart_of_the_event_store_costs_at_most_one_request_in_a_thousand(
    stand: RunningStand, gateway: Gateway
) -> None:
    with Load([gateway]) as load:
        time.sleep(2)
        stand.client("private").delete(f"{SPACE}/pods/nats-0")
        wait(lambda: ready(stand, "nats", 1), 120, "nats did not come back")
        time.sleep(5)
    assert load.share_failed <= 0.001, load.failures
    assert load.answered > 100


ACCOUNTS = ("bento", "gateway", "nats", "canary")


def test_each_workload_logs_in_and_reads_no_path_but_its_own(
    stand: RunningStand, deployed: Stack
) -> None:
    vault, client, administrator = stand.endpoints["vault"], stand.client("private"), root(stand)
    mount = "hybrid-recommender-local"
    found = administrator.adapter.get(url="/v1/sys/policies/acl?list=true")["data"]["keys"]
    wanted: dict[str, list[str]] = {}
    for name in (one for one in found if one.startswith(f"{mount}-private-recommender-")):
        text = administrator.adapter.get(url=f"/v1/sys/policies/acl/{name}")["data"]["policy"]
        paths = [line.split('"')[1] for line in text.splitlines() if line.startswith("path")]
        wanted[name.removeprefix(f"{mount}-private-recommender-")] = paths
    assert set(ACCOUNTS) <= set(wanted)
    every = {path for paths in wanted.values() for path in paths}
    every |= {f"{mount}/metadata/private", "sys/mounts", "sys/policies/acl", f"{mount}-pki/certs"}
    for account in ACCOUNTS:
        asked = {"spec": {"audiences": ["vault"], "expirationSeconds": 600}}
        answer = client.request(
            "POST", f"{SPACE}/serviceaccounts/{account}/token", asked, "application/json"
        )
        own = hvac.Client(url=vault["address"], verify=vault["ca_file"])
        own.auth.jwt.jwt_login(
            role=f"private-recommender-{account}",
            jwt=answer["status"]["token"],
            path=f"{mount}-private",
        )
        public = {f"{mount}-pki/cert/ca"}  # a certificate authority tells everybody its name
        for path in sorted(every - set(wanted[account]) - public):
            for method in ("get", "list", "put"):
                with pytest.raises(refused.Forbidden):
                    own.adapter.request(method, url=f"/v1/{path}", json={"common_name": "x"})


def test_prometheus_reads_every_target(stand: RunningStand, deployed: Stack) -> None:
    address = pods(stand, "prometheus")[0]["status"]["podIP"]
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    jobs = {"bento", "bento-agent", "gateway", "gateway-agent", "nats-agent", "vault"}

    def unread() -> list[str]:
        """Jobs without a target, and targets that do not answer."""
        with direct.open(f"http://{address}:9090/api/v1/targets?state=active", timeout=10) as got:
            targets = json.loads(got.read())["data"]["activeTargets"]
        found = {one["labels"]["job"] for one in targets}
        return [
            *sorted(jobs ^ found),
            *(f"{one['scrapeUrl']} {one['lastError']}" for one in targets if one["health"] != "up"),
        ]

    # pods of the tests before this one may still come and go
    wait(lambda: not unread(), 120, "every target is read")
