"""Kubeflow Trainer's objects around a Job's spec: the same pods, started its way. No engine here.

Trainer makes a JobSet out of a TrainJob and its runtime, and JobSet makes one indexed Job of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VERSION = "2.3.0"
GROUP = "trainer.kubeflow.org"
API = f"{GROUP}/v1alpha1"
JOB_SETS = "jobset.x-k8s.io"
JOB_SET_API = f"{JOB_SETS}/v1alpha2"
"""Of what Trainer makes; its chart installs both."""
NODE = "node"
"""What Trainer calls the Job of the workers, and the container in it that trains."""

Object = dict[str, Any]
# said by the TrainJob, made by JobSet, or (the last) never: a TrainJob reports of what it has
_NOT_THE_TEMPLATES = frozenset(
    {
        "activeDeadlineSeconds", "completions", "parallelism", "completionMode",
        "ttlSecondsAfterFinished",
    }
)  # fmt: skip


def job_name(train_job: str) -> str:
    """Name of the Job that a TrainJob ends up as; its pods are this and their index."""
    return f"{train_job}-{NODE}-0"


def runtime(job: Mapping[str, Any]) -> Object:
    """`TrainingRuntime.spec` around the spec of an indexed Job whose first container trains."""
    template: Object = job["template"]
    worker, *others = template["spec"]["containers"]
    pods = {**template["spec"], "containers": [{**worker, "name": NODE}, *others]}
    inner = {key: value for key, value in job.items() if key not in _NOT_THE_TEMPLATES}
    return {
        # no `torch`: its variables would speak against the workers' own command
        "mlPolicy": {"numNodes": job["completions"]},
        "template": {
            "spec": {
                # the workers' service names them, as it does without Trainer
                "network": {"enableDNSHostnames": False},
                "replicatedJobs": [
                    {
                        "name": NODE,
                        "replicas": 1,
                        "template": {
                            "metadata": {"labels": {f"{GROUP}/trainjob-ancestor-step": "trainer"}},
                            "spec": {**inner, "template": {**template, "spec": pods}},
                        },
                    }
                ],
            }
        },
    }


def train_job(job: Mapping[str, Any], runtime_name: str) -> Object:
    """`TrainJob.spec` of the same Job."""
    return {
        "runtimeRef": {"apiGroup": GROUP, "kind": "TrainingRuntime", "name": runtime_name},
        "trainer": {"numNodes": job["completions"]},
        "activeDeadlineSeconds": job["activeDeadlineSeconds"],
    }
