"""Pods and the host they run on: Pod Security Standards, baseline, and what touches the node."""

from __future__ import annotations

from collections.abc import Mapping
from posixpath import normpath
from typing import Any

from policies.pods import WORKLOADS, Container, Findings, Pod, containers, pod_of
from policies.resource import Resource
from policies.rule import Cel, Context, Option, Severity, each, rule
from policies.samples import container, cron_job, deployment, ephemeral, pod, secured
from policies.values import UnknownValue, at, flag, maps, number, raw, text

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


_SYSCTLS = (
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_rmem", "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
)  # fmt: skip


@rule(
    "k8s-pod-sysctls",
    "A pod sets only safe kernel parameters",
    Severity.HIGH,
    anchors="KSV-0026, PSS baseline sysctls",
    applies=WORKLOADS,
    fix="Remove the parameter, or set it on the node.",
    allowed=[
        pod(securityContext={"sysctls": [{"name": "kernel.shm_rmid_forced", "value": "0"}]}),
        pod(securityContext={"sysctls": [{"name": "net.ipv4.tcp_rmem", "value": "1 2 3"}]}),
    ],
    refused=[
        pod(securityContext={"sysctls": [{"name": "kernel.msgmax", "value": "65536"}]}),
        deployment(securityContext={"sysctls": [{"name": "net.core.somaxconn", "value": "1024"}]}),
    ],
    cel=Cel(
        (
            "variables.spec.?securityContext.?sysctls.orValue([]).all(s, s.name in ["
            + ", ".join(f"'{name}'" for name in _SYSCTLS)
            + "])",
        ),
        "only safe sysctls are allowed",
    ),
)
def sysctls(resource: Resource, _: Context) -> Findings:
    def judge(entry: Mapping[str, Any]) -> Findings:
        if text(entry, "name") not in _SYSCTLS:
            yield f"securityContext.sysctls sets {raw(entry, 'name')}, which is not safe"

    yield from each(maps(at(pod_of(resource).spec, "securityContext", "sysctls")), judge)


_MASKED = (
    "variables.containers.all(c, c.?securityContext.?procMount.orValue('Default') == 'Default')"
)


def _proc_mounts(pod_: Pod) -> Findings:
    def judge(each_container: Container) -> Findings:
        value = at(each_container.spec, "securityContext", "procMount")
        if value is not None and value != "Default":
            yield f"{each_container.label} sets procMount to {value}"

    yield from each(containers(pod_), judge)


@rule(
    "k8s-pod-proc-mount",
    "A container keeps the masked /proc",
    Severity.HIGH,
    anchors="KSV-0027, PSS restricted procMount",
    applies=WORKLOADS,
    fix="Remove procMount.",
    allowed=[secured(procMount="Default"), pod()],
    refused=[secured(procMount="Unmasked"), ephemeral(procMount="Unmasked")],
    cel=Cel((_MASKED,), "procMount must be Default"),
)
def proc_mount(resource: Resource, _: Context) -> Findings:
    yield from _proc_mounts(pod_of(resource))


@rule(
    "k8s-pod-proc-mount-on-host-users",
    "A container that shares the node's users keeps the masked /proc",
    Severity.HIGH,
    anchors="PSS baseline procMount",
    applies=WORKLOADS,
    fix="Remove procMount, or give the pod its own users (hostUsers: false).",
    allowed=[
        pod(container(securityContext={"procMount": "Unmasked"}), hostUsers=False),
        pod(),
    ],
    refused=[secured(procMount="Unmasked"), ephemeral(procMount="Unmasked")],
    cel=Cel(
        (f"!variables.spec.?hostUsers.orValue(true) || {_MASKED}",),
        "procMount must be Default unless hostUsers is false",
    ),
)
def proc_mount_on_host_users(resource: Resource, _: Context) -> Findings:
    pod_ = pod_of(resource)
    if not pod_.has_own_users:
        yield from _proc_mounts(pod_)


