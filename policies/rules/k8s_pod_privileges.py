"""What a container's process may do: Pod Security Standards, restricted, and a read-only root."""

from __future__ import annotations

from policies.pods import WORKLOADS, Container, Findings, containers, pod_of
from policies.resource import Resource
from policies.rule import Cel, Context, Severity, each, rule
from policies.samples import (
    container,
    cron_job,
    ephemeral,
    init,
    pod,
    secured,
)
from policies.values import at, flag, texts

_WINDOWS = "variables.spec.?os.?name.orValue('') == 'windows' || "
_OWN_USERS = "!variables.spec.?hostUsers.orValue(true) || "


@rule(
    "k8s-pod-privileged",
    "No container is privileged",
    Severity.HIGH,
    anchors="CKV_K8S_16, KSV-0017, CIS EKS 4.2.1, PSS baseline privileged",
    applies=WORKLOADS,
    fix="Remove securityContext.privileged.",
    allowed=[secured(privileged=False), pod(), cron_job()],
    refused=[
        secured(privileged=True),
        init(privileged=True),
        ephemeral(privileged=True),
        cron_job(container(securityContext={"privileged": True})),
    ],
    cel=Cel(
        ("variables.containers.all(c, !c.?securityContext.?privileged.orValue(false))",),
        "privileged must not be true",
    ),
)
def privileged(resource: Resource, _: Context) -> Findings:
    def judge(each_container: Container) -> Findings:
        if flag(each_container.spec, "securityContext", "privileged"):
            yield f"{each_container.label} is privileged"

    yield from each(containers(pod_of(resource)), judge)


@rule(
    "k8s-pod-privilege-escalation",
    "No process may gain more privileges than its parent",
    Severity.MEDIUM,
    anchors="CKV_K8S_20, KSV-0001, CIS EKS 4.2.5, PSS restricted allowPrivilegeEscalation",
    applies=WORKLOADS,
    fix="Set securityContext.allowPrivilegeEscalation to false on every container.",
    allowed=[secured(allowPrivilegeEscalation=False), pod(os={"name": "windows"})],
    refused=[
        pod(),
        secured(allowPrivilegeEscalation=True),
        init(),
        ephemeral(),
        pod(securityContext={"allowPrivilegeEscalation": False}),
    ],
    cel=Cel(
        (
            _WINDOWS + "variables.containers.all(c, "
            "!c.?securityContext.?allowPrivilegeEscalation.orValue(true))",
        ),
        "allowPrivilegeEscalation must be false",
    ),
)
def privilege_escalation(resource: Resource, _: Context) -> Findings:
    pod_ = pod_of(resource)
    if pod_.on_windows:
        return

    def judge(each_container: Container) -> Findings:
        if flag(each_container.spec, "securityContext", "allowPrivilegeEscalation") is not False:
            yield f"{each_container.label} does not set allowPrivilegeEscalation to false"

    yield from each(containers(pod_), judge)


def _capabilities(each_container: Container, key: str) -> list[str]:
    return texts(at(each_container.spec, "securityContext", "capabilities", key))


@rule(
    "k8s-pod-drop-all-capabilities",
    "Every container drops all capabilities",
    Severity.MEDIUM,
    anchors="CKV_K8S_37, KSV-0003, KSV-0106, PSS restricted capabilities",
    applies=WORKLOADS,
    fix='Set securityContext.capabilities.drop to ["ALL"].',
    allowed=[secured(capabilities={"drop": ["ALL"]}), pod(os={"name": "windows"})],
    refused=[
        pod(),
        secured(capabilities={"drop": ["NET_RAW"]}),
        init(capabilities={"drop": []}),
        ephemeral(),
    ],
    cel=Cel(
        (
            _WINDOWS + "variables.containers.all(c, "
            "'ALL' in c.?securityContext.?capabilities.?drop.orValue([]))",
        ),
        "capabilities.drop must hold ALL",
    ),
)
def drop_all(resource: Resource, _: Context) -> Findings:
    pod_ = pod_of(resource)
    if pod_.on_windows:
        return

    def judge(each_container: Container) -> Findings:
        dropped = _capabilities(each_container, "drop")
        if "ALL" not in dropped:
            yield f"{each_container.label} drops {', '.join(dropped) or 'no capabilities'}, not ALL"

    yield from each(containers(pod_), judge)


