"""Two thousand waiting jobs over two hundred simulated GPU nodes, through the real Kueue.

    python -m benchmarks.queues [--jobs 2000 ...] [--nodes 200] [--seconds 1]     (root)

A stand of its own with so many simulated nodes of 8 GPUs, and the local stack on it. Both teams own
half of the GPUs and may borrow a quarter of them. The queues are held until every job waits; then
they are released together, and what is held is followed event by event until the last job has
ended: what Kueue has given, and what the bound pods hold. The rate of admission is that of Kueue's
own `Admitted` times; jobs hold whole nodes, so that it is also bounded by jobs that end. Several
numbers of jobs are several rounds on the same stand.
Exit: 0, or 1 when a quota was exceeded or a job did not end. Writes out/bench/queues.json.
"""

from __future__ import annotations

import argparse
import json
import os
import ssl
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import partial
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import yaml

from infra.kueue import QUEUE_LABEL
from local.gpu import RUNS_FOR
from local.kube import Client
from local.paths import PROJECT
from local.stand import can_root
from tests.conftest import RunningStand
from tests.stack import Stack

OUT = Path("out/bench/queues.json")
GPU, GPUS = "nvidia.com/gpu", 8
TEAMS = ("recommender", "research")
KUEUE = "/apis/kueue.x-k8s.io/v1beta2"
QUEUES, WORKLOADS = f"{KUEUE}/clusterqueues", f"{KUEUE}/workloads"
PATIENCE = 1800.0  # seconds until every job must have ended


@dataclass
class Result:
    jobs: int
    nodes: int
    cpus: int | None
    submitted_s: float = 0.0
    admitted_s: float = 0.0
    """From the first reservation of quota to the last."""
    ended_s: float = 0.0
    per_second: float = 0.0
    """Jobs admitted a second over the whole run."""
    best_per_second: float = 0.0
    """The same over the best ten seconds."""
    peak: dict[str, int] = field(default_factory=dict[str, int])
    """Most GPUs that Kueue had given at once, by queue and `all`; `bound`: of pods on nodes."""
    limits: dict[str, int] = field(default_factory=dict[str, int])
    ended: int = 0

    @property
    def mark(self) -> str:
        """Begins the names of this round's jobs, and is their label."""
        return f"bench-{self.jobs}"

    @property
    def held(self) -> bool:
        return self.ended == self.jobs and all(
            self.peak[name] <= most for name, most in self.limits.items()
        )


def job(mark: str, number: int, seconds: int) -> dict[str, Any]:
    size = {"cpu": "1", "memory": "1Gi", GPU: str(GPUS)}
    work = {"name": "work", "image": "none.internal/work:1",
            "resources": {"requests": size, "limits": size}}  # fmt: skip
    return {
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": f"{mark}-{number}", "labels": {QUEUE_LABEL: "gpu", "bench": mark}},
        "spec": {"template": {
            "metadata": {"annotations": {RUNS_FOR: f"{seconds}s"}, "labels": {"bench": mark}},
            "spec": {"restartPolicy": "Never", "containers": [work]},
        }},
    }  # fmt: skip


def settings(folder: Path, nodes: int) -> str:
    """Path of stand settings with so many private GPU nodes and none to come."""
    given = yaml.safe_load((PROJECT / "local" / "stand.yaml").read_text(encoding="utf-8"))
    given["private"]["gpu_nodes"] = {"count": nodes, "gpus": GPUS}
    file = folder / "stand.yaml"
    file.write_text(yaml.safe_dump(given), encoding="utf-8")
    return str(file)


