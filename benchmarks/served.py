"""Does the deployed service answer what the model says offline, for many users?

    pulumi stack output -s local --json | python -m benchmarks.served [--data PATH] [--users 1000]

Draws users of the data that the shipped model learned from (--data of `make up`, else the synthetic
shop), asks the site's TLS gateway for each user's ten best, and compares with what `model.predict`
writes for the same users with the model inside the shipped bento. Items must be the same in the
same order; two may only change places when their scores differ by less than --close, which is what
another batch does to the last digits. Writes out/bench/served.json. Exit: 0 all the same, 1 not, 2
it could not be asked.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from rich.progress import track

from bento.models import RANKER
from bento.ship import store_folder
from bento.trained import Data
from bento.types import MAX_HISTORY
from infra import bento_reference
from local.ask import AskError, Gateway, gateway_of
from model.data.sequences import UserSequence, read_sequences, write_sequences
from model.data.synthetic import make_shop, write_shop

OUT = Path("out/bench/served.json")
K = 10
PATIENT_MS = 4000  # a busy laptop must not make the service answer from a lower tier


@dataclass
class Found:
    """How the answers compare. `swapped`: the same items, neighbours of equal score exchanged."""

    users: int
    same: int = 0
    swapped: int = 0
    other: int = 0
    lower_tier: int = 0
    example: str = ""


def sequences_of(data: Path | None, folder: Path) -> list[UserSequence]:
    """Every user of the data whose whole history fits into a request."""
    if data is None:
        write_shop(make_shop(), folder)
        path = folder / "sequences.txt.gz"
    else:
        path = Data.at(data).sequences
    return [one for one in read_sequences(path) if 0 < len(one.items) <= MAX_HISTORY]


def offline(model: Path, users: Sequence[UserSequence], folder: Path) -> dict[str, list[str]]:
    """What `model.predict` writes for these users, one more than is asked for."""
    asked, told = folder / "asked.txt", folder / "told.tsv"
    write_sequences(asked, ((one.user, one.items) for one in users))
    subprocess.run(
        [sys.executable, "-m", "model.predict", "--checkpoint", str(model), "--sequences",
         str(asked), "--k", str(K + 1), "--out", str(told)],
        check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    rows = (line.rstrip("\n").split("\t") for line in told.read_text(encoding="utf-8").splitlines())
    return {user: items.split(" ") for user, items in rows}


def ask(gateway: Gateway, connection: Any, history: Sequence[str]) -> dict[str, Any]:
    body = json.dumps({"history": list(history), "k": K + 1, "deadline_ms": PATIENT_MS})
    connection.request("POST", "/recommend", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read().decode()
    if answer.status != 200:
        raise AskError(f"{gateway.host} answered {answer.status}: {text[:200]}")
    return json.loads(text)


def judge(found: Found, user: str, answer: dict[str, Any], wanted: list[str], close: float) -> None:
    """Compare one answer with the offline list; both are one longer than what counts."""
    if answer["tier"] != "ranker":
        found.lower_tier += 1
        return
    items = [one["item_id"] for one in answer["items"]]
    scores = {one["item_id"]: one["score"] for one in answer["items"]}
    if items[:K] == wanted[:K]:
        found.same += 1
    elif all(
        mine == theirs or abs(scores[mine] - scores.get(theirs, float("inf"))) < close
        for mine, theirs in zip(items[:K], wanted[:K], strict=True)
    ):
        found.swapped += 1
    else:
        found.other += 1
        found.example = found.example or f"{user}: served {items[:K]}, offline {wanted[:K]}"


def compare(
    gateway: Gateway, model: Path, users: Sequence[UserSequence], folder: Path, close: float
) -> Found:
    """Ask for every user and judge. Raises `AskError` when the gateway does not answer."""
    wanted, found = offline(model, users, folder), Found(len(users))
    connection = gateway.connect()
    try:
        for one in track(users, description="asking", transient=True):
            judge(found, one.user, ask(gateway, connection, one.items), wanted[one.user], close)
    except (OSError, HTTPException) as error:
        raise AskError(f"{gateway.host} at {gateway.address}: {error}") from None
    finally:
        connection.close()
    return found


def shipped_model(reference: str) -> Path:
    """The ranker inside a bento of the local store. Raises `BentoReferenceError`."""
    made = bento_reference.find(reference, store_folder())
    if made.model_dir is None:
        raise bento_reference.BentoReferenceError(
            f"bento is {reference!r}, an image; only a bento of the local store can be opened here"
        )
    return Path(made.model_dir) / RANKER


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.served",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, help="what `make up DATA=` was given")
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--site", default="private")
    parser.add_argument("--close", type=float, default=1e-4, help="scores that count as equal")
    words = parser.parse_args(argv)
    began = time.monotonic()
    try:
        outputs = json.load(sys.stdin)
        gateway = gateway_of(outputs, words.site)
        model = shipped_model(str(outputs[words.site]["bento"]))
        with tempfile.TemporaryDirectory(prefix="served-") as name:
            known = sequences_of(words.data, Path(name))
            drawn = random.Random(words.seed).sample(known, min(words.users, len(known)))
            found = compare(gateway, model, drawn, Path(name), words.close)
    except (AskError, OSError, ValueError, subprocess.CalledProcessError) as error:
        print(f"served: {error}", file=sys.stderr)
        return 2
    print(
        f"{found.users} users in {time.monotonic() - began:.0f} s: {found.same} the same, "
        f"{found.swapped} with neighbours of equal score exchanged, {found.other} other, "
        f"{found.lower_tier} answered by a lower tier"
    )
    if found.example:
        print(found.example)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(asdict(found), indent=1) + "\n", encoding="utf-8")
    return 0 if found.same + found.swapped == found.users else 1


if __name__ == "__main__":
    sys.exit(main())
