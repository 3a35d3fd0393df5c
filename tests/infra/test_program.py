"""The whole program on the real stand, through the real engine."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import RunningStand
from tests.inventory import everything, more
from tests.stack import Stack

pytestmark = pytest.mark.stand
UPDATES = int(os.environ.get("PROGRAM_TEST_UPDATES", "2"))


def namespace(stack: Stack, site: str = "private") -> str:
    return str(stack.outputs()[site]["namespace"])


def test_up_gives_each_site_a_namespace_that_is_fenced_and_limited(
    stand: RunningStand, deployed: Stack
) -> None:
    for site in ("private", "cloud"):
        name, client = namespace(deployed, site), stand.client(site)
        labels = client.get(f"/api/v1/namespaces/{name}")["metadata"]["labels"]
        assert labels["pod-security.kubernetes.io/audit"] == "restricted"
        for kind, group in (
            ("resourcequotas", "/api/v1"),
            ("limitranges", "/api/v1"),
            ("networkpolicies", "/apis/networking.k8s.io/v1"),
        ):
            found: list[Any] = client.get(f"{group}/namespaces/{name}/{kind}")["items"]
            assert found, f"{site} has no {kind}"


def test_the_canary_is_ready_only_with_the_secret_of_vault(
    stand: RunningStand, deployed: Stack
) -> None:
    if not stand.rooted:
        pytest.skip("no root here: no real node runs the canary")
    name = namespace(deployed)
    pods = stand.client("private").get(f"/api/v1/namespaces/{name}/pods")["items"]
    ready = [
        condition["status"]
        for pod in pods
        if pod["metadata"]["name"].startswith("canary-")
        for condition in pod["status"]["conditions"]
        if condition["type"] == "Ready"
    ]
    assert ready == ["True"]


@pytest.mark.timeout(300 + 60 * UPDATES)
def test_no_further_up_changes_anything_nor_does_a_refresh(deployed: Stack) -> None:
    """Twice here; `PROGRAM_TEST_UPDATES=20` repeats the update as often."""
    for _ in range(UPDATES):
        again = deployed.up("--expect-no-changes")
        assert re.search(r"\b\d+ unchanged", again.stdout)
    refreshed = deployed.run("refresh", "-s", "local", "--yes", "--expect-no-changes")
    assert "unchanged" in refreshed.stdout
    assert set(deployed.changes()) == {"same"}


def test_an_object_deleted_by_hand_is_missed_by_refresh_and_made_again_by_up(
    stand: RunningStand, deployed: Stack
) -> None:
    name, client = namespace(deployed), stand.client("private")
    where = f"/api/v1/namespaces/{name}/resourcequotas"
    quota = client.get(where)["items"][0]
    one = f"{where}/{quota['metadata']['name']}"
    client.delete(one)
    deployed.run("refresh", "-s", "local", "--yes", "--skip-preview")
    deployed.up()
    assert client.get(one)["spec"]["hard"] == quota["spec"]["hard"]


def test_a_field_taken_over_by_hand_is_named_in_the_error_and_left_alone(
    stand: RunningStand, deployed: Stack
) -> None:
    name, client = namespace(deployed), stand.client("private")
    where = f"/api/v1/namespaces/{name}/resourcequotas"
    quota = client.get(where)["items"][0]
    one = f"{where}/{quota['metadata']['name']}"
    client.request("PATCH", one, {"spec": {"hard": {"pods": "1"}}}, "application/merge-patch+json")
    deployed.run("refresh", "-s", "local", "--yes", "--skip-preview")
    done = deployed.up(check=False)
    assert done.returncode != 0
    assert "conflict" in done.stdout + done.stderr
    assert ".spec.hard.pods" in done.stdout + done.stderr
    assert client.get(one)["spec"]["hard"]["pods"] == "1"
    client.delete(one)
    deployed.run("refresh", "-s", "local", "--yes", "--skip-preview")
    deployed.up()
    assert client.get(one)["spec"]["hard"] == quota["spec"]["hard"]


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("ownr", "platform", "ownr is 'platform': this key is unknown; known keys: "),
        ("data-class", "secret", "data-class is 'secret': Input should be 'public', 'internal'"),
        ("endpoints", "/nowhere.json", "endpoints is /nowhere.json: No such file"),
        ("expiry", "soon", "expiry is 'soon': Input should be a valid date"),
        ("unreachable", "cloud", "unreachable is 'cloud': Input should be a valid tuple"),
    ],
)
def test_a_wrong_setting_is_one_error_and_changes_nothing(
    deployed: Stack, key: str, value: str, told: str
) -> None:
    file = deployed.project / "Pulumi.local.yaml"
    before, state = file.read_text(encoding="utf-8"), deployed.ids()
    content = yaml.safe_load(before)
    content["config"][f"hybrid-recommender:{key}"] = value
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    env = dict(deployed.env)
    env.pop("HYBRID_RECOMMENDER_ENDPOINTS")
    if key != "endpoints":
        content["config"]["hybrid-recommender:endpoints"] = deployed.env[
            "HYBRID_RECOMMENDER_ENDPOINTS"
        ]
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
    try:
        done = Stack(deployed.project, env).up(check=False)
    finally:
        file.write_text(before, encoding="utf-8")
    assert done.returncode != 0
    assert told in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert deployed.ids() == state


def test_ranges_that_overlap_are_named_with_both_values(
    stand: RunningStand, deployed: Stack, tmp_path: Path
) -> None:
    described, state = stand.endpoints, deployed.ids()
    sites = described["sites"]
    sites["cloud"]["pod_cidr"] = same = sites["private"]["pod_cidr"]
    file = tmp_path / "endpoints.json"
    file.write_text(json.dumps(described), encoding="utf-8")
    done = deployed.up(check=False, HYBRID_RECOMMENDER_ENDPOINTS=str(file))
    assert done.returncode != 0
    assert f"sites.private.pod_cidr is {same}, which overlaps sites.cloud.pod_cidr {same}" in (
        done.stdout + done.stderr
    )
    assert deployed.ids() == state


def test_a_stack_that_the_program_does_not_know_is_refused(deployed: Stack) -> None:
    other = Stack(deployed.project, deployed.env, "trial")
    other.run("stack", "init", "trial")
    settings = [deployed.project / f"Pulumi.{name}.yaml" for name in ("local", "trial")]
    settings[1].write_text(settings[0].read_text(encoding="utf-8"), encoding="utf-8")
    try:
        done = other.up(check=False)
    finally:
        settings[1].unlink()
        other.run("stack", "rm", "trial", "--yes", "--force")
        deployed.run("stack", "select", deployed.name)
    assert done.returncode != 0
    assert "stack is 'trial'; use one of local, staging, prod" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_destroy_leaves_nothing_in_a_site_or_in_vault_and_up_makes_it_again(
    stand: RunningStand, deployed: Stack, untouched: dict[str, set[str]]
) -> None:
    names = {site: namespace(deployed, site) for site in ("private", "cloud")}
    deployed.run("destroy", "-s", "local", "--yes", "--skip-preview")
    assert deployed.resources() == []
    for site, name in names.items():
        assert stand.client(site).find(f"/api/v1/namespaces/{name}") is None
    assert more(everything(stand), untouched) == {}
    deployed.up()
    assert more(everything(stand), untouched) != {}, "the comparison sees nothing"
    assert {site: namespace(deployed, site) for site in names} == names
