"""The cloud's queues, at both ends: MultiKueue sends a job of the one to the other.

The private cluster admits such a job against the ceiling, copies it to the cloud's cluster, takes
its status back and removes the copy. There it waits in the queue of the same name and namespace.
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
from infra.kueue import API, KUBECONFIGS
from infra.naming import Identity, labels

CLOUD_QUEUE = "cloud"
"""Of jobs that run in the cloud; also the name of its cohort and of its cluster."""


@dataclass(frozen=True, kw_only=True)
class CloudQueuesArgs:
    identity: Identity
    provider: k8s.Provider
    flavour: Flavour
    """The nodes that may come; nobody owns them, every team borrows."""
    weights: Mapping[str, int]
    """Team -> its part in what is borrowed."""
    namespaces: Mapping[str, Input[str]]
    sends: bool
    """True where jobs are sent from, False where they arrive."""


class CloudQueues(ComponentResource):
    """One flavour, one cohort, one queue a team; where jobs are sent from, also the way."""

    queues: Mapping[str, Output[str]]
    """Team -> its queue's name, known once it is there."""

    def __init__(
        self, resource_name: str, args: CloudQueuesArgs, opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid-recommender:kubernetes:CloudQueues", resource_name, {}, opts)
        self._args, self._name = args, resource_name
        self._opts = ResourceOptions(parent=self, provider=args.provider)
        self._labels = labels(args.identity, "queues")
        if not args.sends:  # the private cluster has them with its own queues
            for priority, value in PRIORITIES.items():
                self._make(
                    "WorkloadPriorityClass", priority, stem=f"priority-{priority}", value=value
                )
        flavour = self._flavour()
        cohort = self._make(
            "Cohort",
            CLOUD_QUEUE,
            spec={"resourceGroups": [group([quota(args.flavour, args.flavour.gpus, None)])]},
            after=[flavour],
        )
        before = [cohort, *(self._way() if args.sends else [])]
        queues: dict[str, Output[str]] = {}
        for team, weight in args.weights.items():
            cluster = self._cluster_queue(team, weight, before)
            queue = self._make(
                "LocalQueue",
                CLOUD_QUEUE,
                stem=f"{team}-local",
                namespace=args.namespaces[team],
                spec={"clusterQueue": f"{team}-{CLOUD_QUEUE}"},
                after=[cluster],
            )
            queues[team] = queue.id.apply(lambda _: CLOUD_QUEUE)
        self.queues = queues
        self.register_outputs({"queues": queues})

    def _make(self, kind: str, object_name: str, *, stem: str = "", **more: Any) -> CustomResource:
        resource = f"{self._name}-{stem or kind.lower()}"
        return declare(kind, resource, object_name, self._labels, self._opts, **more)

    def _flavour(self) -> CustomResource:
        """Where jobs arrive its labels and taints are the nodes'; the sender has no such node."""
        one, spec = self._args.flavour, dict[str, Any]()
        if not self._args.sends:
            spec = {"nodeLabels": dict(one.labels), "tolerations": tolerations(one)}
        return self._make("ResourceFlavor", one.name, spec=spec)

    def _way(self) -> list[CustomResource]:
        cluster = self._make(
            "MultiKueueCluster",
            CLOUD_QUEUE,
            spec={
                "clusterSource": {
                    "kubeConfig": {
                        "locationType": "Path", "location": f"{KUBECONFIGS}/{CLOUD_QUEUE}",
                    }
                }
            },
        )  # fmt: skip
        config = self._make(
            "MultiKueueConfig", CLOUD_QUEUE, spec={"clusters": [CLOUD_QUEUE]}, after=[cluster]
        )
        check = self._make(
            "AdmissionCheck",
            CLOUD_QUEUE,
            spec={
                "controllerName": "kueue.x-k8s.io/multikueue",
                "parameters": {
                    "apiGroup": API.partition("/")[0], "kind": "MultiKueueConfig",
                    "name": CLOUD_QUEUE,
                },
            },
            after=[config],
        )  # fmt: skip
        return [cluster, config, check]

    def _cluster_queue(
        self, team: str, weight: int, after: Sequence[CustomResource]
    ) -> CustomResource:
        args = self._args
        checks = {"admissionChecks": [{"name": CLOUD_QUEUE}]}
        return self._make(
            "ClusterQueue",
            f"{team}-{CLOUD_QUEUE}",
            stem=team,
            spec={
                "cohortName": CLOUD_QUEUE,
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": team}},
                "queueingStrategy": "BestEffortFIFO",
                "resourceGroups": [group([quota(args.flavour, 0, None)])],
                "fairSharing": {"weight": str(weight)},
                **({"admissionChecksStrategy": checks} if args.sends else {}),
            },
            after=after,
        )
