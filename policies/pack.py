"""The rules inside the Pulumi engine: an analyzer over the engine's own protocol.

The pack answers twice. `Analyze` comes before each resource is touched: rules that need nothing but
the resource itself judge it there and stop the update. `AnalyzeStack` comes last, with everything:
rules that join siblings, and what only a whole stack can say (unknowns, types without a rule,
waivers that are unused). Nothing is reported twice.

Why not `pulumi_policy`: it decodes every property once per policy and resource (110 rules times 500
resources) and drops the mark of secret values, which some rules are about.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.protobuf import empty_pb2
from pulumi.runtime.proto import analyzer_pb2, analyzer_pb2_grpc, plugin_pb2

from policies.cost_report import read_accepted
from policies.engine import UNJUDGED, Plan, Row, row_of, run
from policies.load import InputError
from policies.resource import Resource, Stack, make
from policies.rule import Context, Rule, Severity, Verdict
from policies.rules import all_rules
from policies.settings import (
    WAIVER_RULES,
    CheckSettings,
    Level,
    Waiver,
    apply_waivers,
    plan_from,
    read_settings,
    read_waivers,
)
from policies.stacks import stack_files
from policies.values import decode

T = TypeVar("T")
NAME = "hybrid-recommender"
VERSION = "1.0.0"
_UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
_SEVERITY = {
    Severity.CRITICAL: analyzer_pb2.POLICY_SEVERITY_CRITICAL,
    Severity.HIGH: analyzer_pb2.POLICY_SEVERITY_HIGH,
    Severity.MEDIUM: analyzer_pb2.POLICY_SEVERITY_MEDIUM,
    Severity.LOW: analyzer_pb2.POLICY_SEVERITY_LOW,
}
_LEVEL = {
    "advisory": analyzer_pb2.ADVISORY,
    "mandatory": analyzer_pb2.MANDATORY,
    "disabled": analyzer_pb2.DISABLED,
}
_FROM_LEVEL: dict[int, Level] = {
    analyzer_pb2.ADVISORY: "advisory",
    analyzer_pb2.MANDATORY: "mandatory",
    analyzer_pb2.REMEDIATE: "mandatory",  # no rule changes a resource
    analyzer_pb2.DISABLED: "disabled",
}


class _NeedsSiblings(BaseException):  # not an Exception: no rule may swallow it
    """A rule asked for another resource before there are any."""


class _Alone(Stack):
    """The stack of a resource that is judged before the others exist."""

    def of(self, *kinds: str) -> list[Resource]:
        raise _NeedsSiblings

    def once(self, key: Any, compute: Callable[[], T]) -> T:
        raise _NeedsSiblings

    def refers(self, source: Resource, path: str, target: Resource) -> bool | None:
        raise _NeedsSiblings


def judge_alone(resource: Resource, plan: Plan, by_kind: Mapping[str, Sequence[Rule]]) -> list[Row]:
    """Rows of those rules that need nothing but this resource."""
    rows: list[Row] = []
    alone = _Alone([resource])
    for rule in by_kind.get(resource.kind, ()):
        try:
            rows.append(row_of(rule, resource, Context(alone, plan.config_of(rule)), plan))
        except _NeedsSiblings:
            continue  # judged at the end, with the whole stack
    return rows


@dataclass(slots=True)
class Session:
    """One operation of the engine: what was asked for, seen and said."""

    settings: CheckSettings = field(default_factory=CheckSettings)
    accepted: Decimal | None = None
    waivers: tuple[Waiver, ...] = ()
    waiver_file: str = ""
    plan: Plan = field(default_factory=lambda: plan_from(all_rules(), None))
    inputs: dict[str, Resource] = field(default_factory=dict[str, Resource])
    judged: dict[str, dict[str, Row]] = field(default_factory=dict[str, dict[str, Row]])
    """Answers about a resource alone; the rest follows when its siblings are known."""
    said: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])

    def by_kind(self) -> dict[str, list[Rule]]:
        found: dict[str, list[Rule]] = {}
        for rule in self.plan.rules:
            if not rule.whole_stack:
                for kind in rule.applies:
                    found.setdefault(kind, []).append(rule)
        return found


class Analyzer(analyzer_pb2_grpc.AnalyzerServicer):
    """The engine's questions. It asks from several threads; one answer at a time keeps the order.

    `folder` holds the settings and waivers of each stack; `today` decides which waivers are over.
    """

    def __init__(self, folder: Path, today: Callable[[], date] | None = None) -> None:
        self._folder = folder
        self._today = today or (lambda: datetime.now(UTC).date())
        self._lock = threading.Lock()
        self._session = Session()
        self._kinds = self._session.by_kind()

    # The names below are the protocol's.

    def Handshake(self, request: Any, context: Any) -> Any:
        return analyzer_pb2.AnalyzerHandshakeResponse()

    def GetPluginInfo(self, request: Any, context: Any) -> Any:
        return plugin_pb2.PluginInfo(version=VERSION)

    def Cancel(self, request: Any, context: Any) -> Any:
        return empty_pb2.Empty()

    def GetAnalyzerInfo(self, request: Any, context: Any) -> Any:
        info = analyzer_pb2.AnalyzerInfo(
            name=NAME,
            displayName="Security and cost rules",
            version=VERSION,
            supportsConfig=True,
            description="The rules of docs/policies.md",
        )
        info.policies.extend(_described(rule) for rule in all_rules())
        info.policies.extend(
            analyzer_pb2.PolicyInfo(
                name=name,
                description=text,
                enforcementLevel=level,
                policy_type=analyzer_pb2.POLICY_TYPE_STACK,
            )
            for name, text, level in (
                (UNJUDGED, "A type that no rule judges", analyzer_pb2.ADVISORY),
                (WAIVER_RULES[0], "A waiver whose day is over", analyzer_pb2.MANDATORY),
                (WAIVER_RULES[1], "A waiver that covers no finding", analyzer_pb2.MANDATORY),
            )
        )
        return info

    def ConfigureStack(self, request: Any, context: Any) -> Any:
        with self._lock:
            try:
                files = stack_files(self._folder, request.stack)
                self._session = Session()
                if files.settings:
                    self._session.settings = read_settings(files.settings)
                    self._session.accepted = read_accepted(files.accepted)
                    self._session.plan = plan_from(
                        all_rules(), self._session.settings, accepted=self._session.accepted
                    )
                if files.waivers:
                    self._session.waivers = read_waivers(files.waivers, all_rules())
                    self._session.waiver_file = str(files.waivers)
                self._kinds = self._session.by_kind()
            except InputError as error:
                _refuse(context, error)
        return analyzer_pb2.AnalyzerStackConfigureResponse()

    def Configure(self, request: Any, context: Any) -> Any:
        """`--policy-pack-config`: stronger than the stack's own file, rule by rule."""
        with self._lock:
            settings = self._session.settings
            levels, values = dict(settings.enforcement), dict(settings.settings)
            defaults = {info.name: info.enforcementLevel for info in map(_described, all_rules())}
            options = {one.id: one.config for one in all_rules()}
            for name, config in request.policyConfig.items():
                if name not in defaults:
                    continue
                if config.enforcementLevel != defaults[name]:  # the engine sends every default
                    levels[name] = _FROM_LEVEL[config.enforcementLevel]
                given = {
                    key: value
                    for key, value in _plain(config.properties).items()
                    if key not in options[name] or value != options[name][key].default
                }
                if given:
                    values[name] = {**values.get(name, {}), **given}
            try:
                changed = CheckSettings(enforcement=levels, settings=values, cost=settings.cost)
                self._session.plan = plan_from(
                    all_rules(), changed, accepted=self._session.accepted
                )
                self._kinds = self._session.by_kind()
            except InputError as error:
                _refuse(context, error)
        return empty_pb2.Empty()

    def Analyze(self, request: Any, context: Any) -> Any:
        with self._lock:
            found: list[Row] = []
            several = _resources(request)
            for resource in several:
                self._session.inputs[resource.urn] = resource
                found += judge_alone(resource, self._session.plan, self._kinds)
            self._session.judged.pop(request.urn, None)  # of an earlier step of the same resource
            if len(several) == 1:  # the parts of a list share its URN
                self._session.judged[request.urn] = {row.rule: row for row in found}
            # Which waivers are over or unused is known at the end only.
            waived = apply_waivers(
                found, self._session.waivers, self._session.plan, self._today(), ""
            )[: len(found)]
            rows = [row for row in waived if row.verdict is Verdict.FAIL]
            self._session.said |= {(row.rule, row.resource) for row in rows}
            return analyzer_pb2.AnalyzeResponse(diagnostics=[_diagnostic(row) for row in rows])

    def AnalyzeStack(self, request: Any, context: Any) -> Any:
        with self._lock:
            session = self._session
            rows = run(Stack(self._whole(request)), session.plan, session.judged)
            rows = apply_waivers(
                rows, session.waivers, session.plan, self._today(), session.waiver_file
            )
            fresh = [
                row
                for row in rows
                if row.verdict is not Verdict.PASS and (row.rule, row.resource) not in session.said
            ]
            session.judged.clear()
            session.inputs.clear()  # the update that follows a preview starts anew
            session.said.clear()
            return analyzer_pb2.AnalyzeResponse(
                diagnostics=[_diagnostic(row) for row in _one_per_type(fresh)]
            )

    def Remediate(self, request: Any, context: Any) -> Any:
        return analyzer_pb2.RemediateResponse()

    def _whole(self, request: Any) -> list[Resource]:
        """Every resource by the inputs it was declared with, joined by the engine's references.

        The engine sends outputs here after an update: those hold what a server filled in, and a
        rule must say the same before and after.
        """
        found: list[Resource] = []
        for one in request.resources:
            for resource in _resources(one):
                declared = self._session.inputs.get(resource.urn, resource)
                found.append(
                    replace(
                        declared,
                        references={
                            name: tuple(each.urns)
                            for name, each in one.propertyDependencies.items()
                        },
                    )
                )
        return found


