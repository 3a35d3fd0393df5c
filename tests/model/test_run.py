"""Whole runs through the command lines: train, kill, resume, predict, and damaged folders."""

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

from model import predict, train
from model.corpus import read_items
from model.folder import CheckpointError
from model.predictor import Predictor

TINY = ["--size", "tiny", "--epochs", "3", "--batch", "16", "--save-every", "5", "--threads", "1"]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 users walking round a ring of 40 items."""
    path = tmp_path_factory.mktemp("data") / "train.txt"
    rng = np.random.default_rng(0)
    rows = []
    for user in range(120):
        start, length = rng.integers(40), rng.integers(3, 9)
        rows.append(" ".join([f"u{user}", *(str((start + n) % 40) for n in range(length))]))
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def model(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "model"
    assert train.main(["--sequences", str(data), "--out", str(out), *TINY]) == 0
    return out


def losses(folder: Path) -> list[tuple[str, int, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(r["stage"], r["step"], r["loss"]) for r in rows if "loss" in r]


def command(data: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "model.train", "--sequences", str(data), "--out", str(out), *TINY]


@pytest.mark.slow
def test_a_killed_run_goes_on_and_its_losses_equal_the_uninterrupted_ones(
    data: Path, tmp_path: Path
) -> None:
    longer = ["--epochs", "25", "--patience", "25"]
    out, work, whole = tmp_path / "model", tmp_path / "model.partial", tmp_path / "whole"
    subprocess.run([*command(data, whole), *longer], check=True, capture_output=True)
    process = subprocess.Popen([*command(data, out), *longer], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(work.glob("choose-*")) and time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it was killed"
    assert not out.exists()
    done = subprocess.run(
        [*command(data, out), *longer], capture_output=True, text=True, check=True
    )
    assert "going on after step" in done.stderr
    assert losses(out) == losses(whole)
    assert not work.exists()


@pytest.mark.slow
def test_two_workers_learn_what_one_learns(data: Path, tmp_path: Path) -> None:
    out = {n: tmp_path / str(n) for n in (1, 2)}
    for count, folder in out.items():
        subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", "--standalone",
             f"--nproc-per-node={count}", "-m", "model.train", "--sequences", str(data),
             "--out", str(folder), *TINY, "--dropout", "0", "--no-links"],
            check=True, capture_output=True, timeout=300,
        )  # fmt: skip
    one, two = ({(s, n): v for s, n, v in losses(f)} for f in out.values())
    assert one.keys() == two.keys()
    assert np.allclose([one[k] for k in one], [two[k] for k in one], atol=2e-3)


def test_predictions_are_unseen_known_items_best_first(
    data: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "pred.tsv"
    arguments = ["--checkpoint", str(model), "--sequences", str(data), "--k", "10"]
    assert predict.main([*arguments, "--out", str(out)]) == 0
    seen = {line.split()[0]: line.split()[1:] for line in data.read_text().splitlines()}
    lines = out.read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == list(seen)
    for line in lines:
        user, items = line.split("\t")
        ranked = items.split(" ")
        assert len(set(ranked)) == 10
        assert not set(ranked) & set(seen[user])


def test_a_predictor_obeys_masks_and_exclusions_and_serves_the_unknown(model: Path) -> None:
    predictor = Predictor.load(model)
    items = predictor.catalogue.items
    mask = np.zeros(len(items), dtype=bool)
    mask[:5] = True
    first, unknown = predictor.recommend(
        [[items[0], "never seen"], []], 10, allowed=[mask, None], exclude=[[items[3]], [items[1]]]
    )
    assert {one.item for one in first} == {items[1], items[2], items[4]}
    assert [one.score for one in first] == sorted((one.score for one in first), reverse=True)
    assert len(unknown) == 10
    assert items[1] not in [one.item for one in unknown]
    assert [s.item for s in predictor.popular(3)] == [
        s.item for s in predictor.recommend([[]], 3)[0]
    ]


@pytest.mark.parametrize("name", ["model.safetensors", "items.json", "manifest.json"])
def test_a_damaged_model_folder_is_refused_with_exit_code_1(
    name: str, data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 0xFF
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError):
        Predictor.load(folder)
    arguments = [
        "--checkpoint",
        str(folder),
        "--sequences",
        str(data),
        "--out",
        str(tmp_path / "p"),
    ]
    assert predict.main(arguments) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_a_finished_model_is_not_replaced_unasked(
    data: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(["--sequences", str(data), "--out", str(model), *TINY]) == 2
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "\x00\x01\n\n", "lonely\n"])
def test_a_file_without_sequences_is_the_users_error(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.txt"
    path.write_text(text, encoding="utf-8")
    assert train.main(["--sequences", str(path), "--out", str(tmp_path / "o"), *TINY]) == 2
    assert "no usable sequence" in capsys.readouterr().err


def test_an_item_whose_id_cannot_stand_in_a_prediction_is_refused_with_its_line(
    tmp_path: Path,
) -> None:
    path, told = tmp_path / "items.jsonl", list[str]()
    rows = [{"item_id": i} for i in ("a", 7, "two words", "", "x" * 201, True, [1], None)]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    assert [row["item_id"] for row in read_items(path, told.append)] == ["a", "7"]
    assert [line.split(":")[0] for line in told] == [f"items.jsonl line {n}" for n in range(3, 9)]


def test_a_place_that_cannot_be_written_is_one_line_and_exit_code_1(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = "/proc/no-such-place/model"
    assert train.main(["--sequences", str(data), "--out", out, "--size", "tiny"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("error: /proc/no-such-place")
    assert not any("Traceback" in line for line in said)


@pytest.mark.parametrize("device", ["cuda:99", "nonsense", "meta"])
def test_a_device_that_is_not_there_is_one_line_and_exit_code_2(
    device: str, data: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--sequences", str(data), "--out", str(tmp_path / "out.tsv"), "--device", device]
    assert predict.main(["--checkpoint", str(model), *given]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("error: device")
    assert device in said[0]
