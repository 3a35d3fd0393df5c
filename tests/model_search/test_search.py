"""Train and query, end to end on a small synthetic shop, through the command line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model.data.files import DataError
from model.data.synthetic import make_shop, write_shop
from model.folder import MANIFEST, CheckpointError
from model.search import tables
from model.search.cli import main
from model.search.index import CATALOGUE, SearchIndex, verify
from model.search.tables import Rejects, read_products, read_queries


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shop")
    write_shop(make_shop(seed=3, users=60, items=150), out)
    return out


def train(shop: Path, out: Path, *more: str) -> int:
    return main(["train", "--products", str(shop / "products.tsv.gz"), "--out", str(out),
                 "--threads", "1", *more])  # fmt: skip


@pytest.fixture(scope="module")
def judged(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("index") / "judged"
    queries, qrels = str(shop / "queries.tsv.gz"), str(shop / "qrels.tsv.gz")
    assert train(shop, out, "--queries", queries, "--qrels", qrels) == 0
    return out


@pytest.fixture(scope="module")
def bare(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("index") / "bare"
    assert train(shop, out) == 0
    return out


@pytest.fixture(params=["judged", "bare"])
def index(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def answers(index: Path, queries: Path, out: Path, k: int = 10) -> dict[str, list[str]]:
    assert main(["query", "--index", str(index), "--queries", str(queries), "--k", str(k),
                 "--out", str(out)]) == 0  # fmt: skip
    rows = [line.split("\t") for line in out.read_text(encoding="utf-8").splitlines()]
    return {name: items.split() for name, items in rows}


def test_every_query_gets_k_different_products_of_the_catalogue(
    index: Path, shop: Path, tmp_path: Path
) -> None:
    found = answers(index, shop / "queries.tsv.gz", tmp_path / "pred.tsv", 20)
    known = {entry.id for entry in read_products(shop / "products.tsv.gz", Rejects())}
    asked = [name for name, _ in read_queries(shop / "queries.tsv.gz", Rejects())]
    assert list(found) == asked
    assert all(len(set(items)) == 20 and set(items) <= known for items in found.values())


def test_a_misspelt_word_finds_what_the_word_finds(bare: Path) -> None:
    loaded = SearchIndex.load(bare)
    catalogue = loaded.catalogue
    words = [w for w, n in catalogue.words.items() if len(w) > 7 and n >= 3]
    for word in sorted(words)[:5]:
        wrong = word[:3] + word[4] + word[3] + word[5:]
        right = [hit.item for hit in loaded.search([word], 5)[0]]
        assert [hit.item for hit in loaded.search([wrong], 5)[0]] == right, (word, wrong)


def test_the_answer_to_a_query_does_not_depend_on_its_neighbours(index: Path, shop: Path) -> None:
    loaded = SearchIndex.load(index)
    texts = [text for _, text in read_queries(shop / "queries.tsv.gz", Rejects())][:12]
    forward = loaded.search(texts, 5)
    assert forward == loaded.search(texts[::-1], 5)[::-1]
    assert forward[3] == SearchIndex.load(index).search([texts[3]], 5)[0]


def test_the_same_seed_gives_the_same_answers(shop: Path, bare: Path, tmp_path: Path) -> None:
    assert train(shop, tmp_path / "again") == 0
    queries = shop / "queries.tsv.gz"
    assert answers(bare, queries, tmp_path / "a") == answers(
        tmp_path / "again", queries, tmp_path / "b"
    )


def test_only_allowed_products_are_shown_however_few(index: Path) -> None:
    loaded = SearchIndex.load(index)
    mask = np.zeros(len(loaded.catalogue), bool)
    mask[[7, 40]] = True
    found = loaded.search(["drill"], 5, allowed=[mask])[0]
    assert {hit.item for hit in found} == {loaded.catalogue.ids[7], loaded.catalogue.ids[40]}
    assert loaded.search(["drill"], 5, allowed=[np.zeros(len(mask), bool)]) == [[]]


def test_the_users_taste_moves_a_product_up(index: Path) -> None:
    loaded = SearchIndex.load(index)
    plain = [hit.item for hit in loaded.search(["drill"], 10)[0]]
    taste = np.zeros(len(loaded.catalogue), np.float32)
    taste[loaded.catalogue.ids.index(plain[5])] = 9.0
    moved = [hit.item for hit in loaded.search(["drill"], 10, prior=[taste])[0]]
    assert moved.index(plain[5]) < 5
    nothing = np.full(len(taste), np.nan, np.float32)
    assert [hit.item for hit in loaded.search(["drill"], 10, prior=[nothing])[0]] == plain


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=st.text(max_size=80))
def test_any_text_may_be_asked(text: str, judged: Path) -> None:
    found = _loaded(judged).search([text], 5)[0]
    assert len(found) in (0, 5)
    assert all(np.isfinite(hit.score) for hit in found)


_cache: dict[Path, SearchIndex] = {}


def _loaded(path: Path) -> SearchIndex:
    if path not in _cache:
        _cache[path] = SearchIndex.load(path)
    return _cache[path]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(st.binary(max_size=60), max_size=8))
def test_garbage_lines_are_counted_and_never_crash(rows: list[bytes], tmp_path: Path) -> None:
    path = tmp_path / "rows"
    lines = [row.replace(b"\n", b"") for row in rows]
    path.write_bytes(b"p1\tGood Product\n" + b"\n".join(lines))
    entries = read_products(path, Rejects())
    assert entries[0].id == "p1"
    path.write_bytes(b"q1\tgood query\n" + b"\n".join(lines))
    queries = read_queries(path, Rejects())
    path.write_bytes(b"q1\tp1\t1.0\n" + b"\n".join(lines))
    assert tables.read_judgements(path, queries, entries, Rejects()).gains[0] == {0: 1.0}


def test_files_are_read_with_and_without_a_header_gzip_or_plain(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a", tmp_path / "b"
    plain.write_text("query_id\tquery\nq1\tfan\n", encoding="utf-8")
    packed.write_bytes(gzip.compress(b"q1\tfan\n"))
    assert read_queries(plain, Rejects()) == read_queries(packed, Rejects()) == [("q1", "fan")]


def test_products_may_be_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    row = {"id": "p1", "title": "Fan", "brand": "Acme", "tags": ["cool"]}
    path.write_text(json.dumps(row) + "\n{broken\n", encoding="utf-8")
    rejects = Rejects()
    assert read_products(path, rejects)[0].body.split() == ["Acme", "cool"]
    assert rejects.count == 1


def test_a_file_without_a_usable_row_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="no usable product"):
        read_products(tmp_path / "empty", Rejects())


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        (["--products", "missing.tsv"], 2, "missing.tsv is not a file"),
        (["--queries", "q.tsv"], 2, "belong together"),
        (["--threads", "0"], 2, "at least 1"),
        (["--seed", "-1"], 2, "seed"),
    ],
)
def test_wrong_use_is_told_in_one_line(
    change: list[str], code: int, told: str, shop: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    arguments = ["train", "--products", str(shop / "products.tsv.gz"), "--out", str(tmp_path / "o")]
    try:
        found = main([*arguments, *change])
    except SystemExit as stopped:
        found = stopped.code
    said = capsys.readouterr().err
    assert found == code
    assert told in said
    assert "Traceback" not in said


def test_a_finished_index_is_replaced_only_when_asked(
    bare: Path, shop: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (bare / MANIFEST).read_bytes()
    assert train(shop, bare) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (bare / MANIFEST).read_bytes() == before


def test_a_damaged_index_is_refused(shop: Path, tmp_path: Path) -> None:
    assert train(shop, tmp_path / "x") == 0
    path = tmp_path / "x" / CATALOGUE
    path.write_text(path.read_text(encoding="utf-8") + " ", encoding="utf-8")
    with pytest.raises(CheckpointError, match="SHA-256"):
        verify(tmp_path / "x")
    assert main(["query", "--index", str(tmp_path / "x"), "--queries",
                 str(shop / "queries.tsv.gz"), "--out", str(tmp_path / "p")]) == 1  # fmt: skip
    assert not (tmp_path / "p").exists()