def share(stack: Stack, nodes: int) -> dict[str, int]:
    """Give each team half of the GPUs and a quarter to borrow; the most that each may hold."""
    file = stack.project / f"Pulumi.{stack.name}.yaml"
    given = yaml.safe_load(file.read_text(encoding="utf-8"))
    own = nodes * GPUS // 2
    given["config"]["hybrid-recommender:teams"] = {
        team: {"gpus": own, "borrow": own // 2, "weight": 1} for team in TEAMS
    }
    file.write_text(yaml.safe_dump(given), encoding="utf-8")
    return {**{f"{team}-gpu": own + own // 2 for team in TEAMS},
            "all": nodes * GPUS, "bound": nodes * GPUS}  # fmt: skip


def hold(client: Client, on: bool) -> None:
    for team in TEAMS:
        client.request(
            "PATCH", f"{QUEUES}/{team}-gpu", {"spec": {"stopPolicy": "Hold" if on else "None"}},
            "application/merge-patch+json",
        )  # fmt: skip


class Held(Thread):
    """GPUs held, followed event by event: the API server sends one kind's changes in their order.

    So no moment is missed between two looks, and nothing lists thousands of objects meanwhile.
    """

    def __init__(self, client: Client, path: str, of: Callable[[dict[str, Any]], str]) -> None:
        super().__init__(daemon=True)
        self.failed: Exception | None = None
        self.seen: dict[str, str] = {}
        """Object -> what it counts for: a queue, `ended`, or nothing."""
        self.now: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self._client, self._path, self._of = client, path, of
        self._first = client.get(path)
        self.start()

    def run(self) -> None:
        for one in self._first["items"]:
            self._note("ADDED", one)
        version = self._first["metadata"]["resourceVersion"]
        try:
            for kind, one in watch(self._client, self._path, version):
                self._note(kind, one)
        except (OSError, HTTPException, ValueError) as error:
            self.failed = error

    def _note(self, kind: str, one: dict[str, Any]) -> None:
        name = f"{one['metadata'].get('namespace')}/{one['metadata']['name']}"
        before, after = self.seen.get(name, ""), "" if kind == "DELETED" else self._of(one)
        if before == after:
            return
        self.seen[name] = after
        for which, step in ((before, -GPUS), (after, GPUS)):
            if which not in ("", "ended"):
                self.now[which] += step
                self.now["all"] += step
        self.peak |= self.now
        if after == "ended":
            self.now["ended"] += 1


def watch(client: Client, path: str, version: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(what happened, object) of a collection from a version on."""
    context = ssl.create_default_context(cafile=str(client.ca))
    context.load_cert_chain(client.pair.cert, client.pair.key)
    where = urlsplit(client.url)
    connection = HTTPSConnection(
        where.hostname or "", where.port, context=context, timeout=PATIENCE
    )
    joined = "&" if "?" in path else "?"
    try:
        connection.request(
            "GET", f"{path}{joined}watch=1&resourceVersion={version}&timeoutSeconds=7200"
        )
        for line in connection.getresponse():
            event = json.loads(line)
            if event["type"] == "ERROR":
                raise ValueError(f"the watch of {path} broke: {event['object'].get('message')}")
            yield event["type"], event["object"]
    finally:
        connection.close()


def given(mark: str, workload: dict[str, Any]) -> str:
    """The queue whose quota a job of the round holds; `ended` when it has succeeded."""
    if not workload["metadata"]["name"].startswith(f"job-{mark}-"):
        return ""
    status = workload.get("status", {})
    true = {one["type"]: one for one in status.get("conditions", []) if one["status"] == "True"}
    if "Finished" in true:
        return "ended" if true["Finished"]["reason"] == "Succeeded" else ""
    queue = status.get("admission", {}).get("clusterQueue", "")
    return queue if "QuotaReserved" in true else ""


def bound(pod: dict[str, Any]) -> str:
    """Whether a pod has a node and has not ended."""
    over = pod["status"].get("phase") in ("Succeeded", "Failed")
    return "bound" if pod["spec"].get("nodeName") and not over else ""


def ended(client: Client, mark: str) -> int:
    return sum(
        one["status"].get("succeeded", 0)
        for team in TEAMS
        for one in client.items(
            f"/apis/batch/v1/namespaces/{team}/jobs?labelSelector=bench%3D{mark}"
        )
    )


def admissions(client: Client, mark: str) -> list[float]:
    """When each job's quota was reserved; Kueue tells whole seconds."""
    return sorted(
        datetime.fromisoformat(one["lastTransitionTime"]).timestamp()
        for team in TEAMS
        for workload in client.items(f"{KUEUE}/namespaces/{team}/workloads")
        if workload["metadata"]["name"].startswith(f"job-{mark}-")
        for one in workload.get("status", {}).get("conditions", [])
        if one["type"] == "Admitted" and one["status"] == "True"
    )


def measure(client: Client, result: Result, seconds: int) -> None:
    mark = result.mark
    hold(client, True)
    began = time.monotonic()

    def submit(number: int) -> None:
        team = TEAMS[number % len(TEAMS)]
        client.request("POST", f"/apis/batch/v1/namespaces/{team}/jobs", job(mark, number, seconds))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(submit, range(result.jobs)))
    result.submitted_s = round(time.monotonic() - began, 1)
    print(f"{result.jobs} jobs wait after {result.submitted_s} s", file=sys.stderr, flush=True)
    jobs = Held(client, WORKLOADS, partial(given, mark))
    pods = Held(client, f"/api/v1/pods?labelSelector=bench%3D{mark}", bound)
    hold(client, False)
    began = time.monotonic()
    while (done := jobs.now["ended"]) < result.jobs and time.monotonic() - began < PATIENCE:
        if broken := jobs.failed or pods.failed:
            raise broken
        now = f"{jobs.now['all']} GPUs given, {pods.now['bound']} of bound pods"
        print(f"  {done} of {result.jobs} ended, {now}", file=sys.stderr, flush=True)
        time.sleep(5)
    result.ended_s = round(time.monotonic() - began, 1)
    result.peak = {name: (pods if name == "bound" else jobs).peak[name] for name in result.limits}
    result.ended = ended(client, mark)
    times = admissions(client, mark)
    if len(times) > 1:
        result.admitted_s = times[-1] - times[0]
        result.per_second = round(len(times) / max(1.0, result.admitted_s), 1)
        result.best_per_second = max(
            sum(start <= one < start + 10 for one in times) / 10 for start in set(times)
        )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queues", description=__doc__)
    parser.add_argument("--jobs", type=int, nargs="+", default=[2000], help="of each round")
    parser.add_argument("--nodes", type=int, default=200, help="of 8 simulated GPUs each")
    parser.add_argument("--seconds", type=int, default=1, help="that a job runs")
    words = parser.parse_args()
    if not can_root():
        print("benchmarks.queues: needs root: Kueue runs on a real node", file=sys.stderr)
        return 2
    done: list[dict[str, Any]] = []
    results = [Result(jobs, words.nodes, os.cpu_count()) for jobs in words.jobs]
    with tempfile.TemporaryDirectory(prefix="hr-bench-") as name:
        os.environ["STAND_SETTINGS"] = settings(Path(name), words.nodes)
        stand = RunningStand(Path(name) / "state")
        try:
            stand.up()
            subprocess.run([sys.executable, "-m", "bento.ship"], cwd=PROJECT, check=True)
            stack = Stack.over(Path(name) / "project", stand.environment())
            limits = share(stack, words.nodes)
            stack.up()
            # thousands of objects in one answer, from a busy server
            client = replace(stand.client("private"), timeout=60)
            for result in results:
                result.limits = limits
                measure(client, result, words.seconds)
                done.append({**asdict(result), "held": result.held})
                OUT.parent.mkdir(parents=True, exist_ok=True)
                OUT.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
                tell(result)
        finally:
            stand.run("down", "--purge")
    return 0 if all(result.held for result in results) else 1


def tell(result: Result) -> None:
    print(f"{result.jobs} jobs of {GPUS} GPUs over {result.nodes} simulated nodes")
    print(f"  admitted {result.per_second} a second, {result.best_per_second} in the best 10 s")
    print(f"  all ended after {result.ended_s} s ({result.ended} of {result.jobs})")
    print(f"{'GPUs held at once':<20} {'most':>6} {'limit':>6}")
    for which, most in result.limits.items():
        print(f"{which:<20} {result.peak[which]:>6} {most:>6}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
