"""Kept connections spread over the workers, without a request lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.load import Outcome, bodies_of, closed_loop
from bento.balance import STALE_S, Balance
from tests.bento.process import Served, serving
from tests.bento.test_serve import items_of, metric, until


def ended(worker: Balance) -> int:
    """How many of the next hundred answers end their connection."""
    return sum(worker.end() for _ in range(100))


def test_only_the_worker_with_more_than_its_share_ends_half_of_what_is_too_much(
    tmp_path: Path,
) -> None:
    full, idle = (Balance(tmp_path, "7", name) for name in ("1", "2"))
    for _ in range(2):  # each has seen the other
        full.look(45.0, 100.0)
        idle.look(3.0, 100.0)
    assert (ended(full), ended(idle)) == (11, 0)
    assert ended(full) == 0, "not again before the next look"


def test_a_worker_alone_or_beside_another_service_ends_nothing(tmp_path: Path) -> None:
    alone = Balance(tmp_path, "7", "1")
    Balance(tmp_path, "8", "2").look(0.0, 100.0)
    alone.look(45.0, 100.0)
    assert ended(alone) == 0


def test_small_differences_are_left_alone(tmp_path: Path) -> None:
    more, less = (Balance(tmp_path, "7", name) for name in ("1", "2"))
    for here, there in ((27.0, 21.0), (1.9, 0.0)):
        less.look(there, 100.0)
        more.look(here, 100.0)
        assert ended(more) == 0


def test_a_worker_that_was_killed_is_forgotten_and_a_torn_file_skipped(tmp_path: Path) -> None:
    left, killed = (Balance(tmp_path, "7", name) for name in ("1", "2"))
    killed.look(0.0, 100.0)
    (tmp_path / "7-3.underway").write_bytes(b"half")
    left.look(45.0, 100.0)
    assert ended(left) == 12
    left.look(45.0, 100.0 + STALE_S)
    assert ended(left) == 0


@contextmanager
def asleep(worker: psutil.Process) -> Iterator[None]:
    worker.suspend()
    try:
        yield
    finally:
        worker.resume()


def held(worker: psutil.Process) -> int:
    """Connections of shoppers; those to the store and to itself are left out."""
    found = worker.net_connections("tcp")
    listening = {one.laddr.port for one in found if one.status == psutil.CONN_LISTEN}
    return sum(
        one.status == psutil.CONN_ESTABLISHED and one.laddr.port in listening for one in found
    )


def spread(served: Served) -> list[int]:
    return [held(worker) for worker in served.workers()]


def test_connections_that_one_worker_took_alone_come_to_be_shared_without_a_lost_request(
    tiny: Path, tmp_path: Path
) -> None:
    bodies = bodies_of(items_of(tiny), deadline_ms=10_000)
    seen: list[Outcome] = []
    with serving(tmp_path / "state", model_dir=tiny, store="off", workers=2) as served:
        load = threading.Thread(
            target=lambda: seen.append(closed_loop(served.url, bodies, 24, 12)), daemon=True
        )
        with asleep(served.workers()[0]):
            load.start()
            until("all at one worker", 10, lambda: max(spread(served)) >= 24)
        until("both have a sixth at least", 10, lambda: min(spread(served)) >= 4)
        load.join(60)
        moved = metric(served, "recommender_rebalanced_total")
    (outcome,) = seen
    assert outcome.full
    assert not outcome.wrong
    assert moved >= 4
