"""How long the stand takes to come and go, part by part, and what it holds at rest.

    python -m benchmarks.stand [--runs 3] [--tools]

`first` is an `up` into an empty state folder (tools in the cache), `again` one after `down` with
the databases kept, `no change` one over a running stand, `repair` one after the API server of the
cloud site was killed. Ratios are against `first`. Memory is what every process holds (shared pages
divided among their users) once the stand has been left alone. `--tools` also builds every tool with
an empty cache of the project and of Go; that takes most of an hour on two cores.
Writes out/bench/stand.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

OUT = Path("out/bench/stand.json")
SETTLE = 45.0  # seconds that the stand is left alone before its memory is read
MEMORY_AIM = 2.5 * 2**30  # bytes
WARM_AIM = 90.0  # seconds


def stand(state: Path, *words: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "local", *words],
        capture_output=True, text=True, check=False,
        env={**os.environ, "STAND_STATE": str(state), **env},
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"benchmarks.stand: stand {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def timed(state: Path, *words: str, **env: str) -> float:
    began = time.monotonic()
    stand(state, *words, **env)
    return time.monotonic() - began


def lines(state: Path) -> list[dict[str, Any]]:
    return json.loads(stand(state, "status", "--json"))


def one_run(state: Path, times: dict[str, list[float]], parts: dict[str, list[float]]) -> None:
    """One life of a stand, from an empty state folder to none."""
    file = state.with_name("timings.json")
    times["first"].append(timed(state, "up", "--timings", str(file)))
    for part, seconds in json.loads(file.read_text(encoding="utf-8")).items():
        parts.setdefault(part, []).append(seconds)
    times["no change"].append(timed(state, "up"))
    killed = next(line["pid"] for line in lines(state) if line["part"] == "cloud/api")
    os.kill(killed, signal.SIGKILL)
    times["repair"].append(timed(state, "up"))
    times["down"].append(timed(state, "down"))
    times["again"].append(timed(state, "up"))


def tools_from_nothing() -> float:
    with tempfile.TemporaryDirectory(prefix="hr-bench-") as folder:
        place = Path(folder)
        seconds = timed(
            place / "state", "tools",
            XDG_CACHE_HOME=str(place / "cache"), GOCACHE=str(place / "go"),
            GOMODCACHE=str(place / "modules"), GOFLAGS="-modcacherw",
        )  # fmt: skip
        return round(seconds, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Times and memory of the stand.")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tools", action="store_true", help="also build every tool from nothing")
    words = parser.parse_args()
    names = ("first", "again", "no change", "repair", "down")
    times: dict[str, list[float]] = {name: [] for name in names}
    parts: dict[str, list[float]] = {}
    memory: dict[str, int] = {}
    for run in range(words.runs):
        print(f"run {run + 1} of {words.runs}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="hr-bench-") as folder:
            state = Path(folder) / "state"
            try:
                one_run(state, times, parts)
                if run == words.runs - 1:
                    time.sleep(SETTLE)
                    memory = {line["part"]: line["memory"] for line in lines(state)}
            finally:
                stand(state, "down", "--purge")
    middle = {name: statistics.median(values) for name, values in times.items()}
    total = sum(memory.values())
    built = tools_from_nothing() if words.tools else None

    print(f"{'command':<24} {'median s':>9} {'worst s':>9} {'of first':>9}")
    for name, values in times.items():
        ratio = middle[name] / middle["first"]
        print(f"{name:<24} {middle[name]:>9.2f} {max(values):>9.2f} {ratio:>9.2f}")
    print(f"\n{'part, first start':<24} {'median s':>9} {'worst s':>9} {'memory MiB':>11}")
    for part in sorted({*parts, *memory}):
        took = parts.get(part, [])
        cells = (
            (f"{statistics.median(took):9.2f} {max(took):9.2f}") if took else f"{'-':>9} {'-':>9}"
        )
        held = f"{memory[part] / 2**20:11.0f}" if part in memory else f"{'-':>11}"
        print(f"{part:<24} {cells} {held}")
    print(
        f"\nmemory at rest {total / 2**30:.2f} GiB, {total / MEMORY_AIM:.2f} of the aim; "
        f"up again {middle['again']:.1f} s, {middle['again'] / WARM_AIM:.2f} of the aim"
    )
    if built is not None:
        print(f"every tool from nothing: {built:.0f} s")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(
        json.dumps(
            {
                "machine": {"cores": os.cpu_count(), "kernel": platform.release()},
                "seconds": times, "parts": parts, "memory": memory, "tools_seconds": built,
            },
            indent=1,
        ),
        encoding="utf-8",
    )  # fmt: skip


if __name__ == "__main__":
    main()
