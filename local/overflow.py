"""A training job that overflows into the cloud, step by step: `python -m local.overflow`.

Takes what is free of the private site's GPUs with one job of its own, submits a training job that
may leave, and tells what becomes of it. Kueue at both sites, the mover, the link and Karpenter are
real; the GPUs, their nodes and the training are simulated. It asks the stand that runs here, with
its stack on it. Its jobs are removed however it ends; those of a killed run by the next one.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPException
from typing import TypeVar, cast

from local import layout
from local.control_plane import ControlPlane
from local.errors import StandError
from local.kube import ApiError, Client, Json
from local.leaving import (
    ALL_JOBS,
    KUEUE,
    MOVER_NOTES,
    MOVER_SITE,
    PRIVATE_QUEUE,
    Sites,
    Work,
    chosen,
    fresh,
    has_left,
    owners,
)
from local.paths import PROJECT, Folders, state
from local.queues import WORKERS, NothingToShow, queues, room
from local.settings import SITES
from local.tools.resolve import Tools

T = TypeVar("T")
LABEL = "stand.hybrid-recommender/demo"
MINE = {LABEL: "overflow"}
NAME = re.compile(r"overflow-(fill|train)-[0-9a-f]{8}$")
WORKLOADS = f"{KUEUE}/workloads"
TRAINS = 2  # seconds that the simulated training takes
PATIENCE = 120.0  # seconds without news after which it has failed


@dataclass(frozen=True, kw_only=True)
class Look:
    """What both API servers say at one moment about the training job."""

    job: Json
    copied: bool
    pods: Sequence[Json]
    """In the cloud."""
    claims: Sequence[Json]
    known: frozenset[str] = frozenset()
    """Claims that were there before."""
    nodes: Sequence[Json] = ()
    """That Karpenter ordered and that came."""


def told(look: Look) -> dict[str, str]:
    """Key -> what is the case, in the order in which things happen."""
    said: dict[str, str] = {}
    if has_left(look.job):
        said["left"] = "left: the mover put it into the cloud's queue"
    if look.copied:
        said["sent"] = "sent over the link: the cloud's Kueue has its copy"
    for claim in look.claims:
        name, kind = claim["metadata"]["name"], _bought(claim)
        if kind and name not in look.known:
            said[f"ordered {name}"] = f"Karpenter ordered a simulated node: {name} ({kind})"
    kinds = {node["metadata"]["name"]: _bought(node) for node in look.nodes}
    for pod in look.pods:
        node = pod["spec"].get("nodeName")
        if node and pod["status"].get("phase") in ("Running", "Succeeded"):
            what = f"a worker runs on {node} ({kinds.get(node) or 'a node that went'})"
            said[f"runs {pod['metadata']['name']}"] = what
    if (look.job.get("status") or {}).get("succeeded") == WORKERS:
        said["done"] = "done: the private site's job says so"
        if not look.copied:
            said["gone"] = "the copy in the cloud is gone"
    return said


def _bought(thing: Json) -> str:
    """Instance type and how it is paid, of a claim or a node; nothing before it is launched."""
    labels = thing["metadata"].get("labels") or {}
    kind = labels.get("node.kubernetes.io/instance-type")
    return f"{kind}, {labels.get('karpenter.sh/capacity-type')}" if kind else ""


def stays(table: str, workload: str) -> str | None:
    """Why the plan keeps a job at the private site; None when it leaves."""
    for line in table.splitlines():
        cells = re.split(r"\s{2,}", line)
        if cells[0] == workload:
            return cells[-1] if cells[2] in ("waits", "nowhere") else None
    return "the plan does not name it"


@dataclass
class Show:
    """One demonstration. `say` gets a line without its time."""

    private: Client
    cloud: Client
    patience: float
    began: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        print(f"  [{time.monotonic() - self.began:5.1f}s] {text}", flush=True)

    def wait(self, what: str, seen: Callable[[], T | None]) -> T:
        """The first that is something; an API server that just starts may refuse meanwhile."""
        end, refused = time.monotonic() + self.patience, ""
        while True:
            try:
                if found := seen():
                    return found
            except ApiError as error:
                if error.status < 500:
                    raise
                refused = f" ({error})"
            except (OSError, HTTPException) as error:
                refused = f" ({error})"
            if time.monotonic() > end:
                raise StandError(
                    f"{what} after {self.patience:g} s{refused}",
                    "see `kubectl -n kueue-system logs deployment/queue-mover`, `stand status`",
                )
            time.sleep(0.3)

    def run(self, pool: Json) -> None:
        """All of it. Raises `NothingToShow`, `StandError`."""
        plan_site = self._allowed()
        gpus, size = int(pool["count"]) * int(pool["gpus"]), int(pool["gpus"])
        worker = min(size, max(int(one["gpus"]) for one in json.loads(plan_site)["offers"]))
        self.wait("jobs of an earlier run are left", self._removed)
        team, fill = room(
            queues(
                self.private.items(f"{KUEUE}/localqueues"),
                self.private.items(f"{KUEUE}/clusterqueues"),
                self.private.items(WORKLOADS),
            ),
            gpus,
            worker,
        )
        sites = Sites(self.private, self.cloud, team)
        if fill:
            filler = Work(pods=fill, gpus=worker, seconds=900, may_leave=False)
            full = self._submit(sites, filler, "overflow-fill")
            self.wait(
                "the private GPUs are not taken",
                lambda: (sites.job(full).get("spec") or {}).get("suspend") is False,
            )
            self.say(
                f"{full}: one job takes what was free, {fill * worker} of the private site's "
                f"{gpus} simulated GPUs"
            )
        self._train(sites, worker, plan_site)

    def _allowed(self) -> str:
        """The mover's site, as the plan reads it."""
        found = self.private.find(MOVER_SITE)
        if found is not None:
            return str(found["data"]["site.json"])
        if self.private.find("/api/v1/namespaces/kueue-system") is None:
            raise StandError("the private site has no Kueue", "`make up` puts the stack there")
        raise NothingToShow("this stack lets no job leave; its settings have no cloud-pools")

    def _submit(self, sites: Sites, work: Work, stem: str) -> str:
        name = fresh(stem)

        def taken() -> str:
            try:
                return sites.submit(work, name, MINE)
            except ApiError as error:
                if error.status == 409:  # an answer was lost on the way
                    return name
                raise

        return self.wait("Kueue takes no job", taken)

    def _train(self, sites: Sites, worker: int, plan_site: str) -> None:
        known = frozenset(str(one["metadata"]["name"]) for one in sites.claims())
        work = Work(pods=WORKERS, gpus=worker, seconds=TRAINS, may_leave=True)
        job = self._submit(sites, work, "overflow-train")
        self.say(
            f"{job}: queued, {WORKERS} workers of {worker} GPUs for {work.hours:g} hours, "
            f"as it says ({TRAINS} s here, simulated)"
        )
        self._plan(sites, job, plan_site)
        said: dict[str, str] = {}
        while "gone" not in said:
            last = next(reversed(said.values()), "it was queued")
            look = partial(self._news, sites, job, known, frozenset(said))
            news = self.wait(f"nothing new since: {last};", look)
            said |= news
            for line in news.values():
                self.say(line)
        self._remaining(sites, plan_site)

    def _news(
        self, sites: Sites, job: str, known: frozenset[str], said: frozenset[str]
    ) -> dict[str, str]:
        now = Look(
            job=sites.job(job),
            copied=sites.copied(job),
            pods=sites.pods(self.cloud, job),
            claims=sites.claims(),
            nodes=sites.nodes(),
            known=known,
        )
        return {key: line for key, line in told(now).items() if key not in said}

    def _plan(self, sites: Sites, job: str, plan_site: str) -> None:
        """Print what the plan says of the job; raises `NothingToShow` when it stays."""

        def queued() -> tuple[str, Json] | None:
            listed = self.private.get(WORKLOADS)
            for one in listed["items"]:
                if one["metadata"]["namespace"] == sites.team and job in owners(one):
                    # as it waited: the mover may have been quicker than this look
                    one["spec"]["queueName"], one["status"] = PRIVATE_QUEUE, {}
                    return f"{sites.team}/{one['metadata']['name']}", listed
            return None

        workload, listed = self.wait(f"Kueue does not queue {job}", queued)
        with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as site:
            site.write(plan_site)
            site.flush()
            # a command, not an import: the stand knows nothing of the program
            done = subprocess.run(
                [sys.executable, "-m", "infra.clouds.burst_mover", "--show", "--site", site.name],
                cwd=PROJECT, input=json.dumps(listed), capture_output=True, text=True, check=False,
            )  # fmt: skip
        if done.returncode:
            raise StandError(f"the plan failed: {done.stderr.strip()[-300:]}")
        for line in done.stdout.splitlines():
            print(f"           {line}", flush=True)
        if (why := stays(done.stdout, workload)) is not None:
            raise NothingToShow(f"the plan keeps the job at the private site: {why}")

    def _remaining(self, sites: Sites, plan_site: str) -> None:
        nodes, minutes = len(sites.rented()), json.loads(plan_site)["idle_minutes"]
        if nodes:
            self.say(
                f"still up: {nodes} simulated nodes; Karpenter gives a node back after "
                f"{minutes:g} min without pods"
            )
        else:
            self.say("no rented node is left")

    def remove(self) -> None:
        self.wait(f"jobs labelled {LABEL} are left", self._removed)

    def _removed(self) -> bool:
        """Remove the demonstration's jobs, whoever's run made them; whether none is left."""
        query = chosen(*next(iter(MINE.items())))
        jobs = self.private.items(ALL_JOBS + query)
        for job in jobs:
            metadata = job["metadata"]
            if "deletionTimestamp" not in metadata:
                space = f"/apis/batch/v1/namespaces/{metadata['namespace']}/jobs"
                self.private.delete(f"{space}/{metadata['name']}?propagationPolicy=Background")
        # the mover makes again what it holds between the two queues
        notes = (self.private.find(MOVER_NOTES) or {}).get("data") or {}
        return not (
            jobs
            or any(LABEL in note for note in notes.values())
            or self.cloud.items(ALL_JOBS + query)  # Kueue removes the copies
            or self.private.items(f"/api/v1/pods{query}")
            # they hold quota for a moment longer than their jobs live
            or any(NAME.match(job) for one in self.private.items(WORKLOADS) for job in owners(one))
        )


