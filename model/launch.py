"""What a training pod runs: `torchrun` again and again until the run is in the store.

    python -m model.launch --workers 1:2 --leader HOST --endpoint … --run-name NAME … -- --size tiny

A lost neighbour ends torchrun's rendezvous; the pods that are left form a new one and go on from
the newest state, with as many workers as there are (`MIN:MAX`). The leader, pod 0 of the job, hosts
the rendezvous. Exit codes: 0 the model is in the store, 1 given up, 2 wrong flags or data.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence

from model import artefacts
from model.artefacts import Store, StoreError
from model.remote import REFUSED, add_place, place_of
from model.runlog import say

PORT = 29400
PAUSE = 3.0  # seconds before a new rendezvous
# An agent keeps the meeting place of its first rendezvous for all later ones; a pod that joins with
# a lower rank names another, and the workers wait for each other at two places. With this, each
# rendezvous names its own.
ENV = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def torchrun(args: argparse.Namespace, first: bool) -> list[str]:
    """The command of one rendezvous."""
    flags = [
        "--endpoint", args.endpoint, "--bucket", args.bucket, "--region", args.region,
        "--keys", str(args.keys), "--run-name", args.run_name, "--sequences", args.sequences,
        "--scratch", str(args.scratch),
    ]  # fmt: skip
    for name in ("ca", "items"):
        if getattr(args, name):
            flags += [f"--{name}", str(getattr(args, name))]
    conf = f"is_host={int(first)},join_timeout={args.join},last_call_timeout=5,timeout=30"
    return [
        sys.executable, "-m", "torch.distributed.run",
        f"--nnodes={args.workers}", f"--nproc-per-node={args.processes}",
        "--rdzv-backend=c10d", f"--rdzv-id={args.run_name}",
        f"--rdzv-endpoint={args.leader}:{args.port}", f"--rdzv-conf={conf}",
        "--max-restarts=3", "--monitor-interval=1", "--local-addr=" + args.address,
        "-m", "model.remote", *flags, "--", *args.train,
    ]  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """Flags of the launcher; those of `model.train` follow `--`."""
    made = argparse.ArgumentParser(prog="python -m model.launch", description=__doc__)
    made.add_argument("--workers", required=True, help="pods that take part, MIN:MAX")
    made.add_argument("--processes", default="1", help="worker processes of a pod (its GPUs)")
    made.add_argument("--leader", required=True, help="name of pod 0")
    made.add_argument("--port", type=int, default=PORT)
    made.add_argument("--address", default=os.environ.get("POD_IP", "127.0.0.1"))
    made.add_argument("--join", type=int, default=120, help="seconds to wait for MIN pods")
    made.add_argument("--tries", type=int, default=60, help="rendezvous before giving up")
    add_place(made)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    args = parser().parse_args(argv)
    first = os.environ.get("JOB_COMPLETION_INDEX", "0") == "0"
    args.scratch.mkdir(parents=True, exist_ok=True)
    refused = args.scratch / REFUSED
    refused.unlink(missing_ok=True)
    for attempt in range(1, args.tries + 1):
        try:
            done = artefacts.finished(Store(place_of(args)), args.run_name)
        except StoreError as error:
            say(f"attempt {attempt}: {error}")
        else:
            if done is not None:
                say(f"run {args.run_name} is in the store: version {done.version}")
                return 0
            say(f"attempt {attempt}: rendezvous at {args.leader}")
            ended = subprocess.run(
                torchrun(args, first), check=False, env={**os.environ, **ENV}
            ).returncode
            if refused.exists():
                return 2
            say(f"attempt {attempt}: torchrun ended with {ended}")
        time.sleep(PAUSE)
    say(f"given up after {args.tries} attempts")
    return 1


if __name__ == "__main__":
    sys.exit(main())
