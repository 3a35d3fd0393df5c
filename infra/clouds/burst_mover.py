"""Gives waiting jobs to the cloud's queue when the private one is full and leaving pays.

    python -m infra.clouds.burst_mover --site SITE.json --every 15
    kubectl get workloads -A -o json | python -m infra.clouds.burst_mover --site SITE.json --show

Runs as a pod of the private cluster; `--show` prints what it would do and does nothing.
`burst_plan` decides; only jobs leave whose pod template says `recsys/may-leave: "true"`, because
their data must be allowed, and able, to follow. Who runs a Job is fixed when it is made
(`spec.managedBy`), so a job that waits and never ran is removed and made again under its name in
the cloud's queue. It is written down before it is removed: a mover that ends in between makes it
again when it starts.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import ssl
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, cast

from pydantic import ValidationError

from infra.clouds.burst_jobs import HOURS, INPUT_GB, WORTH, JobError, queue
from infra.clouds.burst_plan import Site, Verdict, plan, table

MAY_LEAVE = "recsys/may-leave"
LEFT = "recsys/left-as"
"""Annotation of a job in the cloud's queue: the uid it had in the private one."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
NOTES = "leaving"
"""The ConfigMap of jobs between their two queues: `<namespace>.<name>` -> the new job."""
SPACE = "kueue-system"
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_MADE_BY_CLUSTER = ("batch.kubernetes.io/", "controller-uid", "job-name")

Object = dict[str, Any]


class ApiError(OSError):
    """The API server refused."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"the API server answered {status}: {message[:300]}")
        self.status = status


class Api(Protocol):
    def call(self, method: str, path: str, body: Object | None = None) -> Object: ...


@dataclass(frozen=True)
class Cluster:
    """The API server of the pod's own cluster."""

    address: str
    folder: Path = ACCOUNT

    def call(self, method: str, path: str, body: Object | None = None) -> Object:
        """One request. Raises `ApiError`, `OSError`."""
        context = ssl.create_default_context(cafile=str(self.folder / "ca.crt"))
        # read each time: the token is renewed
        token = (self.folder / "token").read_text(encoding="ascii")
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        connection = http.client.HTTPSConnection(self.address, timeout=10, context=context)
        try:
            connection.request(
                method, path, None if body is None else json.dumps(body),
                {"Authorization": f"Bearer {token}", "Content-Type": kind},
            )  # fmt: skip
            answer = connection.getresponse()
            text = answer.read().decode()
        except http.client.HTTPException as error:
            raise OSError(f"no answer: {type(error).__name__}") from None
        finally:
            connection.close()
        if answer.status >= 400:
            raise ApiError(answer.status, text)
        return cast("Object", json.loads(text))


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What the mover knows beside the plan's site."""

    private_queue: str
    cloud_queue: str
    unknown_hours: float = 1.0
    """Of a job that says nothing clear about itself: it keeps its place and never leaves."""


def leaving(listed: Object, site: Site, rules: Rules, now: datetime) -> list[tuple[str, str]]:
    """(namespace, job) of every waiting job that should leave now."""
    verdicts, movable = judged(listed, site, rules, now)
    return [movable[each.job.name] for each in verdicts if each.leaves and each.job.name in movable]


def judged(
    listed: Object, site: Site, rules: Rules, now: datetime
) -> tuple[list[Verdict], dict[str, tuple[str, str]]]:
    """The plan of the private queue, and (namespace, job) of the workloads that may leave."""
    mine: list[Object] = []
    movable: dict[str, tuple[str, str]] = {}
    gone = 0
    for one in cast("list[Object]", listed.get("items") or []):
        where = one["spec"].get("queueName")
        if where == rules.cloud_queue and not _finished(one):
            gone += _gpus_of(one, now)
        elif where == rules.private_queue:
            job, clear = _job(one), _clear(one, now)
            may = clear and job is not None and _marks(one).get(MAY_LEAVE) == "true"
            space = str(one["metadata"].get("namespace"))
            if may and job is not None:
                movable[f"{space}/{one['metadata']['name']}"] = (space, job)
            mine.append(one if may else _staying(one, clear=clear, hours=rules.unknown_hours))
    waiting, running = queue({"items": mine}, now)
    room = _without(site, gone)
    return plan(room, waiting, running), movable


