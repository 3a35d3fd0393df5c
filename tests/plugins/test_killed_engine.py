"""`kill -9` of the engine in the middle of an update; the documented commands bring all back.

Three points here; `PLUGIN_TEST_KILLS=20 pytest tests/plugins/test_killed_engine.py` takes more.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from .cluster import Cluster
from .conftest import Make

MAPS = 12
PROGRAM = f"""
turn = os.environ["TEST_TURN"]
space = k8s.core.v1.Namespace("shop", metadata={{"name": os.environ["TEST_SPACE"]}}, opts=there)
inside = space.metadata.name
for index in range({MAPS}):
    k8s.core.v1.ConfigMap(f"map{{index}}", metadata={{"namespace": inside}},
        data={{"turn": turn}}, opts=there)
k8s.core.v1.Secret("login", metadata={{"name": "login", "namespace": inside}},
    string_data={{"turn": turn}}, opts=there)
k8s.core.v1.Service("web", metadata={{"name": "web", "namespace": inside, "labels": {{
    "turn": turn}}}}, spec={{"cluster_ip": "None", "selector": {{"a": "b"}}, "ports": [
    {{"port": 80}}]}}, opts=there)
"""
RESOURCES = MAPS + 3


def descendants(parent: int) -> set[int]:
    """Process ids below `parent`, from /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # ended meanwhile
        children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found: set[int] = set()
    todo = [parent]
    while todo:
        for child in children.get(todo.pop(), []):
            found.add(child)
            todo.append(child)
    return found


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_an_engine_killed_at_any_point_leaves_nothing_that_the_next_update_does_not_mend(
    project: Make, cluster: Cluster, space: str
) -> None:
    seed = int(os.environ.get("PLUGIN_TEST_SEED", random.randrange(10**6)))
    chance = random.Random(seed)
    stack = project(PROGRAM)
    begun = time.monotonic()
    stack.up(TEST_TURN="0")
    whole = time.monotonic() - begun
    halfway = 0
    for turn in range(1, int(os.environ.get("PLUGIN_TEST_KILLS", "3")) + 1):
        where = f"seed {seed}, turn {turn}"
        if turn % 2:  # creates and updates in turn: every other round starts from nothing
            stack.run("destroy", "--yes", "--skip-preview", "--run-program=false")
        process = stack.start("up", "--yes", "--skip-preview", TEST_TURN=str(turn))
        time.sleep(chance.uniform(0.3, 1.0) * whole)
        plugins = descendants(process.pid)
        process.kill()
        process.communicate()
        halfway += process.returncode == -9 and bool(plugins)
        end = time.monotonic() + 20
        while any(alive(each) for each in plugins) and time.monotonic() < end:
            time.sleep(0.1)
        left = [each for each in plugins if alive(each)]
        assert not left, f"{where}: plugins outlive their engine: {left}"

        # docs/plugins.md, "An update that was killed"
        stack.attempt("cancel", "--yes")
        stack.run(
            "refresh", "--yes", "--skip-preview", "--run-program=false", "--clear-pending-creates"
        )
        stack.up(TEST_TURN=str(turn))

        held = stack.resources()
        objects = {each["id"] for urn, each in held.items() if urn != "cluster"}
        assert len(objects) == RESOURCES, f"{where}: {sorted(objects)}"
        maps = cluster.request("GET", f"/api/v1/namespaces/{space}/configmaps")["items"]
        ours = [each for each in maps if each["metadata"]["name"] != "kube-root-ca.crt"]
        assert len(ours) == MAPS, f"{where}: an orphan or a duplicate among {len(ours)} maps"
        for each in ours:
            assert each["data"] == {"turn": str(turn)}, where
            assert f"{space}/{each['metadata']['name']}" in objects, where
        service = cluster.request("GET", f"/api/v1/namespaces/{space}/services/web")
        assert service["metadata"]["labels"]["turn"] == str(turn), where
        assert not stack.export()["deployment"].get("pending_operations"), where
    assert halfway, "no engine was hit while its plugins ran: the test proved nothing"
