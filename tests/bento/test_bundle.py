"""From a checkpoint to a bento: what is taken, what is refused, and why."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from bento import models
from bento.bundle import Current, compare, requirements
from bento.models import BundleError, Lock
from tests.bento.process import run_bundle

# Of the network alone: fused with item links, two short trainings can score the same.
METRIC = "validation_network_ndcg@10"
CURRENT = Current("v1", {"validation_ndcg@10": 0.50}, "f" * 16)


@pytest.mark.parametrize(
    ("value", "margin", "passed"),
    [(0.50, 0.0, True), (0.4901, 0.02, True), (0.4899, 0.02, False), (0.9, 0.0, True)],
)
def test_the_gate_refuses_what_is_worse_by_more_than_the_margin(
    value: float, margin: float, passed: bool
) -> None:
    gate = compare({"validation_ndcg@10": value}, CURRENT, margin=margin)
    assert gate.passed is passed
    assert (gate.baseline_version, gate.baseline_value) == ("v1", 0.50)


def test_a_metric_the_checkpoint_does_not_have_is_named_with_those_it_has() -> None:
    with pytest.raises(BundleError, match=r"no metric 'mrr'.*validation_ndcg@10"):
        compare({"validation_ndcg@10": 0.5}, None, "mrr")


def test_every_file_of_a_bundle_counts_and_a_damaged_one_is_refused(
    tiny: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny, copy)
    bundle = models.read_bundle(copy)
    models.check(copy, bundle, None)
    weights = copy / models.RANKER / "model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1  # one bit of one weight
    weights.write_bytes(raw)
    with pytest.raises(BundleError, match="damaged"):
        models.check(copy, bundle, None)


def test_a_bento_refuses_a_checkpoint_it_was_not_built_for(tiny: Path, other: Path) -> None:
    mine, theirs = models.read_bundle(tiny), models.read_bundle(other)
    lock = Lock(contract=1, model="recommender:x", version=mine.version, digest=mine.digest)
    models.check(tiny, mine, lock)
    models.check(other, theirs, lock)  # another version that passed its gate is an update
    with pytest.raises(BundleError, match="this bento was built for"):
        models.check(tiny, mine, lock.model_copy(update={"digest": "0" * 64}))
    failed = theirs.model_copy(update={"gate": theirs.gate.model_copy(update={"passed": False})})
    with pytest.raises(BundleError, match="did not pass the quality gate"):
        models.check(other, failed, lock)
    with pytest.raises(BundleError, match="contract 2"):
        models.check(other, theirs.model_copy(update={"contract": 2}), lock)


def test_a_bare_checkpoint_is_refused_where_a_bento_is_locked(tiny: Path) -> None:
    lock = Lock(contract=1, model="recommender:x", version="v", digest="0" * 64)
    with pytest.raises(BundleError, match=r"has no bundle\.json"):
        models.load(tiny / models.RANKER, lock, "cpu", 1)


def test_the_bento_pins_what_its_recipe_asks_for() -> None:
    recipe = yaml.safe_load((Path(__file__).parents[2] / "bentofile.yaml").read_text())
    asked = {line.split(">=")[0] for line in recipe["python"]["packages"]}
    pinned = {line.split("==")[0] for line in requirements()}
    assert pinned == asked, "bentofile.yaml and REQUIREMENTS name different packages"


def test_a_folder_that_is_no_model_is_refused_in_one_line(tmp_path: Path) -> None:
    done = run_bundle(tmp_path / "home", str(tmp_path))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert str(tmp_path) in done.stderr or "manifest" in done.stderr
