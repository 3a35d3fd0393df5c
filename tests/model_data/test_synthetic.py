"""The synthetic shop is reproducible, labelled, valid, and holds the structure it promises."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import pytest

from model.data.cli import main
from model.data.schema import Event, EventKind, Product
from model.data.sequences import read_sequences
from model.data.synthetic import make_shop, write_shop


@pytest.fixture(scope="module")
def shop():
    return make_shop(seed=7, users=400, items=200)


def test_the_same_seed_gives_the_same_shop_byte_for_byte(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_shop(make_shop(3, 40, 60), tmp_path / name)
    for left in sorted((tmp_path / "a").iterdir()):
        assert left.read_bytes() == (tmp_path / "b" / left.name).read_bytes(), left.name


def test_another_seed_gives_another_shop() -> None:
    assert make_shop(1, 20, 50).events != make_shop(2, 20, 50).events


def test_every_event_names_a_product_of_the_catalogue_and_time_never_runs_back(shop) -> None:
    known = {product.id for product in shop.products}
    last: dict[str, int] = defaultdict(int)
    for event in shop.events:
        assert event.item is None or event.item in known
        assert event.time >= last[event.user]
        assert event.source == "synthetic"
        last[event.user] = event.time


def test_a_user_keeps_to_few_kinds_and_to_two_brands(shop) -> None:
    product = {p.id: p for p in shop.products}
    own, world = [], Counter(p.brand for p in shop.products)
    for items in shop.sequences().values():
        brands = Counter(product[item].brand for item in items)
        own.append(sum(n for _, n in brands.most_common(2)) / len(items))
    expected = sum(n for _, n in world.most_common(2)) / len(shop.products)
    assert sum(own) / len(own) > 2 * expected, "brand preference must be learnable"


def test_the_next_item_is_predictable_from_the_one_before(shop) -> None:
    follows: dict[str, Counter[str]] = defaultdict(Counter)
    pairs = [pair for items in shop.sequences().values() for pair in pairwise(items)]
    half = len(pairs) // 2
    for a, b in pairs[:half]:
        follows[a][b] += 1
    popular = Counter(b for _, b in pairs[:half]).most_common(1)[0][0]
    hits = sum(follows[a].most_common(1)[0][0] == b for a, b in pairs[half:] if follows[a])
    base = sum(b == popular for _, b in pairs[half:])
    assert hits > 3 * base, f"bigram {hits} against most popular {base} of {len(pairs) - half}"


def test_a_search_leads_to_items_that_hold_its_words_more_often_than_chance(shop) -> None:
    title = {p.id: p.title.lower() for p in shop.products}
    clean = [s for s in shop.searches if any(s.query.split()[-1] in t for t in title.values())]
    hit = sum(s.query.split()[-1] in title[next(iter(s.gains))] for s in clean)
    assert clean
    assert hit / len(clean) > 0.8


def test_written_files_read_back_as_valid_rows_and_carry_the_label(tmp_path: Path, capsys) -> None:
    assert main(["synthetic", "--out", str(tmp_path), "--users", "30", "--items", "50"]) == 0
    assert "synthetic shop" in capsys.readouterr().out
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["synthetic"] is True
    import gzip

    with gzip.open(tmp_path / "events.jsonl.gz", "rt") as stream:
        events = [Event.model_validate_json(line) for line in stream]
    with gzip.open(tmp_path / "products.jsonl.gz", "rt") as stream:
        products = [Product.model_validate_json(line) for line in stream]
    assert len(events) == manifest["rows"]["events.jsonl.gz"]
    assert {e.kind for e in events} >= {EventKind.SEARCH, EventKind.VIEW, EventKind.PURCHASE}
    assert len(products) == 50
    assert sum(1 for _ in read_sequences(tmp_path / "sequences.txt.gz")) == 30


def test_a_size_below_one_is_refused_with_the_value_found(capsys) -> None:
    assert main(["synthetic", "--out", "unused", "--users", "0"]) == 2
    assert "--users" in capsys.readouterr().err
