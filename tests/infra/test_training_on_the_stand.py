"""A real training run on the stand: two workers on two real nodes, and the loss of one of them."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from local.kube import ApiError, Client
from model import artefacts
from model.artefacts import Place, Store
from tests.conftest import RunningStand
from tests.stack import Stack

pytestmark = [pytest.mark.stand, pytest.mark.slow]
SPACE = "/api/v1/namespaces/recommender"
SEQUENCES = "data/ring.txt"


@pytest.fixture
def store(stand: RunningStand, tmp_path: Path) -> Store:
    """The private site's store with 120 users who walk round a ring of 40 items."""
    where = stand.endpoints["artefacts"]["private"]
    for key in ("access-key", "secret-key"):
        shutil.copy(where[f"{key.replace('-', '_')}_file"], tmp_path / key)
    made = Store(
        Place(
            endpoint=where["endpoint"], bucket="training", region=where["region"],
            keys=tmp_path, ca=Path(where["ca_file"]),
        )
    )  # fmt: skip
    made.make_bucket()
    rng = np.random.default_rng(0)
    rows: list[str] = []
    for user in range(120):
        start, length = rng.integers(40), rng.integers(3, 9)
        rows.append(" ".join([f"u{user}", *(str((start + n) % 40) for n in range(length))]))
    file = tmp_path / "ring.txt"
    file.write_text("\n".join(rows) + "\n", encoding="utf-8")
    made.put(SEQUENCES, file)
    return made


@pytest.fixture
def run(stand: RunningStand, deployed: Stack) -> Iterator[str]:
    """Name of a new run that the stack's settings ask for; the stack is as before afterwards."""
    if not stand.rooted:
        pytest.skip("real nodes need root")
    name = f"ring-{secrets.token_hex(3)}"
    file = deployed.project / "Pulumi.local.yaml"
    before = file.read_text(encoding="utf-8")
    wanted = yaml.safe_load(before)
    wanted["config"]["hybrid-recommender:training"] = {
        "name": name, "sequences": SEQUENCES, "size": "tiny", "workers": 2, "least": 1,
        "cpu": "500m", "memory": "1500Mi", "hours": 1,
        "flags": ["--epochs", "120", "--patience", "120", "--batch", "16", "--save-every", "20",
                  "--threads", "1", "--no-links", "--no-refit"],
    }  # fmt: skip
    file.write_text(yaml.safe_dump(wanted), encoding="utf-8")
    deployed.up()
    yield name
    stand.up()
    file.write_text(before, encoding="utf-8")
    deployed.up()


def workers(client: Client) -> dict[str, dict[str, Any]]:
    """Index of a worker -> its newest pod that is not on its way out."""
    found = client.items(f"{SPACE}/pods?labelSelector=app.kubernetes.io/name%3Dtraining")
    alive = [one for one in found if "deletionTimestamp" not in one["metadata"]]
    alive.sort(key=lambda one: one["metadata"]["creationTimestamp"])
    return {one["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"]: one
            for one in alive}  # fmt: skip


def log_of(client: Client, pod: dict[str, Any]) -> str:
    name = pod["metadata"]["name"]
    try:
        return client.get(f"{SPACE}/pods/{name}/log?container=worker")["text"]
    except (ApiError, OSError) as error:
        return f"{name}: {error}"


def until(client: Client, what: str, seen: Callable[[], Any], seconds: float) -> None:
    """Like `eventually`; a failure shows what the workers said."""
    end = time.monotonic() + seconds
    while not seen():
        if time.monotonic() > end:
            logs = [f"worker {at}:\n{log_of(client, pod)}" for at, pod in workers(client).items()]
            pytest.fail("\n".join([f"not within {seconds} s: {what}", *logs]))
        time.sleep(0.5)


def test_a_run_of_two_workers_on_two_nodes_survives_the_power_loss_of_one(
    stand: RunningStand, store: Store, run: str
) -> None:
    client = stand.client("private")

    def nodes() -> list[str]:
        return [
            one["spec"].get("nodeName", "")
            for one in workers(client).values()
            if one["status"].get("phase") == "Running"
        ]

    until(client, "both workers run", lambda: len(nodes()) == 2, 180)
    assert len(set(nodes())) == 2, "the workers share a node"
    until(client, "a state is stored", lambda: artefacts.newest_state(store, run), 240)
    lost = workers(client)["0"]  # the leader: it holds the workers' meeting place
    stand.run("kill-node", lost["spec"]["nodeName"])
    state = artefacts.newest_state(store, run)
    assert artefacts.finished(store, run) is None, "it ended before a node was lost"

    until(
        client,
        "the lost worker starts elsewhere",
        lambda: workers(client).get("0", lost)["metadata"]["uid"] != lost["metadata"]["uid"],
        180,
    )
    until(client, "the model is stored", lambda: artefacts.finished(store, run), 400)
    assert workers(client)["0"]["spec"]["nodeName"] != lost["spec"]["nodeName"]
    # whichever of them is the first worker now
    told = "\n".join(log_of(client, one) for one in workers(client).values())
    begun = [line for line in told.splitlines() if " begin with runs/" in line]
    assert begun, told
    assert state is not None
    assert max(line.split()[-1] for line in begun) >= state, "it went back behind a saved state"
    manifest = artefacts.finished(store, run)
    assert manifest is not None
    assert manifest.metrics[artefacts.METRIC] > 0.2, "a ring is easy"
