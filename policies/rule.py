"""What a rule is: metadata, samples and one pure function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from policies.resource import Resource, Stack
from policies.values import UnknownValue

T = TypeVar("T")


class Severity(StrEnum):
    """How bad a hole is; the order is `rank`."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"

    @property
    def rank(self) -> int:
        """0 for the worst."""
        return list(Severity).index(self)


class Verdict(StrEnum):
    """The three answers of a rule."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Missing:
    """A finding that says what must be known before the rule can answer."""

    what: str


Finding = str | Missing
Check = Callable[[Resource, "Context"], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class Context:
    """What a check sees beside its resource: the stack and its own settings."""

    stack: Stack
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __getitem__(self, key: str) -> Any:
        return self.config[key]


@dataclass(frozen=True, slots=True)
class Option:
    """One setting of a rule, JSON-schema typed."""

    default: Any
    type: str
    description: str

    def accepts(self, value: Any) -> bool:
        """Whether a value from a config file has the declared type."""
        kinds: dict[str, type | tuple[type, ...]] = {
            "integer": int, "number": (int, float), "string": str, "boolean": bool,
            "array": list, "object": dict,
        }  # fmt: skip
        if isinstance(value, bool) and self.type != "boolean":
            return False
        return isinstance(value, kinds[self.type])


Sample = Mapping[str, Any] | Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Cel:
    """The same rule for the API server: each expression must be true.

    Expressions may use the variables `pod` (a pod template's metadata and spec as `meta` and
    `spec`) and `containers` (ordinary, init and ephemeral), see `policies.admission`.
    """

    expressions: tuple[str, ...]
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. `check` is pure: same resource, stack and settings, same findings."""

    id: str
    title: str
    severity: Severity
    anchors: tuple[str, ...]
    applies: frozenset[str]
    remediation: str
    check: Check
    config: Mapping[str, Option] = field(default_factory=dict[str, Option])
    allowed: tuple[Sample, ...] = ()
    refused: tuple[Sample, ...] = ()
    cel: Cel | None = None
    optional: bool = False  # runs only when asked for by id or in the config
    whole_stack: bool = False  # judged once, on the stack itself

    def defaults(self) -> dict[str, Any]:
        """The rule's settings when a config file says nothing."""
        return {name: option.default for name, option in self.config.items()}


def rule(
    id_: str,
    title: str,
    severity: Severity,
    *,
    anchors: str,
    applies: Iterable[str],
    fix: str,
    allowed: Sequence[Sample] = (),
    refused: Sequence[Sample] = (),
    config: Mapping[str, Option] | None = None,
    cel: Cel | None = None,
    optional: bool = False,
    whole_stack: bool = False,
) -> Callable[[Check], Rule]:
    """Decorator: a check function and its metadata become a `Rule`.

    `anchors` are separated by commas.
    """

    def bind(check: Check) -> Rule:
        return Rule(
            id=id_,
            title=title,
            severity=severity,
            anchors=tuple(part.strip() for part in anchors.split(",") if part.strip()),
            applies=frozenset(applies),
            remediation=fix,
            check=check,
            config=config or {},
            allowed=tuple(allowed),
            refused=tuple(refused),
            cel=cel,
            optional=optional,
            whole_stack=whole_stack,
        )

    return bind


def each(elements: Iterable[T], judge: Callable[[T], Iterable[Finding]]) -> Iterator[Finding]:
    """Judge every element: one that is not known does not hide the failures of the others."""
    iterator = iter(elements)
    while True:
        try:
            element = next(iterator)
        except StopIteration:
            return
        except UnknownValue as missing:
            yield Missing(str(missing))
            return
        try:
            yield from judge(element)
        except UnknownValue as missing:
            yield Missing(str(missing))
