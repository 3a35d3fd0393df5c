"""The burst plan: who leaves, what it costs, and when waiting is the better choice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.clouds.burst import Capacity
from infra.clouds.burst_jobs import JobError, Running, Waiting, queue
from infra.clouds.burst_plan import Offer, Site, main, plan

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


def offer(kind: str, gpus: int, capacity: Capacity, usd: float) -> Offer:
    return Offer(
        pool="training", instance_type=kind, capacity=capacity, gpus=gpus, usd_per_hour=usd
    )


def site(**changes: Any) -> Site:
    given_: dict[str, Any] = {
        "private_flavor": "private",
        "private_gpus": 8,
        "link_mbps": 1000,
        "node_minutes": 6,
        "idle_minutes": 6,
        "usd_per_hour_saved": 100,
        "ceilings": {"training-spot": 8, "training-on-demand": 4},
        "offers": (
            offer("g6e.12xlarge", 4, Capacity.SPOT, 4.0),
            offer("g6e.12xlarge", 4, Capacity.ON_DEMAND, 10.0),
        ),
    }
    return Site(**{**given_, **changes})


def job(name: str = "a", gpus: int = 4, hours: float = 2, gb: float = 0, **more: Any) -> Waiting:
    return Waiting(name=name, gpus=gpus, hours=hours, input_gb=gb, **more)


FULL = [Running(name="r", gpus=8, hours_left=5, flavor="private")]


def test_a_job_stays_while_private_gpus_are_free() -> None:
    only = plan(site(), [job()], [])[0]
    assert (only.leaves, only.stays) == (False, 2)
    assert "free now" in only.reason


def test_a_job_leaves_when_the_private_site_is_full_and_time_is_worth_the_bill() -> None:
    only = plan(site(), [job()], FULL)[0]
    assert only.leaves
    assert only.rented is not None
    assert only.rented.offer.capacity is Capacity.SPOT
    assert only.rented.finish == pytest.approx(0.1 + 2)
    assert only.rented.usd == pytest.approx(4.0 * (0.1 + 2 + 0.1))
    assert only.stays == 7


def test_waiting_is_chosen_and_said_to_be_cheaper_when_time_is_worth_less_than_the_bill() -> None:
    only = plan(site(usd_per_hour_saved=1), [job()], FULL)[0]
    assert not only.leaves
    assert only.reason == "waiting is cheaper: 4h54 earlier is worth 4.90 USD and costs 8.80"


def test_a_jobs_own_worth_overrules_the_sites() -> None:
    assert not plan(site(), [job(worth=0.5)], FULL)[0].leaves


def test_waiting_is_chosen_when_the_input_takes_longer_to_cross_than_the_wait() -> None:
    """10 TB at 1 Gbit/s take 22 hours; the private site is free after 5."""
    only = plan(site(), [job(gb=10_000)], FULL)[0]
    assert not only.leaves
    assert only.reason.startswith("waiting is faster by 17h13")


def test_inputs_cross_the_link_one_after_the_other() -> None:
    first, second = plan(site(), [job("a", gb=450), job("b", gb=450)], FULL)
    assert first.rented is not None
    assert second.rented is not None
    assert first.rented.start == pytest.approx(1)
    assert second.rented.start == pytest.approx(2)


def test_the_third_job_is_bought_on_demand_and_the_fourth_waits_for_want_of_room() -> None:
    verdicts = plan(site(), [job(name) for name in "abcd"], FULL)
    bought = [each.rented.offer.capacity if each.rented else None for each in verdicts]
    assert bought == [Capacity.SPOT, Capacity.SPOT, Capacity.ON_DEMAND, None]
    assert [each.leaves for each in verdicts] == [True, True, True, False]
    assert "no offer fits under its ceiling" in verdicts[3].reason
    assert verdicts[3].stays == 7, "it is the first in the private queue: the others have left"


def test_gpus_that_are_rented_already_count_against_the_ceiling() -> None:
    rented = Running(name="x", gpus=8, hours_left=1, flavor="training-spot")
    only = plan(site(), [job()], [*FULL, rented])[0]
    assert only.rented is not None
    assert only.rented.offer.capacity is Capacity.ON_DEMAND


def test_a_job_larger_than_the_private_site_leaves_and_one_larger_than_both_goes_nowhere() -> None:
    fits, too_large = plan(site(private_gpus=2), [job("a", 8), job("b", 16)], [])
    assert fits.leaves
    assert fits.rented is not None
    assert (fits.rented.nodes, fits.stays) == (2, None)
    assert (too_large.leaves, too_large.rented, too_large.stays) == (False, None, None)


def test_a_pod_is_not_split_over_two_nodes() -> None:
    both = {
        "ceilings": {"training-spot": 16},
        "offers": (
            offer("g6e.12xlarge", 4, Capacity.SPOT, 4.0),
            offer("g6e.48xlarge", 8, Capacity.SPOT, 9.0),
        ),
    }
    one, two, three = plan(
        site(**both),
        [
            job("a", 8, pods=((1, 8),)),  # cheaper on two small nodes, where it does not fit
            job("b", 8, pods=((2, 4),)),
            job("c", 9, pods=((3, 3),)),
        ],
        FULL,
    )
    assert one.rented is not None
    assert (one.rented.nodes, one.rented.offer.instance_type) == (1, "g6e.48xlarge")
    assert two.rented is not None
    assert (two.rented.nodes, two.rented.offer.instance_type) == (2, "g6e.12xlarge")
    assert three.rented is None, "16 GPUs are rented, one node for each pod would be 12 more"


def test_a_small_job_does_not_overtake_a_large_one_at_the_private_site() -> None:
    running = [Running(name="r", gpus=4, hours_left=3, flavor="private")]
    large, small = plan(site(offers=()), [job("a", 8, 1), job("b", 1, 1)], running)
    assert (large.stays, small.stays) == (4, 5)


@given(
    jobs=st.lists(
        st.builds(
            job,
            st.sampled_from("abc"), st.integers(1, 20),
            st.floats(0.1, 50), st.floats(0, 5000),
        ),
        max_size=12,
    ),
    spot=st.integers(0, 16), on_demand=st.integers(0, 16),
    private=st.integers(0, 16), worth=st.floats(0, 500),
)  # fmt: skip
def test_no_plan_passes_a_ceiling_or_pays_more_than_the_time_is_worth(
    jobs: list[Waiting], spot: int, on_demand: int, private: int, worth: float
) -> None:
    here = site(
        private_gpus=private, usd_per_hour_saved=worth,
        ceilings={"training-spot": spot, "training-on-demand": on_demand},
    )  # fmt: skip
    verdicts = plan(here, jobs, [])
    held: defaultdict[str, int] = defaultdict(int)
    for each in verdicts:
        if not each.leaves:
            continue
        assert each.rented is not None
        held[each.rented.offer.holder] += each.rented.nodes * each.rented.offer.gpus
        if each.stays is not None:
            assert each.rented.usd <= (each.stays - each.rented.finish) * worth
    assert all(gpus <= here.ceilings[holder] for holder, gpus in held.items())


def workload(name: str, *, gpus: int = 4, state: str = "", **more: Any) -> dict[str, Any]:
    notes = {"recsys/expected-hours": "2", "recsys/input-gb": "10", **more.get("notes", {})}
    conditions = [
        {"type": kind, "status": "True", "lastTransitionTime": "2026-11-24T11:00:00Z"}
        for kind in state.split()
    ]
    return {
        "metadata": {
            "namespace": "train", "name": name,
            "creationTimestamp": more.get("created", "2026-11-24T10:00:00Z"),
        },
        "spec": {
            "priority": more.get("priority", 0), "active": more.get("active", True),
            "podSets": [{
                "count": 2,
                "template": {
                    "metadata": {"annotations": {k: v for k, v in notes.items() if v is not None}},
                    "spec": {"containers": [
                        {"resources": {"limits": {"nvidia.com/gpu": str(gpus // 2)}}}
                    ]},
                },
            }],
        },
        "status": {
            "conditions": conditions,
            "admission": {"podSetAssignments": [{"flavors": {"nvidia.com/gpu": "private"}}]},
        },
    }  # fmt: skip


def test_the_queue_is_read_in_kueues_order_and_only_what_waits_or_runs_counts() -> None:
    listed = {"items": [
        workload("young", created="2026-11-24T11:00:00Z"),
        workload("old"),
        workload("urgent", created="2026-11-24T11:30:00Z", priority=10),
        workload("paused", active=False),
        workload("done", state="QuotaReserved Finished"),
        workload("cpu", gpus=0),
        workload("busy", state="QuotaReserved Admitted"),
    ]}  # fmt: skip
    waiting, running = queue(listed, NOW)
    assert [each.name for each in waiting] == ["train/urgent", "train/old", "train/young"]
    assert (waiting[0].gpus, waiting[0].hours, waiting[0].input_gb) == (4, 2, 10)
    assert running == [Running(name="train/busy", gpus=4, hours_left=1, flavor="private")]


@pytest.mark.parametrize(
    ("notes", "says"),
    [
        ({"recsys/expected-hours": None}, "train/a says nothing in recsys/expected-hours"),
        ({"recsys/expected-hours": "soon"}, "is soon; give a number above 0"),
        ({"recsys/expected-hours": "0"}, "is 0; give a number above 0"),
        ({"recsys/input-gb": "-1"}, "is -1; give a number of 0 or more"),
        ({"recsys/input-gb": "inf"}, "is inf; give a number of 0 or more"),
    ],
)
def test_a_job_that_says_nothing_usable_is_named(notes: dict[str, Any], says: str) -> None:
    with pytest.raises(JobError) as error:
        queue({"items": [workload("a", notes=notes)]}, NOW)
    assert says in str(error.value)


def test_the_command_prints_the_plan_and_its_sum(tmp_path: Path) -> None:
    (tmp_path / "site.json").write_text(site(private_gpus=4).model_dump_json())
    listed = {"items": [workload("busy", state="QuotaReserved"), workload("next")]}
    listed["items"][0]["spec"]["podSets"][0]["template"]["metadata"]["annotations"] = {
        "recsys/expected-hours": "1e6"
    }
    done = subprocess.run(
        [sys.executable, "-m", "infra.clouds.burst_plan", "--site", str(tmp_path / "site.json")],
        input=json.dumps(listed), capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "train/next  4     1x g6e.12xlarge spot  4.00" in done.stdout
    assert "1 of 1 waiting jobs would leave: 4.00 USD/h at most" in done.stdout
    assert "10 GB over the link" in done.stdout


@pytest.mark.parametrize(
    ("site_text", "queue_text", "says"),
    [
        ("{}", "{}", "private_flavor: Field required"),
        (None, "not json", "Expecting value"),
        (None, json.dumps({"items": [workload("a", notes={"recsys/input-gb": "x"})]}), "train/a"),
    ],
)
def test_what_cannot_be_read_is_one_line_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
    site_text: str | None, queue_text: str, says: str,
) -> None:  # fmt: skip
    (tmp_path / "site.json").write_text(site_text or site().model_dump_json())
    (tmp_path / "queue.json").write_text(queue_text)
    code = main(
        ["--site", str(tmp_path / "site.json"), "--workloads", str(tmp_path / "queue.json")]
    )
    said = capsys.readouterr().err
    assert (code, said.count("\n")) == (1, 1)
    assert says in said