_SELINUX_TYPES = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
_SELINUX_CEL = (
    "(o.?type.orValue('') in ['', 'container_t', 'container_init_t', 'container_kvm_t', "
    "'container_engine_t'] && o.?user.orValue('') == '' && o.?role.orValue('') == '')"
)


def _selinux(where: str, options: Mapping[str, Any]) -> Findings:
    if text(options, "type") not in _SELINUX_TYPES:
        yield f"{where} sets seLinuxOptions.type to {text(options, 'type')}"
    for key in ("user", "role"):
        if text(options, key):
            yield f"{where} sets seLinuxOptions.{key} to {text(options, key)}"


@rule(
    "k8s-pod-selinux",
    "SELinux options keep the container types",
    Severity.HIGH,
    anchors="KSV-0025, PSS baseline seLinuxOptions",
    applies=WORKLOADS,
    fix="Remove user and role; leave type out or set it to container_t, container_init_t, "
    "container_kvm_t or container_engine_t.",
    allowed=[secured(seLinuxOptions={"type": "container_t", "level": "s0:c1,c2"}), pod()],
    refused=[
        secured(seLinuxOptions={"type": "spc_t"}),
        pod(securityContext={"seLinuxOptions": {"user": "system_u"}}),
        ephemeral(seLinuxOptions={"role": "sysadm_r"}),
    ],
    cel=Cel(
        (
            "[variables.spec.?securityContext.?seLinuxOptions.orValue({})].all(o, "
            + _SELINUX_CEL
            + ")",
            "variables.containers.all(c, "
            "[c.?securityContext.?seLinuxOptions.orValue({})].all(o, " + _SELINUX_CEL + "))",
        ),
        "seLinuxOptions must keep a container type and set no user or role",
    ),
)
def selinux(resource: Resource, _: Context) -> Findings:
    pod_ = pod_of(resource)

    def judge(entry: tuple[str, Mapping[str, Any]]) -> Findings:
        options = at(entry[1], "securityContext", "seLinuxOptions")
        if isinstance(options, Mapping):
            yield from _selinux(entry[0], options)

    yield from each([("the pod", pod_.spec)], judge)
    yield from each(((c.label, c.spec) for c in containers(pod_)), judge)


_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"


@rule(
    "k8s-pod-apparmor",
    "AppArmor is not turned off",
    Severity.HIGH,
    anchors="KSV-0002, PSS baseline appArmorProfile",
    applies=WORKLOADS,
    fix="Use the profile RuntimeDefault or Localhost, or leave it out.",
    allowed=[
        secured(appArmorProfile={"type": "RuntimeDefault"}),
        pod(metadata={"annotations": {_APPARMOR + "app": "localhost/shop"}}),
    ],
    refused=[
        secured(appArmorProfile={"type": "Unconfined"}),
        pod(securityContext={"appArmorProfile": {"type": "Unconfined"}}),
        pod(metadata={"annotations": {_APPARMOR + "app": "unconfined"}}),
    ],
    cel=Cel(
        (
            "[variables.spec.?securityContext.?appArmorProfile.?type.orValue('RuntimeDefault')]"
            ".all(t, t in ['RuntimeDefault', 'Localhost'])",
            "variables.containers.all(c, "
            "c.?securityContext.?appArmorProfile.?type.orValue('RuntimeDefault') in "
            "['RuntimeDefault', 'Localhost'])",
            "[variables.meta.?annotations.orValue({})].all(notes, notes.all(k, "
            f"!k.startsWith('{_APPARMOR}') || notes[k] in ['', 'runtime/default'] || "
            "notes[k].startsWith('localhost/')))",
        ),
        "AppArmor must not be turned off",
    ),
)
def apparmor(resource: Resource, _: Context) -> Findings:
    pod_ = pod_of(resource)

    def judge(entry: tuple[str, Mapping[str, Any]]) -> Findings:
        profile = at(entry[1], "securityContext", "appArmorProfile")
        if isinstance(profile, Mapping) and text(profile, "type") not in {
            "RuntimeDefault",
            "Localhost",
        }:
            yield f"{entry[0]} sets appArmorProfile.type to {raw(profile, 'type')}"

    yield from each([("the pod", pod_.spec)], judge)
    yield from each(((c.label, c.spec) for c in containers(pod_)), judge)
    notes = at(pod_.meta, "annotations")
    for key, value in notes.items() if isinstance(notes, Mapping) else ():
        if key.startswith(_APPARMOR):
            profile = text({"value": value}, "value")
            if profile not in {"", "runtime/default"} and not profile.startswith("localhost/"):
                yield f"annotation {key} is {profile}"


