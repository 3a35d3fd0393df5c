"""The queues of one cluster: what there is, whose it is, who may borrow it.

Flavours in order: the private GPUs, then the cloud's. Each team has its own GPUs, may borrow what
others leave idle, and gives it back when they want it. What no team owns, and the cloud, belongs to
the cohort: anybody may borrow it, in proportion to the teams' weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi_kubernetes as k8s
from pulumi import ComponentResource, CustomResource, Input, Output, ResourceOptions

from infra.components.queues_parts import (
    PRIORITIES,
    Flavour,
    declare,
    group,
    quota,
    tolerations,
)
from infra.naming import Identity, labels

GPU_QUEUE = "gpu"
CPU_QUEUE = "default"
"""Of jobs without a GPU, and of jobs that name no queue (Kueue looks for this name)."""


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

    def _make(self, kind: str, stem: str, object_name: str, **more: Any) -> CustomResource:
        resource = f"{self._name}-{stem}"
        return declare(kind, resource, object_name, self._labels, self._opts, **more)

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
            quota(one, one.gpus - (owned if one.owned and one.gpus else 0), None)
            for one in flavours
        ]
        return self._make(
            "Cohort",
            f"cohort-{cohort}",
            cohort,
            spec={"resourceGroups": [group(quotas)]},
            after=after,
        )

    def _cluster_queue(
        self, team: str, share: Share, cohort: str, after: Sequence[CustomResource]
    ) -> CustomResource:
        args = self._args
        if cohort == "gpu":
            quotas = [
                quota(one, share.gpus, share.borrow) if one.owned else quota(one, 0, None)
                for one in args.gpu
            ]
        else:
            quotas = [quota(args.cpu, 0, None, nothing=True)]
        return self._make(
            "ClusterQueue",
            f"{team}-{cohort}",
            f"{team}-{cohort}",
            spec={
                "cohortName": cohort,
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": team}},
                "queueingStrategy": "BestEffortFIFO",
                "resourceGroups": [group(quotas)],
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
