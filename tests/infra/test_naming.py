"""Names are legal whatever the parts, and stay apart when they are cut."""

from __future__ import annotations

import re
from datetime import date

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from infra.naming import Identity, labels, name, selector, tags

DNS_LABEL = re.compile(r"^[a-z]([a-z0-9-]*[a-z0-9])?$")
WHO = Identity(environment="local", owner="search", cost_centre="cc-1", data_class="internal")


@given(st.lists(st.text(), min_size=0, max_size=5), st.integers(10, 63))
def test_any_parts_give_a_legal_dns_label(parts: list[str], limit: int) -> None:
    made = name(*parts, limit=limit)
    assert DNS_LABEL.match(made), made
    assert len(made) <= limit


@given(st.lists(st.text(), max_size=4), st.integers(10, 63))
def test_a_name_is_the_same_every_time(parts: list[str], limit: int) -> None:
    assert name(*parts, limit=limit) == name(*parts, limit=limit)


@given(st.text("abc", min_size=60, max_size=80), st.text(max_size=9), st.text(max_size=9))
def test_two_long_names_that_share_a_head_stay_apart(head: str, one: str, other: str) -> None:
    assume(one != other)
    assert name(head, one) != name(head, other)


@given(st.text(max_size=12), st.text(max_size=12))
def test_two_parts_that_look_alike_once_cleaned_stay_apart(one: str, other: str) -> None:
    assume(one != other)
    assert name("site", one) != name("site", other), "cleaning must not merge two resources"


def test_legal_parts_that_fit_are_kept_as_they_are() -> None:
    assert name("recs", "private", "gateway") == "recs-private-gateway"


def test_a_limit_without_room_for_the_suffix_is_refused() -> None:
    with pytest.raises(ValueError, match="limit is 5; give 10 or more"):
        name("a", limit=5)


def test_tags_carry_every_required_key_and_the_expiry_only_when_there_is_one() -> None:
    assert tags(WHO, "canary") == {
        "project": "hybrid-recommender",
        "component": "canary",
        "environment": "local",
        "owner": "search",
        "cost-centre": "cc-1",
        "data-class": "internal",
    }
    until = Identity(
        environment="staging", owner="search", cost_centre="cc-1", data_class="internal",
        expiry=date(2027, 1, 31),
    )  # fmt: skip
    assert tags(until, "canary")["expiry"] == "2027-01-31"


def test_an_extra_tag_cannot_replace_a_required_one() -> None:
    assert tags(WHO, "canary", {"owner": "nobody", "team": "a"})["owner"] == "search"
    assert tags(WHO, "canary", {"owner": "nobody", "team": "a"})["team"] == "a"


@pytest.mark.parametrize("value", ["", "a b", "-a", "a" * 64, "ä"])
def test_a_tag_value_kubernetes_would_refuse_is_refused_here(value: str) -> None:
    with pytest.raises(ValueError, match="tag team is"):
        tags(WHO, "canary", {"team": value})


def test_labels_contain_the_selector_so_that_pods_are_found() -> None:
    assert selector("canary").items() <= labels(WHO, "canary").items()
