"""The analyser and the speller."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.search.catalogue import build
from model.search.spelling import Speller
from model.search.tables import Entry
from model.search.text import head_length, measures, number, plain, shapes, terms


def texts(text: str) -> list[str]:
    return [term.text for term in plain(terms(text))]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('12" pipe', "12 in. pipe"),
        ("12 inches pipe", "12in pipe"),
        ("5gal bucket", "5 Gallon Bucket"),
        ("1 1/2 in. valve", "1-1/2-in. valve"),
        (".75 hose", "3/4 hose"),
        ("½ hp pump", "1/2 HP Pump"),
        ("6' ladder", "6 ft. ladder"),
        ("20v drill", "20-Volt Drill"),
        ("2x4", "2 x 4"),
        ("4ft by 8ft sheet", "4 ft. x 8 ft. Sheet"),
        ("drills", "drill"),
        ("men&#39;s &amp; boots", "mens boot"),
    ],
)
def test_two_ways_of_writing_it_are_the_same_terms(one: str, other: str) -> None:
    assert texts(one) == texts(other)


def test_sizes_joined_by_x_are_shapes_with_or_without_units() -> None:
    assert shapes(terms("2 in. x 4 in. x 8 ft. stud")) == ["2x4", "4x8"]
    assert shapes(terms("2x4x8 stud")) == ["2x4", "4x8"]
    assert shapes(terms("max 3 boxes")) == []


def test_a_number_keeps_its_unit_as_a_measure() -> None:
    assert measures(terms("12 in. x 5gal")) == ["12_in", "5_gal"]


def test_a_wire_size_is_no_fraction() -> None:
    assert number("10/2") == "10/2"
    assert number("3/4") == "0.75"
    assert number("1,000") == "1000"
    assert number("5/0") == "5/0"


def test_a_model_number_stays_whole() -> None:
    assert texts("bruce eb5205p") == ["bruce", "eb5205p"]
    assert "r19" in [term.text for term in terms("R-19 insulation")]


def test_the_head_of_a_title_ends_before_what_it_is_made_of() -> None:
    assert head_length("Delta Faucet Trim Kit in Chrome (Valve Not Included)") == 4
    assert head_length("3/4 in. x 3 in. Casing") >= 5, "an inch is no preposition"


@given(st.text(max_size=300))
def test_any_text_can_be_analysed_and_keeps_within_bounds(text: str) -> None:
    found = terms(text)
    assert len(found) <= 256
    assert all(term.text for term in found)


@given(st.text(alphabet="0123456789/.-, ", max_size=12))
def test_any_number_like_text_gives_a_text(text: str) -> None:
    assert isinstance(number(text), str)


COUNTS = {"ceiling": 900, "faucet": 700, "fan": 500, "shower": 400, "led": 300, "bulb": 200,
          "sealing": 10, "screw": 300, "driver": 90}  # fmt: skip


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("cieling", ("ceiling",)),
        ("fuacet", ("faucet",)),
        ("shwoer", ("shower",)),
        ("ledbulb", ("led", "bulb")),
        ("screwdriver", ("screw", "driver")),
        ("ceiling", ("ceiling",)),
        ("zzzzqqqq", ("zzzzqqqq",)),
        ("fna", ("fna",)),
    ],
)
def test_a_word_becomes_the_closest_word_of_the_catalogue(
    written: str, meant: tuple[str, ...]
) -> None:
    assert Speller(COUNTS).correct(written) == meant


def test_a_rare_word_of_the_catalogue_is_kept_unless_a_far_more_frequent_one_is_next_to_it() -> (
    None
):
    speller = Speller({"ceiling": 900, "cieling": 1, "casing": 2, "racing": 1})
    assert speller.correct("cieling") == ("ceiling",)
    assert speller.correct("casing") == ("casing",)


@given(st.text(max_size=60))
def test_any_word_can_be_corrected(word: str) -> None:
    assert all(Speller(COUNTS).correct(word)) or word == ""


def test_a_query_is_corrected_and_its_joined_words_are_found() -> None:
    catalogue = build([Entry("1", "Dishwasher Door"), Entry("2", "Ceiling Fan"),
                       Entry("3", "Ceiling Lamp")])  # fmt: skip
    assert catalogue.query("cieling fan").terms == ("ceil", "fan")
    assert catalogue.query("cieling fan").corrected == 1
    joined = catalogue.query("dish washer")
    assert [catalogue.vocabulary[i] for i in joined.joins] == ["dishwash"]
