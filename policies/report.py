"""The formats of a report: text, JSON, SARIF, JUnit, Markdown."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

from policies.engine import UNJUDGED, Row
from policies.rule import Severity, Verdict

FORMATS = ("text", "json", "sarif", "junit", "markdown")
_LEVEL = {
    Severity.CRITICAL: "error",
    Severity.HIGH: "error",
    Severity.MEDIUM: "warning",
    Severity.LOW: "note",
}
# GitHub's code scanning reads this number, 0.0 to 10.0
_SCORE = {
    Severity.CRITICAL: "9.5",
    Severity.HIGH: "8.0",
    Severity.MEDIUM: "5.5",
    Severity.LOW: "2.0",
}


class Described(Protocol):
    """What a report says of a rule."""

    @property
    def id(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def severity(self) -> Severity: ...
    @property
    def anchors(self) -> tuple[str, ...]: ...
    @property
    def remediation(self) -> str: ...


def render(rows: Sequence[Row], rules: Sequence[Described], form: str) -> str:
    """The report in one of `FORMATS`, ending with a newline."""
    if form == "json":
        # A row a line: quick to write (indenting leaves json's C encoder), and diffs by row.
        return "[" + ",\n ".join(json.dumps(row.as_dict()) for row in rows) + "]\n"
    if form == "sarif":
        return json.dumps(sarif(rows, rules), indent=1) + "\n"
    if form == "junit":
        return junit(rows)
    if form == "markdown":
        return markdown(rows)
    return text(rows)


def summary(rows: Sequence[Row]) -> str:
    """One line: how many of each verdict."""
    counts = Counter(row.verdict for row in rows if not row.waived)
    waived = sum(row.waived for row in rows)
    resources = len({(row.source_file, row.line, row.resource) for row in rows})
    return (
        f"{counts[Verdict.FAIL]} failed, {counts[Verdict.UNKNOWN]} unknown, "
        f"{counts[Verdict.PASS]} passed, {waived} waived; {resources} resources"
    )


def _worst_first(rows: Sequence[Row]) -> list[Row]:
    order = {Verdict.FAIL: 0, Verdict.UNKNOWN: 1, Verdict.PASS: 2}
    return sorted(rows, key=lambda row: (order[row.verdict], row.waived, row.severity.rank))


def text(rows: Sequence[Row]) -> str:
    """For a terminal: what failed, what is unknown and what is waived, worst first."""
    lines: list[str] = []
    for row in _worst_first([row for row in rows if row.verdict is not Verdict.PASS]):
        state = "waived" if row.waived else row.verdict.value
        place = (
            f" ({row.source_file}{f':{row.line}' if row.line else ''})" if row.source_file else ""
        )
        lines.append(f"{state.upper():8}{row.severity.value:9}{row.rule}  {row.resource}{place}")
        lines.append(f"        {row.message}")
        note = f"waived: {row.waiver}" if row.waived else row.remediation
        if note:
            lines.append(f"        -> {note}")
    return "\n".join([*lines, summary(rows)]) + "\n"


def sarif(rows: Sequence[Row], rules: Sequence[Described]) -> dict[str, Any]:
    """SARIF 2.1.0: failures as results, unknowns as open ones, waivers as suppressions."""
    used = {row.rule for row in rows}
    described: list[dict[str, Any]] = [
        {
            "id": rule.id,
            "shortDescription": {"text": rule.title},
            "help": {"text": rule.remediation},
            "defaultConfiguration": {"level": _LEVEL[rule.severity]},
            "properties": {
                "tags": ["security", *rule.anchors],
                "security-severity": _SCORE[rule.severity],
            },
        }
        for rule in rules
        if rule.id in used
    ]
    known = {entry["id"] for entry in described}
    described += [{"id": name, "shortDescription": {"text": name}} for name in sorted(used - known)]
    index = {entry["id"]: position for position, entry in enumerate(described)}
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "policies",
                        "informationUri": "https://github.com/pulumi/pulumi-policy",
                        "rules": described,
                    }
                },
                "results": [
                    _result(row, index[row.rule]) for row in rows if row.verdict is not Verdict.PASS
                ],
            }
        ],
    }


def _result(row: Row, index: int) -> dict[str, Any]:
    mark = hashlib.sha256(f"{row.rule}\n{row.resource}".encode()).hexdigest()[:32]
    location: dict[str, Any] = {
        "logicalLocations": [{"fullyQualifiedName": row.resource, "kind": "resource"}]
    }
    if row.source_file:
        location["physicalLocation"] = {
            "artifactLocation": {"uri": row.source_file},
            "region": {"startLine": max(1, row.line)},
        }
    unknown = row.verdict is Verdict.UNKNOWN
    return {
        "ruleId": row.rule,
        "ruleIndex": index,
        "kind": "open" if unknown else "fail",
        "level": "none" if unknown else "note" if row.advisory else _LEVEL[row.severity],
        "message": {"text": f"{row.message}. {row.remediation}".strip()},
        "locations": [location],
        "partialFingerprints": {"ruleAndResource/v1": mark},
        **(
            {
                "suppressions": [
                    {"kind": "external", "status": "accepted", "justification": row.waiver}
                ]
            }
            if row.waived
            else {}
        ),
    }


def junit(rows: Sequence[Row]) -> str:
    """JUnit XML: a suite per rule, a case per resource; unknown and waived are skipped cases."""
    from xml.etree.ElementTree import Element, SubElement, tostring

    root = Element("testsuites", name="policies")
    by_rule: dict[str, list[Row]] = {}
    for row in rows:
        by_rule.setdefault(row.rule, []).append(row)
    for name, group in by_rule.items():
        suite = SubElement(
            root,
            "testsuite",
            name=name,
            tests=str(len(group)),
            failures=str(sum(row.verdict is Verdict.FAIL and not row.waived for row in group)),
            skipped=str(sum(row.verdict is Verdict.UNKNOWN or row.waived for row in group)),
        )
        for row in group:
            case = SubElement(suite, "testcase", classname=name, name=_printable(row.resource))
            message = _printable(row.message)
            if row.waived:
                SubElement(case, "skipped", message=_printable(f"waived: {row.waiver}"))
            elif row.verdict is Verdict.UNKNOWN:
                SubElement(case, "skipped", message=message)
            elif row.verdict is Verdict.FAIL:
                SubElement(case, "failure", message=message).text = _printable(row.remediation)
    return tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _printable(value: str) -> str:
    # XML 1.0 has no place for control characters
    return "".join(char if char.isprintable() or char in "\t\n" else "?" for char in value)


def markdown(rows: Sequence[Row]) -> str:
    """A summary for a pull request: counts, then a table of what needs a look."""
    lines = ["## Policy check", "", summary(rows), ""]
    unjudged = Counter(row.message for row in rows if row.rule == UNJUDGED)
    shown = _worst_first(
        [row for row in rows if row.verdict is not Verdict.PASS and row.rule != UNJUDGED]
    )
    if shown:
        lines += ["| | severity | rule | resource | finding |", "|---|---|---|---|---|"]
    for row in shown:
        state = "waived" if row.waived else row.verdict.value
        found = row.waiver if row.waived else row.message
        cells = (state, row.severity.value, f"`{row.rule}`", f"`{row.resource}`", found)
        lines.append(
            "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
        )
    if unjudged:
        lines += ["", "Types without a rule of their own, to be read by hand:", ""]
        lines += [f"- {message} ({number})" for message, number in sorted(unjudged.items())]
    return "\n".join(lines) + "\n"
