"""How the pods of a run are started: by a Job, or by Kubeflow Trainer where a site has it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import pulumi_kubernetes as k8s
from pulumi import Output, ResourceOptions

from infra import trainer
from infra.kueue import PRIORITY_LABEL, QUEUE_LABEL
from infra.pods import as_written


def start(
    resource_name: str,
    metadata: Mapping[str, Any],
    spec: Mapping[str, Any],
    opts: ResourceOptions,
    *,
    by_trainer: bool,
) -> Output[str]:
    """Declare what starts the pods of an indexed Job's spec, whoever does; its name."""
    if by_trainer:
        return _train_job(resource_name, metadata, spec, opts)
    job = k8s.batch.v1.Job(
        f"{resource_name}-run",
        metadata=as_written(dict(metadata)),
        spec=as_written(dict(spec)),
        opts=opts,
    )
    return job.metadata.name


def _train_job(
    resource_name: str, metadata: Mapping[str, Any], spec: Mapping[str, Any], opts: ResourceOptions
) -> Output[str]:
    wanted = trainer.runtime(spec)
    name = str(metadata["name"])
    # the queue is the TrainJob's; on a runtime its label would do nothing
    named = {
        "name": name, "namespace": metadata["namespace"],
        "labels": {
            key: value for key, value in metadata["labels"].items() if key not in (
                QUEUE_LABEL, PRIORITY_LABEL,
            )
        },
    }  # fmt: skip
    runtime = k8s.apiextensions.CustomResource(
        f"{resource_name}-runtime",
        api_version=trainer.API,
        kind="TrainingRuntime",
        metadata=as_written(named),
        spec=wanted,
        opts=opts,
    )
    # a TrainJob that runs keeps the pods it began with: other pods are another TrainJob
    digest = Output.json_dumps(wanted, sort_keys=True).apply(
        lambda text: hashlib.sha256(text.encode()).hexdigest()[:16]
    )
    annotations = {**metadata.get("annotations", {}), "checksum/runtime": digest}
    k8s.apiextensions.CustomResource(
        f"{resource_name}-run",
        api_version=trainer.API,
        kind="TrainJob",
        metadata=as_written({**metadata, "annotations": annotations}),
        spec=trainer.train_job(spec, name),
        opts=ResourceOptions.merge(
            opts,
            ResourceOptions(
                depends_on=[runtime],
                replace_on_changes=["spec", "metadata.annotations"],
                delete_before_replace=True,  # one name
            ),
        ),
    )
    return Output.from_input(name)
