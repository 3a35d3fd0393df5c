"""Which waiting jobs would leave for rented GPUs, at what price, and when waiting is cheaper.

    kubectl get workloads -A -o json | python -m infra.clouds.burst_plan --site SITE.json

A plan of the queue as it stands, not an order: Kueue admits. Private GPUs are paid for already, so
waiting costs time alone; a job leaves when the hours it gains are worth more than the bill.
What is assumed: jobs start in their order and none overtakes; inputs cross the link one after the
other; a rented node is paid while it starts, loads its input, works, and stands idle at the end.
"""

from __future__ import annotations

import argparse
import heapq
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infra.clouds.burst import Capacity
from infra.clouds.burst_jobs import JobError, Running, Waiting, queue


class Offer(BaseModel):
    """One way to rent: an instance type, spot or on-demand, under its pool's ceiling."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    pool: str
    instance_type: str
    capacity: Capacity
    gpus: int = Field(gt=0)
    usd_per_hour: float = Field(gt=0)

    @property
    def holder(self) -> str:
        """Who counts the GPUs: each pool has one ceiling per way of buying."""
        return f"{self.pool}-{self.capacity}"


class Site(BaseModel):
    """What the plan needs to know besides the queue."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    private_flavor: str
    private_gpus: int = Field(ge=0)
    link_mbps: float = Field(gt=0)
    """What the link has left for inputs, Mbit/s."""
    node_minutes: float = Field(ge=0)
    """From the order of a node to its first pod."""
    idle_minutes: float = Field(ge=0)
    usd_per_hour_saved: float = Field(ge=0)
    """Worth of one hour of earlier finish, for jobs that name none."""
    ceilings: dict[str, int]
    """`<pool>-spot` and `<pool>-on-demand` -> GPUs at once; also the cloud flavours' names."""
    offers: tuple[Offer, ...]


@dataclass(frozen=True, kw_only=True)
class Rented:
    """One job on rented nodes; times in hours from now."""

    offer: Offer
    nodes: int
    start: float
    finish: float
    usd: float

    @property
    def usd_per_hour(self) -> float:
        return self.nodes * self.offer.usd_per_hour


@dataclass(frozen=True, kw_only=True)
class Verdict:
    job: Waiting
    stays: float | None
    """Finish at the private site, hours from now; None when the site is too small for it."""
    rented: Rented | None
    leaves: bool
    reason: str


@dataclass
class _Private:
    """The private GPUs ahead of the next job: which come free, and when."""

    free: int
    size: int
    ends: list[tuple[float, int]]
    clock: float = 0.0

    def start_of(self, gpus: int) -> float | None:
        """When `gpus` are free for the next job in order; nothing is taken yet."""
        if gpus > self.size:
            return None
        free, at = self.free, self.clock
        for end, freed in sorted(self.ends):
            if free >= gpus:
                break
            free, at = free + freed, max(at, end)
        return at

    def take(self, gpus: int, start: float, hours: float) -> None:
        while self.ends and self.ends[0][0] <= start:
            self.free += heapq.heappop(self.ends)[1]
        self.clock = start
        self.free -= gpus
        heapq.heappush(self.ends, (start + hours, gpus))


def plan(site: Site, waiting: Sequence[Waiting], running: Sequence[Running]) -> list[Verdict]:
    """One verdict a job, in the order of the queue."""
    here = [(job.hours_left, job.gpus) for job in running if job.flavor == site.private_flavor]
    heapq.heapify(here)
    private = _Private(
        free=site.private_gpus - sum(gpus for _, gpus in here), size=site.private_gpus, ends=here
    )
    room = dict(site.ceilings)
    for job in running:
        if job.flavor != site.private_flavor:
            room[job.flavor] = room.get(job.flavor, 0) - job.gpus
    link_free = 0.0
    verdicts: list[Verdict] = []
    for job in waiting:
        start = private.start_of(job.gpus)
        stays = None if start is None else start + job.hours
        loaded = link_free + job.input_gb * 8000 / site.link_mbps / 3600
        rented = _cheapest(site, job, room, loaded)
        leaves, reason = _judge(site, job, stays, start, rented)
        verdicts.append(Verdict(job=job, stays=stays, rented=rented, leaves=leaves, reason=reason))
        if leaves and rented is not None:
            room[rented.offer.holder] -= rented.nodes * rented.offer.gpus
            link_free = loaded
        elif start is not None:
            private.take(job.gpus, start, job.hours)
    return verdicts