def _finished(workload: Object) -> bool:
    conditions = (workload.get("status") or {}).get("conditions") or []
    return any(one["type"] == "Finished" and one["status"] == "True" for one in conditions)


def _gpus_of(workload: Object, now: datetime) -> int:
    """GPUs that a job of the cloud's queue has or will get."""
    bare = _staying({**workload, "status": {}}, clear=False, hours=1.0)
    return sum(job.gpus for job in queue({"items": [bare]}, now)[0])


def _marks(workload: Object) -> Mapping[str, str]:
    """Annotations of the pod templates, as one."""
    found: dict[str, str] = {}
    for pods in workload["spec"].get("podSets") or []:
        found |= (pods["template"].get("metadata") or {}).get("annotations") or {}
    return found


def _job(workload: Object) -> str | None:
    """The Job that a workload belongs to."""
    for owner in workload["metadata"].get("ownerReferences") or []:
        if owner["kind"] == "Job" and owner["apiVersion"] == "batch/v1" and owner.get("controller"):
            return str(owner["name"])
    return None


def _clear(workload: Object, now: datetime) -> bool:
    """Whether the plan can read what it says about itself."""
    try:
        queue({"items": [workload]}, now)
    except JobError:
        return False
    return True


def _staying(workload: Object, *, clear: bool, hours: float) -> Object:
    """A workload as the plan reads one that is worth nothing elsewhere."""
    more = {WORTH: "0", **({} if clear else {HOURS: str(hours), INPUT_GB: "0"})}
    copy: Object = json.loads(json.dumps(workload))
    for pods in copy["spec"].get("podSets") or []:
        metadata = pods["template"].setdefault("metadata", {})
        metadata["annotations"] = {**(metadata.get("annotations") or {}), **more}
    return copy


def _without(site: Site, gpus: int) -> Site:
    """The site with so many of its rented GPUs taken, spot first, as Karpenter buys."""
    ceilings = dict(site.ceilings)
    for holder in sorted(ceilings, key=lambda name: not name.endswith("-spot")):
        taken = min(gpus, ceilings[holder])
        ceilings[holder] -= taken
        gpus -= taken
    return site.model_copy(update={"ceilings": ceilings})


def in_cloud(job: Object, queue_name: str) -> Object:
    """The same job, not run yet, for the cloud's queue."""
    metadata, spec = job["metadata"], json.loads(json.dumps(job["spec"]))
    for key in ("selector", "manualSelector", "managedBy"):
        spec.pop(key, None)
    inner = spec["template"].get("metadata") or {}
    inner["labels"] = _own(inner.get("labels"))
    spec["template"]["metadata"] = {**inner, "creationTimestamp": None}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "labels": {**_own(metadata.get("labels")), QUEUE_LABEL: queue_name},
            "annotations": {**_own(metadata.get("annotations")), LEFT: metadata["uid"]},
            **{key: metadata[key] for key in ("ownerReferences",) if key in metadata},
        },
        "spec": {**spec, "suspend": True},
    }


def _own(marks: Mapping[str, str] | None) -> dict[str, str]:
    return {
        key: value for key, value in (marks or {}).items() if not key.startswith(_MADE_BY_CLUSTER)
    }


def move(api: Api, space: str, name: str, rules: Rules) -> bool:
    """Hand one job over; False when it started, changed or went meanwhile."""
    path = _path(space, name)
    job = _found(api, path)
    if job is None or not job["spec"].get("suspend") or (job.get("status") or {}).get("startTime"):
        return False
    _note(api, space, name, json.dumps(in_cloud(job, rules.cloud_queue)))
    exactly = {"uid": job["metadata"]["uid"], "resourceVersion": job["metadata"]["resourceVersion"]}
    try:
        api.call("DELETE", path, {"preconditions": exactly, "propagationPolicy": "Background"})
    except ApiError as error:
        if error.status not in (404, 409):
            raise
        _note(api, space, name, None)
        return False
    return finish(api, space, name, _notes(api)[f"{space}.{name}"])


