"""One training worker that shares no disk with the others: `torchrun … -m model.remote`.

Before training, all workers take the state that the first one found newest in the store, so that
any worker on any node may go on after any loss. While it trains, the first worker sends each saved
state to the store; at the end it sends the model and asks the gate. Flags after `--` are those of
`model.train`. Exit codes as there, and 3: the gate refused.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: see model.train

from model import artefacts, train
from model.artefacts import Place, Store, StoreError
from model.runlog import say
from model.workers import Workers

LOOK_EVERY = 1.0  # seconds between two looks for a newly saved state
REFUSED = "refused"  # file that tells the launcher not to try again


def add_place(parser: argparse.ArgumentParser) -> None:
    """Flags that name the store, the run and its data."""
    parser.add_argument("--endpoint", required=True, help="https address of the S3 API")
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--region", default="eu-central-1")
    parser.add_argument("--keys", type=Path, required=True, help="folder: access-key, secret-key")
    parser.add_argument("--ca", type=Path, help="certificate that signs the store's")
    # not --run: torchrun takes it for one of its own
    parser.add_argument(
        "--run-name", required=True, help="name of the run, the same on all workers"
    )
    parser.add_argument("--sequences", required=True, help="key of the sequences in the bucket")
    parser.add_argument("--items", help="key of the item descriptions")
    parser.add_argument("--scratch", type=Path, required=True, help="folder of this worker alone")
    parser.add_argument("train", nargs="*", help="after --: flags of model.train")


def place_of(args: argparse.Namespace) -> Place:
    return Place(
        endpoint=args.endpoint, bucket=args.bucket, region=args.region, keys=args.keys, ca=args.ca
    )


class Sender(threading.Thread):
    """Sends each new state to the store while training goes on; never stops the training."""

    def __init__(self, store: Store, run: str, work: Path, scratch: Path) -> None:
        super().__init__(name="sender", daemon=True)
        self.store, self.run_name, self.work, self.scratch = store, run, work, scratch
        self.done = threading.Event()
        self._sent = ""

    def run(self) -> None:
        while not self.done.wait(LOOK_EVERY):
            self.look()

    def look(self) -> None:
        folder = artefacts.newest_folder(self.work)
        if folder is None or folder.name == self._sent:
            return
        began = time.monotonic()
        try:
            key = artefacts.push_state(self.store, self.run_name, self.work, self.scratch)
        except StoreError as error:
            say(f"a state could not be sent, training goes on: {error}")
            return
        if key is not None:
            self._sent = Path(key).stem
            say(f"sent {key} in {time.monotonic() - began:.1f} s")


class RemoteWorkers(Workers):
    """Workers that begin with the state in the store."""

    def __init__(self, store: Store, run: str, work: Path, scratch: Path, device: str) -> None:
        super().__init__(device)
        self._remote = (store, run, work, scratch)

    def start(self, always: bool = False) -> None:
        super().start(always)
        store, run, work, scratch = self._remote
        key = self.from_first(lambda: artefacts.newest_state(store, run))
        artefacts.pull_state(store, key, work, scratch)
        if self.first:
            say(f"{self.count} workers begin with {key or 'nothing: a new run'}")
        self.barrier()


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m model.remote", description=__doc__)
    add_place(parser)
    args = parser.parse_args(argv)
    scratch: Path = args.scratch / os.environ.get("RANK", "0")
    scratch.mkdir(parents=True, exist_ok=True)
    out = scratch / "model"
    try:
        store = Store(place_of(args))
        given = ["--sequences", str(_fetched(store, args.sequences, scratch)), "--out", str(out)]
        if args.items:
            given += ["--items", str(_fetched(store, args.items, scratch))]
        workers = RemoteWorkers(
            store, args.run_name, out.with_name("model.partial"), scratch, "auto"
        )
        sender = Sender(store, args.run_name, out.with_name("model.partial"), scratch)
        if workers.first:
            sender.start()
        code = train.main([*given, *args.train, "--overwrite"], workers)
        sender.done.set()
        if code != 0 or not workers.first:
            return _told(args.scratch, code)
        artefacts.push_model(store, args.run_name, out)
        verdict = artefacts.promote(store, args.run_name)
    except StoreError as error:
        say(f"error: {error}")
        return 1
    against = f", {verdict.against} is promoted" if verdict.against else ", the first model"
    say(
        f"gate: {artefacts.METRIC} {verdict.value:.4f}, needed {verdict.needed:.4f}{against}: "
        f"{'promoted' if verdict.passed else 'refused'}"
    )
    return 0


def _fetched(store: Store, key: str, scratch: Path) -> Path:
    file = scratch / Path(key).name
    if not file.exists():
        store.get(key, file)
    return file


def _told(scratch: Path, code: int) -> int:
    """Wrong flags or data stay wrong: leave word for the launcher."""
    if code == 2:
        (scratch / REFUSED).touch()
    return code


if __name__ == "__main__":
    sys.exit(main())