@rule(
    "k8s-pod-windows-host-process",
    "A Windows container may not run as a host process",
    Severity.HIGH,
    anchors="KSV-0103, PSS baseline windowsHostProcess",
    applies=WORKLOADS,
    fix="Remove windowsOptions.hostProcess.",
    allowed=[pod(os={"name": "windows"}), secured(windowsOptions={"hostProcess": False})],
    refused=[
        pod(
            hostNetwork=True,
            securityContext={"windowsOptions": {"hostProcess": True}},
        ),
        secured(windowsOptions={"hostProcess": True}),
    ],
    cel=Cel(
        (
            "!variables.spec.?securityContext.?windowsOptions.?hostProcess.orValue(false)",
            "variables.containers.all(c, "
            "!c.?securityContext.?windowsOptions.?hostProcess.orValue(false))",
        ),
        "hostProcess must not be true",
    ),
)
def windows_host_process(resource: Resource, _: Context) -> Findings:
    pod_ = pod_of(resource)

    def judge(entry: tuple[str, Mapping[str, Any]]) -> Findings:
        if flag(entry[1], "securityContext", "windowsOptions", "hostProcess"):
            yield f"{entry[0]} sets windowsOptions.hostProcess to true"

    yield from each([("the pod", pod_.spec)], judge)
    yield from each(((c.label, c.spec) for c in containers(pod_)), judge)


_HANDLERS = (
    ("livenessProbe",), ("readinessProbe",), ("startupProbe",),
    ("lifecycle", "postStart"), ("lifecycle", "preStop"),
)  # fmt: skip


@rule(
    "k8s-pod-probe-host",
    "Probes and hooks talk to their own pod only",
    Severity.MEDIUM,
    anchors="PSS baseline hostProbesAndHostLifecycle",
    applies=WORKLOADS,
    fix="Remove host from httpGet and tcpSocket: the node would send the request anywhere.",
    allowed=[pod(container(livenessProbe={"httpGet": {"path": "/livez", "port": 3000}}))],
    refused=[
        pod(container(livenessProbe={"httpGet": {"host": "10.0.0.1", "port": 80}})),
        pod(container(readinessProbe={"tcpSocket": {"host": "127.0.0.1", "port": 80}})),
        pod(container(lifecycle={"preStop": {"httpGet": {"host": "other", "port": 80}}})),
    ],
    cel=Cel(
        tuple(
            f"variables.containers.all(c, c.?{'.?'.join(path)}.?{way}.?host.orValue('') == '')"
            for path in _HANDLERS
            for way in ("httpGet", "tcpSocket")
        ),
        "probes and hooks must not set host",
    ),
)
def probe_host(resource: Resource, _: Context) -> Findings:
    def judge(each_container: Container) -> Findings:
        for path in _HANDLERS:
            for way in ("httpGet", "tcpSocket"):
                try:
                    host = text(each_container.spec, *path, way, "host")
                except UnknownValue:
                    continue  # judged unknown below, after the other handlers
                if host:
                    yield f"{each_container.label} {'.'.join(path)} talks to {host}"
        for path in _HANDLERS:
            for way in ("httpGet", "tcpSocket"):
                text(each_container.spec, *path, way, "host")

    yield from each(
        containers(pod_of(resource), ("containers", "initContainers", "ephemeralContainers")), judge
    )
