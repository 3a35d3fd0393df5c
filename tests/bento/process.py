"""The service as its users start it: `bentoml serve` in its own processes, and real models."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import httpx
import psutil

from benchmarks.services import workers_of
from local.layout import free_port

ROOT = Path(__file__).resolve().parents[2]


class Served:
    """A running `bentoml serve`."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.process = process
        self.url = url
        self.log = log
        self.client = httpx.Client(base_url=url, timeout=30, trust_env=False)

    def lines(self) -> list[str]:
        return self.log.read_text(encoding="utf-8", errors="replace").splitlines()

    def workers(self) -> list[psutil.Process]:
        """Its worker processes, oldest first; the guardian of the store and helpers left out."""
        return workers_of(self.process.pid)

    def versions(self) -> set[str]:
        """Model versions that the workers answer with; new connections reach all of them."""
        found = set()
        for _ in range(20):
            answer = httpx.get(f"{self.url}/model", timeout=30, trust_env=False)
            found.add(answer.json()["model_version"])
        return found


@contextmanager
def serving(
    state: Path,
    target: str = "bento.service:Recommender",
    *,
    cwd: Path = ROOT,
    prefix: Sequence[str] = (),
    environ: Mapping[str, str] = MappingProxyType(dict(os.environ)),
    **settings: object,
) -> Iterator[Served]:
    """`bentoml serve TARGET` on a free port, ready; `settings` become RECOMMENDER__* variables.

    `prefix` goes before the command, `environ` replaces this process's environment.
    """
    state.mkdir(parents=True, exist_ok=True)
    port = free_port()
    given: dict[str, object] = {"state_dir": state, "workers": 1, "torch_threads": 1, **settings}
    environ = {k: v for k, v in environ.items() if not k.startswith("RECOMMENDER__")}
    environ |= {f"RECOMMENDER__{k.upper()}": str(v) for k, v in given.items()}
    environ.setdefault("BENTOML_HOME", str(state / "bentoml"))
    environ["BENTOML_DO_NOT_TRACK"] = "True"
    log = state / "serve.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "bentoml", "serve", target,
             "--host", "127.0.0.1", "--port", str(port)],
            cwd=cwd, env=environ, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
    served = Served(process, f"http://127.0.0.1:{port}", log)
    try:
        _wait_ready(served)
        yield served
    finally:
        served.client.close()
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_ready(served: Served) -> None:
    until = time.monotonic() + 600
    while time.monotonic() < until:
        if served.process.poll() is not None:
            break
        try:
            if served.client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass  # the socket is not open yet
        time.sleep(0.2)
    raise AssertionError("not ready:\n" + "\n".join(served.lines()[-30:]))


def run_bundle(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m bento.bundle` with its own BentoML home."""
    return subprocess.run(
        [sys.executable, "-m", "bento.bundle", *arguments],
        cwd=ROOT, env={**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def last_json(text: str) -> dict:
    return json.loads(text.strip().splitlines()[-1])
