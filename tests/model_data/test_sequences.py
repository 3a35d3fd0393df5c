"""The shared sequence format: what goes in comes out, and rubbish is counted, never fatal."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.files import DataError
from model.data.sequences import read_sequences, write_sequences

ids = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=20).filter(
    lambda text: len(text.split()) == 1
)


@pytest.mark.parametrize("name", ["s.txt", "s.txt.gz"])
def test_plain_and_gzip_files_round_trip(tmp_path: Path, name: str) -> None:
    users = [("u1", ["a", "b"]), ("u2", ["c"])]
    assert write_sequences(tmp_path / name, users) == 2
    assert [tuple(s) for s in read_sequences(tmp_path / name)] == users


def test_gzip_is_known_by_content_not_by_name(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_bytes(gzip.compress(b"u a b\n"))
    assert [s.items for s in read_sequences(tmp_path / "s.txt")] == [["a", "b"]]


def test_malformed_lines_are_reported_with_number_and_reason(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("u1 a\n\nlonely\nu2 b\n")
    said: list[tuple[int, str, str]] = []
    good = list(read_sequences(tmp_path / "s.txt", lambda *args: said.append(args)))
    assert [s.user for s in good] == ["u1", "u2"]
    assert [(number, reason) for number, reason, _ in said] == [
        (2, "empty line"),
        (3, "a user without items"),
    ]


def test_a_cut_gzip_file_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    whole = gzip.compress("".join(f"u{i} a b c{i}\n" for i in range(5000)).encode())
    (tmp_path / "s.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"s\.gz breaks off after line"):
        list(read_sequences(tmp_path / "s.gz"))


@given(st.lists(st.tuples(ids, st.lists(ids, min_size=1, max_size=5)), max_size=8))
@settings(max_examples=50, deadline=None)
def test_any_ids_without_white_space_round_trip(tmp_path_factory, users) -> None:
    path = tmp_path_factory.mktemp("s") / "s.gz"
    write_sequences(path, users)
    assert [(s.user, s.items) for s in read_sequences(path)] == users


@given(st.binary(max_size=400))
@settings(max_examples=150, deadline=None)
def test_arbitrary_bytes_never_crash_the_reader(tmp_path_factory, rubbish: bytes) -> None:
    path = tmp_path_factory.mktemp("s") / "s.txt"
    path.write_bytes(b"\n" + rubbish)  # the first byte keeps it from being gzip
    said: list[str] = []
    good = list(read_sequences(path, lambda _n, reason, _l: said.append(reason)))
    assert all(s.user and s.items for s in good)
    assert "empty line" in said
