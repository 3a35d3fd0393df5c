"""What a container's process may do: Pod Security Standards, restricted, and a read-only root."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policies.pods import WORKLOADS, Container, Findings, Pod, containers, pod_of
from policies.resource import Resource
from policies.rule import Cel, Context, Severity, each, rule
from policies.samples import (
    HARDENED,
    container,
    cron_job,
    deployment,
    ephemeral,
    init,
    pod,
    secured,
)
from policies.values import at, flag, number, text, texts

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


@rule(
    "k8s-pod-run-as-non-root",
    "Containers run as a user that is not root",
    Severity.MEDIUM,
    anchors="CKV_K8S_23, KSV-0012, PSS restricted runAsNonRoot",
    applies=WORKLOADS,
    fix="Set securityContext.runAsNonRoot to true on the pod, or on every container.",
    allowed=[
        pod(securityContext={"runAsNonRoot": True}),
        secured(runAsNonRoot=True),
        pod(hostUsers=False),
    ],
    refused=[
        pod(),
        pod(
            container(securityContext={"runAsNonRoot": False}),
            securityContext={"runAsNonRoot": True},
        ),
        init(runAsNonRoot=False),
        ephemeral(),
        cron_job(),
    ],
    cel=Cel(
        (
            _OWN_USERS + "(variables.spec.?securityContext.?runAsNonRoot.orValue(true) && "
            "variables.containers.all(c, c.?securityContext.?runAsNonRoot.orValue("
            "variables.spec.?securityContext.?runAsNonRoot.orValue(false))))",
        ),
        "runAsNonRoot must be true on the pod or on every container",
    ),
)
def run_as_non_root(resource: Resource, _: Context) -> Findings:
    pod_ = pod_of(resource)
    if pod_.has_own_users:
        return
    default = flag(pod_.spec, "securityContext", "runAsNonRoot")
    if default is False:
        yield "the pod sets runAsNonRoot to false"

    def judge(each_container: Container) -> Findings:
        own = flag(each_container.spec, "securityContext", "runAsNonRoot")
        if own is False:
            yield f"{each_container.label} sets runAsNonRoot to false"
        elif own is None and default is None:
            yield f"neither the pod nor {each_container.label} sets runAsNonRoot"

    yield from each(containers(pod_), judge)


def _users(pod_: Pod, judge_user: Any) -> Findings:
    def judge(entry: tuple[str, Mapping[str, Any]]) -> Findings:
        yield from judge_user(entry[0], number(entry[1], "securityContext", "runAsUser"))

    yield from each([("the pod", pod_.spec)], judge)
    yield from each(((c.label, c.spec) for c in containers(pod_)), judge)


@rule(
    "k8s-pod-root-user",
    "No container asks for user 0",
    Severity.MEDIUM,
    anchors="KSV-0105, PSS restricted runAsUser",
    applies=WORKLOADS,
    fix="Set runAsUser to a number above 0, or leave it out and set runAsNonRoot.",
    allowed=[
        secured(runAsUser=1000),
        pod(),
        pod(hostUsers=False, securityContext={"runAsUser": 0}),
    ],
    refused=[
        secured(runAsUser=0),
        pod(securityContext={"runAsUser": 0}),
        init(runAsUser=0),
        ephemeral(runAsUser=0),
    ],
    cel=Cel(
        (
            _OWN_USERS + "(variables.spec.?securityContext.?runAsUser.orValue(1) != 0 && "
            "variables.containers.all(c, c.?securityContext.?runAsUser.orValue(1) != 0))",
        ),
        "runAsUser must not be 0",
    ),
)
def root_user(resource: Resource, _: Context) -> Findings:
    pod_ = pod_of(resource)
    if pod_.has_own_users:
        return

    def zero(where: str, user: float | None) -> Findings:
        if user == 0:
            yield f"{where} sets runAsUser to 0"

    yield from _users(pod_, zero)


@rule(
    "k8s-pod-high-user",
    "Containers run as a user number that no account of the node has",
    Severity.LOW,
    anchors="CKV_K8S_40, KSV-0020",
    applies=WORKLOADS,
    fix="Set runAsUser to 10000 or more.",
    allowed=[secured(runAsUser=10001), pod(securityContext={"runAsUser": 20000})],
    refused=[pod(), secured(runAsUser=1000), init(runAsUser=0)],
    optional=True,
)
def high_user(resource: Resource, _: Context) -> Findings:
    pod_ = pod_of(resource)
    default = number(pod_.spec, "securityContext", "runAsUser")

    def judge(each_container: Container) -> Findings:
        own = number(each_container.spec, "securityContext", "runAsUser")
        user = default if own is None else own
        if user is None or user < 10000:
            shown = "any" if user is None else int(user)
            yield f"{each_container.label} runs as user {shown}"

    yield from each(containers(pod_), judge)


_SECCOMP = {"RuntimeDefault", "Localhost"}


def _seccomp(spec: Mapping[str, Any]) -> str | None:
    """The profile's type; `None` when there is no profile."""
    profile = at(spec, "securityContext", "seccompProfile")
    return text(profile, "type") if isinstance(profile, Mapping) else None


