"""The real stand: both sites, real nodes, and what happens when parts of it die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from local.control_plane import ControlPlane
from local.layout import read
from local.node import Node
from local.paths import MARKER, PROJECT, Folders
from local.proc import Identity, Record, record_path
from local.tools.resolve import Tools
from tests.conftest import RunningStand

pytestmark = pytest.mark.stand


def eventually(condition: Callable[[], Any], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.3)


def status(stand: RunningStand) -> dict[str, dict[str, Any]]:
    lines = json.loads(stand.run("status", "--json", check=False).stdout)
    return {line["part"]: line for line in lines}


def pids(stand: RunningStand) -> dict[str, int]:
    return {part: line["pid"] for part, line in status(stand).items()}


def kill(stand: RunningStand, part: str) -> None:
    identity = Identity.of(status(stand)[part]["pid"])
    assert identity is not None
    identity.signal(signal.SIGKILL)
    assert identity.wait_gone(10)


@pytest.fixture
def rooted(stand: RunningStand) -> RunningStand:
    if not stand.rooted:
        pytest.skip("real nodes need root")
    return stand


def test_every_part_answers_and_says_whether_it_is_real(stand: RunningStand) -> None:
    lines = status(stand)
    assert {line["state"] for line in lines.values()} == {"up"}, lines
    assert {part for part, line in lines.items() if line["kind"] == "simulated"} == {
        "private/kwok",
        "cloud/kwok",
        "cloud/karpenter",
    }
    assert all(line["version"] for line in lines.values())
    shown = stand.run("status").stdout.splitlines()
    assert [line.split()[0] for line in shown[1:-1]] == list(lines), "one line a part"
    assert shown[-1].startswith(f"{len(lines)} of {len(lines)} parts up, ")


def test_the_doctor_finds_nothing_grave_where_the_stand_runs(stand: RunningStand) -> None:
    told = stand.run("doctor").stdout.splitlines()
    assert not [line for line in told if line.startswith("FAIL")]
    assert [line for line in told if line.startswith("ok    no other stand is up")]
    assert [line for line in told if line.startswith("ok    pinned tools")]


def test_a_second_up_restarts_nothing(stand: RunningStand) -> None:
    before = pids(stand)
    stand.up()
    assert pids(stand) == before


def test_the_endpoints_name_everything_and_hold_no_secret(stand: RunningStand) -> None:
    path = stand.state / "endpoints.json"
    text = path.read_text(encoding="utf-8")
    assert path.stat().st_mode & 0o077 == 0
    for secret in ("root-token", "deployer-token", "unseal-key"):
        file = stand.state / "vault" / secret
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.read_text(encoding="ascii").strip() not in text
    assert stand.endpoints["sites"]["private"]["api"] != stand.endpoints["sites"]["cloud"]["api"]


def test_no_secret_of_vault_is_in_the_arguments_or_environment_of_a_process(
    stand: RunningStand,
) -> None:
    token = (stand.state / "vault" / "root-token").read_bytes().strip()
    key = (stand.state / "vault" / "unseal-key").read_bytes().strip()
    for entry in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            try:
                text = (entry / name).read_bytes()
            except OSError:
                continue
            assert token not in text
            assert key not in text


def test_simulated_gpu_nodes_take_real_scheduled_pods(stand: RunningStand) -> None:
    client = stand.client("private")
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "wants-gpus"},
        "spec": {
            "tolerations": [{"key": "kwok.x-k8s.io/node", "operator": "Exists"}],
            "containers": [
                {"name": "c", "image": "none", "resources": {"limits": {"nvidia.com/gpu": "8"}}}
            ],
        },
    }  # fmt: skip
    eventually(
        lambda: client.find("/api/v1/namespaces/default/serviceaccounts/default"), 30, "account"
    )
    client.request("POST", "/api/v1/namespaces/default/pods", pod)
    try:
        where = "/api/v1/namespaces/default/pods/wants-gpus"
        eventually(
            lambda: client.get(where)["status"].get("phase") == "Running", 30, "the pod runs"
        )
        assert client.get(where)["spec"]["nodeName"].startswith("private-gpu-")
    finally:
        client.delete("/api/v1/namespaces/default/pods/wants-gpus")


def test_the_cloud_has_an_autoscaler_and_no_gpu_node_until_somebody_asks(
    stand: RunningStand,
) -> None:
    client = stand.client("cloud")
    nodes = [node["metadata"]["name"] for node in client.items("/api/v1/nodes")]
    assert nodes == stand.endpoints["sites"]["cloud"]["nodes"]
    assert client.items("/apis/karpenter.sh/v1/nodeclaims") == []
    line = status(stand)["cloud/karpenter"]
    assert (line["state"], line["kind"]) == ("up", "simulated")


def make_pod(stand: RunningStand, name: str, code: str, node: str | None = None) -> str:
    """A pod of the private site that runs Python code on a real node; its path in the API."""
    client, image = stand.client("private"), stand.endpoints["pod_image"]
    paths = list(enumerate(image["host_paths"]))
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never" if node is None else "Always",
            "terminationGracePeriodSeconds": 0,
            "nodeSelector": {"stand.hybrid-recommender/node": "real"}
            | ({} if node is None else {"kubernetes.io/hostname": node}),
            "securityContext": {"runAsUser": image["user"], "runAsNonRoot": True},
            "containers": [
                {
                    "name": "c", "image": image["image"], "imagePullPolicy": "Never",
                    "command": [str(PROJECT / ".venv/bin/python"), "-c", code],
                    "workingDir": str(PROJECT),
                    "securityContext": {
                        "readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [
                        {"name": f"host-{i}", "mountPath": path, "readOnly": True}
                        for i, path in paths
                    ],
                }
            ],
            "volumes": [{"name": f"host-{i}", "hostPath": {"path": path}} for i, path in paths],
        },
    }  # fmt: skip
    eventually(
        lambda: client.find("/api/v1/namespaces/default/serviceaccounts/default"), 30, "account"
    )
    client.request("POST", "/api/v1/namespaces/default/pods", pod)
    return f"/api/v1/namespaces/default/pods/{name}"


def test_a_real_pod_runs_the_projects_interpreter_without_root_and_resolves_services(
    rooted: RunningStand,
) -> None:
    client, image = rooted.client("private"), rooted.endpoints["pod_image"]
    code = (
        "import os, socket, pydantic, local;"
        "print(os.getuid(), socket.gethostbyname('kubernetes.default.svc.cluster.local'))"
    )
    where = make_pod(rooted, "runs-here", code)
    try:
        eventually(
            lambda: client.get(where)["status"].get("phase") in ("Succeeded", "Failed"),
            60, "the pod ends",
        )  # fmt: skip
        said = client.get(f"{where}/log")["text"]
        service = rooted.endpoints["sites"]["private"]["service_cidr"].rsplit(".", 1)[0] + ".1"
        assert said.split() == [str(image["user"]), service], said
    finally:
        client.delete(where)


def test_sites_cannot_reach_each_other_without_a_link(rooted: RunningStand) -> None:
    there = rooted.endpoints["sites"]["cloud"]["api"].removeprefix("https://").split(":")[0]
    tried = subprocess.run(
        ["nsenter", "--net=/run/netns/hr-private", "ip", "route", "get", there],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert tried.returncode != 0, f"a way that is not the link: {tried.stdout}"


@pytest.mark.parametrize(
    "part", ["private/etcd", "cloud/api", "private/controller-manager", "cloud/kwok", "vault"]
)
def test_up_repairs_a_part_that_was_killed_and_touches_no_other(
    stand: RunningStand, part: str
) -> None:
    before = pids(stand)
    kill(stand, part)
    assert status(stand)[part]["state"] == "dead"
    stand.up()
    after = pids(stand)
    assert {line["state"] for line in status(stand).values()} == {"up"}
    changed = {name for name in before if before[name] != after[name]}
    # what serves through the killed part may end with it, nothing else may
    site = part.split("/")[0]
    assert part in changed
    assert all(name.split("/")[0] == site for name in changed), changed


def test_up_restarts_a_part_that_lives_and_does_not_answer(stand: RunningStand) -> None:
    frozen = pids(stand)["cloud/scheduler"]
    os.kill(frozen, signal.SIGSTOP)
    assert status(stand)["cloud/scheduler"]["state"] == "silent"
    stand.up()
    line = status(stand)["cloud/scheduler"]
    assert (line["state"], line["pid"] != frozen) == ("up", True)


def test_a_killed_node_takes_its_own_pods_alone_and_comes_back_with_up(
    rooted: RunningStand,
) -> None:
    client = rooted.client("private")

    def ready(path: str) -> bool:
        conditions = client.get(path)["status"].get("conditions") or []
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def containers(path: str) -> tuple[str, list[str]]:
        pod = client.get(path)
        return pod["spec"]["nodeName"], [
            one["containerID"] for one in pod["status"]["containerStatuses"]
        ]

    nodes = [f"/api/v1/nodes/private-{index}" for index in (1, 2)]
    pods = [
        make_pod(rooted, f"stays-{index}", "import time; time.sleep(9999)", f"private-{index}")
        for index in (1, 2)
    ]
    try:
        eventually(lambda: all(ready(pod) for pod in pods), 60, "both pods run")
        before, (dead, other) = pids(rooted), [containers(pod) for pod in pods]
        rooted.run("kill-node", "private-1")
        eventually(lambda: not ready(nodes[0]), 90, "the dead node is NotReady")
        assert ready(nodes[1])
        rooted.up()
        assert ready(nodes[0])
        after = pids(rooted)
        assert {name for name in before if before[name] != after[name]} == {"private/node-1"}
        eventually(lambda: ready(pods[0]) and containers(pods[0]) != dead, 60, "its pod runs again")
        assert containers(pods[0])[0] == "private-1", "a pod that was pinned there moved"
        assert containers(pods[1]) == other, "a pod of the other node was touched"
    finally:
        for pod in pods:
            client.delete(pod)


def test_a_node_is_not_ready_by_what_its_predecessor_reported(
    rooted: RunningStand, tmp_path: Path
) -> None:
    """Its lease is renewed every ten seconds, its status told again every five minutes."""
    folders, where = Folders(rooted.state), read(Folders(rooted.state))
    assert where is not None
    plane = ControlPlane(folders, where.sites["private"], Tools({}))
    kubelet = Node(folders, plane, 0, ())
    assert kubelet.ready()
    record = Record.read(record_path(folders, kubelet.part_name))
    assert record is not None
    # the same node, as `up` sees it once a new process has taken over and said nothing yet
    later = Node(Folders(tmp_path), plane, 0, ())
    lease = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{later.name}"
    path = record_path(later.folders, later.part_name)
    path.parent.mkdir(parents=True)

    def renewed() -> float:
        return datetime.fromisoformat(plane.client.get(lease)["spec"]["renewTime"]).timestamp()

    def reported() -> float:
        told = plane.client.get(f"/api/v1/nodes/{later.name}")["status"]["conditions"]
        ready = next(one for one in told if one["type"] == "Ready")
        assert ready["status"] == "True"
        return datetime.fromisoformat(ready["lastHeartbeatTime"]).timestamp()

    for _ in range(3):  # by chance it reports in these ten seconds
        eventually(lambda: time.time() - reported() > 2, 30, "its last report is over")
        last = reported()
        with subprocess.Popen(["sleep", "60"]) as newcomer:
            identity = Identity.of(newcomer.pid)
            assert identity is not None
            replace(record, identity=identity).write(path)
            began = identity.since()
            eventually(lambda began=began: renewed() > began, 30, "the lease is renewed")
            ready = later.ready()
            newcomer.terminate()
        if reported() == last:
            break
    else:
        raise AssertionError("it reported three times in half a minute")
    assert not ready
    assert kubelet.ready()


@pytest.mark.parametrize("seconds", [1.0, 4.0, 8.0])
def test_up_that_was_killed_half_way_is_finished_by_the_next(
    stand: RunningStand, seconds: float
) -> None:
    stand.run("down")
    going = subprocess.Popen(
        [sys.executable, "-m", "local", "up"], cwd=PROJECT, stderr=subprocess.DEVNULL,
        env={**os.environ, "STAND_STATE": str(stand.state)}, start_new_session=True,
    )  # fmt: skip
    time.sleep(seconds)
    going.kill()
    going.wait()
    stand.up()
    assert {line["state"] for line in status(stand).values()} == {"up"}
    mine = f"{MARKER}={stand.state}:".encode()
    parts: dict[bytes, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "environ").read_bytes().split(b"\0")
            parent = int((entry / "stat").read_bytes().rsplit(b")", 1)[1].split()[1])
        except OSError:
            continue
        for word in words:
            if word.startswith(mine) and parent in (1, os.getpid()):
                parts[word] = parts.get(word, 0) + 1
    assert max(parts.values()) == 1, f"a part runs twice: {parts}"


def test_a_second_stand_is_refused_and_told_how_to_end_the_first(
    stand: RunningStand, tmp_path: Path
) -> None:
    other = RunningStand(tmp_path / "other")
    refused = other.run("up", check=False)
    assert refused.returncode == 1
    assert f"STAND_STATE={stand.state} stand down" in refused.stderr
    assert "Traceback" not in refused.stderr
    told = other.run("doctor", check=False)
    assert told.returncode == 1
    assert f"FAIL  another stand -> `stand up` fails: another stand of {PROJECT}" in told.stdout
    # and its `down` must not touch the live one
    other.run("down")
    assert {line["state"] for line in status(stand).values()} == {"up"}


def test_vault_writes_an_audit_record_of_a_request(stand: RunningStand) -> None:
    audit = stand.state / "vault" / "audit.log"
    assert audit.stat().st_mode & 0o777 == 0o600
    size = audit.stat().st_size
    stand.up()  # asks which audit devices there are
    assert audit.stat().st_size > size
