"""A site that cannot be changed, met by `pulumi up` of the real program: one line, nothing done."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import RunningStand
from tests.local.test_stand import kill
from tests.stack import Stack

pytestmark = pytest.mark.stand
ROTATION = "hybrid-recommender:secret-rotation"


@pytest.fixture
def healthy(stand: RunningStand, deployed: Stack) -> Iterator[RunningStand]:
    """The stand, repaired after the test; an update waits that would change both sites."""
    file = deployed.project / f"Pulumi.{deployed.name}.yaml"
    before = file.read_text(encoding="utf-8")
    deployed.run("config", "set", "-s", deployed.name, ROTATION, "outage")
    yield stand
    file.write_text(before, encoding="utf-8")
    stand.up()


def refused(stack: Stack, **env: str) -> list[str]:
    """The error lines of an `up` that leaves everything as it was."""
    before, began = (stack.ids(), stack.outputs()), time.monotonic()
    done = stack.up(check=False, **env)
    said = done.stdout + done.stderr
    assert done.returncode != 0, said
    assert "Traceback" not in said
    assert time.monotonic() - began < 60
    assert (stack.ids(), stack.outputs()) == before
    told = {line[line.index("site ") :] for line in said.splitlines() if "error: site " in line}
    return sorted(line.strip() for line in told)


def test_a_site_that_is_down_is_named_before_anything_is_changed(
    healthy: RunningStand, deployed: Stack
) -> None:
    kill(healthy, "cloud/api")
    (line,) = refused(deployed)
    assert line.startswith(f"site cloud at {healthy.endpoints['sites']['cloud']['api']} does not")
    assert "add it to `unreachable`" in line


def test_the_kubeconfig_of_another_cluster_is_named_before_anything_is_changed(
    healthy: RunningStand, deployed: Stack, tmp_path: Path
) -> None:
    described = healthy.endpoints
    described["sites"]["cloud"]["kubeconfig"] = described["sites"]["private"]["kubeconfig"]
    file = tmp_path / "endpoints.json"
    file.write_text(json.dumps(described), encoding="utf-8")
    (line,) = refused(deployed, HYBRID_RECOMMENDER_ENDPOINTS=str(file))
    assert line.startswith("site cloud at ")
    assert "does not trust" in line


def test_a_kind_that_a_site_lacks_is_named_before_anything_is_changed(
    healthy: RunningStand, deployed: Stack, tmp_path: Path
) -> None:
    if not healthy.rooted:
        pytest.skip("without real nodes nothing is queued, and no operator is asked for anything")
    described = healthy.endpoints
    described["sites"]["private"]["gpu_operator"] = {"driver_installed": True}
    file = tmp_path / "endpoints.json"
    file.write_text(json.dumps(described), encoding="utf-8")
    (line,) = refused(deployed, HYBRID_RECOMMENDER_ENDPOINTS=str(file))
    assert "does not know ClusterPolicy (nvidia.com/v1)" in line
    assert "`sites.private.gpu_operator`" in line
