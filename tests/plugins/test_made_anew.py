"""An object that somebody else removed and made anew under its name, as a mover of jobs does."""

from __future__ import annotations

import time
import urllib.error
from typing import Any

from .cluster import Cluster
from .conftest import Make
from .engine import summary

RUN = """
shop = k8s.core.v1.Namespace("shop", metadata={"name": os.environ["TEST_SPACE"]}, opts=there)
k8s.batch.v1.Job("train", metadata={
    "name": "train", "namespace": shop.metadata.name, "labels": {"queue": "home", "app": "train"},
    "annotations": {"pulumi.com/skipAwait": "true"},
}, spec={
    "suspend": True, "completion_mode": "Indexed", "completions": 2, "parallelism": 2,
    "template": {
        "metadata": {"labels": {"app": "train"}, "annotations": {}},
        "spec": {
            "restart_policy": "Never", "host_network": False, "tolerations": [],
            "volumes": [{"name": "tmp", "empty_dir": {}}],
            "containers": [{
                "name": "main", "image": "registry.local/a:1", "tty": False,
                "env": [{"name": "EMPTY", "value": ""}, {"name": "KEY", "value": "1"}],
                "resources": {"requests": {"cpu": "1000m", "memory": "0.5Gi"}},
                "volume_mounts": [{"name": "tmp", "mount_path": "/tmp", "read_only": False}],
            }],
        },
    },
}, opts=ResourceOptions(provider=cluster, ignore_changes=[
    "metadata.labels", "metadata.annotations", "spec.managedBy", "spec.suspend"]))
"""
RULE = {
    "failurePolicy": "Fail",
    "matchConstraints": {
        "resourceRules": [
            {
                "apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["UPDATE"],
                "resources": ["jobs"],
            }
        ]
    },
    "validations": [
        {
            "expression": "object.metadata.?labels['queue'] == oldObject.metadata.?labels['queue']",
            "message": "the queue may not be changed",
        }
    ],
}  # fmt: skip
ADMISSION = "/apis/admissionregistration.k8s.io/v1"


def forbid_another_queue(cluster: Cluster, space: str, job: str) -> None:
    """The rule of Kueue's webhook that matters here; returns once the server keeps it."""
    about = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": space}}
    kind = "ValidatingAdmissionPolicy"
    policy: dict[str, Any] = {**about, "kind": kind, "spec": RULE}
    cluster.request("POST", f"{ADMISSION}/validatingadmissionpolicies", policy)
    where = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": space}}}
    spec = {"policyName": space, "validationActions": ["Deny"], "matchResources": where}
    cluster.request(
        "POST",
        f"{ADMISSION}/validatingadmissionpolicybindings",
        {**about, "kind": f"{kind}Binding", "spec": spec},
    )
    end = time.monotonic() + 30
    while time.monotonic() < end:
        other = {"metadata": {"labels": {"queue": "other"}}}
        try:
            cluster.request("PATCH", f"{job}?dryRun=All", other, "application/merge-patch+json")
        except urllib.error.HTTPError as error:
            if error.code == 422:
                return
            raise
        time.sleep(0.2)
    raise AssertionError("the server does not keep the rule")


def test_a_refresh_of_a_job_made_anew_finds_what_differs_and_nothing_is_replaced(
    project: Make, cluster: Cluster, space: str
) -> None:
    """Server defaults and empty values, which a live object lacks, are no drift either."""
    stack = project(RUN)
    stack.up()
    jobs = f"/apis/batch/v1/namespaces/{space}/jobs"
    first = cluster.request("GET", f"{jobs}/train")
    cluster.request("DELETE", f"{jobs}/train?propagationPolicy=Background")
    pod = first["spec"]["template"]
    made = {
        **{key: first[key] for key in ("apiVersion", "kind")},
        "metadata": {"name": "train", "labels": {"queue": "away", "app": "train"}},
        "spec": {
            **{key: first["spec"][key] for key in ("completionMode", "completions", "parallelism")},
            "suspend": True,
            "managedBy": "example.com/away",
            "template": {"metadata": {"labels": {"app": "train"}}, "spec": pod["spec"]},
        },
    }
    second = cluster.request("POST", jobs, made)["metadata"]["uid"]
    assert second != first["metadata"]["uid"]
    forbid_another_queue(cluster, space, f"{jobs}/train")

    before = stack.resources()["train"]["inputs"]
    stack.run("refresh", "--yes", "--skip-preview")
    after = stack.resources()["train"]["inputs"]
    assert after["spec"] == before["spec"]
    assert set(summary(stack.run("up", "--yes"))) == {"unchanged"}
    assert set(summary(stack.run("up", "--yes", "--refresh"))) == {"unchanged"}
    assert cluster.request("GET", f"{jobs}/train")["metadata"]["uid"] == second
    stack.destroy()
