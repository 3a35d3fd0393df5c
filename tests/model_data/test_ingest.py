"""Event files: good rows come through typed and in order, bad ones are counted with a reason."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data import ingest
from model.data.files import DataError
from model.data.ingest import EVENTS, Rejects, read_events, read_products
from model.data.schema import Event

GOOD: dict[str, Any] = {"user": "u", "time": 1_700_000_000_000, "kind": "view", "item": "i"}


def read(path: Path, rejects: Rejects | None = None) -> pl.DataFrame:
    return pl.concat(list(read_events([path], rejects or Rejects())))


def jsonl(path: Path, *rows: object) -> Path:
    texts = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(texts) + "\n")
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_json_lines_give_typed_rows_in_file_order(tmp_path: Path, packed: bool) -> None:
    rows = [{**GOOD, "user": f"u{n}", "position": n} for n in range(5)]
    path = jsonl(tmp_path / "e.jsonl", *rows)
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    frame = read(path)
    assert frame["user"].to_list() == [row["user"] for row in rows]
    assert frame["row"].to_list() == list(range(5))
    assert dict(frame.drop("row").schema) == EVENTS
    assert frame["source"].unique().to_list() == ["unknown"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{bad", "not JSON"),
        ("[1]", "not a JSON object"),
        ({**GOOD, "user": "a b"}, "user: String should match pattern"),
        ({**GOOD, "time": 1.5}, "time: Input should be a valid integer"),
        ({**GOOD, "time": 9e12}, "time: Input should be less than"),
        ({**GOOD, "time": "soon"}, "time: Input should be a valid integer"),
        ({**GOOD, "kind": "stare"}, "kind: Input should be"),
        ({**GOOD, "item": None}, "a view event has no item"),
        ({**GOOD, "kind": "search"}, "a search event has no query"),
        ({**GOOD, "kind": "rating"}, "a rating event has no value"),
        ({**GOOD, "position": -1}, "position: Input should be greater"),
        ({**GOOD, "value": float("nan")}, "value: Input should be a finite number"),
        ({**GOOD, "user": ["u"]}, "user: Input should be a valid string"),
    ],
)
def test_a_bad_row_is_refused_with_its_line_and_reason(
    tmp_path: Path, row: object, reason: str
) -> None:
    rejects = Rejects(tmp_path / "rejects.jsonl")
    frame = read(jsonl(tmp_path / "e.jsonl", GOOD, row, GOOD), rejects)
    rejects.write()
    assert frame.height == 2, "the rows around a bad one must stay"
    written = json.loads((tmp_path / "rejects.jsonl").read_text())
    assert written["line"] == 2
    assert written["reason"].startswith(reason)
    assert rejects.counts == {written["reason"]: 1}


def test_ids_written_as_numbers_are_text_and_keep_their_place(tmp_path: Path) -> None:
    frame = read(jsonl(tmp_path / "e.jsonl", GOOD, {**GOOD, "user": 7, "item": 8}, GOOD))
    assert frame["user"].to_list() == ["u", "7", "u"]
    assert frame["row"].to_list() == [0, 1, 2]


def test_unknown_keys_are_ignored(tmp_path: Path) -> None:
    rejects = Rejects()
    assert read(jsonl(tmp_path / "e.jsonl", {**GOOD, "browser": "x"}), rejects).height == 1
    assert rejects.total == 0


def test_parquet_gives_the_same_rows_as_json_and_dates_become_milliseconds(tmp_path: Path) -> None:
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    table = pl.DataFrame(
        {"user": ["a", "b"], "time": [when, when], "kind": ["view", "nap"], "item": ["x", "y"]}
    )
    table.write_parquet(tmp_path / "e.parquet")
    rejects = Rejects()
    frame = read(tmp_path / "e.parquet", rejects)
    assert frame["time"].to_list() == [int(when.timestamp() * 1000)]
    assert list(rejects.counts) == [
        "kind: Input should be 'search', 'view', 'cart', 'purchase' or 'rating'"
    ]


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("position", 1.5, "position: Input should be a valid integer"),
        ("session", True, "session: Input should be a valid string"),
        ("value", "much", "value: Input should be a valid number"),
    ],
)
def test_a_parquet_value_of_the_wrong_type_refuses_its_row_even_where_it_may_be_absent(
    tmp_path: Path, column: str, value: object, reason: str
) -> None:
    good = {name: [one, one] for name, one in GOOD.items()}
    pl.DataFrame({**good, column: [value, None]}).write_parquet(tmp_path / "e.parquet")
    rejects = Rejects()
    assert read(tmp_path / "e.parquet", rejects).height == 1
    assert [found.startswith(reason) for found in rejects.counts] == [True]


def test_a_parquet_file_without_event_columns_is_an_error_that_names_them(tmp_path: Path) -> None:
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "e.parquet")
    with pytest.raises(DataError, match=r"columns \['a'\]"):
        read(tmp_path / "e.parquet")


def test_rows_are_numbered_on_over_chunks_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "CHUNK", 2)
    one = jsonl(tmp_path / "1.jsonl", GOOD, "{bad", GOOD, GOOD)
    two = jsonl(tmp_path / "2.jsonl", GOOD)
    frame = pl.concat(list(read_events([one, two], Rejects())))
    assert frame["row"].to_list() == [0, 1, 2, 3]


def test_products_with_one_id_are_refused_after_the_first(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path / "p.jsonl",
        {"id": 1, "title": "a", "category": ["x", "y"]},
        {"id": "1", "title": "b"},
        {"id": "2", "title": ""},
    )
    rejects = Rejects()
    products = list(read_products(path, rejects))
    assert [(p.id, p.title, p.category) for p in products] == [("1", "a", ("x", "y"))]
    assert rejects.counts["id: given before"] == 1
    assert rejects.total == 2


values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.lists(st.integers(), max_size=2),
)  # fmt: skip
rows = st.fixed_dictionaries(
    {}, optional={name: st.one_of(st.just(GOOD.get(name, "x")), values) for name in EVENTS}
)


@given(st.lists(rows, max_size=12))
@settings(max_examples=150, deadline=None)
def test_the_fast_path_keeps_exactly_the_rows_that_the_schema_accepts(
    tmp_path_factory: pytest.TempPathFactory, given_rows: list[dict[str, Any]]
) -> None:
    path = jsonl(tmp_path_factory.mktemp("e") / "e.jsonl", GOOD, *given_rows)
    rejects = Rejects()
    frame = read(path, rejects)

    def accepted(row: dict[str, Any]) -> bool:
        tidy = ingest._tidy(json.loads(json.dumps(row)), Event)  # pyright: ignore[reportPrivateUsage]
        try:
            Event.model_validate(tidy)
        except ValueError:
            return False
        return True

    assert frame.height == 1 + sum(accepted(row) for row in given_rows)
    assert rejects.total == 1 + len(given_rows) - frame.height


@given(st.binary(max_size=400))
@settings(max_examples=100, deadline=None)
def test_arbitrary_bytes_never_crash_the_event_reader(
    tmp_path_factory: pytest.TempPathFactory, rubbish: bytes
) -> None:
    path = tmp_path_factory.mktemp("e") / "e.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n" + rubbish)
    assert read(path).height >= 1
