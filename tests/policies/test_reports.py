"""What machines read: exit codes, SARIF and JUnit, and the script that CI runs them by."""

from __future__ import annotations

import json
import subprocess
import xml.etree.ElementTree as ET  # our own output is read back
from pathlib import Path
from typing import Any

import pytest
import yaml

from policies.cli import main
from policies.samples import container, pod
from tests.policies.conftest import ROOT

GOOD = pod(container(), hostPID=False)["properties"]
BAD = pod(container(), hostPID=True)["properties"]
CUSTOM = {"apiVersion": "example.test/v1", "kind": "Thing", "metadata": {"name": "odd"}}


def check(folder: Path, form: str, *objects: Any) -> tuple[int, str]:
    manifest, report = folder / "objects.yaml", folder / f"report.{form}"
    manifest.write_text(yaml.safe_dump_all(objects), encoding="utf-8")
    code = main([
        "check", "--manifests", str(manifest), "--rules", "k8s-pod-host-pid,k8s-pod-host-ipc",
        "--format", form, "--output", str(report),
    ])  # fmt: skip
    return code, report.read_text(encoding="utf-8")


@pytest.mark.parametrize("form", ["text", "json", "sarif", "junit", "markdown"])
def test_every_format_exits_with_0_when_nothing_failed_and_with_1_when_something_did(
    form: str, tmp_path: Path
) -> None:
    assert check(tmp_path, form, GOOD)[0] == 0
    assert check(tmp_path, form, GOOD, BAD)[0] == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--manifests", "missing.yaml"], "missing.yaml: no such file or folder"),
        (["--manifests", "{}", "--rules", "no-such"], "no rule 'no-such'"),
        (["--preview", "{}"], "no list `steps`"),
        (["--resources", "{}"], "has no text `type`"),
        (["--state", "{}"], "no `deployment.resources`"),
    ],
)
def test_what_cannot_be_read_is_one_line_and_exit_2(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "empty.json"
    file.write_text("{}", encoding="utf-8")
    assert main(["check", *(str(file) if word == "{}" else word for word in words)]) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1


def test_sarif_points_at_the_line_and_the_rule_of_each_failure(tmp_path: Path) -> None:
    code, text = check(tmp_path, "sarif", GOOD, BAD)
    document = json.loads(text)
    assert (code, document["version"]) == (1, "2.1.0")
    (run,) = document["runs"]
    (result,) = run["results"]
    rules = run["tool"]["driver"]["rules"]
    assert result["ruleId"] == "k8s-pod-host-pid" == rules[result["ruleIndex"]]["id"]
    assert (result["kind"], result["level"]) == ("fail", "error")
    place = result["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"].endswith("objects.yaml")
    lines = (tmp_path / "objects.yaml").read_text(encoding="utf-8").splitlines()
    assert place["region"]["startLine"] == lines.index("---") + 2


def test_junit_counts_a_case_for_each_rule_and_resource(tmp_path: Path) -> None:
    code, text = check(tmp_path, "junit", GOOD, BAD)
    assert code == 1
    suites = {suite.get("name"): suite for suite in ET.fromstring(text)}
    assert set(suites) == {"k8s-pod-host-pid", "k8s-pod-host-ipc"}
    failing = suites["k8s-pod-host-pid"]
    assert (failing.get("tests"), failing.get("failures")) == ("2", "1")
    (failure,) = failing.iter("failure")
    assert "hostPID" in (failure.get("message") or "")


def test_a_type_without_a_rule_is_listed_and_fails_nothing(tmp_path: Path) -> None:
    manifest, report = tmp_path / "crd.yaml", tmp_path / "report.md"
    manifest.write_text(yaml.safe_dump(CUSTOM), encoding="utf-8")
    words = ["check", "--manifests", str(manifest), "--format", "markdown"]
    assert main([*words, "--output", str(report)]) == 0
    assert "no rule judges example.test/Thing (1)" in report.read_text(encoding="utf-8")


def ci(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [".ci/policies", "--declared", *words],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


@pytest.mark.slow
def test_ci_writes_the_findings_and_the_bill_of_a_stack_that_no_cluster_answers_for() -> None:
    done = ci("staging")
    assert done.returncode == 0, done.stdout + done.stderr
    out = ROOT / "out" / "policies"
    rows = json.loads((out / "staging.json").read_text(encoding="utf-8"))
    assert {row["rule"] for row in rows} >= {"aws-eks-endpoint-private", "cost-budget"}
    assert not [row for row in rows if row["verdict"] == "fail" and not row["waived"]]
    waived = {row["rule"] for row in rows if row["waived"]}
    results = json.loads((out / "staging.sarif").read_text(encoding="utf-8"))["runs"][0]["results"]
    assert {one["ruleId"] for one in results if "suppressions" in one} == waived
    ET.parse(out / "staging.junit.xml")
    summary = (out / "staging.md").read_text(encoding="utf-8")
    assert "USD a month" in summary
    assert "| component | USD a month |" in summary


@pytest.mark.slow
def test_ci_says_which_plan_it_could_not_have() -> None:
    done = ci("nowhere")
    assert done.returncode == 2
    assert "no plan of nowhere" in done.stderr