@contextlib.contextmanager
def alone(folders: Folders) -> Generator[None]:
    """One demonstration at a time: each removes what it takes for a killed run's jobs."""
    with (folders.root / "overflow.lock").open("a", encoding="utf-8") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StandError("another run shows it now", "wait for it to end") from None
        yield


def demonstrate(folders: Folders, patience: float) -> None:
    """Raises `NothingToShow`, `StandError`."""
    where = layout.read(folders)
    if where is None or not folders.endpoints.exists():
        raise StandError("no stand is up here", "`make up` starts it")
    described = cast("Json", json.loads(folders.endpoints.read_text(encoding="utf-8")))
    private = cast("Json", described["sites"]["private"])
    if not private["real_nodes"]:
        raise NothingToShow("without root, or without real nodes, nothing runs Kueue here")
    here, there = (ControlPlane(folders, where.sites[site], Tools({})).client for site in SITES)
    try:
        here.get("/version")
    except OSError as error:
        raise StandError(f"the stand does not answer: {error}", "`make up` first") from None
    with alone(folders):
        show = Show(here, there, patience)
        try:
            show.run(private["gpu_pool"])
        finally:
            show.remove()
            show.say("its jobs are removed")


def _ended(*_: object) -> None:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """0 shown, or nothing to show here; 1 failed or interrupted; 2 wrong use."""
    parser = argparse.ArgumentParser(prog="python -m local.overflow", description=__doc__)
    parser.add_argument(
        "--patience", type=float, default=PATIENCE, metavar="SECONDS",
        help=f"without news after which it has failed ({PATIENCE:g})",
    )  # fmt: skip
    words = parser.parse_args(argv)
    for one in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, _ended)
    print("a training job overflows into the cloud (GPUs, nodes and training are simulated)")
    try:
        demonstrate(Folders(state()), words.patience)
    except NothingToShow as reason:
        print(f"  not shown: {reason}")
    except KeyboardInterrupt:
        print("overflow: interrupted; the next run removes what this one left", file=sys.stderr)
        return 1
    except StandError as error:
        print(f"overflow: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"overflow: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
