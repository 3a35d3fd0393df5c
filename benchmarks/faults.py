"""What a service does when too much is asked of it, and when its workers are killed.

`python -m benchmarks.serve --overload SECONDS` and `--kills SECONDS` run these.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.load import bodies_of, closed_loop, open_loop, quantile
from benchmarks.services import WORKERS, apart, bento, workers_of

STEP = 1.25
EVERY = 30.0  # seconds between two kills
ENOUGH = 0.99  # full answers among all requests, to count as served
NO_DEADLINE_MS = 10_000


def overload(
    words: argparse.Namespace, model: Path, items: list[str], work: Path
) -> dict[str, Any]:
    """Twice the measured capacity: what is refused, and how soon it is over.

    Over is when a rate is answered in time again that was before, half of the capacity or less.
    """
    bodies = bodies_of(items, deadline_ms=max(5, round(words.limit_ms)))
    cores = apart() if words.apart else frozenset[int]()
    with ExitStack() as stack:
        workers = len(cores) or WORKERS
        peer = bento(stack, model, work, words.deadline_ms, workers, cores)
        patient = bodies_of(items, deadline_ms=NO_DEADLINE_MS)
        closed_loop(peer.url, patient, 4, words.seconds / 2)
        capacity = closed_loop(peer.url, patient, words.callers, words.seconds).rate

        def calm(rate: float) -> bool:
            got = open_loop(peer.url, bodies, rate, 2)
            return got.share >= ENOUGH and quantile(got.full, 0.99) <= words.limit_ms

        usual = capacity / 2
        while not calm(usual):
            usual /= STEP
            if usual < capacity / 10:
                raise SystemExit(
                    f"benchmarks.serve: not even {usual:.0f} /s of {capacity:.0f} are answered "
                    f"within {words.limit_ms:g} ms; give a wider --limit-ms"
                )
        print(
            f"capacity {capacity:.0f} /s; {words.overload:g} s at twice that, then {usual:.0f} /s",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        heavy = open_loop(peer.url, bodies, 2 * capacity, words.overload)
        began = time.monotonic()
        while not (normal := calm(usual)) and time.monotonic() - began < 60:
            pass
        recovered = time.monotonic() - began
    accepted = [*heavy.full, *heavy.lower]
    result = {
        "workers": workers,
        "cores of their own": len(cores),
        "capacity": capacity,
        "usual": usual,
        "sent": heavy.sent,
        "full": len(heavy.full),
        "lower tier": len(heavy.lower),
        "refused": len(heavy.refused),
        "failed": sum(heavy.wrong.values()),
        "sent late by s": heavy.behind,
        "accepted p99 ms": quantile(accepted, 0.99),
        "refused p99 ms": quantile(heavy.refused, 0.99),
        "normal again s": recovered if normal else None,
    }
    for name, value in result.items():
        print(f"{name:<20} {'never' if value is None else round(value, 1):>12}")
    print(f"failures: {dict(heavy.wrong)}")
    return result


def kills(words: argparse.Namespace, model: Path, items: list[str], work: Path) -> dict[str, Any]:
    """--load of the measured capacity while a worker is killed every `EVERY` seconds.

    Nothing is sent twice: what a worker had under way when it died counts as failed. While one is
    away the other has all of the load, on cores that also start the new one.
    """
    bodies = bodies_of(items, deadline_ms=NO_DEADLINE_MS)
    killed: list[int] = []
    over = threading.Event()
    with ExitStack() as stack:
        peer = bento(stack, model, work, words.deadline_ms)
        closed_loop(peer.url, bodies, 4, words.seconds / 2)
        capacity = closed_loop(peer.url, bodies, words.callers, words.seconds).rate

        def kill() -> None:
            while not over.wait(EVERY):
                if len(there := workers_of(peer.pid)) == WORKERS:
                    there[0].kill()
                    killed.append(there[0].pid)

        print(f"capacity {capacity:.0f} /s; {words.load:g} of it", file=sys.stderr, flush=True)
        killer = threading.Thread(target=kill)
        killer.start()
        try:
            got = open_loop(peer.url, bodies, words.load * capacity, words.kills)
        finally:
            over.set()
            killer.join()
    failed = sum(got.wrong.values())
    result = {
        "capacity": capacity,
        "load": words.load,
        "kills": len(killed),
        "sent": got.sent,
        "refused": len(got.refused),
        "failed": failed,
        "not answered, %": 100 * (failed + len(got.refused)) / max(1, got.sent),
        "p99 ms": quantile([*got.full, *got.lower], 0.99),
    }
    for name, value in result.items():
        print(f"{name:<20} {round(value, 4):>12}")
    print(f"failures: {dict(got.wrong)}; wanted: at most 0.1 %")
    return result
