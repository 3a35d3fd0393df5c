"""All doors say the same about the same resources."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pulumi.runtime.proto import analyzer_pb2

from policies import load
from policies.engine import UNJUDGED, Plan, Row, run
from policies.pack import Analyzer
from policies.resource import Stack
from policies.rule import Rule, Verdict
from policies.rules import all_rules

PLAN = Plan(all_rules())
SECRET = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270", "value": "x" * 40}
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
Finding = tuple[str, str, str, str]  # rule, verdict, name of the resource, message


def samples() -> list[tuple[str, list[dict[str, Any]]]]:
    found: list[tuple[str, list[dict[str, Any]]]] = []
    for rule in all_rules():
        for kind, group in (("allowed", rule.allowed), ("refused", rule.refused)):
            for position, sample in enumerate(group):
                entries = [sample] if isinstance(sample, Mapping) else list(sample)
                found.append((f"{rule.id}-{kind}-{position}", [dict(each) for each in entries]))
    return found


def token(type_: str) -> str:
    """A sample's type as the engine writes it."""
    if ":" in type_:
        return type_
    version, kind = type_.rsplit("/", 1)
    return f"kubernetes:{version if '/' in version else f'core/{version}'}:{kind}"


def urns(entries: list[dict[str, Any]]) -> list[str]:
    """Unique, as in any stack, and ending in the resource's name."""
    made = [f"urn:pulumi:dev::shop::{token(each['type'])}::{each['name']}" for each in entries]
    return [f"{urn}-{n}" if urn in made[:n] else urn for n, urn in enumerate(made)]


def engine_states(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "urn": urn,
            "type": token(entry["type"]),
            "custom": True,
            "inputs": entry["properties"],
            "protect": entry.get("protect", False),
            "propertyDependencies": entry.get("propertyDependencies", {}),
        }
        for urn, entry in zip(urns(entries), entries, strict=True)
    ]


def findings(rows: list[Row]) -> set[Finding]:
    return {
        (row.rule, row.verdict.value, row.resource.rsplit("::", 1)[-1], row.message)
        for row in rows
        if row.verdict is not Verdict.PASS and row.rule != UNJUDGED
    }


def through_list(entries: list[dict[str, Any]], folder: Path) -> set[Finding]:
    file = folder / "list.json"
    named = [
        {**entry, "type": token(entry["type"]), "urn": urn, "name": urn.rsplit("::", 1)[-1]}
        for urn, entry in zip(urns(entries), entries, strict=True)
    ]
    file.write_text(json.dumps(named))
    return findings(run(load.resources(file), PLAN))


def through_preview(entries: list[dict[str, Any]], folder: Path) -> set[Finding]:
    file = folder / "preview.json"
    steps = [
        {"op": "create", "urn": state["urn"], "newState": state} for state in engine_states(entries)
    ]
    file.write_text(json.dumps({"steps": steps}))
    return findings(run(load.preview(file), PLAN))


def through_state(entries: list[dict[str, Any]], folder: Path) -> set[Finding]:
    file = folder / "state.json"
    exported = {"version": 3, "deployment": {"resources": engine_states(entries)}}
    file.write_text(json.dumps(exported))
    return findings(run(load.state(file), PLAN))


def through_pack(entries: list[dict[str, Any]], folder: Path) -> set[Finding]:
    analyzer = Analyzer(folder)
    every = {rule.id: analyzer_pb2.PolicyConfig(enforcementLevel=analyzer_pb2.MANDATORY)
             for rule in all_rules()}  # fmt: skip
    analyzer.Configure(analyzer_pb2.ConfigureAnalyzerRequest(policyConfig=every), None)
    said = []
    whole = analyzer_pb2.AnalyzeStackRequest()
    for state in engine_states(entries):
        properties = json_format.ParseDict(
            state["inputs"], analyzer_pb2.AnalyzeRequest().properties
        )
        common: dict[str, Any] = {
            "type": state["type"], "urn": state["urn"], "name": state["urn"].rsplit("::", 1)[-1],
            "properties": properties,
            "options": analyzer_pb2.AnalyzerResourceOptions(protect=state["protect"]),
        }  # fmt: skip
        said += analyzer.Analyze(analyzer_pb2.AnalyzeRequest(**common), None).diagnostics
        references = {
            name: analyzer_pb2.AnalyzerPropertyDependencies(urns=names)
            for name, names in state["propertyDependencies"].items()
        }
        whole.resources.append(
            analyzer_pb2.AnalyzerResource(**common, propertyDependencies=references)
        )
    said += analyzer.AnalyzeStack(whole, None).diagnostics
    keys = [(each.policyName, each.urn, each.message) for each in said]
    assert len(set(keys)) == len(keys), "told twice"
    remedies = {rule.id: rule.remediation for rule in all_rules()}
    return {
        (
            each.policyName,
            "unknown" if each.message.startswith("unknown: ") else "fail",
            each.urn.rsplit("::", 1)[-1] or "stack",
            each.message.removeprefix("unknown: ")
            .removesuffix(remedies[each.policyName])
            .strip()[:-1],
        )
        for each in said
        if each.policyName != UNJUDGED
    }


