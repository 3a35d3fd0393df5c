"""Judge a stack: every rule on every resource it applies to, one row per answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from infra.naming import PROJECT
from policies.resource import Resource, Stack
from policies.rule import Context, Finding, Missing, Rule, Severity, Verdict
from policies.values import UnknownValue

STACK_TYPE = "pulumi:pulumi:Stack"
UNJUDGED = "no-rule-for-type"
MALFORMED = "malformed: the rule cannot read this value"
# what a rule can meet in a value of a form that no server would accept
_UNREADABLE = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError)


@dataclass(frozen=True, slots=True)
class Row:
    """One answer. `message` joins all that was found; `waiver` is the reason it is accepted."""

    rule: str
    severity: Severity
    verdict: Verdict
    resource: str
    source_file: str
    line: int
    message: str
    remediation: str
    advisory: bool = False
    waived: bool = False
    waiver: str = ""

    @property
    def blocks(self) -> bool:
        """Whether this row alone makes a check fail."""
        return self.verdict is Verdict.FAIL and not self.waived and not self.advisory

    def as_dict(self) -> dict[str, Any]:
        """The public JSON row."""
        return {
            "rule": self.rule,
            "severity": self.severity.value,
            "verdict": self.verdict.value,
            "resource": self.resource,
            "source_file": self.source_file,
            "line": self.line,
            "message": self.message,
            "remediation": self.remediation,
            "advisory": self.advisory,
            "waived": self.waived,
            **({"waiver": self.waiver} if self.waiver else {}),
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """Which rules run, with which settings. `settings` and `advisory` are keyed by rule id."""

    rules: tuple[Rule, ...]
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    advisory: frozenset[str] = frozenset()
    complete: bool = True  # every rule runs, so a type that none applies to is worth a row

    def config_of(self, rule: Rule) -> dict[str, Any]:
        """The rule's settings, defaults filled in."""
        return {**rule.defaults(), **self.settings.get(rule.id, {})}


def judge(rule: Rule, resource: Resource, context: Context) -> tuple[Verdict, str]:
    """The verdict of one rule on one resource, and what it found."""
    failures: list[str] = []
    missing: list[str] = []
    try:
        for finding in rule.check(resource, context):
            _note(finding, failures, missing)
    except UnknownValue as unknown:
        missing.append(str(unknown))
    except _UNREADABLE as error:
        missing.append(f"{MALFORMED} ({type(error).__name__}: {error})")
    if failures:
        return Verdict.FAIL, "; ".join(dict.fromkeys(failures))
    if missing:
        return Verdict.UNKNOWN, "not known yet: " + ", ".join(dict.fromkeys(missing))
    return Verdict.PASS, ""


def _note(finding: Finding, failures: list[str], missing: list[str]) -> None:
    if isinstance(finding, Missing):
        missing.append(finding.what)
    else:
        failures.append(finding)


Judged = Mapping[str, Mapping[str, Row]]
"""URN -> rule id -> the answer that needs not be asked for again."""


def run(stack: Stack, plan: Plan, judged: Judged | None = None) -> list[Row]:
    """Every row, resources in input order, then the rules on the whole stack."""
    by_kind: dict[str, list[Rule]] = {}
    for rule in plan.rules:
        for kind in rule.applies:
            by_kind.setdefault(kind, []).append(rule)
    contexts = {rule.id: Context(stack, plan.config_of(rule)) for rule in plan.rules}
    rows: list[Row] = []
    for resource in stack.resources:
        applicable = by_kind.get(resource.kind, ())
        if not applicable and plan.complete and not _needs_no_rule(resource.kind):
            rows.append(_unjudged(resource))
        before = (judged or {}).get(resource.urn, {})
        rows += [
            before.get(rule.id) or row_of(rule, resource, contexts[rule.id], plan)
            for rule in applicable
        ]
    whole = Resource(type=STACK_TYPE, name="stack", props={}, kind=STACK_TYPE)
    rows += [
        row_of(rule, whole, contexts[rule.id], plan) for rule in plan.rules if rule.whole_stack
    ]
    return rows


def row_of(rule: Rule, resource: Resource, context: Context, plan: Plan) -> Row:
    """One rule's answer about one resource."""
    verdict, message = judge(rule, resource, context)
    return Row(
        rule=rule.id,
        severity=rule.severity,
        verdict=verdict,
        resource=resource.label if resource.kind != STACK_TYPE else "stack",
        source_file=resource.source_file,
        line=resource.line,
        message=message,
        remediation=rule.remediation if verdict is not Verdict.PASS else "",
        advisory=rule.id in plan.advisory,
    )


def _unjudged(resource: Resource) -> Row:
    return Row(
        rule=UNJUDGED,
        severity=Severity.LOW,
        verdict=Verdict.UNKNOWN,
        resource=resource.label,
        source_file=resource.source_file,
        line=resource.line,
        message=f"no rule judges {resource.type}",
        remediation="Read the resource by hand, or write a rule for its type.",
    )


# Components of this program hold other resources and nothing of their own.
_PLUMBING = (
    f"{PROJECT}:",
    "recsys:",
    "pulumi-nodejs:",
    "pulumi-python:",
    "random:",
    "tls:",
    "command:",
    "time:",
)


def _needs_no_rule(kind: str) -> bool:
    from policies.known_types import PLAIN_TYPES

    return kind in PLAIN_TYPES or kind.startswith(_PLUMBING)


def waive(rows: Iterable[Row], accepted: Mapping[int, str]) -> list[Row]:
    """Rows with the accepted ones marked; `accepted` maps a row's position to its reason."""
    return [
        replace(row, waived=True, waiver=accepted[position]) if position in accepted else row
        for position, row in enumerate(rows)
    ]