def _plain(struct: Any) -> dict[str, Any]:
    """A protobuf `Struct` as data. Whole numbers are integers, as in every other door."""
    return {key: _value(value) for key, value in struct.fields.items()}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return value.string_value
    if kind == "struct_value":
        return _plain(value.struct_value)
    if kind == "list_value":
        return [_value(each) for each in value.list_value.values]
    if kind == "number_value":
        number: float = value.number_value
        return int(number) if number.is_integer() else number
    return value.bool_value if kind == "bool_value" else None


def _resources(request: Any) -> list[Resource]:
    token = request.type
    if token.startswith(("pulumi:pulumi:", "pulumi:providers:")):
        return []
    return list(
        make(
            token,
            request.name,
            decode(_plain(request.properties)),
            urn=request.urn,
            protect=request.options.protect,
            provider=request.provider.name,
        )
    )


def _described(rule: Rule) -> Any:
    info = analyzer_pb2.PolicyInfo(
        name=rule.id,
        displayName=rule.title,
        description=rule.title,
        enforcementLevel=analyzer_pb2.DISABLED if rule.optional else analyzer_pb2.MANDATORY,
        policy_type=analyzer_pb2.POLICY_TYPE_STACK
        if rule.whole_stack
        else analyzer_pb2.POLICY_TYPE_RESOURCE,
        severity=_SEVERITY[rule.severity],
        tags=list(rule.anchors),
        remediation_steps=rule.remediation,
    )
    if rule.config:
        info.configSchema.properties.update(
            {
                name: {
                    "type": option.type,
                    "default": option.default,
                    "description": option.description,
                }
                for name, option in rule.config.items()
            }
        )
    return info


