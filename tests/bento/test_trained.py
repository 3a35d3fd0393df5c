"""From a user's own data to a bundle, with the gate against what the same place gave before."""

from __future__ import annotations

import gzip
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from bento import models, trained
from bento.models import BundleError
from model.data.synthetic import make_shop


def write(place: Path, lines: Sequence[str]) -> None:
    with gzip.open(place / "sequences.txt.gz", "wt", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)


@pytest.mark.slow
def test_data_of_a_place_is_learned_once_and_a_worse_model_of_new_data_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = make_shop(seed=1, users=400, items=60)
    place, cache = tmp_path / "data", tmp_path / "cache"
    place.mkdir()
    lines = [" ".join([user, *seen]) for user, seen in shop.sequences().items()]
    write(place, lines)
    (place / "items.jsonl").write_text(
        "".join(product.model_dump_json() + "\n" for product in shop.products), encoding="utf-8"
    )
    out = trained.from_place(place, "tiny", cache)
    first = models.read_bundle(out)
    assert first.gate.passed
    assert (out / models.SMALL).is_dir()
    assert (out / models.RANKER / "search").is_dir(), "its items have titles"
    with monkeypatch.context() as patch:
        patch.delattr(trained, "run")
        assert trained.from_place(place, "tiny", cache) == out, "the same data needs no run"

    chance = random.Random(0)
    items = [product.id for product in shop.products]
    noise = [f"u{n} " + " ".join(chance.sample(items, 8)) for n in range(300)]
    write(place, noise)
    with pytest.raises(BundleError, match=rf"the current model \({first.version}\) has 0\."):
        trained.from_place(place, "tiny", cache)
    assert models.read_bundle(out) == first, "the current model stays"


def test_a_place_without_sequences_is_told_with_what_makes_them(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no sequences\.txt or sequences\.txt\.gz; make it with"):
        trained.from_place(tmp_path, "tiny", tmp_path / "cache")
    with pytest.raises(BundleError, match="absent does not exist"):
        trained.from_place(tmp_path / "absent", "tiny", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