def finish(api: Api, space: str, name: str, note: str) -> bool:
    """Make a noted job again unless it is there; whether it is in the cloud's queue now."""
    wanted: Object = json.loads(note)
    there = _found(api, _path(space, name))
    if there is None:
        api.call("POST", _path(space), wanted)
    elif there["metadata"]["uid"] == wanted["metadata"]["annotations"][LEFT]:
        if "deletionTimestamp" in there["metadata"]:
            return False  # the next look finds it gone
        _note(api, space, name, None)  # it was never removed
        return False
    _note(api, space, name, None)
    return True


def _path(space: str, name: str = "") -> str:
    return f"/apis/batch/v1/namespaces/{space}/jobs" + (f"/{name}" if name else "")


def _found(api: Api, path: str) -> Object | None:
    try:
        return api.call("GET", path)
    except ApiError as error:
        if error.status == 404:
            return None
        raise


_NOTES_PATH = f"/api/v1/namespaces/{SPACE}/configmaps/{NOTES}"


def _notes(api: Api) -> dict[str, str]:
    return api.call("GET", _NOTES_PATH).get("data") or {}


def _note(api: Api, space: str, name: str, text: str | None) -> None:
    api.call("PATCH", _NOTES_PATH, {"data": {f"{space}.{name}": text}})


def look(api: Api, site: Site, rules: Rules) -> list[str]:
    """One look at the queue; what was done, a line each."""
    said: list[str] = []
    for key, note in _notes(api).items():
        space, _, name = key.partition(".")
        if finish(api, space, name, note):
            said.append(f"{space}/{name}: its move is finished")
    listed = api.call("GET", "/apis/kueue.x-k8s.io/v1beta2/workloads")
    for space, name in leaving(listed, site, rules, datetime.now(UTC)):
        done = move(api, space, name, rules)
        said.append(f"{space}/{name}: {'left for the cloud' if done else 'changed meanwhile'}")
    return said


def main(argv: Sequence[str] | None = None) -> int:
    """Looks until it is ended; 1 when the site file, or what is to be shown, cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m infra.clouds.burst_mover")
    parser.add_argument("--site", type=Path, required=True, help="JSON: see Site in burst_plan.py")
    parser.add_argument("--every", type=float, default=15.0, help="seconds between two looks")
    parser.add_argument("--private-queue", default="gpu")
    parser.add_argument("--cloud-queue", default="cloud")
    parser.add_argument(
        "--show", action="store_true", help="the plan of the workloads on standard input, and end"
    )
    words = parser.parse_args(argv)
    try:
        site = Site.model_validate_json(words.site.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        print(f"burst mover: {words.site}: {error}", file=sys.stderr)
        return 1
    rules = Rules(private_queue=words.private_queue, cloud_queue=words.cloud_queue)
    if words.show:
        return _show(sys.stdin.read(), site, rules)
    # the first process of a container gets no signal that it does not ask for: without this, each
    # end of the pod takes its whole grace period. It may end anywhere: see `move`
    signal.signal(signal.SIGTERM, _end)
    api = Cluster(
        f"{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
    )
    while True:
        try:
            for line in look(api, site, rules):
                print(line, flush=True)
        except (OSError, JobError) as error:
            print(f"burst mover: {error}; looking again", file=sys.stderr, flush=True)
        time.sleep(words.every)


def _end(*_: object) -> None:
    sys.exit(0)


def _show(text: str, site: Site, rules: Rules) -> int:
    now = datetime.now(UTC)
    try:
        verdicts, _ = judged(json.loads(text), site, rules, now)
    except ValueError as error:
        print(f"burst mover: standard input: {error}", file=sys.stderr)
        return 1
    print(table(verdicts, now))
    return 0


if __name__ == "__main__":
    sys.exit(main())
