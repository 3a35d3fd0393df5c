"""Pods and the host they run on: Pod Security Standards, baseline, and what touches the node."""

from __future__ import annotations

from collections.abc import Mapping
from posixpath import normpath
from typing import Any

from policies.pods import WORKLOADS, Container, Findings, Pod, containers, pod_of
from policies.resource import Resource
from policies.rule import Cel, Context, Option, Severity, each, rule
from policies.samples import container, cron_job, deployment, pod
from policies.values import flag, maps, number, raw, text

EXEMPT = {
    "exemptNamespaces": Option(
        ["gpu-operator", "nvidia-device-plugin"],
        "array",
        "Namespaces whose pods are part of the node (GPU device plugins).",
    )
}


def _host_flag(resource: Resource, field: str) -> Findings:
    if flag(pod_of(resource).spec, field):
        yield f"spec.{field} is true: the pod shares it with the node; remove the field"


def _host_cel(field: str) -> Cel:
    return Cel((f"!variables.spec.?{field}.orValue(false)",), f"{field} must not be true")


@rule(
    "k8s-pod-host-pid",
    "A pod may not share the node's process table",
    Severity.HIGH,
    anchors="CKV_K8S_17, KSV-0010, CIS EKS 4.2.2, PSS baseline hostNamespaces",
    applies=WORKLOADS,
    fix="Remove hostPID.",
    allowed=[pod(), deployment(hostPID=False)],
    refused=[pod(hostPID=True), cron_job(hostPID=True)],
    cel=_host_cel("hostPID"),
)
def host_pid(resource: Resource, _: Context) -> Findings:
    yield from _host_flag(resource, "hostPID")


@rule(
    "k8s-pod-host-ipc",
    "A pod may not share the node's inter-process communication",
    Severity.HIGH,
    anchors="CKV_K8S_18, KSV-0008, CIS EKS 4.2.3, PSS baseline hostNamespaces",
    applies=WORKLOADS,
    fix="Remove hostIPC.",
    allowed=[pod(), deployment(hostIPC=False)],
    refused=[pod(hostIPC=True), deployment(hostIPC=True)],
    cel=_host_cel("hostIPC"),
)
def host_ipc(resource: Resource, _: Context) -> Findings:
    yield from _host_flag(resource, "hostIPC")


@rule(
    "k8s-pod-host-network",
    "A pod may not use the node's network",
    Severity.HIGH,
    anchors="CKV_K8S_19, KSV-0009, CIS EKS 4.2.4, PSS baseline hostNamespaces",
    applies=WORKLOADS,
    fix="Remove hostNetwork; expose ports through a Service.",
    allowed=[pod(), deployment(hostNetwork=False)],
    refused=[pod(hostNetwork=True), deployment(hostNetwork=True)],
    cel=_host_cel("hostNetwork"),
)
def host_network(resource: Resource, _: Context) -> Findings:
    yield from _host_flag(resource, "hostNetwork")


def _volume(name: str = "data", **source: Any) -> dict[str, Any]:
    return {"name": name, **source}


def _host_paths(pod_: Pod) -> list[tuple[str, str]]:
    """(volume, normalised path) of every hostPath volume. Raises `UnknownValue`."""
    found: list[tuple[str, str]] = []
    for volume in maps(pod_.spec, "volumes"):
        if raw(volume, "hostPath") is not None:
            path = text(volume, "hostPath", "path")
            found.append((text(volume, "name"), normpath("/" + path.lstrip("/"))))
    return found


def _exempt(pod_: Pod, context: Context) -> bool:
    return pod_.namespace in context["exemptNamespaces"]


@rule(
    "k8s-pod-host-path",
    "A pod may not mount a path of the node",
    Severity.HIGH,
    anchors="KSV-0023, PSS baseline hostPathVolumes, CIS 5.2.12",
    applies=WORKLOADS,
    config=EXEMPT,
    fix="Use a persistentVolumeClaim, an emptyDir, a configMap or a secret.",
    allowed=[
        pod(volumes=[_volume(emptyDir={})]),
        {
            **pod(
                metadata={"namespace": "gpu-operator"},
                volumes=[_volume(hostPath={"path": "/var/lib/kubelet/device-plugins"})],
            )
        },
    ],
    refused=[
        pod(volumes=[_volume(hostPath={"path": "/srv/data"})]),
        deployment(volumes=[_volume("a", emptyDir={}), _volume("b", hostPath={"path": "/tmp"})]),  # noqa: S108
    ],
    cel=Cel(
        (
            "object.metadata.?namespace.orValue('') in variables.settings.exemptNamespaces || "
            "variables.spec.?volumes.orValue([]).all(v, !has(v.hostPath))",
        ),
        "hostPath volumes are not allowed",
    ),
)
def host_path(resource: Resource, context: Context) -> Findings:
    pod_ = pod_of(resource)
    if _exempt(pod_, context):
        return
    for volume in maps(pod_.spec, "volumes"):
        if raw(volume, "hostPath") is not None:
            path = raw(volume, "hostPath", "path")
            yield f"volume {raw(volume, 'name')} mounts {path} of the node"


_SYSTEM_PATHS = frozenset(
    {"/", "/boot", "/dev", "/etc", "/lib", "/proc", "/root", "/sys", "/usr", "/var/lib/docker"}
)


def _inside(path: str, parent: str) -> bool:
    return path == parent or path.startswith(parent.rstrip("/") + "/")


