"""The queues of one cluster: what there is, whose it is, who may borrow it.

Flavours in order: the private GPUs, then the cloud's. Each team has its own GPUs, may borrow what
others leave idle, and gives it back when they want it. What no team owns, and the cloud, belongs to
the cohort: anybody may borrow it, in proportion to the teams' weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi_kubernetes as k8s
from pulumi import ComponentResource, CustomResource, Input, Output, ResourceOptions

from infra.kueue import API
from infra.naming import Identity, labels

GPU = "nvidia.com/gpu"
GPU_QUEUE = "gpu"
CPU_QUEUE = "default"
"""Of jobs without a GPU, and of jobs that name no queue (Kueue looks for this name)."""
PRIORITIES = {"urgent": 1000, "normal": 100, "low": 10}


@dataclass(frozen=True, kw_only=True)
class Flavour:
    """One kind of place that jobs run in, and how much of it there is."""

    name: str
    gpus: int = 0
    cpus: int
    memory_gib: int
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    """Of its nodes; a job that gets this flavour is sent to them."""
    taints: Sequence[Mapping[str, str]] = ()
    """Of its nodes; such a job tolerates them."""
    owned: bool = True
    """False: no team has a share of its own in it, all borrow (the cloud)."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one team has of the owned GPU flavour."""

    gpus: int
    borrow: int | None = None
    """Most GPUs that it may borrow; None for all that are idle."""
    weight: int = 1


@dataclass(frozen=True, kw_only=True)
class QueuesArgs:
    identity: Identity
    provider: k8s.Provider
    gpu: Sequence[Flavour]
    """In the order in which they are tried."""
    cpu: Flavour
    teams: Mapping[str, Share]
    namespaces: Mapping[str, Input[str]]

    def __post_init__(self) -> None:
        if [one.owned for one in self.gpu] != [True, *([False] * (len(self.gpu) - 1))]:
            raise ValueError("gpu needs one owned flavour, first, and others that nobody owns")
        owned = self.gpu[0].gpus
        asked = sum(team.gpus for team in self.teams.values())
        if asked > owned:
            each = ", ".join(f"{name} {team.gpus}" for name, team in self.teams.items())
            raise ValueError(f"teams own {asked} GPUs ({each}), there are {owned}; lower a share")


