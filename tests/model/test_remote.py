"""States and models of training runs in a real S3 store, and the gate before promotion."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from torch.distributed.run import get_args_parser

from local.layout import free_port
from model import artefacts, launch
from model.artefacts import Place, Store, StoreError
from tests.plugins.cluster import tool


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A bucket in a running versitygw."""
    root = tmp_path_factory.mktemp("store")
    (root / "data").mkdir()
    (root / "keys").mkdir()
    keys = {"access-key": secrets.token_hex(10), "secret-key": secrets.token_hex(20)}
    for name, value in keys.items():
        (root / "keys" / name).write_text(value)
    port = free_port()
    server = subprocess.Popen(
        [tool("versitygw"), f"--port=127.0.0.1:{port}", "--quiet", "posix", str(root / "data")],
        env={**os.environ, "ROOT_ACCESS_KEY": keys["access-key"],
             "ROOT_SECRET_KEY": keys["secret-key"]},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    found = Place(
        endpoint=f"http://127.0.0.1:{port}",
        bucket="training",
        region="us-east-1",
        keys=root / "keys",
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                Store(found).make_bucket()
                break
            except StoreError:
                assert time.monotonic() < deadline, "the store does not answer"
                time.sleep(0.2)
        yield found
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="module")
def store(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The bucket with 120 users walking round a ring of 40 items."""
    rng = np.random.default_rng(0)
    rows: list[str] = []
    for user in range(120):
        start, length = rng.integers(40), rng.integers(3, 9)
        rows.append(" ".join([f"u{user}", *(str((start + n) % 40) for n in range(length))]))
    file = tmp_path_factory.mktemp("data") / "train.txt"
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    made = Store(place)
    made.put("data/train.txt", file)
    return made


def test_a_state_travels_whole_and_replaces_what_was_there(store: Store, tmp_path: Path) -> None:
    work, other = tmp_path / "work", tmp_path / "other"
    for step in (5, 10):
        folder = work / f"choose-{step:09d}"
        folder.mkdir(parents=True)
        (folder / "place.json").write_text(str(step))
    (work / "run.json").write_text("{}")
    (other / "final-000000099").mkdir(parents=True)
    run = secrets.token_hex(4)
    key = artefacts.push_state(store, run, work, tmp_path)
    assert key == f"runs/{run}/state/choose-000000010.tar"
    assert artefacts.newest_state(store, run) == key
    artefacts.pull_state(store, key, other, tmp_path)
    assert sorted(str(one.relative_to(other)) for one in other.rglob("*") if one.is_file()) == [
        "choose-000000010/place.json", "run.json",
    ]  # fmt: skip


def test_old_states_go_and_the_last_two_stay(store: Store, tmp_path: Path) -> None:
    run = secrets.token_hex(4)
    for stage, step in (("choose", 5), ("choose", 10), ("final", 5)):
        folder = tmp_path / f"{stage}-{step:09d}"
        folder.mkdir()
        (folder / "place.json").write_text("{}")
        artefacts.push_state(store, run, tmp_path, tmp_path)
    assert [Path(key).stem for key in store.list(f"runs/{run}/state/")] == [
        "choose-000000010", "final-000000005",
    ]  # fmt: skip


def test_the_gate_passes_the_first_model_and_refuses_a_clearly_worse_one() -> None:
    metric = artefacts.METRIC
    assert artefacts.judge({metric: 0.1}, None).passed
    current = {"run": "before", "metrics": {metric: 0.1}}
    assert artefacts.judge({metric: 0.0985}, current).passed
    refused = artefacts.judge({metric: 0.09}, current)
    assert not refused.passed
    assert refused.against == "before"
    assert refused.needed == pytest.approx(0.098)


def test_a_model_without_the_metric_cannot_pass() -> None:
    with pytest.raises(StoreError, match=r"no validation_ndcg@10, it has loss"):
        artefacts.judge({"loss": 1.0}, None)


def test_a_store_that_refuses_the_key_is_named_with_the_bucket(
    place: Place, tmp_path: Path
) -> None:
    for name in ("access-key", "secret-key"):
        (tmp_path / name).write_text("wrong")
    wrong = Place(endpoint=place.endpoint, bucket="training", region=place.region, keys=tmp_path)
    with pytest.raises(StoreError, match=rf"{place.endpoint}, bucket training: list runs/"):
        Store(wrong).list("runs/")


def test_keys_that_were_not_delivered_are_missed_by_name(place: Place, tmp_path: Path) -> None:
    absent = Place(endpoint=place.endpoint, bucket="b", region="r", keys=tmp_path / "none")
    with pytest.raises(StoreError, match="no key of the store in"):
        Store(absent)


def test_torchrun_takes_no_flag_of_a_worker_for_its_own(place: Place, tmp_path: Path) -> None:
    flags = [
        "--endpoint", place.endpoint, "--bucket", "b", "--region", "r", "--keys", "k",
        "--ca", "c", "--run-name", "run", "--sequences", "s", "--items", "i",
        "--scratch", str(tmp_path),
    ]  # fmt: skip
    own = ["--workers", "1:2", "--leader", "host", *flags, "--", "--size", "tiny"]
    command = launch.torchrun(launch.parser().parse_args(own), first=True)
    assert command[1:3] == ["-m", "torch.distributed.run"]
    parsed = get_args_parser().parse_args(command[3:])
    assert parsed.training_script == "model.remote"
    assert sorted(parsed.training_script_args) == sorted([*flags, "--", "--size", "tiny"])
