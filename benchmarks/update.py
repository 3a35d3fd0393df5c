"""How long an update without a change takes, beside the bare engine on as many resources.

    python -m benchmarks.update [--runs 5]

Starts a stand in a folder of its own, deploys the local stack, and times `pulumi up` without a
change against a program of as many resources that need no provider at all: what remains is the
engine, the language host and the SDK. Rounds alternate, so that a busy machine hits both.
Writes out/bench/update.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from local.paths import PROJECT
from tests.conftest import RunningStand
from tests.stack import Stack

OUT = Path("out/bench/update.json")
BARE = """
import pulumi
for index in range({count}):
    pulumi.ComponentResource("bare:index:Part", f"part-{{index}}")
"""


def bare(folder: Path, env: dict[str, str], count: int) -> Stack:
    """A stack of `count` resources; the stack itself is one more, as in every program."""
    folder.mkdir()
    (folder / "Pulumi.yaml").write_text(
        "name: bare\nruntime:\n  name: python\n  options:\n    toolchain: pip\n"
        f"    virtualenv: {PROJECT / '.venv'}\n",
        encoding="utf-8",
    )
    (folder / "__main__.py").write_text(BARE.format(count=count), encoding="utf-8")
    stack = Stack(folder, env, "bare")
    stack.run("stack", "init", "bare")
    return stack


def timed(stack: Stack) -> float:
    """Seconds of one `pulumi up` that must find nothing to do."""
    began = time.monotonic()
    stack.up("--expect-no-changes")
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description="An update without a change, and its peer.")
    parser.add_argument("--runs", type=int, default=5)
    words = parser.parse_args()
    subprocess.run([sys.executable, "-m", "bento.ship"], cwd=PROJECT, check=True)
    with tempfile.TemporaryDirectory(prefix="hr-bench-") as name:
        stand = RunningStand(Path(name) / "state")
        try:
            stand.up()
            ours = Stack.over(Path(name) / "project", stand.environment())
            ours.up()
            count = len(ours.resources()) - 1
            peer = bare(Path(name) / "bare", ours.env, count)
            peer.up()
            times: dict[str, list[float]] = {"local stack": [], "bare engine": []}
            for run in range(words.runs):
                print(f"run {run + 1} of {words.runs}", file=sys.stderr, flush=True)
                times["local stack"].append(timed(ours))
                times["bare engine"].append(timed(peer))
            ours.run("destroy", "-s", ours.name, "--yes", "--skip-preview")
        finally:
            stand.run("down", "--purge")
    middle = {name: statistics.median(values) for name, values in times.items()}
    print(f"{count + 1} resources, no change")
    print(f"{'program':<14} {'median s':>9} {'worst s':>9} {'ratio':>7}")
    for name, values in times.items():
        ratio = middle[name] / middle["bare engine"]
        print(f"{name:<14} {middle[name]:>9.2f} {max(values):>9.2f} {ratio:>7.2f}")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(
        json.dumps(
            {
                "machine": {"cores": os.cpu_count(), "kernel": platform.release()},
                "resources": count + 1,
                "seconds": times,
            },
            indent=1,
        ),
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
