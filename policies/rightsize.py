"""Right-sizing: what a plan asks for beside what its pods used. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from fnmatch import fnmatchcase

from infra.pricing import HOURS_PER_MONTH, Unpriced, cents
from policies.cost import GIB, GPU, copies_of
from policies.cost_settings import CostSettings
from policies.engine import Row
from policies.load import InputError
from policies.pods import JOBS, LONG_RUNNING, Container, containers, pod_of
from policies.resource import Resource, Stack
from policies.rule import Severity, Verdict
from policies.usage import ContainerUse, GpuUse, Usage, UsageSettings
from policies.values import UnknownValue, at, quantity

Shown = Callable[[Decimal], str]

# What the last parts of a pod's name look like below each kind of owner (Kubernetes' own
# alphabet for random parts has no vowels: k8s.io/apimachinery/pkg/util/rand).
_RANDOM = r"[bcdfghjklmnpqrstvwxz2456789]{5}"
_HASH = r"[bcdfghjklmnpqrstvwxz2456789]{1,10}"
_ENDINGS = {
    "Deployment": rf"-{_HASH}-{_RANDOM}",
    "DeploymentConfig": r"-\d+-[a-z0-9]{5}",
    "StatefulSet": r"-\d+",
    "CronJob": rf"-\d+-{_RANDOM}",
    "Job": rf"(-\d+)?-{_RANDOM}",
    "Pod": "",
}


@dataclass(frozen=True, slots=True)
class UsageRule:
    """What `policies usage` can find; reports and waivers name it by `id`."""

    id: str
    title: str
    severity: Severity
    remediation: str
    anchors: tuple[str, ...] = ("FinOps Framework: workload optimization",)


OVERSIZED = UsageRule(
    "usage-oversized", "A container asks for what it uses", Severity.LOW,
    "Lower the request to the named size; raise `usage.headroom` where peaks are rarer than that.",
)  # fmt: skip
UNDERSIZED = UsageRule(
    "usage-undersized", "A container does not use more than it asks for", Severity.MEDIUM,
    "Raise the request (and the memory limit) to the named size.",
)  # fmt: skip
IDLE = UsageRule(
    "usage-idle", "What runs all day does something", Severity.LOW,
    "Remove it, or scale it to zero when nobody asks.",
)  # fmt: skip
IDLE_GPU = UsageRule(
    "usage-gpu-idle", "A GPU that is held is used", Severity.HIGH,
    "End the job, give back the GPU, or share one by MIG or time-slicing.",
)  # fmt: skip
USAGE_RULES = (OVERSIZED, UNDERSIZED, IDLE, IDLE_GPU)


@dataclass(frozen=True, slots=True)
class _Measured:
    """The pods of one workload."""

    containers: tuple[ContainerUse, ...]
    gpus: tuple[GpuUse, ...]

    @property
    def pods(self) -> int:
        return len({one.pod for one in (*self.containers, *self.gpus)})

    @property
    def hours(self) -> float:
        """How long the workload was seen: its pods may have followed one another."""
        by_pod: dict[str, float] = {}
        for one in (*self.containers, *self.gpus):
            by_pod[one.pod] = max(by_pod.get(one.pod, 0), one.hours)
        return sum(by_pod.values())


def of_site(stack: Stack, site: str) -> Stack:
    """The workloads of one site (a provider's name), as a Prometheus knows its own site alone.

    An empty name is the only site that there is. Raises `InputError`.
    """
    work = [one for one in stack.resources if one.kind in LONG_RUNNING | JOBS]
    sites = sorted({one.provider for one in work})
    if not site and len(sites) > 1:
        names = ", ".join(each or "(default)" for each in sites)
        raise InputError(f"workloads of several sites: {names}; say whose metrics with --site")
    if site and site not in sites:
        raise InputError(f"no workload of site {site!r}; there are {', '.join(sites) or 'none'}")
    others = {id(one) for one in work if site and one.provider != site}
    return Stack([one for one in stack.resources if id(one) not in others])


def review(stack: Stack, usage: Usage, settings: UsageSettings, cost: CostSettings) -> list[Row]:
    """A row for each workload and rule; one that was not measured long enough is unknown."""
    rows: list[Row] = []
    for resource in stack.resources:
        if resource.kind in LONG_RUNNING | JOBS:
            rows += _Review(resource, stack, usage, settings, cost).rows()
    return rows


@dataclass(frozen=True, slots=True)
class _Review:
    resource: Resource
    stack: Stack
    usage: Usage
    settings: UsageSettings
    cost: CostSettings

    def rows(self) -> Iterator[Row]:
        try:
            held = list(containers(pod_of(self.resource), ("containers",)))
            gpus = sum((_asked(one, GPU) for one in held), Decimal(0))
            rules = [rule for rule in USAGE_RULES if self._applies(rule, gpus)]
        except UnknownValue as unknown:
            yield self._row(OVERSIZED, Verdict.UNKNOWN, f"{unknown} is not known yet")
            return
        measured = self._measured()
        if not measured.pods:
            where = f"{self.resource.namespace or 'default'}/{self.resource.object_name}"
            yield self._row(OVERSIZED, Verdict.UNKNOWN, f"no pod of {where} was measured")
            return
        if measured.hours < self.settings.least_hours:
            said = f"measured for {measured.hours:.1f} h; {self.settings.least_hours:g} are wanted"
            yield self._row(OVERSIZED, Verdict.UNKNOWN, said)
            return
        for rule in rules:
            try:
                said = "; ".join(self._findings(rule, held, gpus, measured))
            except UnknownValue as unknown:
                yield self._row(rule, Verdict.UNKNOWN, f"{unknown} is not known yet")
            else:
                yield self._row(rule, Verdict.FAIL if said else Verdict.PASS, said)

    def _applies(self, rule: UsageRule, gpus: Decimal) -> bool:
        if rule is IDLE:
            return self.resource.kind in LONG_RUNNING
        return rule is not IDLE_GPU or gpus > 0

    def _findings(
        self, rule: UsageRule, held: list[Container], gpus: Decimal, measured: _Measured
    ) -> Iterator[str]:
        if rule is IDLE:
            yield from self._idle(held, measured)
        elif rule is IDLE_GPU:
            yield from self._idle_gpus(gpus, measured)
        else:
            for one in held:
                yield from self._sizes(rule, one, measured)

    def _sizes(self, rule: UsageRule, one: Container, measured: _Measured) -> Iterator[str]:
        seen = [use for use in measured.containers if use.container == one.spec.get("name")]
        server = self.cost.server()
        cpus = [use.cpu_p95 for use in seen if use.cpu_p95 is not None]
        peaks = [use.memory_peak for use in seen if use.memory_peak is not None]
        if cpus:
            yield from self._size(
                rule, f"{one.label}: cpu", _asked(one, "cpu"), Decimal(str(max(cpus))),
                Decimal(str(self.settings.least_cpu)), server.vcpu_hour, _vcpus,
            )  # fmt: skip
        if peaks:
            yield from self._size(
                rule, f"{one.label}: memory", _asked(one, "memory"), Decimal(str(max(peaks))),
                Decimal(str(self.settings.least_memory)), server.gib_hour / GIB, _mebibytes,
            )  # fmt: skip

    def _size(
        self, rule: UsageRule, what: str, asked: Decimal, used: Decimal, least: Decimal,
        usd_hour: Decimal, shown: Shown,
    ) -> Iterator[str]:  # fmt: skip
        wanted = used * Decimal(str(self.settings.headroom))
        if rule is UNDERSIZED:
            if used > asked and used - asked >= least:
                yield (
                    f"{what} request is {shown(asked)}, {shown(used)} were used; ask for "
                    f"{shown(wanted)}"
                )
            return
        spare = asked - wanted
        if spare >= least and asked >= wanted * Decimal(str(self.settings.oversize)):
            yield (
                f"{what} request is {shown(asked)}, {shown(used)} were used; ask for "
                f"{shown(wanted)}{self._saving(spare * usd_hour)}"
            )

    def _idle(self, held: list[Container], measured: _Measured) -> Iterator[str]:
        known = [use for use in measured.containers if use.cpu_p95 is not None]
        if not known:
            return
        by_pod: dict[str, float] = {}
        for use in known:
            by_pod[use.pod] = by_pod.get(use.pod, 0) + (use.cpu_p95 or 0)
        busiest = max(by_pod.values())
        if busiest < self.settings.idle_cpu and not measured.gpus:
            server = self.cost.server()
            hourly = sum(
                (
                    _asked(one, "cpu") * server.vcpu_hour
                    + _asked(one, "memory") / GIB * server.gib_hour
                    for one in held
                ),
                Decimal(0),
            )
            yield (
                f"its busiest pod used {busiest:.4f} vCPUs in {self.usage.days:g} days"
                f"{self._saving(hourly)}"
            )

    def _idle_gpus(self, gpus: Decimal, measured: _Measured) -> Iterator[str]:
        if not measured.gpus:
            return
        hours = sum(use.hours for use in measured.gpus)
        mean = sum(use.utilisation * use.hours for use in measured.gpus) / hours if hours else 0.0
        if hours and mean < self.settings.idle_gpu:
            hourly = gpus * self.cost.server().gpu_hour
            yield (
                f"GPUs held: {len(measured.gpus)}, busy {mean:.1f} % of {hours:.0f} GPU-hours"
                f"{self._saving(hourly)}"
            )

    def _saving(self, usd_hour: Decimal) -> str:
        """What a month without it saves; a cloud's pods are billed as its nodes."""
        provider = self.resource.provider
        jobs = self.resource.kind in JOBS
        if jobs or any(fnmatchcase(provider, each) for each in self.cost.cloud_providers):
            return ""
        try:
            now, _ = copies_of(self.resource, self.stack, self.cost)
        except (Unpriced, UnknownValue):
            return ""  # the finding stands; how many copies it is about is not known
        usd = cents(usd_hour * now * HOURS_PER_MONTH)
        return f", saves {usd} USD a month" if usd else ""

    def _measured(self) -> _Measured:
        resource, kind = self.resource, self.resource.kind.rsplit("/", 1)[1]
        name = re.escape(resource.object_name)
        mine = re.compile(name + _ENDINGS.get(kind, f"-{_RANDOM}"))
        space = resource.namespace or "default"

        def of(use: ContainerUse | GpuUse) -> bool:
            return use.namespace == space and bool(mine.fullmatch(use.pod))

        return _Measured(
            tuple(filter(of, self.usage.containers)), tuple(filter(of, self.usage.gpus))
        )

    def _row(self, rule: UsageRule, verdict: Verdict, message: str) -> Row:
        return Row(
            rule=rule.id,
            severity=rule.severity,
            verdict=verdict,
            resource=self.resource.label,
            source_file=self.resource.source_file,
            line=self.resource.line,
            message=message,
            remediation=rule.remediation if verdict is Verdict.FAIL else "",
        )


def _asked(one: Container, name: str) -> Decimal:
    """The request of a container; a limit alone is one too. Raises `UnknownValue`."""
    for side in ("requests", "limits"):
        found = quantity(at(one.spec, "resources", side, name))
        if found is not None:
            return Decimal(str(found))
    return Decimal(0)


def _vcpus(amount: Decimal) -> str:
    return f"{amount:.3f} vCPUs"


def _mebibytes(amount: Decimal) -> str:
    return f"{amount / 2**20:.0f} MiB"
