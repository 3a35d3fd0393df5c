"""The two data files of a check: settings (`--config`) and waivers (`--waivers`).

Both are read once, at the edge, into frozen models; an unknown key is an error.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from datetime import date
from decimal import Decimal
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from policies.cost_settings import CostSettings
from policies.engine import Plan, Row, waive
from policies.load import InputError
from policies.rule import Rule, Severity, Verdict
from policies.usage import USAGE_IDS, UsageSettings

Level = Literal["mandatory", "advisory", "disabled"]
WAIVER_RULES = ("waiver-expired", "waiver-unused")


class CheckSettings(BaseModel):
    """How each rule is enforced and set.

    `enforcement` maps a rule id (or `default`) to a level; naming an optional rule turns it on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    enforcement: dict[str, Level] = Field(default_factory=dict[str, Level])
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict[str, dict[str, Any]])
    cost: CostSettings = Field(default_factory=CostSettings)
    usage: UsageSettings = Field(default_factory=UsageSettings)


class Waiver(BaseModel):
    """One accepted finding: which, why, who answers for it and until when."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    resource: str = Field(min_length=1, description="shell-style pattern on the resource's name")
    rule: str = Field(min_length=1)
    reason: str = Field(min_length=10)
    owner: str = Field(min_length=1)
    ticket: str = Field(min_length=1)
    expires: date
    may_be_absent: bool = Field(
        default=False,
        description="whether the stack may lack every such resource, as a part that is off does",
    )

    @field_validator("resource")
    @classmethod
    def _not_everything(cls, value: str) -> str:
        if not value.strip("*?"):
            raise ValueError(f"{value!r} waives everything; name the resource")
        return value

    def covers(self, row: Row) -> bool:
        """Whether this waiver is about that row."""
        return self.rule == row.rule and (
            self.resource == row.resource or fnmatchcase(row.resource, self.resource)
        )


class WaiverFile(BaseModel):
    """The waivers of a stack."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    waivers: tuple[Waiver, ...] = ()


def _read(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give an existing file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not YAML ({str(error).splitlines()[0]})") from None


def _explain(path: Path, error: ValidationError) -> InputError:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "file"
    return InputError(f"{path}: {where}: {first['msg']} (found {first.get('input')!r})")


def read_settings(path: Path) -> CheckSettings:
    """The settings file. Raises `InputError`."""
    try:
        return CheckSettings.model_validate(_read(path))
    except ValidationError as error:
        raise _explain(path, error) from None


def read_waivers(path: Path, rules: Sequence[Rule]) -> tuple[Waiver, ...]:
    """The waivers file; each must name a rule (or one of `policies usage`) that exists.

    Raises `InputError`.
    """
    try:
        found = WaiverFile.model_validate(_read(path)).waivers
    except ValidationError as error:
        raise _explain(path, error) from None
    known = {rule.id for rule in rules} | USAGE_IDS
    for waiver in found:
        if waiver.rule not in known:
            raise InputError(f"{path}: no rule {waiver.rule!r}; `policies list` names them")
    return found


def plan_from(
    rules: Sequence[Rule],
    settings: CheckSettings | None,
    only: Sequence[str] = (),
    accepted: Decimal | None = None,
) -> Plan:
    """The plan of a check. `only` runs just these rules, optional ones included.

    `accepted` is the last accepted bill in USD a month, for the rules that judge bills.
    """
    by_id = {rule.id: rule for rule in rules}
    for wanted in (
        *only,
        *(settings.enforcement if settings else ()),
        *(settings.settings if settings else ()),
    ):
        if wanted not in by_id and wanted != "default":
            raise InputError(f"no rule {wanted!r}; `policies list` names them")
    levels = settings.enforcement if settings else {}
    default = levels.get("default", "mandatory")
    if only:
        chosen = [by_id[wanted] for wanted in dict.fromkeys(only)]
    else:
        chosen = [
            rule
            for rule in rules
            if levels.get(rule.id, "disabled" if rule.optional else default) != "disabled"
        ]
    return Plan(
        rules=tuple(chosen),
        settings=_with_bill(
            chosen, _checked(by_id, settings.settings if settings else {}), settings, accepted
        ),
        advisory=frozenset(
            rule.id for rule in chosen if levels.get(rule.id, default) == "advisory"
        ),
        complete=not only,
    )


def _with_bill(
    chosen: Sequence[Rule],
    values: dict[str, dict[str, Any]],
    settings: CheckSettings | None,
    accepted: Decimal | None,
) -> dict[str, dict[str, Any]]:
    """The settings of rules, with the stack's prices and limits in those that judge its bill."""
    cost = settings.cost.model_dump(mode="json") if settings else {}
    found = dict(values)
    for rule in chosen:
        filled: dict[str, Any] = {}
        if "cost" in rule.config:
            filled["cost"] = cost
        if "accepted_usd" in rule.config and accepted is not None:
            filled["accepted_usd"] = str(accepted)
        if filled:
            found[rule.id] = {**filled, **values.get(rule.id, {})}
    return found


def _checked(
    by_id: dict[str, Rule], settings: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    for rule_id, values in settings.items():
        options = by_id[rule_id].config
        for key, value in values.items():
            if key not in options:
                names = ", ".join(sorted(options)) or "none"
                raise InputError(f"settings.{rule_id}.{key}: no such setting; it has {names}")
            if not options[key].accepts(value):
                raise InputError(
                    f"settings.{rule_id}.{key} is {value!r}; give type {options[key].type}"
                )
    return settings


def apply_waivers(
    rows: list[Row], waivers: Sequence[Waiver], plan: Plan, today: date, source: str
) -> list[Row]:
    """`waived` for the rules of a plan."""
    return waived(rows, waivers, {rule.id for rule in plan.rules}, today, source)


def waived(
    rows: list[Row], waivers: Sequence[Waiver], running: Set[str], today: date, source: str
) -> list[Row]:
    """Rows with waived ones marked, and a failing row per waiver that is expired or unused.

    A waiver that `may_be_absent` is unused only where its resource is there and has no finding.
    """
    accepted: dict[int, str] = {}
    complaints: list[Row] = []
    for waiver in waivers:
        if waiver.rule not in running:
            continue
        judged = [position for position, row in enumerate(rows) if waiver.covers(row)]
        covered = [position for position in judged if rows[position].verdict is not Verdict.PASS]
        if waiver.expires < today:
            complaints.append(_complaint("waiver-expired", waiver, source))
        elif not judged and waiver.may_be_absent:
            continue
        elif not covered:
            complaints.append(_complaint("waiver-unused", waiver, source))
        else:
            note = f"{waiver.reason} ({waiver.owner}, {waiver.ticket}, until {waiver.expires})"
            accepted |= dict.fromkeys(covered, note)
    return waive(rows, accepted) + complaints


def _complaint(rule_id: str, waiver: Waiver, source: str) -> Row:
    what, to_do = {
        "waiver-expired": (f"expired on {waiver.expires}", "Fix the finding, or renew the waiver."),
        "waiver-unused": ("covers no finding", "Delete it, or correct its resource pattern."),
    }[rule_id]
    return Row(
        rule=rule_id,
        severity=Severity.MEDIUM,
        verdict=Verdict.FAIL,
        resource=waiver.resource,
        source_file=source,
        line=0,
        message=f"the waiver of {waiver.rule} for {waiver.resource} ({waiver.ticket}) {what}",
        remediation=to_do,
    )
