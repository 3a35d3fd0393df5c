"""Cleaning: each rule removes what it names, on every engine alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.clean import CleanRules, Engine, by_time, clean, leave_last_out
from model.data.ingest import EVENTS
from model.data.store import sequence_lines

NOW = 10_000_000
ENGINES = [Engine("polars"), Engine("duckdb")]


def table(path: Path, *rows: dict[str, Any]) -> Path:
    columns = {
        name: [row.get(name, "view" if name == "kind" else None) for row in rows] for name in EVENTS
    }
    frame = pl.DataFrame(columns, schema=EVENTS)
    frame.with_columns(pl.int_range(len(rows)).alias("row")).write_parquet(path)
    return path


def event(user: str, time: int, item: str | None = "i", **more: Any) -> dict[str, Any]:
    return {"user": user, "time": time, "item": item, **more}


@pytest.fixture(params=ENGINES, ids=lambda engine: engine.backend)
def engine(request: pytest.FixtureRequest) -> Engine:
    return request.param


def cleaned(tmp_path: Path, engine: Engine, rules: CleanRules, *rows: dict[str, Any]) -> Any:
    out = tmp_path / "out.parquet"
    report = clean(table(tmp_path / "in.parquet", *rows), out, rules, engine)
    kept = pl.read_parquet(out)
    assert report.kept == kept.height
    assert not list(tmp_path.glob(".*")), "the steps in between must be gone"
    return report, [(row["user"], row["time"], row["item"]) for row in kept.to_dicts()]


def test_later_than_now_is_removed_and_the_tolerance_is_kept(
    tmp_path: Path, engine: Engine
) -> None:
    rules = CleanRules(now=NOW, tolerance_ms=10)
    report, kept = cleaned(tmp_path, engine, rules, event("u", NOW + 10), event("u", NOW + 11))
    assert kept == [("u", NOW + 10, "i")]
    assert report.removed["future"] == 1


def test_a_row_that_says_the_same_as_one_before_is_removed_nulls_included(
    tmp_path: Path, engine: Engine
) -> None:
    search = event("u", 5, None, kind="search", query="q")
    report, kept = cleaned(
        tmp_path, engine, CleanRules(now=NOW),
        event("u", 1), event("u", 1, session="other"), event("u", 1, kind="cart"), search, search,
    )  # fmt: skip
    assert report.removed["duplicate"] == 2
    assert len(kept) == 3


def test_all_rows_of_a_user_who_was_once_too_fast_are_removed(
    tmp_path: Path, engine: Engine
) -> None:
    fast = [event("bot", 60_000 + n, f"i{n}") for n in range(4)]
    slow = [event("u", 60_000 * n, f"i{n}") for n in range(4)]
    rules = CleanRules(now=NOW, per_minute=3)
    report, kept = cleaned(tmp_path, engine, rules, event("bot", 9_000_000), *fast, *slow)
    assert report.removed["bot"] == 5
    assert {user for user, _, _ in kept} == {"u"}


def test_the_core_is_found_by_rounds_and_searches_stay_with_their_user(
    tmp_path: Path, engine: Engine
) -> None:
    rows = [event(u, n, i) for n, (u, i) in enumerate(
        [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"), ("c", "x"), ("c", "z"), ("d", "z")]
    )]  # fmt: skip
    # d has one event: leaving takes z below two, which takes c below two
    found = [
        event("a", 90, None, kind="search", query="q"),
        event("d", 91, None, kind="search", query="q"),
    ]
    report, kept = cleaned(tmp_path, engine, CleanRules(now=NOW, core=2), *rows, *found)
    assert kept == [("a", 0, "x"), ("a", 1, "y"), ("a", 90, None), ("b", 2, "x"), ("b", 3, "y")]
    assert report.removed["k-core"] == 4


def test_times_that_run_backwards_are_counted_and_sorted_ties_in_reading_order(
    tmp_path: Path, engine: Engine
) -> None:
    report, kept = cleaned(
        tmp_path, engine, CleanRules(now=NOW),
        event("u", 9, "late"), event("u", 3, "b"), event("u", 3, "a"), event("v", 1, "c"),
    )  # fmt: skip
    assert kept == [("u", 3, "b"), ("u", 3, "a"), ("u", 9, "late"), ("v", 1, "c")]
    assert report.out_of_order == 1


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcd"), st.integers(0, 200_000), st.sampled_from(["x", "y", "z", None])
        ),
        min_size=1,
        max_size=40,
    )
)
@settings(max_examples=20, deadline=None)
def test_engines_agree_row_by_row(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[str, int, str | None]]
) -> None:
    folder = tmp_path_factory.mktemp("agree")
    rows = [event(u, t, i, **({} if i else {"kind": "search", "query": "q"})) for u, t, i in drawn]
    source = table(folder / "in.parquet", *rows)
    rules = CleanRules(now=150_000, tolerance_ms=0, per_minute=4, core=2)
    found: list[tuple[Any, pl.DataFrame]] = []
    for engine in ENGINES:
        out = folder / f"{engine.backend}.parquet"
        found.append((clean(source, out, rules, engine), pl.read_parquet(out)))
    (one, first), (other, second) = found
    assert one == other
    assert first.equals(second)


def test_leave_last_out_gives_each_long_user_one_test_and_one_valid_event(
    tmp_path: Path, engine: Engine
) -> None:
    rows = [event("u", n, f"i{n}") for n in range(4)] + [event("short", n, "x") for n in range(2)]
    parts = leave_last_out(engine.read(table(tmp_path / "e.parquet", *rows)))
    found = {
        name: sorted(part.collect(backend="polars").to_native().select("user", "item").rows())
        for name, part in parts.items()
    }
    assert found == {
        "train": [("short", "x"), ("short", "x"), ("u", "i0"), ("u", "i1")],
        "valid": [("u", "i2")],
        "test": [("u", "i3")],
    }


def test_a_time_split_loses_no_event_and_refuses_moments_in_the_wrong_order(tmp_path: Path) -> None:
    rows = [event("u", n, f"i{n}") for n in range(10)]
    frame = Engine().read(table(tmp_path / "e.parquet", *rows))
    parts = by_time(frame, 6, 8)
    times = {name: part.collect()["time"].to_list() for name, part in parts.items()}
    assert times == {"train": [*range(6)], "valid": [6, 7], "test": [8, 9]}
    with pytest.raises(ValueError, match="valid_from is 8; it must lie before test_from, 8"):
        by_time(frame, 8, 8)


def test_sequences_are_one_line_a_user_and_an_item_that_follows_itself_counts_once(
    tmp_path: Path,
) -> None:
    rows = [
        event("u", 1, "a"), event("u", 2, "a", kind="cart"), event("u", 3, "b"),
        event("u", 4, None, kind="search", query="q"), event("u", 5, "a"), event("v", 1, "c"),
    ]  # fmt: skip
    path = table(tmp_path / "e.parquet", *rows)
    assert list(sequence_lines(path)) == ["u a b a", "v c"]
    assert list(sequence_lines(path, repeats=True)) == ["u a a b a", "v c"]


def test_a_limit_below_nought_is_refused_with_its_name_and_value() -> None:
    with pytest.raises(ValueError, match="core is -1; give 0 or more"):
        CleanRules(now=NOW, core=-1)
