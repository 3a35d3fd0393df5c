"""Jobs of one team that may leave the private site, as both sites' API servers tell of them.

The stand knows these words, and not the program that gives them their meaning; a test compares.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from local.gpu import RUNS_FOR
from local.kube import Client, Json

GPU = "nvidia.com/gpu"
HOURS = "recsys/expected-hours"
INPUT_GB = "recsys/input-gb"
MAY_LEAVE = "recsys/may-leave"
LEFT = "recsys/left-as"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
PRIVATE_QUEUE, CLOUD_QUEUE = "gpu", "cloud"
KUEUE = "/apis/kueue.x-k8s.io/v1beta2"
MOVER_SITE = "/api/v1/namespaces/kueue-system/configmaps/queue-mover-site"
MOVER_NOTES = "/api/v1/namespaces/kueue-system/configmaps/leaving"
CLAIMS = "/apis/karpenter.sh/v1/nodeclaims"
ALL_JOBS = "/apis/batch/v1/jobs"


@dataclass(frozen=True, kw_only=True)
class Work:
    """A job of equal pods on GPUs; on the stand's simulated nodes it does nothing, for so long."""

    pods: int
    gpus: int
    """Of one pod."""
    seconds: int
    hours: float = 2.0
    """What it says of itself: what the plan reckons with."""
    may_leave: bool

    def object(self, name: str, labels: Mapping[str, str]) -> Json:
        """The Job, for the private queue."""
        size = {"cpu": "1", "memory": "1Gi", GPU: str(self.gpus)}
        marks = {RUNS_FOR: f"{self.seconds}s", HOURS: f"{self.hours:g}", INPUT_GB: "0"}
        work = {"name": "work", "image": "none.internal/work:1",
                "resources": {"requests": size, "limits": size}}  # fmt: skip
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": name, "labels": {**labels, QUEUE_LABEL: PRIVATE_QUEUE}},
            "spec": {
                "parallelism": self.pods,
                "completions": self.pods,
                "template": {
                    "metadata": {
                        "labels": dict(labels),
                        "annotations": marks | ({MAY_LEAVE: "true"} if self.may_leave else {}),
                    },
                    "spec": {"restartPolicy": "Never", "containers": [work]},
                },
            },
        }


@dataclass(frozen=True)
class Sites:
    """Jobs of one team, submitted at the private site, wherever they run."""

    private: Client
    cloud: Client
    team: str

    @property
    def jobs(self) -> str:
        return f"/apis/batch/v1/namespaces/{self.team}/jobs"

    def submit(self, work: Work, name: str = "", labels: Mapping[str, str] | None = None) -> str:
        """The new job's name."""
        name = name or fresh("j")
        self.private.request("POST", self.jobs, work.object(name, labels or {}))
        return name

    def job(self, name: str) -> Json:
        """As the private site tells it; nothing while it is between its two queues."""
        return self.private.find(f"{self.jobs}/{name}") or {"metadata": {}, "status": {}}

    def copied(self, name: str) -> bool:
        """Whether the cloud has it."""
        return self.cloud.find(f"{self.jobs}/{name}") is not None

    def left(self, name: str) -> bool:
        return has_left(self.job(name))

    def pods(self, client: Client, job: str) -> list[Json]:
        return client.items(
            f"/api/v1/namespaces/{self.team}/pods{chosen('batch.kubernetes.io/job-name', job)}"
        )

    def running(self, client: Client, job: str) -> list[str]:
        """Nodes that run a job's pods at one site."""
        return [
            pod["spec"]["nodeName"]
            for pod in self.pods(client, job)
            if pod["status"].get("phase") == "Running"
        ]

    def claims(self) -> list[Json]:
        """What Karpenter ordered."""
        return self.cloud.items(CLAIMS)

    def nodes(self) -> list[Json]:
        """Of those the ones that came."""
        return self.cloud.items("/api/v1/nodes?labelSelector=karpenter.sh/nodepool")

    def rented(self) -> list[str]:
        return [node["metadata"]["name"] for node in self.nodes()]


def fresh(stem: str) -> str:
    """A name that no job has."""
    return f"{stem}-{secrets.token_hex(4)}"


def chosen(label: str, value: str) -> str:
    """The query for what bears a label."""
    return f"?labelSelector={quote(f'{label}={value}')}"


def has_left(job: Json) -> bool:
    return LEFT in (job["metadata"].get("annotations") or {})


def owners(workload: Json) -> list[str]:
    """Names of the jobs that a workload of Kueue's belongs to."""
    return [str(one["name"]) for one in workload["metadata"].get("ownerReferences") or []]
