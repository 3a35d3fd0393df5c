"""Approximate retrieval beside exact, on an index alone and through a predictor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from model import fit, retrieval, train
from model.checkpoint import Fusion, save_model
from model.folder import CheckpointError
from model.links import Links
from model.net import NetConfig, Recommender
from model.predictor import Predictor
from model.retrieval import FILE, ItemIndex, Mask, recall, widen
from model.settings import TrainConfig

ITEMS = 3000


def keys(count: int, width: int = 16) -> torch.Tensor:
    """Vectors of unequal length: an index for angles alone would order them wrongly."""
    torch.manual_seed(1)
    return torch.randn(count, width) * torch.linspace(0.2, 3.0, count)[torch.randperm(count), None]


def test_an_index_finds_the_largest_inner_products() -> None:
    table, states = keys(3000), torch.randn(50, 16)
    index = ItemIndex.build(table)
    assert recall(table, states, index, 50) > 0.97
    first = index.nearest(states, 20)
    best = (states @ table.T).argmax(1)
    assert np.mean([b in a for a, b in zip(first.tolist(), best.tolist(), strict=True)]) > 0.97


@pytest.mark.parametrize("width", [7, 16, 160])
def test_an_index_takes_keys_of_any_width_and_fewer_of_them_than_levels(width: int) -> None:
    index = ItemIndex.build(keys(5, width))
    assert sorted(index.nearest(torch.randn(1, width), 9)[0].tolist()) == [0, 1, 2, 3, 4]


def test_candidates_are_doubled_only_until_enough_of_the_best_items_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table, states = keys(3000), torch.randn(7, 16)
    index = ItemIndex.build(table)
    needed = {400: 0.7, 800: 0.98, 1600: 0.992, 3200: 0.999}
    monkeypatch.setattr(retrieval, "recall", lambda _k, _s, index: needed[index.candidates])
    assert widen(table, states, index) == {retrieval.RECALL: 0.992, retrieval.CANDIDATES: 1600}
    assert index.candidates == 1600
    needed[1600] = needed[3200] = 0.9
    assert widen(table, states, index) == {retrieval.RECALL: 0.9, retrieval.CANDIDATES: 3200}


def test_training_on_a_large_catalogue_leaves_an_index_and_says_how_much_it_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "APPROXIMATE_ITEMS", 10)
    data, out = tmp_path / "train.txt", tmp_path / "model"
    data.write_text("".join(f"u{n} {n % 7} {n % 5} {n % 11} x{n % 3}\n" for n in range(60)))
    tiny = ["--size", "tiny", "--epochs", "1", "--threads", "1"]
    assert train.main(["--sequences", str(data), "--out", str(out), *tiny]) == 0
    predictor = Predictor.load(out)
    assert predictor.manifest.metrics[retrieval.RECALL] == 1.0
    assert predictor.index is not None
    assert predictor.index.candidates == predictor.manifest.metrics[retrieval.CANDIDATES]


def test_an_index_read_back_answers_as_before_and_rubbish_is_refused(tmp_path: Path) -> None:
    table, states = keys(500), torch.randn(7, 16)
    index = ItemIndex.build(table)
    index.save(tmp_path / FILE)
    again = ItemIndex.open(tmp_path / FILE, 500)
    for before, after in zip(index.nearest(states, 9), again.nearest(states, 9), strict=True):
        assert before.tolist() == after.tolist()
    with pytest.raises(ValueError, match="no index of 501 items"):
        ItemIndex.open(tmp_path / FILE, 501)
    (tmp_path / "bad").write_bytes(b"not an index at all" * 9)
    with pytest.raises(ValueError, match="no index"):
        ItemIndex.open(tmp_path / "bad", 500)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model with links, so that candidates come from both."""
    torch.manual_seed(2)
    net = Recommender(NetConfig(items=ITEMS, width=16, layers=1, heads=1, max_length=10)).eval()
    with torch.no_grad():
        net.item.weight.copy_(keys(ITEMS))
    rng = np.random.default_rng(0)
    linked = np.stack([rng.choice(ITEMS, 8, replace=False) for _ in range(ITEMS)])
    links = Links(torch.from_numpy(linked), torch.rand(ITEMS, 8))
    out = tmp_path_factory.mktemp("model") / "model"
    save_model(
        out, net, items=[f"i{n:04}" for n in range(ITEMS)], users=1,
        popularity=torch.arange(ITEMS), links=links, fusion=Fusion(weight=8, decay=0.5),
        train=TrainConfig(), size="tiny", data_fingerprint="0", metrics={},
    )  # fmt: skip
    return out


def test_approximate_answers_miss_few_items_and_misplace_none_under_masks_and_exclusions(
    folder: Path,
) -> None:
    exact = Predictor.load(folder, retrieval="exact")
    near = Predictor.load(folder, retrieval="approximate")
    assert exact.index is None
    assert near.index is not None
    rng = np.random.default_rng(3)
    histories = [[f"i{n:04}" for n in rng.choice(ITEMS, 6, replace=False)] for _ in range(20)]
    histories += [[], ["unknown"]]
    half = rng.random(ITEMS) < 0.5
    few = np.arange(ITEMS) < 7  # fewer than k
    nothing = np.zeros(ITEMS, dtype=np.bool_)
    far = np.ones(ITEMS, dtype=np.bool_)  # none of it is a candidate: the catalogue must be scanned
    for one in exact.recommend([histories[4]], 2400)[0]:
        far[int(one.item[1:])] = False
    masks: list[Mask | None] = [None, half, few, nothing, far] * 4 + [None, half]
    barred = [["i0001", "i0002"] if n % 2 else [] for n in range(len(histories))]
    lists: list[list[list[str]]] = []
    for predictor in (exact, near):
        rows = predictor.recommend(histories, 10, allowed=masks, exclude=barred)
        lists.append([[one.item for one in row] for row in rows])
    kept: list[float] = []
    for right, found, mask, out in zip(*lists, masks, barred, strict=True):
        assert len(found) == len(right)
        assert not {*out} & {*found}
        assert all(mask is None or mask[int(item[1:])] for item in found)
        both = {*right} & {*found}
        assert [i for i in right if i in both] == [i for i in found if i in both]
        if mask is few or mask is far:
            assert found == right
        if mask is not nothing:
            kept.append(len(both) / len(right))
    assert len(lists[1][4]) == 10  # the one that `far` is far from
    assert np.mean(kept) > 0.99


def test_a_listed_index_that_is_none_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"rubbish")
    loaded = Predictor.load(folder, retrieval="exact")
    out = tmp_path / "model"
    save_model(
        out, loaded._net, items=loaded.catalogue.items, users=1, popularity=torch.ones(ITEMS),
        links=None, fusion=Fusion(), train=TrainConfig(), size="tiny", data_fingerprint="0",
        metrics={}, extra=[tmp_path / FILE],
    )  # fmt: skip
    with pytest.raises(CheckpointError, match="train it again"):
        Predictor.load(out)
    assert len(Predictor.load(out, retrieval="exact").recommend([["i0000"]], 5)[0]) == 5
