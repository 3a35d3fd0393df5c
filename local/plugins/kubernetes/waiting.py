"""Readiness: what each kind must report before an update counts as done.

A check takes the live object and says `Ready`, `Busy` (with the line that the user sees while it
lasts) or `Failed` (no use to wait longer). Kinds without a check are ready once they exist.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from local.plugins.kubernetes import naming
from local.plugins.kubernetes.client import ApiError, Client, UnreachableError
from local.plugins.kubernetes.naming import GroupVersionKind
from local.plugins.kubernetes.stalls import causes, condition, selector_text

DEFAULT_SECONDS = 600.0
AWAY_SECONDS = 60.0  # how long the API server may be away during a wait
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 1.0

ENDPOINT_SLICE = GroupVersionKind("discovery.k8s.io", "v1", "EndpointSlice")
STORAGE_CLASS = GroupVersionKind("storage.k8s.io", "v1", "StorageClass")


@dataclass(frozen=True)
class Ready:
    message: str = ""


@dataclass(frozen=True)
class Busy:
    message: str


@dataclass(frozen=True)
class Failed:
    reason: str


State = Ready | Busy | Failed
Object = Mapping[str, Any]
Check = Callable[[Client, Object], State]


class NotReadyError(Exception):
    """The object exists and is not ready; `reasons` say why, most telling last."""

    def __init__(self, live: dict[str, Any], reasons: list[str]) -> None:
        self.live = live
        self.reasons = reasons
        super().__init__("; ".join(reasons))


def _spec(obj: Object) -> Object:
    return obj.get("spec") or {}


def _status(obj: Object) -> Object:
    return obj.get("status") or {}


def _observed(obj: Object) -> bool:
    generation = obj.get("metadata", {}).get("generation", 0)
    return _status(obj).get("observedGeneration", 0) >= generation


def deployment(_client: Client, obj: Object) -> State:
    spec, status = _spec(obj), _status(obj)
    if spec.get("paused"):
        return Ready()
    wanted = spec.get("replicas", 1)
    available = status.get("availableReplicas", 0)
    line = "[1/2] Waiting for app ReplicaSet to be available"
    if not _observed(obj):
        return Busy(line)
    if status.get("updatedReplicas", 0) < wanted or available < wanted:
        return Busy(f"{line} ({available}/{wanted} Pods available)")
    if status.get("replicas", 0) > status.get("updatedReplicas", 0):
        left = status["replicas"] - status.get("updatedReplicas", 0)
        return Busy(f"[2/2] Waiting for {left} Pods of the previous ReplicaSet to be terminated")
    return Ready("Deployment initialization complete")


def replica_set(_client: Client, obj: Object) -> State:
    wanted, available = _spec(obj).get("replicas", 1), _status(obj).get("availableReplicas", 0)
    if _observed(obj) and available >= wanted:
        return Ready("ReplicaSet initialization complete")
    return Busy(f"Waiting for Pods to be available ({available}/{wanted})")


def stateful_set(_client: Client, obj: Object) -> State:
    spec, status = _spec(obj), _status(obj)
    if (spec.get("updateStrategy") or {}).get("type") == "OnDelete":
        return Ready()
    wanted, ready = spec.get("replicas", 1), status.get("readyReplicas", 0)
    line = "[1/3] Waiting for StatefulSet update to roll out"
    if not _observed(obj) or ready < wanted:
        return Busy(f"{line} ({ready}/{wanted} Pods ready)")
    partition = ((spec.get("updateStrategy") or {}).get("rollingUpdate") or {}).get("partition", 0)
    if status.get("updatedReplicas", 0) < wanted - partition:
        return Busy(f"{line} ({status.get('updatedReplicas', 0)}/{wanted} Pods updated)")
    if not partition and status.get("updateRevision") != status.get("currentRevision"):
        return Busy("[2/3] Waiting for StatefulSet to reach its new revision")
    return Ready("StatefulSet initialization complete")


def daemon_set(_client: Client, obj: Object) -> State:
    spec, status = _spec(obj), _status(obj)
    if (spec.get("updateStrategy") or {}).get("type") == "OnDelete":
        return Ready()
    wanted = status.get("desiredNumberScheduled", 0)
    updated, available = status.get("updatedNumberScheduled", 0), status.get("numberAvailable", 0)
    if not _observed(obj) or updated < wanted:
        return Busy(f"[1/2] Waiting for DaemonSet update to roll out ({updated}/{wanted} updated)")
    if available < wanted:
        return Busy(f"[2/2] Waiting for Pods to be available ({available}/{wanted})")
    return Ready("DaemonSet initialization complete")


def job(_client: Client, obj: Object) -> State:
    status = _status(obj)
    failed = condition(obj, "Failed")
    if failed is not None and failed.get("status") == "True":
        return Failed(f"[{failed.get('reason', 'Failed')}] {failed.get('message', '')}".strip())
    complete = condition(obj, "Complete")
    if complete is not None and complete.get("status") == "True":
        return Ready("Job ready")
    if _spec(obj).get("suspend"):
        return Ready("Job is suspended; not waiting for it")  # a queue starts it later
    name = naming.object_id(obj["metadata"].get("namespace"), obj["metadata"]["name"])
    if not status.get("startTime"):
        return Busy(f'[1/2] Waiting for Job "{name}" to start')
    numbers = " | ".join(
        f"{word.capitalize()}: {status.get(word, 0)}" for word in ("active", "succeeded", "failed")
    )
    return Busy(f'[2/2] Waiting for Job "{name}" to succeed ({numbers})')


def pod(_client: Client, obj: Object) -> State:
    phase = _status(obj).get("phase")
    if phase == "Succeeded":
        return Ready("Pod completed")
    if phase == "Failed":
        reason = _status(obj).get("reason") or "Failed"
        return Failed(f"[{reason}] {_status(obj).get('message') or 'the Pod failed'}")
    for step, (name, line) in enumerate(
        (
            ("PodScheduled", "scheduled"),
            ("Initialized", "initialized"),
            ("Ready", "ready"),
        ),
        start=1,
    ):
        found = condition(obj, name)
        if found is None or found.get("status") != "True":
            return Busy(f"[{step}/3] Waiting for Pod to be {line}")
    return Ready("Pod ready")


def service(client: Client, obj: Object) -> State:
    spec = _spec(obj)
    if spec.get("type") == "ExternalName" or not spec.get("selector"):
        return Ready()
    headless = spec.get("clusterIP") == "None"
    if not headless:  # a StatefulSet needs its headless Service before it has Pods
        metadata = obj["metadata"]
        slices = client.list(
            ENDPOINT_SLICE,
            metadata["namespace"],
            labels=f"kubernetes.io/service-name={metadata['name']}",
        )
        ready = any(
            (endpoint.get("conditions") or {}).get("ready", True)
            for each in slices
            for endpoint in each.get("endpoints") or []
        )
        if not ready:
            return Busy("[1/3] Finding Pods to direct traffic to")
    if spec.get("type") == "LoadBalancer" and not (_status(obj).get("loadBalancer") or {}).get(
        "ingress"
    ):
        return Busy("[2/3] Attempting to allocate IP address to Service")
    return Ready("Service initialization complete")


def volume_claim(client: Client, obj: Object) -> State:
    phase = _status(obj).get("phase")
    if phase == "Bound":
        return Ready("PVC bound")
    if phase == "Lost":
        return Failed("[Lost] the volume behind the claim is gone")
    class_name = _spec(obj).get("storageClassName")
    if class_name:
        storage = client.get(STORAGE_CLASS, None, class_name)
        if storage and storage.get("volumeBindingMode") == "WaitForFirstConsumer":
            return Ready("PVC is bound when its first Pod is scheduled")
    return Busy("Waiting for PVC to be bound")


def custom_definition(_client: Client, obj: Object) -> State:
    accepted = condition(obj, "NamesAccepted")
    if accepted is not None and accepted.get("status") == "False":
        return Failed(f"[{accepted.get('reason')}] {accepted.get('message')}")
    established = condition(obj, "Established")
    if established is not None and established.get("status") == "True":
        return Ready("CustomResourceDefinition established")
    return Busy("Waiting for CustomResourceDefinition to be established")


def api_service(_client: Client, obj: Object) -> State:
    available = condition(obj, "Available")
    if available is not None and available.get("status") == "True":
        return Ready("APIService available")
    return Busy("Waiting for APIService to be available")


def namespace(_client: Client, obj: Object) -> State:
    if obj.get("metadata", {}).get("deletionTimestamp"):
        return Busy("Waiting for the previous Namespace of this name to be deleted")
    return Ready()


CHECKS: dict[tuple[str, str], Check] = {
    ("", "Namespace"): namespace,
    ("", "PersistentVolumeClaim"): volume_claim,
    ("", "Pod"): pod,
    ("", "Service"): service,
    ("apiextensions.k8s.io", "CustomResourceDefinition"): custom_definition,
    ("apiregistration.k8s.io", "APIService"): api_service,
    ("apps", "DaemonSet"): daemon_set,
    ("apps", "Deployment"): deployment,
    ("apps", "ReplicaSet"): replica_set,
    ("apps", "StatefulSet"): stateful_set,
    ("batch", "Job"): job,
}


def asked_for(text: str) -> Check:
    """The check that `pulumi.com/waitFor` describes; raises ValueError for another form.

    `condition=Type[=Status]`, `jsonpath={.a.b}[=value]`, or a JSON list of these (any will do).
    """
    options: list[str] = json.loads(text) if text.startswith("[") else [text]
    tests = [_test(option) for option in options]

    def check(_client: Client, obj: Object) -> State:
        if any(test(obj) for test in tests):
            return Ready(f"{text} holds")
        return Busy(f"Waiting for {text}")

    return check


def _test(option: str) -> Callable[[Object], bool]:
    if match := re.fullmatch(r"condition=(\w+)(?:=(\w+))?", option):
        name, status = match[1], match[2] or "True"
        return lambda obj: (condition(obj, name) or {}).get("status") == status
    if match := re.fullmatch(r"jsonpath=\{\.([\w.]+)\}(?:=(.*))?", option):
        names, value = match[1].split("."), match[2]

        def matches(obj: Object) -> bool:
            here: Any = obj
            for name in names:
                here = here.get(name) if isinstance(here, Mapping) else None
            return here is not None if value is None else str(here) == value

        return matches
    raise ValueError(
        f"{naming.WAIT_FOR} is {option!r}; give condition=Type[=Status] or jsonpath={{.path}}=value"
    )


@dataclass(frozen=True, kw_only=True)
class Wait:
    """How long to wait, whom to tell, and when to give up early."""

    seconds: float
    report: Callable[[str], None]
    cancelled: threading.Event

    def until_ready(
        self, client: Client, gvk: GroupVersionKind, live: dict[str, Any], check: Check
    ) -> dict[str, Any]:
        """The object once it is ready; raises NotReadyError with the causes of the stall."""
        metadata = live["metadata"]
        end = time.monotonic() + self.seconds
        away_since: float | None = None
        pause, told = FIRST_PAUSE, ""
        while True:
            state: State = Busy(told)
            try:
                state = check(client, live)
                away_since = None
            except UnreachableError as error:
                away_since = away_since or time.monotonic()
                if time.monotonic() - away_since > AWAY_SECONDS:
                    raise NotReadyError(live, [f"the cluster went away: {error}"]) from error
            if isinstance(state, Ready):
                if state.message:
                    self.report(state.message)
                return live
            if isinstance(state, Failed):
                raise NotReadyError(live, [state.reason, *causes(client, gvk, live)])
            if state.message and state.message != told:
                told = state.message
                self.report(told)
            left = end - time.monotonic()
            if left <= 0:
                waited = f"timed out after {self.seconds:.0f} s; last seen: {told}"
                raise NotReadyError(live, [waited, *causes(client, gvk, live)])
            if self.cancelled.wait(min(pause, left)):
                raise NotReadyError(live, [f"the wait was cancelled; last seen: {told}"])
            pause = min(pause * 1.5, LONGEST_PAUSE)
            live = self._again(client, gvk, live, metadata)

    def _again(
        self, client: Client, gvk: GroupVersionKind, live: dict[str, Any], metadata: Object
    ) -> dict[str, Any]:
        try:
            found = client.get(gvk, metadata.get("namespace"), metadata["name"])
        except (UnreachableError, ApiError):
            return live  # the next check counts how long the server is away
        if found is None:
            raise NotReadyError(live, ["the object was deleted by someone else during the wait"])
        return found

    def until_gone(
        self, client: Client, gvk: GroupVersionKind, space: str | None, name: str
    ) -> None:
        """Raises NotReadyError with what holds the object back."""
        end = time.monotonic() + self.seconds
        pause, told = FIRST_PAUSE, False
        while True:
            live = client.get(gvk, space, name)
            if live is None:
                return
            if not told:
                self.report(f"Waiting for {gvk.kind} to be deleted")
                told = True
            left = end - time.monotonic()
            if left <= 0:
                raise NotReadyError(live, what_holds(live, self.seconds))
            if self.cancelled.wait(min(pause, left)):
                raise NotReadyError(live, ["the wait for the deletion was cancelled"])
            pause = min(pause * 1.5, LONGEST_PAUSE)


def what_holds(live: Object, seconds: float) -> list[str]:
    """Why an object is still there."""
    reasons = [f"timed out after {seconds:.0f} s waiting for the deletion"]
    if finalizers := live.get("metadata", {}).get("finalizers"):
        reasons.append(f"held by finalizers: {', '.join(finalizers)}")
    reasons += [
        f"[{each.get('reason')}] {each.get('message')}"
        for each in _status(live).get("conditions") or []
        if each.get("status") == "True" and each.get("message")
    ]
    if selector := _spec(live).get("selector"):
        reasons.append(f"its Pods are selected by {selector_text(selector)}")
    return reasons