def _cheapest(site: Site, job: Waiting, room: dict[str, int], loaded: float) -> Rented | None:
    """The cheapest offer that fits under what its ceiling has left; ties go to fewer nodes."""
    begins = max(site.node_minutes / 60, loaded)
    possible: list[Rented] = []
    for offer in site.offers:
        nodes = job.nodes_of(offer.gpus)
        if nodes is not None and nodes * offer.gpus <= room.get(offer.holder, 0):
            paid = begins + job.hours + site.idle_minutes / 60
            possible.append(
                Rented(
                    offer=offer,
                    nodes=nodes,
                    start=begins,
                    finish=begins + job.hours,
                    usd=nodes * offer.usd_per_hour * paid,
                )
            )
    return min(possible, key=lambda one: (one.usd, one.nodes), default=None)


def _judge(
    site: Site, job: Waiting, stays: float | None, start: float | None, rented: Rented | None
) -> tuple[bool, str]:
    if start == 0:
        return False, "private GPUs are free now"
    if rented is None:
        what = "no private site is large enough, and " if stays is None else ""
        return False, f"{what}no offer fits under its ceiling"
    if stays is None:
        return True, f"needs {job.gpus} GPUs, the private site has {site.private_gpus}"
    gained = stays - rented.finish
    if gained <= 0:
        return False, f"waiting is faster by {_hours(-gained)} and costs nothing"
    worth = gained * (site.usd_per_hour_saved if job.worth is None else job.worth)
    if worth < rented.usd:
        return False, (
            f"waiting is cheaper: {_hours(gained)} earlier is worth {worth:.2f} USD "
            f"and costs {rented.usd:.2f}"
        )
    return True, f"{_hours(gained)} earlier, worth {worth:.2f} USD"


def _hours(hours: float) -> str:
    minutes = round(hours * 60)
    return f"{minutes // 60}h{minutes % 60:02d}"


def table(verdicts: Sequence[Verdict], now: datetime) -> str:
    """The plan for people."""
    head = ("job", "GPUs", "goes to", "USD/h", "USD", "GB", "finish (UTC)", "why")
    rows: list[tuple[str, ...]] = [head]
    for each in verdicts:
        rented = each.rented if each.leaves else None
        finish = rented.finish if rented else each.stays
        when = (now + timedelta(hours=finish)) if finish is not None else None
        stuck = each.stays is None and rented is None
        rows.append(
            (
                each.job.name,
                str(each.job.gpus),
                f"{rented.nodes}x {rented.offer.instance_type} {rented.offer.capacity}"
                if rented else ("nowhere" if stuck else "waits"),
                f"{rented.usd_per_hour:.2f}" if rented else "-",
                f"{rented.usd:.2f}" if rented else "-",
                f"{each.job.input_gb:g}" if rented else "-",
                f"{when:%m-%d %H:%M}" if when else "never",
                each.reason,
            )
        )  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    gone = [each for each in verdicts if each.leaves and each.rented]
    bill = sum(each.rented.usd for each in gone if each.rented)
    rate = sum(each.rented.usd_per_hour for each in gone if each.rented)
    moved = sum(each.job.input_gb for each in gone)
    lines.append(
        f"{len(gone)} of {len(verdicts)} waiting jobs would leave: {rate:.2f} USD/h at most, "
        f"{bill:.2f} USD in all, {moved:g} GB over the link"
    )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit 0 with the plan, 1 when the queue or the site file cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.clouds.burst_plan", description="Which waiting jobs would leave."
    )
    parser.add_argument("--site", type=Path, required=True, help="JSON: see Site in this file")
    parser.add_argument("--workloads", type=Path, help="JSON of kubectl; standard input if absent")
    words = parser.parse_args(argv)
    now = datetime.now(UTC)
    try:
        site = Site.model_validate_json(words.site.read_text(encoding="utf-8"))
        text = words.workloads.read_text(encoding="utf-8") if words.workloads else sys.stdin.read()
        waiting, running = queue(json.loads(text), now)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        print(f"burst plan: {words.site}: {where or 'the file'}: {first['msg']}", file=sys.stderr)
        return 1
    except (OSError, json.JSONDecodeError, JobError) as error:
        print(f"burst plan: {error}", file=sys.stderr)
        return 1
    print(table(plan(site, waiting, running), now))
    return 0


if __name__ == "__main__":
    sys.exit(main())
