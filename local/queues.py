"""Where the demonstration's jobs fit into a stack's queues without taking anything from others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from local.kube import Json
from local.leaving import CLOUD_QUEUE, GPU, PRIVATE_QUEUE

WORKERS = 2
"""Pods of the training job."""


class NothingToShow(Exception):  # noqa: N818 - not an error: the reason is the answer
    """This stand, or this moment, has no overflow to show."""


@dataclass(frozen=True, kw_only=True)
class Queue:
    """One team's queue for private GPUs."""

    team: str
    own: int
    borrow: int | None
    """Most GPUs of others; None for all that are idle."""
    used: int
    waiting: int

    @property
    def most(self) -> float:
        return float("inf") if self.borrow is None else self.own + self.borrow


def queues(
    local: Sequence[Json], cluster: Sequence[Json], workloads: Sequence[Json]
) -> list[Queue]:
    """The queues of teams whose jobs may leave: those that have one for the cloud, too.

    What is used comes from the workloads: the queues' own status lags behind a job that has gone.
    """
    by_name = {one["metadata"]["name"]: one for one in cluster}
    teams: dict[str, dict[str, str]] = {}
    for one in local:
        space = teams.setdefault(one["metadata"]["namespace"], {})
        space[one["metadata"]["name"]] = one["spec"]["clusterQueue"]
    return [
        _queue(team, by_name[names[PRIVATE_QUEUE]], workloads)
        for team, names in sorted(teams.items())
        if {PRIVATE_QUEUE, CLOUD_QUEUE} <= set(names) and names[PRIVATE_QUEUE] in by_name
    ]


def _queue(team: str, cluster: Json, workloads: Sequence[Json]) -> Queue:
    flavor = cluster["spec"]["resourceGroups"][0]["flavors"][0]
    quota: Json = next((one for one in flavor["resources"] if one["name"] == GPU), {})
    limit = quota.get("borrowingLimit")
    used = waiting = 0
    for one in workloads:
        if one["metadata"]["namespace"] != team or one["spec"].get("queueName") != PRIVATE_QUEUE:
            continue
        status = one.get("status") or {}
        true = {each["type"] for each in status.get("conditions") or [] if each["status"] == "True"}
        if "Finished" in true:
            continue
        waiting += "QuotaReserved" not in true
        for part in (status.get("admission") or {}).get("podSetAssignments") or []:
            used += _number((part.get("resourceUsage") or {}).get(GPU, 0))
    return Queue(
        team=team,
        own=_number(quota.get("nominalQuota", 0)),
        borrow=None if limit is None else _number(limit),
        used=used,
        waiting=waiting,
    )


def _number(quantity: object) -> int:
    return int(str(quantity).replace("k", "000"))


def room(found: Sequence[Queue], gpus: int, worker: int) -> tuple[str, int]:
    """Which team submits, and how many pods of `worker` GPUs fill what is free of `gpus`.

    No job of anybody else may lose its GPUs or its turn to it. Raises `NothingToShow`.
    """
    if not found:
        raise NothingToShow("no team of this stack has a queue for the cloud")
    free = gpus - sum(one.used for one in found)
    fill = max(0, free // worker)
    waiting = sum(one.waiting for one in found)
    if fill and waiting:
        raise NothingToShow(
            f"{waiting} jobs wait in the private queues; filling these would make them leave"
        )
    for one in sorted(found, key=lambda queue: (queue.own, queue.team)):
        others = [other for other in found if other is not one and other.used > other.own]
        after = one.used + fill * worker
        # what others borrow, a waiting job would take back instead of leaving
        if not others and one.own < after + WORKERS * worker and after <= one.most:
            return one.team, fill
    held = ", ".join(f"{one.team} {one.used} of its {one.own}" for one in found)
    raise NothingToShow(f"{gpus - free} of {gpus} private GPUs are taken ({held}) by other jobs")
