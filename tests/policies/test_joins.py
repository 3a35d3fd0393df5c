"""Siblings find each other by reference, known or not."""

from __future__ import annotations

from typing import Any

import pytest

from policies.load import from_list
from policies.resource import Stack
from policies.values import UNKNOWN_GUID

BUCKET = "aws:s3/bucket:Bucket"
BLOCK = "aws:s3/bucketPublicAccessBlock:BucketPublicAccessBlock"


def urn(type_: str, name: str) -> str:
    return f"urn:pulumi:prod::shop::{type_}::{name}"


def stack(*entries: dict[str, Any]) -> Stack:
    return Stack(list(from_list([{"urn": urn(e["type"], e["name"]), **e} for e in entries])))


def bucket(name: str, **props: Any) -> dict[str, Any]:
    return {"type": BUCKET, "name": name, "properties": props}


def block(value: Any, *recorded: str) -> dict[str, Any]:
    found: dict[str, Any] = {"type": BLOCK, "name": "block", "properties": {"bucket": value}}
    if recorded:
        found["propertyDependencies"] = {"bucket": list(recorded)}
    return found


def answer(built: Stack, target: str) -> bool | None:
    by_name = {resource.name: resource for resource in built.resources}
    return built.refers(by_name["block"], "bucket", by_name[target])


def test_the_engines_record_decides_when_the_value_is_not_known() -> None:
    built = stack(bucket("a"), bucket("b"), block(UNKNOWN_GUID, urn(BUCKET, "b")))
    assert (answer(built, "a"), answer(built, "b")) == (False, True)


def test_an_unknown_value_without_a_record_is_not_guessed_between_two() -> None:
    built = stack(bucket("a"), bucket("b"), block(UNKNOWN_GUID))
    assert (answer(built, "a"), answer(built, "b")) == (None, None)


def test_an_unknown_value_can_only_mean_the_one_of_its_kind() -> None:
    assert answer(stack(bucket("a"), block(UNKNOWN_GUID)), "a") is True


def test_a_record_of_something_else_leaves_the_question_open() -> None:
    built = stack(bucket("a"), block(UNKNOWN_GUID, urn("random:index/randomId:RandomId", "suffix")))
    assert answer(built, "a") is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("shop-data", True),
        ("arn:aws:s3:::shop-data", True),
        ("${a.id}", True),
        ("${aws_s3_bucket.a.id}", True),
        ("other", False),
        ("${b.id}", False),
        (None, False),
    ],
)
def test_a_known_value_points_by_physical_name_or_reference(
    value: str | None, expected: bool
) -> None:
    built = stack(bucket("a", bucket="shop-data"), block(value))
    assert answer(built, "a") is expected


def test_a_sibling_that_is_really_called_so_wins_over_a_programs_name() -> None:
    built = stack(bucket("a", bucket="b"), bucket("b", bucket="c"), block("b"))
    assert (answer(built, "a"), answer(built, "b")) == (True, False)


def test_an_old_type_name_in_a_record_is_still_the_same_kind() -> None:
    old = "aws:s3/bucketV2:BucketV2"
    built = stack(bucket("a"), block(UNKNOWN_GUID, urn(old, "elsewhere")))
    assert answer(built, "a") is False
