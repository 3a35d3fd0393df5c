"""Importers, each on a few lines in its set's own format (the sets are not ours to ship)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from model.data.cli import main
from model.data.files import DataError
from model.data.importers import SETS, find
from model.data.ingest import Rejects

FILES: dict[str, dict[str, str]] = {
    "amazon-beauty": {
        "sequences.txt": "u1 1 2\nlonely\nu2 2\n",
        "items.jsonl": '{"item_id": "1", "asin": "B1", "attributes": [3, 4]}\n{oops\n',
    },
    "amazon-office": {
        "sequences.txt": "A1 7\n",
        "items.jsonl": json.dumps(
            {"item_id": "7", "title": "Pens &amp; <b>ink</b>", "description": "['', 'Red.']",
             "brand": "HP", "categories": ""}
        ) + "\n",
    },
    "amazon-grocery": {
        "interactions.tsv": "user_id\titem_id\ttime\n5\t3\t965779200\n5\t\t1\n5\t3\tsoon\n",
        "item_meta.tsv": "item_id\ti_category\tr_complement\tr_substitute\n3\t9\t[1]\t[]\n",
    },
    "ml-1m": {
        "sequences.txt": "1 1\n",
        "items.tsv": 'item_id\tmovielens_id\ttitle\tgenres\n1\t9\tThe "Best" (1981)\tAction|War\n',
    },
    "ml-100k": {
        "ml-100k.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        "196\t242\t3\t881250949\n",
        "ml-100k.item": "item_id:token\tmovie_title:token_seq\trelease_year:token\t"
        "class:token_seq\n242\tKolya\t1996\tComedy Drama\n",
    },
    "home-depot-search": {"products.tsv": "product_uid\tproduct_title\n100001\tAngle\n"},
    "diginetica-sample": {
        "sample_train-item-views.csv": "session_id;user_id;item_id;timeframe;eventdate\n"
        "1;NA;81766;1000;2016-05-09\n1;NA;81767;2000;nonsense\n",
    },
}  # fmt: skip


@pytest.fixture(params=list(FILES))
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    for name, text in FILES[request.param].items():
        (tmp_path / name).write_text(text)
    return request.param, tmp_path


def read(name: str, folder: Path) -> tuple[list[Any], list[Any], Rejects]:
    rejects = Rejects()
    return (
        list(SETS[name].events(folder, rejects)),
        list(SETS[name].products(folder, rejects)),
        rejects,
    )


def test_every_set_is_covered_here() -> None:
    assert set(FILES) == set(SETS)


def test_a_set_gives_its_first_event_and_product(folder: tuple[str, Path]) -> None:
    name, place = folder
    events, products, _ = read(name, place)
    first = {
        "amazon-beauty": ("u1", 0, "purchase", "1"),
        "amazon-office": ("A1", 0, "purchase", "7"),
        "amazon-grocery": ("5", 965_779_200_000, "purchase", "3"),
        "ml-1m": ("1", 0, "view", "1"),
        "ml-100k": ("196", 881_250_949_000, "rating", "242"),
        "home-depot-search": None,
        "diginetica-sample": ("s1", 1_462_752_001_000, "view", "81766"),
    }[name]
    told = [(e.user, e.time, e.kind.value, e.item) for e in events[:1]]
    assert told == ([first] if first else [])
    title = {
        "amazon-beauty": "B1", "amazon-office": "Pens & ink", "amazon-grocery": "3",
        "ml-1m": 'The "Best" (1981)', "ml-100k": "Kolya", "home-depot-search": "Angle",
    }  # fmt: skip
    assert [p.title for p in products] == ([title[name]] if name in title else [])


@pytest.mark.parametrize(
    ("name", "refused"),
    [("amazon-beauty", 2), ("amazon-grocery", 2), ("diginetica-sample", 1)],
)
def test_bad_rows_of_a_set_are_counted(tmp_path: Path, name: str, refused: int) -> None:
    for file, text in FILES[name].items():
        (tmp_path / file).write_text(text)
    assert read(name, tmp_path)[2].total == refused


def test_a_folder_without_the_files_is_an_error_that_names_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no sequences\.txt\.gz; give the folder"):
        find(tmp_path, "sequences.txt.gz")


def test_import_clean_and_split_work_one_after_the_other(tmp_path: Path) -> None:
    source, out = tmp_path / "set", tmp_path / "out"
    source.mkdir()
    rows = "".join(f"{u}\t{i}\t{100 + u + i}\n" for u in range(4) for i in range(4))
    (source / "interactions.tsv").write_text("user_id\titem_id\ttime\n" + rows)
    (source / "item_meta.tsv").write_text(FILES["amazon-grocery"]["item_meta.tsv"])
    words = ["import", "--set", "amazon-grocery", "--from", str(source), "--out", str(out / "i")]
    assert main(words) == 0
    words = ["clean", "--events", str(out / "i/events.parquet"), "--core", "2"]
    assert main([*words, "--out", str(out / "c")]) == 0
    words = ["split", "--events", str(out / "c/events.parquet"), "--out", str(out / "s")]
    assert main(words) == 0
    assert pl.read_parquet(out / "s/test.parquet").height == 4
    assert json.loads((out / "c/report.json").read_text())["kept"] == 16
    assert not (out / "c/rejects.jsonl.gz").exists(), "nothing was refused"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["clean", "--events", "nowhere.jsonl"], "nowhere.jsonl is not a file"),
        (["clean", "--events", "nowhere.jsonl", "--core", "-1"], "core is -1; give 0 or more"),
        (["clean", "--events", "x", "--now", "noon"], "--now is 'noon'; give an ISO time"),
        (["split", "--events", "nowhere"], "--events is nowhere, which does not exist"),
        (["import", "--set", "ml-1m", "--from", "nowhere"], "--from is nowhere"),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert main([*words, "--out", str(tmp_path / "o")]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert said in told[0]