class Queues(ComponentResource):
    """Flavours, one cohort for GPUs and one for CPUs, two queues a team."""

    queues: Mapping[str, Output[str]]
    """`team/queue` -> its name, known once it is there."""

    def __init__(
        self, resource_name: str, args: QueuesArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid-recommender:kubernetes:Queues", resource_name, {}, opts)
        self._args = args
        self._name = resource_name
        self._opts = ResourceOptions(parent=self, provider=args.provider)
        self._labels = labels(args.identity, "queues")
        for priority, value in PRIORITIES.items():
            self._make("WorkloadPriorityClass", f"priority-{priority}", priority, value=value)
        flavours = [self._flavour(one) for one in (*args.gpu, args.cpu)]
        cohorts = {
            "gpu": self._cohort("gpu", args.gpu, flavours),
            "cpu": self._cohort("cpu", [args.cpu], flavours),
        }
        queues: dict[str, Output[str]] = {}
        for team, share in args.teams.items():
            for cohort, local in (("gpu", GPU_QUEUE), ("cpu", CPU_QUEUE)):
                cluster = self._cluster_queue(team, share, cohort, [cohorts[cohort]])
                queue = self._make(
                    "LocalQueue",
                    f"{team}-{cohort}-local",
                    local,
                    namespace=args.namespaces[team],
                    spec={"clusterQueue": f"{team}-{cohort}"},
                    after=[cluster],
                )
                queues[f"{team}/{local}"] = queue.id.apply(lambda _, name=local: name)
        self.queues = queues
        self.register_outputs({"queues": queues})

    def _make(
        self,
        kind: str,
        stem: str,
        object_name: str,
        *,
        namespace: Input[str] | None = None,
        after: Sequence[CustomResource] = (),
        **fields: Any,
    ) -> CustomResource:
        where = {} if namespace is None else {"namespace": namespace}
        # not the SDK's CustomResource: a WorkloadPriorityClass has its value beside `spec`
        return CustomResource(
            f"kubernetes:{API}:{kind}",
            f"{self._name}-{stem}",
            {
                "apiVersion": API,
                "kind": kind,
                "metadata": {"name": object_name, "labels": self._labels, **where},
                **fields,
            },
            ResourceOptions.merge(self._opts, ResourceOptions(depends_on=list(after))),
        )

    def _flavour(self, one: Flavour) -> CustomResource:
        spec: dict[str, Any] = {}
        if one.labels:
            spec["nodeLabels"] = dict(one.labels)
        if one.taints:
            spec["tolerations"] = tolerations(one)
        return self._make("ResourceFlavor", f"flavour-{one.name}", one.name, spec=spec)

    def _cohort(
        self, cohort: str, flavours: Sequence[Flavour], after: Sequence[CustomResource]
    ) -> CustomResource:
        """Owns what no team does."""
        owned = sum(team.gpus for team in self._args.teams.values())
        quotas = [
            _quota(one, one.gpus - (owned if one.owned and one.gpus else 0), None)
            for one in flavours
        ]
        return self._make(
            "Cohort",
            f"cohort-{cohort}",
            cohort,
            spec={"resourceGroups": [_group(quotas)]},
            after=after,
        )

    def _cluster_queue(
        self, team: str, share: Share, cohort: str, after: Sequence[CustomResource]
    ) -> CustomResource:
        args = self._args
        if cohort == "gpu":
            quotas = [
                _quota(one, share.gpus, share.borrow) if one.owned else _quota(one, 0, None)
                for one in args.gpu
            ]
        else:
            quotas = [_quota(args.cpu, 0, None, nothing=True)]
        return self._make(
            "ClusterQueue",
            f"{team}-{cohort}",
            f"{team}-{cohort}",
            spec={
                "cohortName": cohort,
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": team}},
                "queueingStrategy": "BestEffortFIFO",
                "resourceGroups": [_group(quotas)],
                # idle private GPUs of others before the cloud's; the cloud's before taking back
                "flavorFungibility": {
                    "whenCanBorrow": "MayStopSearch", "whenCanPreempt": "TryNextFlavor",
                },
                "preemption": {
                    "reclaimWithinCohort": "Any", "withinClusterQueue": "LowerPriority",
                },
                "fairSharing": {"weight": str(share.weight)},
            },
            after=after,
        )  # fmt: skip


def tolerations(flavour: Flavour) -> list[dict[str, str]]:
    """What lets a pod onto a flavour's nodes; Kueue adds it to the jobs that it sends there."""
    return [
        {
            "key": taint["key"],
            "effect": taint["effect"],
            **(
                {"operator": "Equal", "value": taint["value"]}
                if taint.get("value")
                else {"operator": "Exists"}
            ),
        }
        for taint in flavour.taints
    ]


def _group(quotas: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "coveredResources": [one["name"] for one in quotas[0]["resources"]],
        "flavors": list(quotas),
    }


def _quota(
    flavour: Flavour, gpus: int, borrow: int | None, *, nothing: bool = False
) -> dict[str, Any]:
    """Quota of a flavour for so many of its GPUs, CPUs and memory in proportion."""

    def part(whole: int, count: int) -> int:
        if nothing:
            return 0
        return whole * count // flavour.gpus if flavour.gpus else whole

    found: list[dict[str, Any]] = []
    for resource, whole, base, units in (
        (GPU, flavour.gpus, *DECIMAL), ("cpu", flavour.cpus, *DECIMAL),
        ("memory", flavour.memory_gib, *GIB),
    ):  # fmt: skip
        one: dict[str, Any] = {
            "name": resource, "nominalQuota": quantity(part(whole, gpus), base, units),
        }  # fmt: skip
        if borrow is not None:
            one["borrowingLimit"] = quantity(part(whole, borrow), base, units)
        found.append(one)
    return {"name": flavour.name, "resources": found}


DECIMAL = (1000, ("", "k", "M"))
GIB = (1024, ("Gi", "Ti", "Pi"))


def quantity(amount: int, base: int, units: Sequence[str]) -> str:
    """A quantity in the one form that Kueue writes back: a refresh finds what was declared."""
    if amount == 0:
        return "0"
    for unit in units[:-1]:
        if amount % base:
            return f"{amount}{unit}"
        amount //= base
    return f"{amount}{units[-1]}"
