"""The search index inside a model's folder, as the service uses it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model import train as recommender
from model.data.synthetic import make_shop
from model.folder import CheckpointError
from model.predictor import Predictor
from model.search.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny recommender of a synthetic shop, without a search index."""
    work = tmp_path_factory.mktemp("model")
    shop = make_shop(seed=5, users=80, items=120)
    lines = [" ".join([user, *seen]) for user, seen in shop.sequences().items()]
    (work / "train.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = [product.model_dump_json() for product in shop.products]
    (work / "items.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    code = recommender.main(
        ["--sequences", str(work / "train.txt"), "--items", str(work / "items.jsonl"), "--size",
         "tiny", "--epochs", "1", "--no-refit", "--no-links", "--device", "cpu", "--out",
         str(work / "out")]
    )  # fmt: skip
    assert code == 0
    return work / "out"


def test_a_model_folder_is_searchable_once_an_index_was_added(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.search train --model"):
        Predictor.load(folder).search(["drill"])
    assert main(["train", "--model", str(folder), "--threads", "1"]) == 0
    predictor = Predictor.load(folder)
    items = predictor.catalogue.items
    title = predictor.catalogue.product(items[7])
    assert title is not None
    answers = predictor.search([title.title, "drill", "!?"], 5)
    assert [len(one) for one in answers] == [5, 5, 0]
    assert answers[0][0].item == items[7], "a product's own title finds it first"
    assert answers[0] == sorted(answers[0], key=lambda one: -one.score)

    mask = np.zeros(len(items), bool)
    mask[[3, 9]] = True
    only = predictor.search(["drill", "drill"], 5, allowed=[mask, None])
    assert {one.item for one in only[0]} == {items[3], items[9]}
    assert only[1] == answers[1]

    seen = [items[3], items[9], items[11]]
    mixed = predictor.search(["drill", "drill", "drill"], 20, histories=[seen, [], ["unknown"]])
    plain = predictor.search(["drill"], 20)[0]
    assert mixed[1] == mixed[2] == plain, "nothing known of the user changes nothing"
    assert mixed[0] != plain

    with pytest.raises(ValueError, match="give one each"):
        predictor.search(["a", "b"], histories=[[]])
    with pytest.raises(ValueError, match="one per item"):
        predictor.search(["drill"], allowed=[np.ones(3, bool)])
    with pytest.raises(ValueError, match="k is 0"):
        predictor.search(["drill"], 0)
