"""Our pod rules against the fixtures of Kubernetes' own Pod Security admission.

The fixtures are read where the Go tools' build leaves them; nothing of them is kept here.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from policies.engine import Plan, run
from policies.load import manifests
from policies.rule import Verdict
from policies.rules import all_rules

# Pod Security's check -> the rule that is the same check, per level
BASELINE = {
    "apparmorprofile": "k8s-pod-apparmor",
    "capabilities_baseline": "k8s-pod-baseline-capabilities",
    "hostnamespaces": "k8s-pod-host-pid,k8s-pod-host-ipc,k8s-pod-host-network",
    "hostpathvolumes": "k8s-pod-host-path",
    "hostports": "k8s-pod-host-port",
    "hostprobesandhostlifecycle": "k8s-pod-probe-host",
    "privileged": "k8s-pod-privileged",
    "procmount": "k8s-pod-proc-mount-on-host-users",
    "seccompprofile_baseline": "k8s-pod-seccomp-unconfined",
    "selinuxoptions": "k8s-pod-selinux",
    "sysctls": "k8s-pod-sysctls",
    "windowshostprocess": "k8s-pod-windows-host-process",
}
RESTRICTED = {
    "allowprivilegeescalation": "k8s-pod-privilege-escalation",
    "capabilities_restricted": "k8s-pod-drop-all-capabilities,k8s-pod-added-capabilities",
    "procmount_restricted": "k8s-pod-proc-mount",
    "restrictedvolumes": "k8s-pod-volume-types",
    "runasnonroot": "k8s-pod-run-as-non-root",
    "runasuser": "k8s-pod-root-user",
    "seccompprofile_restricted": "k8s-pod-seccomp",
}
RULES = {rule.id: rule for rule in all_rules()}


def newest_fixtures() -> Path | None:
    cache = Path(os.environ.get("GOMODCACHE", Path.home() / "go/pkg/mod"))
    found = cache.glob("k8s.io/pod-security-admission@*/test/testdata/restricted/v1.*")
    return max(
        found, key=lambda path: [int(n) for n in re.findall(r"\d+", path.name)], default=None
    )


def failing(path: Path, ids: set[str]) -> set[str]:
    plan = Plan(tuple(RULES[name] for name in sorted(ids)), complete=False)
    return {row.rule for row in run(manifests(path), plan) if row.verdict is not Verdict.PASS}


def ids(checks: dict[str, str]) -> set[str]:
    return {name for names in checks.values() for name in names.split(",")}


def cases(level: str, verdict: str) -> list[Path]:
    newest = newest_fixtures()
    if newest is None:
        return []
    return sorted((newest.parent.parent / level / newest.name / verdict).glob("*.yaml"))


pytestmark = pytest.mark.skipif(
    newest_fixtures() is None, reason="the Kubernetes modules are not in the Go module cache"
)


@pytest.mark.parametrize("path", cases("restricted", "pass"), ids=lambda path: path.stem)
def test_a_pod_that_restricted_admits_passes_every_pod_security_rule(path: Path) -> None:
    assert failing(path, ids(BASELINE) | ids(RESTRICTED)) == set()


@pytest.mark.parametrize("path", cases("baseline", "pass"), ids=lambda path: path.stem)
def test_a_pod_that_baseline_admits_passes_the_baseline_rules(path: Path) -> None:
    assert failing(path, ids(BASELINE)) == set()


@pytest.mark.parametrize("path", cases("restricted", "fail"), ids=lambda path: path.stem)
def test_a_pod_that_restricted_refuses_fails_the_rule_of_the_same_check(path: Path) -> None:
    check = re.sub(r"\d+$", "", path.stem)
    expected = (BASELINE | RESTRICTED)[check]
    assert failing(path, ids(BASELINE) | ids(RESTRICTED)) & set(expected.split(","))


@pytest.mark.parametrize("path", cases("baseline", "fail"), ids=lambda path: path.stem)
def test_a_pod_that_baseline_refuses_fails_that_rule_and_no_other(path: Path) -> None:
    check = re.sub(r"\d+$", "", path.stem)
    found = failing(path, ids(BASELINE))
    assert found
    assert found <= set(BASELINE[check].split(",")) | (
        {"k8s-pod-host-network"} if check == "windowshostprocess" else set()
    )
