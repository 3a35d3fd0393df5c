"""Several workers: sharded parameters, and a worker that dies while the others go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from model import train
from model.corpus import build
from model.workers import Workers

STEADY = ["--size", "tiny", "--batch", "16", "--threads", "1", "--dropout", "0", "--no-links",
          "--no-refit"]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 users walking round a ring of 30 items."""
    path = tmp_path_factory.mktemp("data") / "train.txt"
    rng = np.random.default_rng(0)
    rows: list[str] = []
    for user in range(100):
        start, length = rng.integers(30), rng.integers(3, 9)
        rows.append(" ".join([f"u{user}", *(str((start + n) % 30) for n in range(length))]))
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def command(workers: int, data: Path, out: Path, *more: str, restarts: int = 0) -> list[str]:
    return [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        f"--nproc-per-node={workers}", f"--max-restarts={restarts}", "--monitor-interval=0.2",
        "-m", "model.train", "--sequences", str(data), "--out", str(out), *STEADY, *more,
    ]  # fmt: skip


def losses(folder: Path) -> dict[tuple[str, int], float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {(r["stage"], r["step"]): r["loss"] for r in rows if "loss" in r}


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_sharded_workers_learn_what_one_learns(data: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    alone = [sys.executable, "-m", "model.train", "--sequences", str(data), "--out", str(one)]
    subprocess.run([*alone, *STEADY, "--epochs", "2"], check=True, capture_output=True)
    subprocess.run(
        command(2, data, two, "--epochs", "2", "--sharded", "--save-every", "3"),
        check=True, capture_output=True, timeout=600,
    )  # fmt: skip
    first, second = losses(one), losses(two)
    assert first.keys() == second.keys()
    assert np.allclose([first[k] for k in first], [second[k] for k in first], atol=2e-3)


@pytest.mark.slow
def test_the_workers_go_on_when_one_of_them_is_killed(data: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    longer = ["--epochs", "30", "--patience", "30", "--save-every", "4"]
    alone = [sys.executable, "-m", "model.train", "--sequences", str(data), "--out", str(whole)]
    subprocess.run([*alone, *STEADY, *longer], check=True, capture_output=True)
    process = subprocess.Popen(
        command(2, data, out, *longer, restarts=3), stderr=subprocess.PIPE, text=True
    )
    work = tmp_path / "out.partial"
    deadline = time.monotonic() + 300
    while not list(work.glob("choose-*/place.json")) and time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before a worker could be killed"
        time.sleep(0.01)
    os.kill(children(process.pid)[1], signal.SIGKILL)
    _, said = process.communicate(timeout=900)
    assert process.returncode == 0, said
    assert "going on after step" in said
    first, second = losses(whole), losses(out)
    assert first.keys() == second.keys()
    # two workers add their gradients in another order than one: rounding, and no more
    assert np.allclose([first[k] for k in first], [second[k] for k in first], atol=5e-3)


def test_the_largest_size_is_sharded_by_default_and_others_when_asked() -> None:
    corpus = build([("a", ["1", "2", "3"])])

    def sharded(*flags: str) -> bool:
        given = train.parser().parse_args(["--sequences", "s", "--out", "o", *flags])
        return train.configs(given, corpus, Workers("cpu"))[1].sharded

    assert sharded("--size", "xl")
    assert sharded("--size", "tiny", "--sharded")
    assert not sharded("--size", "base")
