"""Accepted findings: data with an end, never a silent skip."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from policies.cli import main
from policies.engine import Plan, run
from policies.load import InputError, from_list
from policies.report import sarif
from policies.resource import Stack
from policies.rules import all_rules
from policies.samples import pod
from policies.settings import Waiver, apply_waivers, read_waivers
from policies.stacks import FOLDER

RULE = next(rule for rule in all_rules() if rule.id == "k8s-pod-host-pid")
PLAN = Plan((RULE,))
BAD = pod(hostPID=True)
TODAY = date(2027, 1, 1)


def waiver(**changes: Any) -> Waiver:
    fields: dict[str, Any] = {
        "resource": "Pod/shop/sample", "rule": RULE.id, "reason": "the node agent needs it",
        "owner": "platform", "ticket": "OPS-7", "expires": TODAY, **changes,
    }  # fmt: skip
    return Waiver(**fields)


def rows(*waivers: Waiver):
    found = run(Stack(list(from_list([BAD]))), PLAN)
    return apply_waivers(found, waivers, PLAN, TODAY, "waivers.yaml")


def test_a_waived_finding_is_kept_with_its_reason_and_does_not_block():
    (row,) = rows(waiver())
    assert row.waived
    assert not row.blocks
    assert row.waiver == "the node agent needs it (platform, OPS-7, until 2027-01-01)"


def test_a_waiver_holds_through_its_last_day_and_fails_on_the_next():
    assert not any(row.blocks for row in rows(waiver(expires=TODAY)))
    over = rows(waiver(expires=date(2026, 12, 31)))
    assert {row.rule for row in over if row.blocks} == {RULE.id, "waiver-expired"}


@pytest.mark.parametrize("change", [{"resource": "Pod/shop/other"}, {"resource": "*/blog/*"}])
def test_a_waiver_that_covers_nothing_fails_and_says_so(change: dict[str, str]):
    blocking = {row.rule: row for row in rows(waiver(**change)) if row.blocks}
    assert set(blocking) == {RULE.id, "waiver-unused"}
    assert "covers no finding" in blocking["waiver-unused"].message


def test_a_waiver_of_a_good_resource_is_unused():
    found = run(Stack(list(from_list([pod()]))), PLAN)
    complaint = apply_waivers(found, [waiver()], PLAN, TODAY, "waivers.yaml")[-1]
    assert complaint.rule == "waiver-unused"
    assert complaint.source_file == "waivers.yaml"


def test_a_waiver_of_a_part_that_is_off_may_be_absent_but_never_of_a_good_resource():
    absent = waiver(resource="Pod/shop/other", may_be_absent=True)
    assert {row.rule for row in rows(absent) if row.blocks} == {RULE.id}
    good = run(Stack(list(from_list([pod()]))), PLAN)
    complaint = apply_waivers(good, [waiver(may_be_absent=True)], PLAN, TODAY, "waivers.yaml")[-1]
    assert complaint.rule == "waiver-unused"


def test_sarif_carries_a_waiver_as_an_accepted_suppression_and_drops_no_result():
    (result,) = sarif(rows(waiver()), all_rules())["runs"][0]["results"]
    (suppression,) = result["suppressions"]
    assert suppression["status"] == "accepted"
    assert "OPS-7" in suppression["justification"]
    (open_one,) = sarif(rows(), all_rules())["runs"][0]["results"]
    assert "suppressions" not in open_one


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rule": "k8s-no-such-rule"}, "no rule 'k8s-no-such-rule'"),
        ({"resource": "*"}, "waives everything"),
        ({"reason": "because"}, "at least 10 characters"),
        ({"expires": "someday"}, "expires"),
        ({"until": "2027-01-01"}, "Extra inputs"),
    ],
)
def test_a_bad_waiver_file_names_the_field(tmp_path: Path, change: dict[str, str], says: str):
    file = tmp_path / "waivers.yaml"
    entry = {**waiver().model_dump(mode="json"), **change}
    file.write_text(json.dumps({"waivers": [entry]}))
    with pytest.raises(InputError, match=says):
        read_waivers(file, all_rules())


@pytest.mark.parametrize(("expires", "code"), [("2999-01-01", 0), ("2020-01-01", 1)])
def test_the_command_line_keeps_and_ends_waivers(tmp_path: Path, expires: str, code: int):
    listed, file = tmp_path / "list.json", tmp_path / "waivers.yaml"
    listed.write_text(json.dumps([BAD]))
    file.write_text(
        json.dumps({"waivers": [waiver().model_dump(mode="json") | {"expires": expires}]})
    )
    asked = ["--resources", str(listed), "--rules", RULE.id, "--waivers", str(file)]
    assert main(["check", *asked]) == code
    assert main(["check", "--resources", str(listed), "--rules", RULE.id]) == 1


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.waivers.yaml")), ids=lambda file: file.name)
def test_the_waivers_of_the_repository_can_be_read(file: Path):
    assert read_waivers(file, all_rules())
