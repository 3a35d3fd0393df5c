"""A month's bill for people: text, JSON and Markdown, with what broke its limits."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from infra.pricing import Guardrail, Line, cents
from policies.cost import Bill
from policies.load import InputError

GROUPS: tuple[tuple[str, Callable[[Line], str]], ...] = (
    ("component", lambda line: line.component),
    ("team", lambda line: line.team),
    ("price", lambda line: line.sku),
)


@dataclass(frozen=True, slots=True)
class CostReport:
    """A bill, its limits, and the total that a person last said yes to."""

    bill: Bill
    guardrail: Guardrail
    accepted: Decimal | None

    @property
    def broken(self) -> list[str]:
        """Limits that this bill breaks."""
        estimate = self.bill.estimate
        return self.guardrail.broken(estimate.total, estimate.ceiling, self.accepted)


def read_accepted(path: Path | None) -> Decimal | None:
    """The total of an accepted estimate; None when there is no such file. Raises `InputError`."""
    if path is None or not path.exists():
        return None
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
        return Decimal(data["total_usd"])
    except (OSError, ValueError, KeyError, TypeError, InvalidOperation) as error:
        raise InputError(
            f"{path}: not an accepted estimate ({type(error).__name__}); "
            "write it with `policies cost --accept WHO`"
        ) from None


def write_accepted(path: Path, report: CostReport, who: str) -> None:
    """Record this estimate as accepted by `who`, today."""
    estimate = report.bill.estimate
    record = {
        "total_usd": str(estimate.total),
        "ceiling_usd": str(estimate.ceiling),
        "accepted_by": who,
        "on": datetime.now(UTC).date().isoformat(),
        "components": {name: str(usd) for name, usd in estimate.by(GROUPS[0][1]).items()},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def as_dict(report: CostReport) -> dict[str, Any]:
    """The public JSON form; money as texts, so that no reader rounds it."""
    estimate = report.bill.estimate
    basis = estimate.by(lambda line: line.basis)
    return {
        "total_usd": str(estimate.total),
        "ceiling_usd": str(estimate.ceiling),
        "accepted_usd": None if report.accepted is None else str(report.accepted),
        "broken": report.broken,
        "unpriced": [{"resource": name, "message": text} for name, text in report.bill.unpriced],
        "by": {
            name: {part: str(usd) for part, usd in estimate.by(key).items()} for name, key in GROUPS
        },
        "by_basis": {name: str(usd) for name, usd in basis.items()},
        "gpu_hours": [
            {
                "gpu": rate.kind,
                "hours": str(rate.hours),
                "direct_usd": str(rate.direct),
                "shared_usd": str(rate.shared),
                "usd_per_hour": str(cents(rate.usd_per_hour)),
            }
            for rate in estimate.gpu_rates()
        ],
        "lines": [
            {
                "resource": line.resource,
                "component": line.component,
                "team": line.team,
                "price": line.sku,
                "quantity": str(line.quantity),
                "unit": line.unit,
                "usd": str(cents(line.usd)),
                "ceiling_usd": str(cents(line.ceiling)),
                "basis": line.basis,
                "note": line.note,
            }
            for line in estimate.lines
        ],
    }


def render_cost(report: CostReport, form: str) -> str:
    """The report as `text`, `json` or `markdown`."""
    if form == "json":
        return json.dumps(as_dict(report), indent=1) + "\n"
    return _markdown(report) if form == "markdown" else _text(report)


def _rise(report: CostReport) -> str:
    if report.accepted is None:
        return "none accepted yet"
    change = report.bill.estimate.total - report.accepted
    return f"{change:+.2f} against the accepted {report.accepted:.2f}"


def _text(report: CostReport) -> str:
    estimate = report.bill.estimate
    lines = [f"{estimate.total:.2f} USD a month ({_rise(report)}); "
             f"at most {estimate.ceiling:.2f} with every limit used"]  # fmt: skip
    for name, key in GROUPS:
        lines.append(f"by {name}:")
        lines += [f"{usd:12.2f}  {part}" for part, usd in estimate.by(key).items()]
    for rate in estimate.gpu_rates():
        lines.append(f"GPU-hour {rate.kind}: {rate.usd_per_hour:.2f} USD x {rate.hours:.0f} h "
                     f"(own {rate.direct:.2f}, share of the rest {rate.shared:.2f})")  # fmt: skip
    lines += [f"UNPRICED {name}: {text}" for name, text in report.bill.unpriced]
    lines += [f"LIMIT {text}" for text in report.broken]
    return "\n".join(lines) + "\n"


def _table(head: tuple[str, ...], rows: Mapping[str, Decimal]) -> list[str]:
    made = [f"| {' | '.join(head)} |", "|---|---:|"]
    return made + [f"| {_cell(name)} | {usd:.2f} |" for name, usd in rows.items()]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _markdown(report: CostReport) -> str:
    estimate = report.bill.estimate
    basis = estimate.by(lambda line: line.basis)
    lines = [
        "## Cost", "",
        f"**{estimate.total:.2f} USD a month** ({_rise(report)}); at most "
        f"{estimate.ceiling:.2f} with every limit used.", "",
        *_table(("component", "USD a month"), estimate.by(GROUPS[0][1])), "",
        *_table(("team", "USD a month"), estimate.by(GROUPS[1][1])), "",
    ]  # fmt: skip
    rates = estimate.gpu_rates()
    if rates:
        lines += ["| GPU | hours | own USD | shared USD | USD per GPU-hour |",
                  "|---|---:|---:|---:|---:|"]  # fmt: skip
        lines += [f"| {rate.kind} | {rate.hours:.0f} | {rate.direct:.2f} | {rate.shared:.2f} | "
                  f"{rate.usd_per_hour:.2f} |" for rate in rates]  # fmt: skip
        lines.append("")
    trust = ", ".join(f"{usd:.2f} {name}" for name, usd in basis.items())
    lines += [f"Prices by basis (infra/prices.csv): {trust or 'none'}.", ""]
    lines += [f"- **unpriced** `{name}`: {_cell(text)}" for name, text in report.bill.unpriced]
    lines += [f"- **limit** {text}" for text in report.broken]
    return "\n".join(lines).rstrip() + "\n"
