"""Kueue's own manifests as data: which of its objects we declare, and the controller's settings.

Read from the module that the stand's controller is built of, or from the release's manifest file:
both hold the same objects, the file under their final names. No engine here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from infra import trainer

VERSION = "0.19.2"
API = "kueue.x-k8s.io/v1beta2"
NAMESPACE = "kueue-system"
QUEUED = "hybrid-recommender/queued"
"""Label of namespaces whose jobs Kueue looks after; its webhooks see no other namespace."""
KUBECONFIGS = "/etc/multikueue/kubeconfigs"
"""Where Kueue takes the files that lead to other clusters from, and from nowhere else."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"
_PREFIX = "kueue-"
_WEBHOOKS = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
# what Kueue can queue and we do not use: neither webhooks nor rights for it
_NOT_OURS = frozenset(
    {
        "apps", "autoscaling.x-k8s.io", "jobset.x-k8s.io", "kubeflow.org",
        "leaderworkerset.x-k8s.io", "multicluster.x-k8s.io", "ray.io", "sparkoperator.k8s.io",
        "workload.codeflare.dev",
    }
)  # fmt: skip

Object = dict[str, Any]


class KueueError(ValueError):
    """The manifests cannot be used; the message names the place and what to do."""


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """Kueue's objects of one version."""

    crds: Sequence[Object]
    rules: Sequence[Object]
    """Of the controller's cluster role."""
    webhooks: Mapping[str, Sequence[Object]]
    """Kind of configuration -> its entries."""


def read(place: Path, *, sha256: str | None = None) -> Upstream:
    """The objects in a folder of manifests or in one file.

    `sha256`: of the file, when it is not a folder that was verified already. Raises `KueueError`.
    """
    files = sorted(place.rglob("*.yaml")) if place.is_dir() else [place]
    try:
        texts = [file.read_bytes() for file in files]
    except OSError as error:
        raise KueueError(f"Kueue's manifests are {place}: {error.strerror}") from None
    if sha256 is not None:
        found = hashlib.sha256(b"".join(texts)).hexdigest()
        if found != sha256:
            raise KueueError(f"{place} has SHA-256 {found}, the settings say {sha256}")
    crds: list[Object] = []
    rules: list[Object] = []
    webhooks: dict[str, list[Object]] = {}
    try:
        documents = list(_documents(files, texts))
        converted = _converted(documents)
        for _, one in documents:
            kind, name = str(one.get("kind")), str(_at(one, "metadata").get("name", ""))
            if kind == "CustomResourceDefinition" and "versions" in _at(one, "spec"):
                crds.append(_crd(one, converted))
            elif kind == "ClusterRole" and name.removeprefix(_PREFIX) == "manager-role":
                rules = [_rule(rule) for rule in one["rules"]]
            elif kind in _WEBHOOKS and "webhooks" in one:
                webhooks.setdefault(kind, []).extend(one["webhooks"])
    except yaml.YAMLError as error:
        raise KueueError(f"{place} is not YAML: {error}") from None
    missing = [
        what
        for what, there in (
            ("CRDs", crds), ("the manager's role", rules), *((k, k in webhooks) for k in _WEBHOOKS)
        )
        if not there
    ]  # fmt: skip
    if missing:
        raise KueueError(f"{place} lacks {', '.join(missing)}; give Kueue {VERSION}'s manifests")
    return Upstream(crds=crds, rules=rules, webhooks=webhooks)


def _documents(files: Sequence[Path], texts: Sequence[bytes]) -> Iterator[tuple[Path, Object]]:
    for file, text in zip(files, texts, strict=True):
        # the C loader takes a tenth of the time of the 1.6 MB; it is as safe
        for one in yaml.load_all(text, Loader=yaml.CSafeLoader):
            if isinstance(one, dict):
                yield file, cast("Object", one)


def _converted(documents: Sequence[tuple[Path, Object]]) -> set[str]:
    """The kinds that Kueue converts: a release says so itself, the module's folder by a patch.

    The folder also holds a patch that its `kustomization.yaml` leaves out.
    """
    applied = {
        file.parent / each["path"]
        for file, one in documents
        if file.name == "kustomization.yaml"
        for each in one.get("patches", [])
        if "path" in each  # others are written in place
    }
    return {
        str(one["metadata"]["name"])
        for file, one in documents
        if one.get("kind") == "CustomResourceDefinition"
        and _at(_at(one, "spec"), "conversion").get("strategy") == "Webhook"
        and ("versions" in one["spec"] or file in applied)
    }


def _at(one: Object, key: str) -> Object:
    value = one.get(key)
    return cast("Object", value) if isinstance(value, dict) else {}


def _crd(crd: Object, converted: Collection[str]) -> Object:
    """A definition without its prose, which is four fifths of it, and with its conversion.

    Kueue converts some kinds, and gives its authority to these alone; of the others the versions
    are alike. A webhook there would fail every reader of the old version for ever.
    """
    name = str(crd["metadata"]["name"])
    spec: Object = {key: value for key, value in crd["spec"].items() if key != "conversion"}
    spec["versions"] = [_without_prose(version) for version in spec["versions"]]
    if name in converted:
        spec["conversion"] = {
            "strategy": "Webhook",
            "webhook": {
                "clientConfig": {"service": _service("/convert")},
                "conversionReviewVersions": ["v1"],
            },
        }
    elif len(spec["versions"]) > 1:
        spec["conversion"] = {"strategy": "None"}
    return {"name": name, "spec": spec}