@rule(
    "k8s-pod-seccomp",
    "Every container has a seccomp profile",
    Severity.MEDIUM,
    anchors="CKV_K8S_31, KSV-0030, PSS restricted seccompProfile",
    applies=WORKLOADS,
    fix="Set securityContext.seccompProfile.type to RuntimeDefault on the pod.",
    allowed=[
        pod(securityContext={"seccompProfile": {"type": "RuntimeDefault"}}),
        secured(seccompProfile={"type": "Localhost", "localhostProfile": "shop.json"}),
        pod(os={"name": "windows"}),
    ],
    refused=[
        pod(),
        secured(seccompProfile={"type": "Unconfined"}),
        init(),
        pod(
            container(securityContext={"seccompProfile": {"type": "Unconfined"}}),
            securityContext={"seccompProfile": {"type": "RuntimeDefault"}},
        ),
    ],
    cel=Cel(
        (
            _WINDOWS + "(variables.spec.?securityContext.?seccompProfile.?type"
            ".orValue('RuntimeDefault') in ['RuntimeDefault', 'Localhost'] && "
            "variables.containers.all(c, c.?securityContext.?seccompProfile.?type.orValue("
            "variables.spec.?securityContext.?seccompProfile.?type.orValue('')) in "
            "['RuntimeDefault', 'Localhost']))",
        ),
        "seccompProfile.type must be RuntimeDefault or Localhost",
    ),
)
def seccomp(resource: Resource, _: Context) -> Findings:
    pod_ = pod_of(resource)
    if pod_.on_windows:
        return
    default = _seccomp(pod_.spec)
    if default is not None and default not in _SECCOMP:
        yield f"the pod sets seccompProfile.type to {default}"

    def judge(each_container: Container) -> Findings:
        own = _seccomp(each_container.spec)
        if own is not None and own not in _SECCOMP:
            yield f"{each_container.label} sets seccompProfile.type to {own}"
        elif own is None and default is None:
            yield f"neither the pod nor {each_container.label} sets a seccompProfile"

    yield from each(containers(pod_), judge)


@rule(
    "k8s-pod-seccomp-unconfined",
    "Seccomp is not turned off",
    Severity.HIGH,
    anchors="KSV-0104, PSS baseline seccompProfile",
    applies=WORKLOADS,
    fix="Remove the profile Unconfined.",
    allowed=[pod(), secured(seccompProfile={"type": "RuntimeDefault"})],
    refused=[
        secured(seccompProfile={"type": "Unconfined"}),
        pod(securityContext={"seccompProfile": {"type": "Unconfined"}}),
        ephemeral(seccompProfile={"type": "Unconfined"}),
    ],
    cel=Cel(
        (
            "variables.spec.?securityContext.?seccompProfile.?type.orValue('RuntimeDefault') in "
            "['RuntimeDefault', 'Localhost']",
            "variables.containers.all(c, "
            "c.?securityContext.?seccompProfile.?type.orValue('RuntimeDefault') in "
            "['RuntimeDefault', 'Localhost'])",
        ),
        "seccompProfile must not be Unconfined",
    ),
)
def seccomp_unconfined(resource: Resource, _: Context) -> Findings:
    pod_ = pod_of(resource)

    def judge(entry: tuple[str, Mapping[str, Any]]) -> Findings:
        profile = _seccomp(entry[1])
        if profile is not None and profile not in _SECCOMP:
            yield f"{entry[0]} sets seccompProfile.type to {profile}"

    yield from each([("the pod", pod_.spec)], judge)
    yield from each(((c.label, c.spec) for c in containers(pod_)), judge)


@rule(
    "k8s-pod-read-only-root",
    "Containers cannot write to their own image",
    Severity.HIGH,
    anchors="CKV_K8S_22, KSV-0014",
    applies=WORKLOADS,
    fix="Set securityContext.readOnlyRootFilesystem to true; mount an emptyDir where it writes.",
    allowed=[secured(readOnlyRootFilesystem=True), deployment(container(securityContext=HARDENED))],
    refused=[
        pod(),
        secured(readOnlyRootFilesystem=False),
        init(readOnlyRootFilesystem=False),
        ephemeral(),
    ],
    cel=Cel(
        ("variables.containers.all(c, c.?securityContext.?readOnlyRootFilesystem.orValue(false))",),
        "readOnlyRootFilesystem must be true",
    ),
)
def read_only_root(resource: Resource, _: Context) -> Findings:
    def judge(each_container: Container) -> Findings:
        if not flag(each_container.spec, "securityContext", "readOnlyRootFilesystem"):
            yield f"{each_container.label} has a writable root file system"

    yield from each(containers(pod_of(resource)), judge)
