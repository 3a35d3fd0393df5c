"""From a shop's data to a bundle: two models, their search index, and the quality gate.

The ranker and a smaller one, which answers when time is short, learn from the same sequences.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bento import models
from bento.bundle import METRIC, Current, make_folder
from bento.models import BundleError

SMALL_SIZE = "tiny"


@dataclass(frozen=True)
class Data:
    """What models learn from: sequences, and descriptions of the items if there are any."""

    sequences: Path
    items: Path | None = None

    @classmethod
    def at(cls, place: Path) -> Data:
        """A file of sequences, or a folder as docs/data.md describes it. Raises `BundleError`."""
        if place.is_file():
            return cls(place)
        if not place.is_dir():
            raise BundleError(f"{place} does not exist; give a file of sequences or its folder")
        sequences, items = (
            next((path for end in (".gz", "") if (path := place / f"{name}{end}").is_file()), None)
            for name in ("sequences.txt", "items.jsonl")
        )
        if sequences is None:
            raise BundleError(
                f"{place} holds no sequences.txt or sequences.txt.gz; make it with "
                "`python -m model.data import` and `clean`"
            )
        return cls(sequences, items)

    def digest(self) -> str:
        """SHA-256 over the content of the files."""
        whole = hashlib.sha256()
        for path in (self.sequences, self.items):
            if path is not None:
                with path.open("rb") as file:
                    whole.update(hashlib.file_digest(file, "sha256").digest())
        return whole.hexdigest()

    def searchable(self) -> bool:
        """Whether an item has words that a query could find."""
        if self.items is None:
            return False
        opened = gzip.open if self.items.suffix == ".gz" else open
        with opened(self.items, "rt", encoding="utf-8", errors="replace") as file:
            return any(bool(_title(line)) for line in file)


def _title(line: str) -> str:
    try:
        row = json.loads(line)
    except ValueError:
        return ""  # training counts and names bad rows
    return str(row.get("title") or "") if isinstance(row, dict) else ""


def run(what: str, command: Sequence[str]) -> None:
    """One step in a process of its own, its progress shown; `SystemExit` if it fails."""
    print(f"{what} …", file=sys.stderr, flush=True)
    began = time.monotonic()
    done = subprocess.run([sys.executable, *command], check=False)
    if done.returncode:
        raise SystemExit(f"{what} failed; the lines above say why")
    print(f"{what}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def build(
    out: Path,
    data: Data,
    *,
    work: Path,
    size: str,
    of: str,
    epochs: int | None = None,
    small: bool = True,
    current: Current | None = None,
) -> models.Bundle:
    """Train in `work`, which a killed run left for the next, and put the bundle at `out`.

    `of` names the data for people. Replaces what is at `out`. Raises `BundleError` when the model
    cannot be served, or is worse than `current` by more than the gate's margin.
    """
    work.mkdir(parents=True, exist_ok=True)
    wanted = {models.RANKER: (size, 1)} | ({models.SMALL: (SMALL_SIZE, 2)} if small else {})
    for name, (config, seed) in wanted.items():
        if (work / name).is_dir():
            continue  # finished by a run that was killed later
        command = ["-m", "model.train", "--sequences", str(data.sequences)]
        command += ["--items", str(data.items)] if data.items else []
        command += ["--size", config, "--seed", str(seed), "--out", str(work / name)]
        command += ["--epochs", str(epochs)] if epochs else []
        run(f"training the {name} ({config}) on {of}", command)
    if data.searchable():
        index = ["-m", "model.search", "train", "--model", str(work / models.RANKER), "--overwrite"]
        run(f"building the search index of {of}", index)
    shutil.rmtree(work / "bundle", ignore_errors=True)
    second = work / models.SMALL if small else None
    made = make_folder(
        work / "bundle", work / models.RANKER, second, metric=METRIC, current=current
    )
    if not made.gate.passed:
        raise BundleError(refusal(made.gate))
    shutil.rmtree(out, ignore_errors=True)
    (work / "bundle").rename(out)
    shutil.rmtree(work)
    return made


def from_place(place: Path, size: str, cache: Path) -> Path:
    """The bundle of a user's own data, trained unless it is there already; its folder.

    Data that changed is learned anew, and the gate compares with what the same place gave before.
    Raises `BundleError`.
    """
    data = Data.at(place)
    digest = data.digest()
    name = hashlib.sha256(str(place.resolve()).encode()).hexdigest()[:8]
    home = cache / "models" / f"{place.resolve().name.split('.')[0]}-{name}-{size}"
    home.mkdir(parents=True, exist_ok=True)
    out, seen = home / "bundle", home / "data.sha256"
    known = models.signature(out) is not None
    if known and seen.exists() and seen.read_text(encoding="ascii") == digest:
        return out
    work = home / f"work-{digest[:16]}"
    for old in home.glob("work-*"):
        if old != work:
            shutil.rmtree(old)
    current = None
    if known:
        before = models.read_bundle(out)
        current = Current(before.version, before.metrics, before.data_fingerprint)
    build(out, data, work=work, size=size, of=str(place), current=current)
    seen.write_text(digest, encoding="ascii")
    return out


def refusal(gate: models.Gate) -> str:
    """Why the gate refused a model, and what to do."""
    return (
        f"{gate.metric} is {gate.value:.4f}, the current model ({gate.baseline_version}) has "
        f"{gate.baseline_value:.4f}: at most {gate.margin:.0%} may be lost; look at the new "
        "data, or train another size"
    )
