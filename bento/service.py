"""The BentoML service: `bentoml serve bento.service:Recommender`.

BentoML supervises the worker processes, the socket, probes and /metrics; the paths of the product
are the application in `bento/app.py`, behind the guard in `bento/guard.py`. Settings:
docs/service.md.
"""

from __future__ import annotations

import subprocess
from typing import Any

import bentoml

from bento import embedded, listen, models
from bento.app import create_app, endpoints
from bento.guard import WHOLE_S, Guard
from bento.limits import cpu_limit, memory_limit, plan_threads, plan_workers
from bento.runtime import Runtime
from bento.settings import ServiceSettings

settings = ServiceSettings.from_env()
source = models.find(settings)
runtime = Runtime(settings, source)


def _model_bytes() -> int:
    folder = source.path()
    return sum(p.stat().st_size for p in folder.rglob("*.safetensors")) if folder.is_dir() else 0


workers = settings.workers or plan_workers(cpu_limit(), memory_limit(), _model_bytes())
runtime.threads = settings.torch_threads or plan_threads(cpu_limit(), workers)
runtime.workers = workers
# The embedded store lives as long as the process that deploys the service keeps this.
_store: list[subprocess.Popen[bytes]] = []


@bentoml.asgi_app(create_app(runtime), path="/")
@bentoml.service(
    name="recommender",
    workers=workers,
    traffic={"timeout": WHOLE_S},
    # The guard logs each request with its id; BentoML's line would name the client's address.
    logging={"access": {"enabled": False}},
    tracing={} if settings.tracing else {"excluded_urls": ".*"},
)
class Recommender:
    """Recommendation and search over one catalogue."""

    @bentoml.on_deployment
    @staticmethod
    def deploy() -> None:
        """Once, before the workers: refuse to start without a model, start the embedded store."""
        folder = source.path()
        if models.signature(folder) is None and settings.model_dir is None:
            raise bentoml.exceptions.BentoMLException(
                f"no model in {folder}: `python -m bento.tiny` trains the synthetic one, "
                "RECOMMENDER__MODEL_DIR names another"
            )
        if settings.store != "off" and settings.nats_url is None:
            _store.append(embedded.start(settings))

    @bentoml.on_startup
    async def start(self) -> None:
        """In every worker."""
        await runtime.start()

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """In every worker."""
        await runtime.stop()

    async def __is_ready__(self) -> bool:
        return runtime.ready()


def _guard(service: Any) -> None:
    # spans are made by BentoML's middleware: a traced request goes through all of it
    direct = {} if settings.tracing else endpoints(runtime)
    service.add_asgi_middleware(
        Guard, admission=runtime.admission, direct=direct, ends=runtime.ends_connection
    )


_guard(Recommender)
listen.widen()
