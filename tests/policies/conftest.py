"""One API server for all tests of this folder, and the real engine on file state."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.plugins.cluster import Cluster
from tests.plugins.engine import Project

ROOT = Path(__file__).resolve().parent.parent.parent
PRELUDE = """
import os
from pathlib import Path
import pulumi
import pulumi_kubernetes as k8s
from pulumi import ResourceOptions

cluster = k8s.Provider("cluster", kubeconfig=Path(os.environ["TEST_KUBECONFIG"]).read_text())
there = ResourceOptions(provider=cluster)
space = os.environ["TEST_SPACE"]
"""
Make = Callable[[str], Project]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("policies"), controllers=False)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def space(cluster: Cluster) -> str:
    """A namespace of this test alone."""
    name = f"shop-{secrets.token_hex(3)}"
    cluster.request(
        "POST",
        "/api/v1/namespaces",
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}},
    )
    return name


@pytest.fixture
def project(cluster: Cluster, tmp_path: Path, space: str, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes a stack out of a program's body; the API server goes at the end of the session."""
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(cluster.kubeconfig)
    monkeypatch.setenv("TEST_KUBECONFIG", str(kubeconfig))
    monkeypatch.setenv("TEST_SPACE", space)
    made: list[Project] = []

    def make(body: str) -> Project:
        made.append(Project(tmp_path / f"project{len(made)}", PRELUDE + body))
        return made[-1]

    return make


@pytest.fixture
def pack_config(tmp_path: Path) -> Callable[..., str]:
    """Writes a `--policy-pack-config` file; a level, or a mapping of level and settings."""

    def write(**rules: object) -> str:
        file = tmp_path / "pack.json"
        file.write_text(
            json.dumps({name.replace("_", "-"): value for name, value in rules.items()})
        )
        return str(file)

    return write
