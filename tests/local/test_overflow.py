"""The demonstration of a job that overflows: its pure parts, and that it speaks the program's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infra import kueue
from infra.clouds import burst_jobs, burst_mover
from infra.components import queue_mover, queues, queues_cloud
from local import leaving
from local.layout import read
from local.overflow import NAME, Look, stays, told
from local.paths import PROJECT, Folders
from local.queues import NothingToShow, Queue, room
from local.queues import queues as read_queues


def test_the_stands_words_are_those_of_the_program() -> None:
    assert burst_jobs.HOURS == leaving.HOURS
    assert burst_jobs.INPUT_GB == leaving.INPUT_GB
    assert burst_jobs.GPU == leaving.GPU
    assert burst_mover.MAY_LEAVE == leaving.MAY_LEAVE
    assert burst_mover.LEFT == leaving.LEFT
    assert kueue.QUEUE_LABEL == leaving.QUEUE_LABEL
    assert leaving.KUEUE.endswith(kueue.API)
    assert queues.GPU_QUEUE == leaving.PRIVATE_QUEUE
    assert queues_cloud.CLOUD_QUEUE == leaving.CLOUD_QUEUE
    maps = f"/api/v1/namespaces/{kueue.NAMESPACE}/configmaps"
    assert f"{maps}/{queue_mover.COMPONENT}-site" == leaving.MOVER_SITE
    assert f"{maps}/{queue_mover.NOTES}" == leaving.MOVER_NOTES


def queue(team: str = "research", **more: Any) -> Queue:
    given: dict[str, Any] = {"own": 24, "borrow": 40, "used": 0, "waiting": 0}
    return Queue(team=team, **{**given, **more})


def product(**more: Any) -> Queue:
    return queue("recommender", **{"own": 32, "borrow": 32, **more})


def test_on_an_empty_site_the_smaller_team_takes_all_of_it() -> None:
    assert room([product(), queue()], 64, 8) == ("research", 8)


def test_beside_jobs_of_others_it_takes_what_they_leave_free() -> None:
    assert room([product(used=12), queue()], 64, 8) == ("research", 6)
    assert room([product(used=32), queue(used=32)], 64, 8) == ("research", 0)
    assert room([product(used=64), queue()], 64, 8) == ("recommender", 0), "whose job takes none"


def test_a_team_that_may_not_borrow_so_much_is_passed_over() -> None:
    assert room([product(), queue(borrow=0)], 64, 8) == ("recommender", 8)
    assert room([product(), queue(borrow=None)], 64, 8) == ("research", 8)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        ([], "no team"),
        ([product(waiting=1), queue()], "1 jobs wait"),
        (
            [product(used=38), queue(used=16), queue("third", own=8, used=10)],
            "64 of 64 private GPUs are taken",
        ),
        ([product(borrow=0), queue(borrow=0)], "0 of 64 private GPUs are taken"),
    ],
    ids=["no team", "others wait", "others borrow", "nobody may borrow"],
)
def test_it_says_why_it_would_cost_others_their_gpus_or_their_turn(
    found: list[Queue], why: str
) -> None:
    with pytest.raises(NothingToShow, match=why):
        room(found, 64, 8)


def test_a_teams_queue_counts_what_holds_gpus_and_what_waits_and_nothing_that_ended() -> None:
    def workload(*true: str, place: str = "gpu", gpus: str = "8") -> dict[str, Any]:
        held = {"podSetAssignments": [{"resourceUsage": {leaving.GPU: gpus}}]}
        return {
            "metadata": {"namespace": "research", "name": "w"},
            "spec": {"queueName": place},
            "status": {
                "conditions": [{"type": one, "status": "True"} for one in true],
                **({"admission": held} if "QuotaReserved" in true else {}),
            },
        }

    local = [
        {
            "metadata": {"namespace": space, "name": name},
            "spec": {"clusterQueue": f"{space}-{name}"},
        }
        for space, name in (("research", "gpu"), ("research", "cloud"), ("lonely", "gpu"))
    ]
    quota = {"name": leaving.GPU, "nominalQuota": "24", "borrowingLimit": "1k"}
    flavors = [{"name": "private-gpu", "resources": [{"name": "cpu"}, quota]}]
    cluster = [
        {"metadata": {"name": f"{team}-gpu"}, "spec": {"resourceGroups": [{"flavors": flavors}]}}
        for team in ("research", "lonely")
    ]
    workloads = [
        workload(),
        workload("QuotaReserved"),
        workload("QuotaReserved", gpus="16"),
        workload("QuotaReserved", "Finished"),
        workload("QuotaReserved", place="cloud"),
    ]
    assert read_queues(local, cluster, workloads) == [queue(borrow=1000, used=24, waiting=1)]


def thing(name: str, **labels: str) -> dict[str, Any]:
    """A claim or a node."""
    return {"metadata": {"name": name, "labels": labels}}


BOUGHT = {"node.kubernetes.io/instance-type": "g6.48xlarge", "karpenter.sh/capacity-type": "spot"}
JOB: dict[str, Any] = {"metadata": {"annotations": {leaving.LEFT: "u1"}}, "status": {}}


def test_nothing_is_told_of_a_job_that_waits() -> None:
    assert told(Look(job={"metadata": {}, "status": {}}, copied=False, pods=[], claims=[])) == {}


def test_an_order_is_told_once_its_type_is_known_and_never_for_a_node_that_was_there() -> None:
    claims = [thing("new", **BOUGHT), thing("early"), thing("old", **BOUGHT)]
    said = told(Look(job=JOB, copied=True, pods=[], claims=claims, known=frozenset({"old"})))
    assert list(said) == ["left", "sent", "ordered new"]
    assert said["ordered new"].endswith("new (g6.48xlarge, spot)")


def test_a_worker_is_told_with_what_its_node_is_and_an_end_before_the_copy_goes() -> None:
    pods = [
        {"metadata": {"name": "p"}, "spec": {"nodeName": "n0"}, "status": {"phase": "Running"}},
        {"metadata": {"name": "q"}, "spec": {}, "status": {"phase": "Pending"}},
    ]
    ended = {**JOB, "status": {"succeeded": 2}}
    said = told(Look(job=ended, copied=True, pods=pods, claims=[], nodes=[thing("n0", **BOUGHT)]))
    assert said["runs p"] == "a worker runs on n0 (g6.48xlarge, spot)"
    assert list(said)[-1] == "done"
    last = told(Look(job=ended, copied=False, pods=[], claims=[]))
    assert list(last) == ["left", "done", "gone"]


def test_the_plans_own_words_tell_whether_the_job_leaves() -> None:
    table = (
        "job         GPUs  goes to              USD/h  why\n"
        "research/a  16    2x g6.48xlarge spot  12.02  1h57 earlier, worth 39.00 USD\n"
        "research/b  8     waits                -      waiting is cheaper: 0h10 earlier is\n"
    )
    assert stays(table, "research/a") is None
    assert stays(table, "research/b") == "waiting is cheaper: 0h10 earlier is"
    assert stays(table, "research/c") == "the plan does not name it"


def test_only_its_own_names_are_taken_for_its_own() -> None:
    assert NAME.match("overflow-fill-00c0ffee")
    assert not NAME.match("overflow-fill-of-mine")


def run(state: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "local.overflow", *words],
        cwd=PROJECT, env={**os.environ, "STAND_STATE": str(state)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_without_a_stand_it_says_what_to_do_in_one_line(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 1
    assert done.stderr == "overflow: no stand is up here; `make up` starts it\n"
    assert run(tmp_path, "--wrong").returncode == 2


def test_without_root_it_says_that_nothing_runs_kueue_and_is_content(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    sites = '{"range": "10.77.0.0/16", "netns": null, "ports": {}}'
    folders.layout.write_text(
        f'{{"stand": "s", "rooted": false, "vault_port": 1, '
        f'"sites": {{"private": {sites}, "cloud": {sites}}}}}',
        encoding="utf-8",
    )
    assert read(folders) is not None
    folders.endpoints.write_text('{"sites": {"private": {"real_nodes": false}}}', encoding="utf-8")
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "not shown: without root, or without real nodes, nothing runs Kueue here" in done.stdout
