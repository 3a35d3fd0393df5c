"""On the stand: the whole program under the pack, and the API server's own door."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from policies.engine import Plan, run
from policies.load import preview
from policies.resource import Stack
from policies.rules import all_rules
from policies.samples import HARDENED
from policies.settings import read_waivers
from policies.stacks import FOLDER
from tests.conftest import RunningStand
from tests.policies.conftest import ROOT

pytestmark = pytest.mark.stand
BAD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "policy-probe", "namespace": "policy-probe"},
    "spec": {
        "hostPID": True,
        "containers": [
            {"name": "app", "image": "registry.local/base:1", "securityContext": HARDENED}
        ],
    },
}
CHANGE = """

import pulumi_kubernetes as _k8s
_there = pulumi.ResourceOptions(provider=_k8s.Provider("probe", kubeconfig={kubeconfig!r}))
_k8s.core.v1.Namespace("policy-probe", metadata={{"name": "policy-probe"}}, opts=_there)
_k8s.core.v1.Pod("policy-probe", metadata={metadata!r}, spec={spec!r}, opts=_there)
"""


@pytest.fixture
def program(stand: RunningStand, bento: str, tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A copy of the project's program on the stand's endpoints, and the engine's environment."""
    assert bento
    for name in ("infra", "local", "policies", "Pulumi.yaml", "pyproject.toml", "uv.lock"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    (tmp_path / "README.md").write_text("a copy for a test\n")
    (tmp_path / ".venv").symlink_to(Path(sys.prefix))
    settings = yaml.safe_load((ROOT / "Pulumi.local.yaml").read_text())
    settings["config"]["hybrid-recommender:endpoints"] = str(stand.state / "endpoints.json")
    (tmp_path / "Pulumi.local.yaml").write_text(yaml.safe_dump(settings))
    backend = tmp_path / "state"
    environment = stand.environment() | {"PULUMI_BACKEND_URL": f"file://{backend}?metadata=skip"}
    backend.mkdir()
    subprocess.run(
        ["pulumi", "stack", "select", "--create", "local"], cwd=tmp_path, env=environment,
        check=True, capture_output=True,
    )  # fmt: skip
    return tmp_path, environment


def pulumi(program: tuple[Path, dict[str, str]], *words: str) -> subprocess.CompletedProcess[str]:
    folder, environment = program
    return subprocess.run(
        ["pulumi", *words, "-s", "local", "--policy-pack", "policies", "--non-interactive"],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def test_the_program_itself_keeps_the_rules_and_has_what_its_waivers_name(
    program: tuple[Path, dict[str, str]], stand: RunningStand, tmp_path: Path
):
    done = pulumi(program, "preview", "--json")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    file = tmp_path / "preview.json"
    file.write_text(done.stdout)
    resources = preview(file).resources
    assert len(resources) > 10
    if stand.rooted:  # without real nodes some parts are off
        plan = Plan(tuple(all_rules()))
        rows = run(Stack(list(resources)), plan)
        for waiver in read_waivers(FOLDER / "local.waivers.yaml", all_rules()):
            assert any(waiver.covers(row) for row in rows), waiver.resource


def test_a_bad_change_to_the_program_is_refused_before_anything_is_touched(
    program: tuple[Path, dict[str, str]], stand: RunningStand
):
    folder, _ = program
    kubeconfig = Path(stand.endpoints["sites"]["private"]["kubeconfig"]).read_text()
    main = folder / "infra" / "__main__.py"
    change = CHANGE.format(kubeconfig=kubeconfig, metadata=BAD["metadata"], spec=BAD["spec"])
    main.write_text(main.read_text() + "\nimport pulumi\n" + change)
    done = pulumi(program, "up", "--yes")
    said = done.stdout + done.stderr
    assert done.returncode != 0, said[-3000:]
    assert "k8s-pod-host-pid" in said
    assert kubectl(stand, "get", "namespace", "policy-probe").returncode != 0
    state = subprocess.run(
        ["pulumi", "stack", "export", "-s", "local"], cwd=folder, env=program[1],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert not json.loads(state.stdout)["deployment"].get("resources")


def kubectl(stand: RunningStand, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    where = stand.endpoints["sites"]["private"]["kubeconfig"]
    return subprocess.run(
        ["kubectl", "--kubeconfig", where, *words], input=given, capture_output=True, text=True,
        check=False, env=os.environ | stand.environment(),
    )  # fmt: skip


def test_the_admission_policies_refuse_the_same_object_sent_by_kubectl(stand: RunningStand):
    rendered = subprocess.run(
        [sys.executable, "-m", "policies", "admission", "--rules", "k8s-pod-host-pid"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    applied = kubectl(stand, "apply", "-f", "-", given=rendered)
    assert applied.returncode == 0, applied.stderr
    try:
        assert kubectl(stand, "create", "namespace", "policy-probe").returncode == 0
        refused = until_refused(stand)
        assert "k8s-pod-host-pid" in refused
        assert "hostPID must not be true" in refused
        good = {**BAD, "spec": {**BAD["spec"], "hostPID": False}}
        answer = kubectl(stand, "create", "--dry-run=server", "-f", "-", given=json.dumps(good))
        assert answer.returncode == 0, answer.stderr
    finally:
        kubectl(stand, "delete", "-f", "-", "--ignore-not-found", given=rendered)
        kubectl(stand, "delete", "namespace", "policy-probe", "--ignore-not-found", "--wait=false")


def until_refused(stand: RunningStand) -> str:
    """What the server says once it holds the policy; it compiles policies in the background."""
    import time

    end = time.monotonic() + 60
    while True:
        answer = kubectl(stand, "create", "--dry-run=server", "-f", "-", given=json.dumps(BAD))
        if answer.returncode:
            return answer.stderr
        assert time.monotonic() < end, "the policy never refused the pod"
        time.sleep(0.5)
