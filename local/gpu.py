"""Simulated GPU nodes: the real scheduler places pods on them, KWOK pretends to run these."""

from __future__ import annotations

from pathlib import Path

from local.kube import ApiError, Client, Json
from local.settings import GpuPool

ANNOTATION = ("kwok.x-k8s.io/node", "fake")
LABEL = ("stand.hybrid-recommender/node", "simulated")


CPUS, MEMORY_GIB = 64, 512  # of one node
TAINT = {"key": ANNOTATION[0], "value": ANNOTATION[1], "effect": "NoSchedule"}
RUNS_FOR = "stand.hybrid-recommender/runs-for"
"""Annotation of a Job's pod on a simulated node: how long it runs, such as `90s` (default 1 s)."""
STAGES = Path(__file__).with_name("kwok-stages.yaml")  # reads RUNS_FOR


def shape(site: str, pool: GpuPool) -> Json:
    """What a queue must know of the pool: the size of a node and how a pod gets onto it."""
    return {
        "gpus": pool.gpus,
        "cpus": CPUS,
        "memory_gib": MEMORY_GIB,
        "labels": {"nvidia.com/gpu.present": "true", "topology.kubernetes.io/region": site},
        "taints": [TAINT],
    }


def template(site: str, pool: GpuPool) -> Json:
    """A Node without a name."""
    resources = {
        "cpu": str(CPUS), "memory": f"{MEMORY_GIB}Gi", "ephemeral-storage": "1Ti", "pods": "110",
        "nvidia.com/gpu": str(pool.gpus),
    }  # fmt: skip
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "annotations": {ANNOTATION[0]: ANNOTATION[1], "node.alpha.kubernetes.io/ttl": "0"},
            "labels": {
                LABEL[0]: LABEL[1],
                "kubernetes.io/os": "linux",
                "kubernetes.io/arch": "amd64",
                "nvidia.com/gpu.present": "true",
                "topology.kubernetes.io/region": site,
                "topology.kubernetes.io/zone": f"{site}-a",
            },
        },
        "spec": {"taints": [TAINT]},
        "status": {
            "capacity": resources,
            "allocatable": resources,
            "nodeInfo": {
                "architecture": "amd64", "operatingSystem": "linux", "kubeletVersion": "fake",
                "bootID": "", "containerRuntimeVersion": "", "kernelVersion": "",
                "kubeProxyVersion": "fake", "machineID": "", "osImage": "", "systemUUID": "",
            },
        },
    }  # fmt: skip


def names(site: str, count: int) -> list[str]:
    return [f"{site}-gpu-{index:02d}" for index in range(count)]


def _simulated(client: Client) -> list[Json]:
    """The nodes that KWOK keeps alive, whoever made them."""
    key, value = ANNOTATION
    return [
        node
        for node in client.items("/api/v1/nodes")
        if (node["metadata"].get("annotations") or {}).get(key) == value
    ]


def existing(client: Client) -> list[str]:
    """Names of the simulated nodes that are there."""
    return sorted(str(node["metadata"]["name"]) for node in _simulated(client))


def add(client: Client, site: str, pool: GpuPool, count: int) -> int:
    """See that the first `count` nodes of the pool exist; how many had to be made."""
    have = set(existing(client))
    made = 0
    for name in names(site, count):
        if name in have:
            continue
        node = template(site, pool)
        node["metadata"]["name"] = name
        node["metadata"]["labels"]["kubernetes.io/hostname"] = name
        try:
            client.request("POST", "/api/v1/nodes", node)
        except ApiError as error:
            if error.status != 409:  # somebody else was quicker
                raise
        made += 1
    return made


def ready(client: Client) -> int:
    """How many simulated nodes are Ready."""
    return sum(
        any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
        for node in _simulated(client)
        if (conditions := node["status"].get("conditions") or [])
    )
