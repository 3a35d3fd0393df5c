"""One control plane for all tests of this folder, and the real engine on file state."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .cluster import Cluster
from .engine import Project

PRELUDE = """
import os
from pathlib import Path
import pulumi
import pulumi_kubernetes as k8s
from pulumi import Output, ResourceOptions

config = pulumi.Config()
cluster = k8s.Provider("cluster", kubeconfig=Path(os.environ["TEST_KUBECONFIG"]).read_text())
there = ResourceOptions(provider=cluster)
"""

Make = Callable[[str], Project]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"), controllers=True)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def space(monkeypatch: pytest.MonkeyPatch) -> str:
    """A namespace name of this test alone: nothing has to be cleared away between tests."""
    name = f"shop-{secrets.token_hex(3)}"
    monkeypatch.setenv("TEST_SPACE", name)
    return name


@pytest.fixture
def project(cluster: Cluster, tmp_path: Path, space: str, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes a project out of a program's body; the cluster goes at the end of the session."""
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(cluster.kubeconfig)
    monkeypatch.setenv("TEST_KUBECONFIG", str(kubeconfig))
    made: list[Project] = []

    def make(body: str) -> Project:
        made.append(Project(tmp_path / f"project{len(made)}", PRELUDE + body))
        return made[-1]

    return make
