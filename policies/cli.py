"""`policies`: check plans, states and manifests against the rules, and list or document them.

Exit codes: 0 nothing failed, 1 something did, 2 the question could not be read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from policies.cost_report import CostReport
    from policies.engine import Plan, Row
    from policies.resource import Stack
    from policies.stacks import StackFiles


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="policies", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    check = commands.add_parser("check", help="judge a plan, a state, manifests or a list")
    _add_inputs(check)
    check.add_argument(
        "--format", choices=("text", "json", "sarif", "junit", "markdown"), default="text"
    )
    check.add_argument("--output", type=Path, metavar="FILE", help="write the report there")
    listing = commands.add_parser("list", help="every rule")
    listing.add_argument("--format", choices=("text", "json"), default="text")
    docs = commands.add_parser("docs", help="the rules as Markdown (docs/policies.md)")
    docs.add_argument("--output", type=Path, metavar="FILE")
    admission = commands.add_parser(
        "admission", help="the rules that CEL can express, for `kubectl apply -f -`"
    )
    admission.add_argument("--stack", default="", metavar="NAME", help="use this stack's files")
    admission.add_argument("--rules", default="", metavar="ID,...", help="only these rules")
    admission.add_argument("--config", type=Path, metavar="FILE", help="enforcement and settings")
    admission.add_argument(
        "--exempt", default="kube-system", metavar="NS,...", help="namespaces it does not bind"
    )
    admission.add_argument("--output", type=Path, metavar="FILE")
    cost = commands.add_parser("cost", help="a month's bill, and whether it keeps its limits")
    _add_inputs(cost)
    cost.add_argument("--format", choices=("text", "json", "markdown"), default="text")
    cost.add_argument("--accepted", type=Path, metavar="FILE", help="the last accepted estimate")
    cost.add_argument("--accept", default="", metavar="WHO", help="write this one as accepted")
    cost.add_argument("--output", type=Path, metavar="FILE", help="write the report there")
    usage = commands.add_parser("usage", help="what pods ask for beside what they used")
    _add_inputs(usage, rules=False)
    measured = usage.add_mutually_exclusive_group(required=True)
    measured.add_argument("--metrics", type=Path, metavar="FILE", help="written by --save")
    measured.add_argument("--prometheus", metavar="URL", help="one that scrapes kubelets and DCGM")
    usage.add_argument("--ca-file", type=Path, metavar="FILE", help="who signed Prometheus")
    usage.add_argument("--token-file", type=Path, metavar="FILE", help="a bearer token for it")
    usage.add_argument("--site", default="", metavar="NAME", help="whose metrics, if of several")
    usage.add_argument("--save", type=Path, metavar="FILE", help="keep what was measured")
    usage.add_argument(
        "--format", choices=("text", "json", "sarif", "junit", "markdown"), default="text"
    )
    usage.add_argument("--output", type=Path, metavar="FILE", help="write the report there")
    report = commands.add_parser("report", help="a Markdown summary: findings and cost")
    _add_inputs(report)
    report.add_argument("--base", type=Path, metavar="FILE", help="JSON rows of the base branch")
    report.add_argument("--output", type=Path, metavar="FILE", help="write the report there")
    return parser


def _add_inputs(parser: argparse.ArgumentParser, *, rules: bool = True) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--preview", type=Path, metavar="FILE", help="of `pulumi preview --json`")
    source.add_argument("--state", type=Path, metavar="FILE", help="of `pulumi stack export`")
    source.add_argument("--manifests", type=Path, metavar="PATH", help="Kubernetes YAML or JSON")
    source.add_argument(
        "--resources", type=Path, metavar="FILE", help="a JSON list of {type, name, properties}"
    )
    parser.add_argument(
        "--stack", default="", metavar="NAME", help="settings and waivers in policies/stacks/"
    )
    if rules:
        parser.add_argument("--rules", default="", metavar="ID,...", help="only these rules")
    parser.add_argument("--config", type=Path, metavar="FILE", help="enforcement and settings")
    parser.add_argument("--waivers", type=Path, metavar="FILE", help="accepted findings")


def _load(args: argparse.Namespace) -> Stack:
    from policies import load

    for door in ("preview", "state", "manifests", "resources"):
        if path := getattr(args, door):
            return getattr(load, door)(path)
    raise AssertionError("argparse requires one door")


def judged(args: argparse.Namespace) -> tuple[Stack, Plan, list[Row]]:
    """The stack, the plan and the rows that the arguments ask for."""
    from policies.engine import run
    from policies.rules import all_rules

    rules = all_rules()
    plan = _plan(args, _ids(args.rules))
    stack = _load(args)
    rows = run(stack, plan)
    waiver_file = args.waivers or _of_stack(args.stack).waivers
    if waiver_file:
        from datetime import UTC, datetime

        from policies.settings import apply_waivers, read_waivers

        waivers = read_waivers(waiver_file, rules)
        rows = apply_waivers(rows, waivers, plan, datetime.now(UTC).date(), str(waiver_file))
    return stack, plan, rows


def _of_stack(stack: str) -> StackFiles:
    from policies.stacks import FOLDER, StackFiles, stack_files

    return stack_files(FOLDER, stack) if stack else StackFiles(None, None, Path())


def _ids(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _plan(args: argparse.Namespace, only: list[str]) -> Plan:
    from policies.engine import Plan
    from policies.load import InputError
    from policies.rules import all_rules

    rules = all_rules()
    if config := args.config or _of_stack(args.stack).settings:
        from policies.cost_report import read_accepted
        from policies.settings import plan_from, read_settings

        accepted = read_accepted(_of_stack(args.stack).accepted if args.stack else None)
        return plan_from(rules, read_settings(config), only, accepted)
    by_id = {rule.id: rule for rule in rules}
    if missing := [name for name in only if name not in by_id]:
        raise InputError(f"no rule {missing[0]!r}; `policies list` names them")
    if only:
        return Plan(tuple(by_id[name] for name in dict.fromkeys(only)), complete=False)
    return Plan(tuple(rule for rule in rules if not rule.optional))


def _write(text: str, output: Path | None) -> None:
    if output is None:
        sys.stdout.write(text)
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")


def _check(args: argparse.Namespace) -> int:
    from policies.report import render, summary
    from policies.rules import all_rules

    _, _, rows = judged(args)
    _write(render(rows, all_rules(), args.format), args.output)
    if args.output:
        sys.stderr.write(f"{summary(rows)}; report in {args.output}\n")
    return int(any(row.blocks for row in rows))


def _list(args: argparse.Namespace) -> int:
    import json

    from policies.rules import all_rules, topic_of

    if args.format == "json":
        entries = [
            {
                "id": rule.id,
                "title": rule.title,
                "severity": rule.severity.value,
                "topic": topic_of(rule),
                "anchors": list(rule.anchors),
                "applies_to": sorted(rule.applies),
                "optional": rule.optional,
                "config": {
                    name: {
                        "type": option.type,
                        "default": option.default,
                        "description": option.description,
                    }
                    for name, option in rule.config.items()
                },
                "remediation": rule.remediation,
            }
            for rule in all_rules()
        ]
        sys.stdout.write(json.dumps(entries, indent=1) + "\n")
    else:
        for rule in all_rules():
            mark = " (optional)" if rule.optional else ""
            sys.stdout.write(f"{rule.severity.value:9}{rule.id:42}{rule.title}{mark}\n")
    return 0


def _docs(args: argparse.Namespace) -> int:
    from policies.docs import render_docs

    _write(render_docs(), args.output)
    return 0


def _admission(args: argparse.Namespace) -> int:
    from policies.admission import Scope, expressible, render
    from policies.load import InputError

    plan = _plan(args, _ids(args.rules))
    if not expressible(plan.rules):
        raise InputError("none of these rules has a CEL form; docs/policies.md marks those that do")
    exempt = tuple(part.strip() for part in args.exempt.split(",") if part.strip())
    _write(render(plan, Scope(exempt=exempt)), args.output)
    return 0


def _cost_of(args: argparse.Namespace, stack: Stack) -> CostReport:
    from policies.cost import bill
    from policies.cost_report import CostReport, read_accepted
    from policies.settings import CheckSettings, read_settings

    files = _of_stack(args.stack)
    path = args.config or files.settings
    cost = (read_settings(path) if path else CheckSettings()).cost
    where = getattr(args, "accepted", None) or (files.accepted if args.stack else None)
    return CostReport(bill(stack, cost), cost.guardrail(), read_accepted(where))


def _cost(args: argparse.Namespace) -> int:
    from policies.cost_report import render_cost, write_accepted
    from policies.load import InputError

    report = _cost_of(args, _load(args))
    if args.accept:
        where = args.accepted or (_of_stack(args.stack).accepted if args.stack else None)
        if where is None:
            raise InputError("--accept has no place to write to; give --stack or --accepted")
        if report.bill.unpriced:
            raise InputError("an estimate that lacks prices cannot be accepted; price them first")
        write_accepted(where, report, args.accept)
    _write(render_cost(report, args.format), args.output)
    return int(bool(report.bill.unpriced or report.broken) and not args.accept)


def _usage(args: argparse.Namespace) -> int:
    from datetime import UTC, datetime

    from policies.prometheus import Server, measure
    from policies.report import render, summary
    from policies.rightsize import USAGE_RULES, of_site, review
    from policies.rules import all_rules
    from policies.settings import CheckSettings, read_settings, read_waivers, waived
    from policies.usage import USAGE_IDS, read_usage

    files = _of_stack(args.stack)
    config = args.config or files.settings
    settings = read_settings(config) if config else CheckSettings()
    stack = of_site(_load(args), args.site)
    if args.metrics:
        usage = read_usage(args.metrics)
    else:
        server = Server(url=args.prometheus, ca_file=args.ca_file, token_file=args.token_file)
        usage = measure(server, settings.usage.days)
    if args.save:
        _write(usage.model_dump_json(indent=1) + "\n", args.save)
    rows = review(stack, usage, settings.usage, settings.cost)
    if waiver_file := args.waivers or files.waivers:
        found = read_waivers(waiver_file, all_rules())
        rows = waived(rows, found, USAGE_IDS, datetime.now(UTC).date(), str(waiver_file))
    _write(render(rows, USAGE_RULES, args.format), args.output)
    if args.output:
        sys.stderr.write(f"{summary(rows)}; report in {args.output}\n")
    return int(any(row.blocks for row in rows))


def _report(args: argparse.Namespace) -> int:
    from policies.cost_report import render_cost
    from policies.report import summary
    from policies.summary import render_summary

    stack, _, rows = judged(args)
    cost = _cost_of(args, stack)
    text = render_summary(stack, rows, args.base) + "\n" + render_cost(cost, "markdown")
    _write(text, args.output)
    if args.output:
        bill = f"{cost.bill.estimate.total:.2f} USD a month"
        sys.stderr.write(f"{summary(rows)}; {bill}; report in {args.output}\n")
    return int(any(row.blocks for row in rows) or bool(cost.bill.unpriced or cost.broken))


_COMMANDS = {
    "check": _check,
    "list": _list,
    "docs": _docs,
    "report": _report,
    "admission": _admission,
    "cost": _cost,
    "usage": _usage,
}


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point; returns the exit code."""
    from policies.load import InputError

    args = _parser().parse_args(argv)
    try:
        return _COMMANDS[args.command](args)
    except InputError as error:
        sys.stderr.write(f"policies: {error}\n")
        return 2
    except BrokenPipeError:
        sys.stderr.close()  # the reader has seen enough; no traceback for `| head`
        return 0


if __name__ == "__main__":
    raise SystemExit(main())