@rule(
    "k8s-pod-drop-net-raw",
    "Every container drops raw sockets",
    Severity.MEDIUM,
    anchors="CKV_K8S_28, KSV-0119",
    applies=WORKLOADS,
    fix='Set securityContext.capabilities.drop to ["ALL"].',
    allowed=[secured(capabilities={"drop": ["NET_RAW"]}), secured(capabilities={"drop": ["ALL"]})],
    refused=[
        pod(),
        secured(capabilities={"add": ["NET_RAW"], "drop": ["ALL"]}),
        init(capabilities={"drop": ["CHOWN"]}),
    ],
)
def drop_net_raw(resource: Resource, _: Context) -> Findings:
    pod_ = pod_of(resource)
    if pod_.on_windows:
        return

    def judge(each_container: Container) -> Findings:
        if "NET_RAW" in _capabilities(each_container, "add"):
            yield f"{each_container.label} adds NET_RAW"
        elif not {"ALL", "NET_RAW"} & {x.upper() for x in _capabilities(each_container, "drop")}:
            yield f"{each_container.label} keeps NET_RAW"

    yield from each(containers(pod_), judge)


@rule(
    "k8s-pod-added-capabilities",
    "A container adds no capability but NET_BIND_SERVICE",
    Severity.MEDIUM,
    anchors="CKV_K8S_25, PSS restricted capabilities",
    applies=WORKLOADS,
    fix="Remove the entries of securityContext.capabilities.add.",
    allowed=[
        pod(),
        secured(capabilities={"add": ["NET_BIND_SERVICE"]}),
        pod(os={"name": "windows"}),
    ],
    refused=[
        secured(capabilities={"add": ["CHOWN"]}),
        init(capabilities={"add": ["SYS_TIME"]}),
        ephemeral(capabilities={"add": ["SYS_PTRACE"]}),
    ],
    cel=Cel(
        (
            _WINDOWS + "variables.containers.all(c, "
            "c.?securityContext.?capabilities.?add.orValue([]).all(a, a == 'NET_BIND_SERVICE'))",
        ),
        "only NET_BIND_SERVICE may be added",
    ),
)
def added_capabilities(resource: Resource, _: Context) -> Findings:
    pod_ = pod_of(resource)
    if pod_.on_windows:
        return

    def judge(each_container: Container) -> Findings:
        for name in _capabilities(each_container, "add"):
            if name != "NET_BIND_SERVICE":
                yield f"{each_container.label} adds {name}"

    yield from each(containers(pod_), judge)


_BASELINE = (
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD",
    "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
)  # fmt: skip


@rule(
    "k8s-pod-baseline-capabilities",
    "A container adds no capability beyond the runtime's default set",
    Severity.HIGH,
    anchors="KSV-0022, PSS baseline capabilities",
    applies=WORKLOADS,
    fix="Remove the entries of securityContext.capabilities.add that are not in the default set.",
    allowed=[secured(capabilities={"add": ["CHOWN", "KILL"]}), pod()],
    refused=[
        secured(capabilities={"add": ["NET_ADMIN"]}),
        ephemeral(capabilities={"add": ["ALL"]}),
        init(capabilities={"add": ["CAP_CHOWN"]}),
    ],
    cel=Cel(
        (
            "variables.containers.all(c, "
            "c.?securityContext.?capabilities.?add.orValue([]).all(a, a in ["
            + ", ".join(f"'{name}'" for name in _BASELINE)
            + "]))",
        ),
        "only capabilities of the default set may be added",
    ),
)
def baseline_capabilities(resource: Resource, _: Context) -> Findings:
    def judge(each_container: Container) -> Findings:
        for name in _capabilities(each_container, "add"):
            if name not in _BASELINE:
                yield f"{each_container.label} adds {name}"

    yield from each(containers(pod_of(resource)), judge)


@rule(
    "k8s-pod-sys-admin",
    "No container adds SYS_ADMIN",
    Severity.HIGH,
    anchors="CKV_K8S_39, KSV-0005",
    applies=WORKLOADS,
    fix="Remove SYS_ADMIN: it is nearly root on the node.",
    allowed=[secured(capabilities={"add": ["CHOWN"]}), pod()],
    refused=[
        secured(capabilities={"add": ["SYS_ADMIN"]}),
        init(capabilities={"add": ["CAP_SYS_ADMIN"]}),
        secured(capabilities={"add": ["ALL"]}),
    ],
)
def sys_admin(resource: Resource, _: Context) -> Findings:
    def judge(each_container: Container) -> Findings:
        for name in _capabilities(each_container, "add"):
            if name.upper().removeprefix("CAP_") in {"SYS_ADMIN", "ALL"}:
                yield f"{each_container.label} adds {name}"

    yield from each(containers(pod_of(resource)), judge)