def _one_per_type(rows: list[Row]) -> list[Row]:
    """Types without a rule are told once each, with their number."""
    counts = Counter(row.message for row in rows if row.rule == UNJUDGED)
    shown: list[Row] = []
    for row in rows:
        if row.rule != UNJUDGED:
            shown.append(row)
        elif number := counts.pop(row.message, 0):
            shown.append(replace(row, message=f"{row.message} ({number})", resource=""))
    return shown


def _diagnostic(row: Row) -> Any:
    if row.waived:
        message = f"waived: {row.waiver}. {row.message}"
    else:
        prefix = "" if row.verdict is Verdict.FAIL else "unknown: "
        message = f"{prefix}{row.message}. {row.remediation}".strip()
    return analyzer_pb2.AnalyzeDiagnostic(
        policyName=row.rule,
        policyPackName=NAME,
        policyPackVersion=VERSION,
        description=row.rule,
        message=message,
        enforcementLevel=_LEVEL["mandatory" if row.blocks else "advisory"],
        urn=row.resource if row.resource.startswith("urn:") else "",
        severity=_SEVERITY[row.severity],
    )


def _refuse(context: Any, error: InputError) -> None:
    context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))


def serve(folder: Path) -> None:
    """Answer on a free port, told on standard output, until the engine ends this process."""
    server = grpc.server(ThreadPoolExecutor(max_workers=2), options=_UNLIMITED)
    analyzer_pb2_grpc.add_AnalyzerServicer_to_server(Analyzer(folder), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    try:
        server.wait_for_termination()
    except KeyboardInterrupt:
        server.stop(0)