def _without_prose(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_prose(inner)
            for key, inner in cast("Object", value).items()
            if not (key == "description" and isinstance(inner, str))
        }
    if isinstance(value, list):
        return [_without_prose(inner) for inner in cast("list[Any]", value)]
    return value


def _rule(rule: Object) -> Object:
    """A rule with the final names of the webhook configurations."""
    names = rule.get("resourceNames")
    if not names or "admissionregistration.k8s.io" not in rule["apiGroups"]:
        return rule
    final = [name if name.startswith(_PREFIX) else _PREFIX + name for name in names]
    return {**rule, "resourceNames": final}


def _service(path: str) -> Object:
    return {"name": f"{_PREFIX}webhook-service", "namespace": NAMESPACE, "path": path, "port": 443}


def _ours(groups: Sequence[str], *, train_jobs: bool) -> bool:
    return not any(one in _NOT_OURS or (one == trainer.GROUP and not train_jobs) for one in groups)


def manager_rules(upstream: Upstream, *, train_jobs: bool) -> list[Object]:
    """What the controller may do: upstream's list without the kinds of job that we do not use.

    Of the JobSets that TrainJobs become it reads whose they are: their Jobs need no quota again.
    """
    kept = [
        rule for rule in upstream.rules if _ours(rule.get("apiGroups", []), train_jobs=train_jobs)
    ]
    reads = {
        "apiGroups": [trainer.JOB_SETS], "resources": ["jobsets"],
        "verbs": ["get", "list", "watch"],
    }  # fmt: skip
    return [*kept, reads] if train_jobs else kept


def webhooks(upstream: Upstream, kind: str, *, train_jobs: bool) -> list[Object]:
    """The entries of one configuration: Kueue's objects, and jobs in queued namespaces only.

    A Kueue that is down thus stops new jobs there and nothing else in the cluster.
    """
    kept: list[Object] = []
    for entry in upstream.webhooks[kind]:
        groups = {group for rule in entry["rules"] for group in rule["apiGroups"]}
        resources = {one for rule in entry["rules"] for one in rule["resources"]}
        if "pods" in resources or not _ours(sorted(groups), train_jobs=train_jobs):
            continue
        one: Object = {
            **entry,
            "clientConfig": {"service": _service(entry["clientConfig"]["service"]["path"])},
            "timeoutSeconds": 10,
        }
        if "kueue.x-k8s.io" not in groups:
            one["namespaceSelector"] = {"matchLabels": {QUEUED: "true"}}
        kept.append(one)
    return kept


def configuration(
    *, train_jobs: bool, cert_dir: str, pods_ready_seconds: int, leader_election: bool
) -> Object:
    """The controller's settings (`config.kueue.x-k8s.io`)."""
    return {
        "apiVersion": "config.kueue.x-k8s.io/v1beta2",
        "kind": "Configuration",
        "namespace": NAMESPACE,
        "health": {"healthProbeBindAddress": ":8081"},
        "metrics": {"bindAddress": ":8443", "enableClusterQueueResources": True},
        "webhook": {"port": 9443, "certDir": cert_dir},
        "leaderElection": {
            "leaderElect": leader_election, "resourceName": "c1f6bfd2.kueue.x-k8s.io",
        },
        "internalCertManagement": {
            "enable": True,
            "webhookServiceName": f"{_PREFIX}webhook-service",
            "webhookSecretName": f"{_PREFIX}webhook-server-cert",
        },
        "controller": {
            "groupKindConcurrency": {"Job.batch": 5, "Workload.kueue.x-k8s.io": 10}
        },
        "clientConnection": {"qps": 300, "burst": 500},
        "integrations": {
            "frameworks": ["batch/job", *([f"{trainer.GROUP}/trainjob"] if train_jobs else [])]
        },
        "managedJobsNamespaceSelector": {"matchLabels": {QUEUED: "true"}},
        # in a queued namespace a job without a queue waits: nothing passes beside the quotas
        "manageJobsWithoutQueueName": True,
        # a gang that holds quota must have all its pods ready in time, or gives all of it back
        "waitForPodsReady": {
            "timeout": f"{pods_ready_seconds}s",
            "recoveryTimeout": f"{pods_ready_seconds}s",
            "blockAdmission": False,
            "requeuingStrategy": {"timestamp": "Eviction", "backoffBaseSeconds": 10},
        },
        "fairSharing": {
            "preemptionStrategies": ["LessThanOrEqualToFinalShare", "LessThanInitialShare"]
        },
        "resources": {"excludeResourcePrefixes": ["ephemeral-storage"]},
        "objectRetentionPolicies": {"workloads": {"afterFinished": "168h"}},
        # its API server would need rights in kube-system; the same numbers are metrics
        "featureGates": {"VisibilityOnDemand": False},
    }  # fmt: skip
