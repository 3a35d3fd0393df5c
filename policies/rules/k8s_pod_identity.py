"""Whom a container runs as, behind which seccomp profile, and what it may write to."""

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
from policies.values import at, flag, number, text

_WINDOWS = "variables.spec.?os.?name.orValue('') == 'windows' || "
_OWN_USERS = "!variables.spec.?hostUsers.orValue(true) || "


@rule(
    "k8s-pod-run-as-non-root",
    "Containers run as a user that is not root",
    Severity.MEDIUM,
    anchors="KSV-0012, PSS restricted runAsNonRoot",
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


@rule(
    "k8s-pod-root-container",
    "No container may start as root",
    Severity.MEDIUM,
    anchors="CKV_K8S_23, CIS EKS 4.2.6",
    applies=WORKLOADS,
    fix="Set runAsNonRoot to true, or runAsUser to a number above 0.",
    allowed=[
        pod(securityContext={"runAsNonRoot": True}),
        secured(runAsUser=1000),
        pod(container(securityContext={"runAsUser": 1}), securityContext={"runAsUser": 0}),
        pod(hostUsers=False),
    ],
    refused=[
        pod(),
        pod(container(securityContext={"runAsUser": 0}), securityContext={"runAsUser": 1}),
        init(runAsNonRoot=False),
        ephemeral(),
        cron_job(),
    ],
)
def root_container(resource: Resource, _: Context) -> Findings:
    pod_ = pod_of(resource)
    if pod_.has_own_users:
        return

    def judge(each_container: Container) -> Findings:
        sure = flag(each_container.spec, "securityContext", "runAsNonRoot")
        user = number(each_container.spec, "securityContext", "runAsUser")
        if sure is None:
            sure = flag(pod_.spec, "securityContext", "runAsNonRoot")
        if user is None:
            user = number(pod_.spec, "securityContext", "runAsUser")
        if not sure and not user:
            yield f"{each_container.label} may start as root"

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
