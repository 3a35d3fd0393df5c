"""Attributes by rule, and labels by the trained tagger."""

from __future__ import annotations

import json
import random
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.data.files import DataError
from model.data.synthetic import make_shop
from model.understand.__main__ import enrich, main, train
from model.understand.attributes import attributes, number, quantities
from model.understand.named import HEAD, Names
from model.understand.tagger import Tagger, TaggerConfig


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('12" pipe', [("length", 304.8)]),
        ("pipe, 12 in.", [("length", 304.8)]),
        ("1 ft", [("length", 304.8)]),
        ("1-1/2 in. elbow", [("length", 38.1)]),
        ("3/4-inch bit", [("length", 19.05)]),
        ("5gal. bucket", [("volume", 18927.05892)]),
        ("20V drill, 2 pack", [("voltage", 20.0), ("count", 2.0)]),
        ("set of 12", [("count", 12.0)]),
        ("HP 21 ink", []),
        ("1/0 in. of nothing", []),
        ("B2in", []),
    ],
)
def test_measures_are_read_in_one_unit_a_dimension(
    text: str, found: list[tuple[str, float]]
) -> None:
    read = quantities(text)
    assert [(q.dimension, pytest.approx(q.value)) for q in read] == found


@given(st.text(max_size=200))
def test_any_text_gives_attributes_without_a_crash(text: str) -> None:
    assert all(name and value for name, value in attributes(text, text).items())


@given(st.integers(0, 99), st.integers(0, 15), st.integers(1, 16))
def test_mixed_numbers_are_their_sum(whole: int, over: int, under: int) -> None:
    assert number(f"{whole}-{over}/{under}") == pytest.approx(whole + over / under)


def test_the_title_wins_over_the_text() -> None:
    found = attributes("Black Steel Hinge 2 in.", "Also in white, 3 in. and 4 lbs")
    assert found == {
        "colour": "black", "material": "steel", "length": "50.8 mm", "weight": "1814 g",
    }  # fmt: skip


def test_the_tagger_reads_kind_and_brand_of_products_that_it_never_saw() -> None:
    products = make_shop(seed=3, users=1, items=400).products
    held = [p for p in products if zlib.crc32(p.id.encode()) % 5 == 0]
    learned = [p for p in products if p not in held]
    brand, category = train(learned, "brand"), train(learned, "category")
    bare = [p.model_copy(update={"brand": None, "category": (), "attributes": {}}) for p in held]
    read = enrich(bare, {"brand": brand, "category": category})
    right = sum(a.brand == b.brand for a, b in zip(read, held, strict=True)) / len(held)
    placed = sum(a.category == b.category for a, b in zip(read, held, strict=True)) / len(held)
    assert right > 0.95, "a brand stands in the title"
    assert placed > 0.95, "a kind stands in the title and belongs to one category"
    colours = [p.attributes["colour"].lower() for p in held]
    assert [p.attributes["colour"].split(",")[0] for p in read] == colours


def test_what_the_shop_said_is_never_changed() -> None:
    products = make_shop(seed=4, users=1, items=60).products
    brand = train(products, "brand")
    told = [
        p.model_copy(update={"brand": "Own", "attributes": {"colour": "odd"}}) for p in products
    ]
    read = enrich(told, {"brand": brand})
    assert {p.brand for p in read} == {"Own"}
    assert {p.attributes["colour"] for p in read} == {"odd"}


def test_a_saved_tagger_gives_the_same_labels_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    products = make_shop(seed=5, users=1, items=60).products
    made = train(products, "tags")
    made.save(tmp_path / "tags")
    texts = [p.title for p in products]
    assert Tagger.load(tmp_path / "tags").predict(texts) == made.predict(texts)
    (tmp_path / "tags" / "tagger.json").write_text("{}")
    with pytest.raises(DataError, match="holds no usable tagger"):
        Tagger.load(tmp_path / "tags")


def test_one_label_alone_is_nothing_to_learn() -> None:
    with pytest.raises(DataError, match="1 labels to learn"):
        Tagger.train(["a", "b"], [["x"], ["x"]], TaggerConfig(several=False))


def test_train_and_apply_work_one_after_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"id": "1", "title": "Red Acme drill", "brand": "Acme"},
        {"id": "2", "title": "Blue Bolt saw", "brand": "Bolt"},
        {"id": "3", "title": "Green Acme drill 10 in."},
    ]
    source = tmp_path / "p.jsonl"
    source.write_text("\n".join(json.dumps(row) for row in rows))
    words = ["train", "--products", str(source), "--label", "brand"]
    assert main([*words, "--out", str(tmp_path / "brand")]) == 0
    words = ["apply", "--products", str(source), "--taggers", str(tmp_path / "brand")]
    assert main([*words, "--out", str(tmp_path / "out.jsonl")]) == 0
    last = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[2])
    assert last["brand"] == "Acme"
    assert last["attributes"] == {"colour": "green", "length": "254 mm"}
    assert main(["train", "--products", str(tmp_path / "no"), "--label", "tags", "--out", "x"]) == 2
    assert "no is not a file" in capsys.readouterr().err


def test_a_label_is_named_by_its_longest_form_and_without_its_apostrophe() -> None:
    names = Names(["3M", "3M Scotch", "Elmer's", "Pen+Gear"])
    assert list(names.found("3M Scotch tape, not 3m scotch")) == [(1, 0)]
    assert list(names.found("ELMERS glue by elmer’s")) == [(2, 0)]
    assert list(names.found("Refill for Pen + Gear, and 3M")) == [(3, 1), (0, 1)]
    assert list(names.found(" ".join(["word"] * HEAD + ["3M"]))) == [(0, 2)]
    assert list(names.found("")) == []


def test_a_brand_that_begins_a_title_is_told_from_a_long_text_that_names_others() -> None:
    """Each brand has few products, and every text speaks of what fits other brands."""
    rng = random.Random(3)
    brands = [f"brand{letter}{other}" for letter in "abcdefgh" for other in "klmno"]

    def text(brand: str) -> str:
        filler = [f"word{rng.randrange(300)}" for _ in range(60)]
        return " ".join([brand, *filler, "fits", *rng.sample(brands, 3)])

    learned = [(text(brand), [brand]) for brand in brands for _ in range(6)]
    texts, labels = zip(*learned, strict=True)
    tagger = Tagger.train(texts, labels, TaggerConfig(several=False, epochs=5))
    assert tagger.weights[0] > tagger.weights[2]
    asked = [(text(brand), [brand]) for brand in brands]
    found = tagger.predict([one for one, _ in asked])
    assert sum(a == b for a, (_, b) in zip(found, asked, strict=True)) >= 38