DOORS: list[Callable[[list[dict[str, Any]], Path], set[Finding]]] = [
    through_preview, through_state, through_pack,
]  # fmt: skip


@pytest.mark.parametrize("entries", [each[1] for each in samples()], ids=[s[0] for s in samples()])
def test_every_door_says_the_same_about_a_sample(entries: list[dict[str, Any]], tmp_path: Path):
    expected = through_list(entries, tmp_path)
    for door in DOORS:
        assert door(entries, tmp_path) == expected, door.__name__


@pytest.mark.parametrize(
    "rule", [r for r in all_rules() if r.id.startswith("k8s-")], ids=lambda r: r.id
)
def test_manifests_say_the_same_as_the_list(rule: Rule, tmp_path: Path):
    for sample in (*rule.allowed, *rule.refused):
        entries = [sample] if isinstance(sample, Mapping) else list(sample)
        manifests = [entry["properties"] for entry in entries if "kind" in entry["properties"]]
        if len(manifests) < len(entries):
            continue  # a resource of a cloud beside it: no manifest can hold that
        file = tmp_path / "all.yaml"
        file.write_text(yaml.safe_dump_all(manifests))
        listed = tmp_path / "list.json"
        listed.write_text(json.dumps(entries))
        assert findings(run(load.manifests(file), PLAN)) == findings(
            run(load.resources(listed), PLAN)
        )


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    found = [path] if path else []
    for key, each in inner:
        found += _paths(each, (*path, key))
    return found


JUNK = [None, "", "x", 0, -1, 10**12, 0.5, True, False, [], {}, [[]], [{}], {"": None}, UNKNOWN,
        SECRET, "*", "0.0.0.0/0", "::/0", [None], ["*"], "{\"Statement\": 1}", "1e309"]  # fmt: skip
SAMPLES = [each[1] for each in samples()]


@st.composite
def mutated(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A sample with one to three of its values replaced, removed or doubled."""
    entries = json.loads(json.dumps(draw(st.sampled_from(SAMPLES))))
    for _ in range(draw(st.integers(1, 3))):
        entry = draw(st.sampled_from(entries))
        paths = _paths(entry["properties"])
        if not paths:
            continue
        *parents, last = draw(st.sampled_from(paths))
        place = entry["properties"]
        for key in parents:
            place = place[key]
        action = draw(st.sampled_from(["replace", "remove", "double"]))
        if action == "replace":
            place[last] = copy.deepcopy(draw(st.sampled_from(JUNK)))
        elif action == "remove":
            del place[last]
        elif isinstance(place, list):
            place.append(place[last])
    return entries


@settings(
    max_examples=300, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(entries=mutated())
def test_every_door_says_the_same_about_generated_resources(
    entries: list[dict[str, Any]], tmp_path: Path
):
    expected = through_list(entries, tmp_path)
    for door in DOORS:
        assert door(entries, tmp_path) == expected, door.__name__


@settings(
    max_examples=2500, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
@given(groups=st.lists(mutated(), min_size=4, max_size=4))
def test_ten_thousand_mutated_resources_get_one_of_three_verdicts_and_never_an_error(
    groups: list[list[dict[str, Any]]],
):
    for entries in groups:
        stack = Stack(list(load.from_list(entries)))
        rows = run(stack, PLAN)
        asked = {(row.rule, row.resource) for row in rows}
        assert asked or not stack.resources
        assert all(isinstance(row.verdict, Verdict) for row in rows)
        for row in rows:
            assert (row.message == "") == (row.verdict is Verdict.PASS), row
