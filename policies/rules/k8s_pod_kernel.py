"""Pods and the kernel they share: parameters, masks, SELinux, AppArmor, Windows host processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policies.pods import WORKLOADS, Container, Findings, Pod, containers, pod_of
from policies.resource import Resource
from policies.rule import Cel, Context, Severity, each, rule
from policies.samples import container, deployment, ephemeral, pod, secured
from policies.values import UnknownValue, at, flag, maps, raw, text

_SYSCTLS = (
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_notsent_lowat", "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_slow_start_after_idle", "net.ipv4.tcp_syncookies", "net.ipv4.tcp_wmem",
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
        pod(securityContext={"sysctls": [{"name": "net.ipv4.tcp_notsent_lowat", "value": "1"}]}),
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