@rule(
    "k8s-pod-system-path",
    "A pod may not mount the node's system folders",
    Severity.HIGH,
    anchors="KSV-0121",
    applies=WORKLOADS,
    config=EXEMPT,
    fix="Remove the hostPath volume of the system folder.",
    allowed=[pod(volumes=[_volume(hostPath={"path": "/srv/data"})]), pod()],
    refused=[
        pod(volumes=[_volume(hostPath={"path": "/"})]),
        deployment(volumes=[_volume(hostPath={"path": "/etc/kubernetes/"})]),
        pod(volumes=[_volume(hostPath={"path": "/proc"})]),
    ],
)
def system_path(resource: Resource, context: Context) -> Findings:
    pod_ = pod_of(resource)
    if _exempt(pod_, context):
        return
    for volume, path in _host_paths(pod_):
        if path == "/" or any(_inside(path, folder) for folder in _SYSTEM_PATHS - {"/"}):
            yield f"volume {volume} mounts the system folder {path} of the node"


_SOCKETS = (
    "/var/run/docker.sock", "/run/docker.sock", "/var/run/dockershim.sock",
    "/run/containerd/containerd.sock", "/var/run/containerd/containerd.sock",
    "/run/k3s/containerd/containerd.sock", "/var/run/crio/crio.sock", "/run/crio/crio.sock",
    "/var/run/cri-dockerd.sock", "/run/cri-dockerd.sock", "/run/podman/podman.sock",
    "/var/run/podman/podman.sock",
)  # fmt: skip


@rule(
    "k8s-pod-runtime-socket",
    "A pod may not reach the container runtime's socket",
    Severity.HIGH,
    anchors="CKV_K8S_27, KSV-0006",
    applies=WORKLOADS,
    fix="Remove the volume: the socket is root on the node.",
    allowed=[pod(volumes=[_volume(hostPath={"path": "/srv/data"})]), pod()],
    refused=[
        pod(volumes=[_volume(hostPath={"path": "/var/run/docker.sock"})]),
        pod(volumes=[_volume(hostPath={"path": "/run/containerd/containerd.sock"})]),
        deployment(volumes=[_volume(hostPath={"path": "/var/run/"})]),
    ],
)
def runtime_socket(resource: Resource, _: Context) -> Findings:
    for volume, path in _host_paths(pod_of(resource)):
        socket = next((socket for socket in _SOCKETS if _inside(socket, path)), None)
        if socket and path != "/":
            yield f"volume {volume} mounts {path}, which gives {socket} to the pod"


_VOLUME_TYPES = frozenset(
    {
        "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image",
        "persistentVolumeClaim", "projected", "secret",
    }
)  # fmt: skip


@rule(
    "k8s-pod-volume-types",
    "A pod mounts only the restricted volume types",
    Severity.HIGH,
    anchors="KSV-0028, PSS restricted restrictedVolumes",
    applies=WORKLOADS,
    config=EXEMPT,
    fix="Use configMap, csi, downwardAPI, emptyDir, ephemeral, image, persistentVolumeClaim, "
    "projected or secret; put network storage behind a persistentVolumeClaim.",
    allowed=[
        pod(volumes=[_volume(emptyDir={}), _volume("conf", configMap={"name": "conf"})]),
        pod(volumes=[_volume(persistentVolumeClaim={"claimName": "data"})]),
    ],
    refused=[
        pod(volumes=[_volume(nfs={"server": "nfs.local", "path": "/"})]),
        deployment(volumes=[_volume(hostPath={"path": "/srv"})]),
        pod(
            volumes=[
                _volume(iscsi={"targetPortal": "10.0.0.1", "iqn": "iqn.2020-01.local:x", "lun": 0})
            ]
        ),
    ],
    cel=Cel(
        (
            "object.metadata.?namespace.orValue('') in variables.settings.exemptNamespaces || "
            "variables.spec.?volumes.orValue([]).all(v, "
            + " || ".join(f"has(v.{kind})" for kind in sorted(_VOLUME_TYPES))
            + ")",
        ),
        "only restricted volume types are allowed",
    ),
)
def volume_types(resource: Resource, context: Context) -> Findings:
    pod_ = pod_of(resource)
    if _exempt(pod_, context):
        return

    def judge(volume: Mapping[str, Any]) -> Findings:
        sources = {key for key, value in volume.items() if value is not None} - {"name"}
        if sources and not sources & _VOLUME_TYPES:  # no source at all means an emptyDir
            yield f"volume {raw(volume, 'name')} has type {', '.join(sorted(sources))}"

    yield from each(maps(pod_.spec, "volumes"), judge)


def _host_port(each_container: Container) -> Findings:
    for port in maps(each_container.spec, "ports"):
        if number(port, "hostPort"):
            yield f"{each_container.label} takes port {raw(port, 'hostPort')} of the node"


@rule(
    "k8s-pod-host-port",
    "A container may not take a port of the node",
    Severity.HIGH,
    anchors="CKV_K8S_26, KSV-0024, PSS baseline hostPorts",
    applies=WORKLOADS,
    fix="Remove hostPort; expose the port through a Service.",
    allowed=[
        pod(container(ports=[{"containerPort": 80}])),
        pod(container(ports=[{"containerPort": 80, "hostPort": 0}])),
    ],
    refused=[
        pod(container(ports=[{"containerPort": 80, "hostPort": 80}])),
        deployment(
            container(),
            initContainers=[container("prepare", ports=[{"containerPort": 1, "hostPort": 81}])],
        ),
    ],
    cel=Cel(
        ("variables.containers.all(c, c.?ports.orValue([]).all(p, p.?hostPort.orValue(0) == 0))",),
        "hostPort is not allowed",
    ),
)
def host_port(resource: Resource, _: Context) -> Findings:
    yield from each(containers(pod_of(resource)), _host_port)
