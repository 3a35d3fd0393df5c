"""The services that are measured, each started for it and ended with all of its processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from local.layout import free_port

Cores = frozenset[int]
ROOT = Path(__file__).resolve().parent.parent
WORKERS = 2


class Peer(NamedTuple):
    name: str
    url: str
    pid: int


def apart() -> Cores:
    """Keep this process to the upper half of its cores; the lower half is the service's.

    A caller that shares its cores with the service delays the answers that it measures.
    """
    cores = sorted(os.sched_getaffinity(0))
    half = len(cores) // 2
    if not half:
        raise SystemExit("benchmarks.serve: --apart needs two cores, this process may use one")
    os.sched_setaffinity(0, cores[half:])
    return frozenset(cores[:half])


@contextmanager
def running(
    name: str, command: list[str], port: int, env: dict[str, str], cores: Cores = frozenset()
) -> Iterator[Peer]:
    """A service in its own process group, ready; ended with all of its processes.

    With `cores` it runs on these alone.
    """
    url = f"http://127.0.0.1:{port}"
    if cores:
        command = ["taskset", "--cpu-list", ",".join(map(str, sorted(cores))), *command]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "BENTOML_DO_NOT_TRACK": "True", **env},
        )  # fmt: skip
        try:
            until = time.monotonic() + 600
            while not answers(url):
                if process.poll() is not None or time.monotonic() > until:
                    log.seek(0)
                    raise SystemExit(f"benchmarks.serve: {name} did not start:\n{log.read()!r}")
                time.sleep(0.5)
            yield Peer(name, url, process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def cpu_seconds(peer: Peer) -> float:
    """CPU time that the processes of a service have used so far."""
    spent = 0.0
    main = psutil.Process(peer.pid)
    for process in (main, *main.children(recursive=True)):
        times = process.cpu_times()
        spent += times.user + times.system
    return spent


def answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/readyz", timeout=10) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def bento(
    stack: ExitStack, model: Path, work: Path, deadline_ms: float,
    workers: int = WORKERS, cores: Cores = frozenset(),
) -> Peer:  # fmt: skip
    port = free_port()
    command = [sys.executable, "-m", "bentoml", "serve", "bento.service:Recommender"]
    env = {
        "RECOMMENDER__MODEL_DIR": str(model), "RECOMMENDER__STORE": "off",
        "RECOMMENDER__STATE_DIR": str(work / "state"), "RECOMMENDER__WORKERS": str(workers),
        "RECOMMENDER__TORCH_THREADS": "1", "RECOMMENDER__LOG_LEVEL": "warning",
        "RECOMMENDER__DEADLINE_MS": str(deadline_ms), "BENTOML_HOME": str(work / "bentoml"),
    }  # fmt: skip
    return stack.enter_context(
        running("bento", [*command, "--host", "127.0.0.1", "--port", str(port)], port, env, cores)
    )


def plain(stack: ExitStack, model: Path) -> Peer:
    port = free_port()
    command = [
        "local/uv.sh", "run", "--frozen", "--with", "fastapi>=0.115", "python", "-m", "uvicorn",
        "benchmarks.peers.fastapi_recommender:app", "--workers", str(WORKERS), "--port", str(port),
        "--no-access-log", "--log-level", "warning",
        "--timeout-worker-healthcheck", "600",  # slow to import on a busy machine is not dead
    ]  # fmt: skip
    return stack.enter_context(
        running("FastAPI + torch", command, port, {"PEER_MODEL": str(model)})
    )


def bare(stack: ExitStack, work: Path, name: str, service: str, model: Path) -> Peer:
    port = free_port()
    command = [
        sys.executable, "-m", "bentoml", "serve", f"benchmarks.peers.bare_bento:{service}",
        "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    env = {"BENTOML_HOME": str(work / service), "PEER_MODEL": str(model)}
    return stack.enter_context(running(name, command, port, env))


def workers_of(pid: int) -> list[psutil.Process]:
    """Worker processes of a bento, oldest first; the store's guardian and helpers left out."""
    found: list[psutil.Process] = []
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.Error):  # ended while it was looked at
            if any("worker" in word and "service" in word for word in child.cmdline()):
                found.append(child)
    return sorted(found, key=lambda one: one.create_time())
