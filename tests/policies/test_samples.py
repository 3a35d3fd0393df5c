"""Every rule's samples are its tests."""

from __future__ import annotations

import re

import pytest

from policies.engine import Plan, judge, run
from policies.load import from_list
from policies.resource import Stack
from policies.rule import Context, Rule, Sample, Verdict
from policies.rules import all_rules


def stack_of(sample: Sample) -> Stack:
    return Stack(list(from_list(list(sample) if isinstance(sample, (list, tuple)) else [sample])))


def verdicts(rule: Rule, sample: Sample) -> list[Verdict]:
    return [row.verdict for row in run(stack_of(sample), Plan((rule,), complete=False))]


def cases(kind: str) -> list[object]:
    return [
        pytest.param(rule, sample, id=f"{rule.id}-{position}")
        for rule in all_rules()
        for position, sample in enumerate(getattr(rule, kind))
    ]


@pytest.mark.parametrize(("rule", "sample"), cases("allowed"))
def test_an_allowed_sample_passes_its_rule(rule: Rule, sample: Sample) -> None:
    assert set(verdicts(rule, sample)) <= {Verdict.PASS}


@pytest.mark.parametrize(("rule", "sample"), cases("refused"))
def test_a_refused_sample_fails_its_rule(rule: Rule, sample: Sample) -> None:
    assert Verdict.FAIL in verdicts(rule, sample)


def test_only_a_load_balancer_class_that_is_named_in_the_settings_counts_as_internal() -> None:
    rule = next(one for one in all_rules() if one.id == "k8s-service-load-balancer-internal")
    stack = stack_of([sample for sample in rule.refused if "loadBalancerClass" in str(sample)])
    named = {rule.id: {"classes": ["example.com/metal"]}}
    for settings, verdict in ((named, Verdict.PASS), ({}, Verdict.FAIL)):
        plan = Plan((rule,), settings=settings, complete=False)
        assert [row.verdict for row in run(stack, plan)] == [verdict]


def test_rule_ids_are_unique_and_readable() -> None:
    ids = [rule.id for rule in all_rules()]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"(aws|k8s|cost|stack)(-[a-z0-9]+)+", name) for name in ids), ids


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.id)
def test_a_rule_says_what_it_is_and_what_to_do(rule: Rule) -> None:
    assert rule.title, "a title is what reviewers read first"
    assert rule.anchors, "a rule without a public anchor is an opinion"
    assert rule.remediation.endswith((".", ")")), "remediation is a sentence"
    assert rule.allowed, "nothing shows that the rule can pass"
    assert rule.refused, "nothing shows that the rule can fail"
    assert rule.applies or rule.whole_stack, "the rule would never run"
    for name, option in rule.config.items():
        assert option.accepts(option.default), f"{name}: its own default has another type"


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.id)
def test_findings_say_what_was_found(rule: Rule) -> None:
    for sample in rule.refused:
        stack = stack_of(sample)
        for resource in stack.resources:
            if resource.kind in rule.applies:
                verdict, message = judge(rule, resource, Context(stack, rule.defaults()))
                assert (message != "") is (verdict is not Verdict.PASS)
