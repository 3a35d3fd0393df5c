"""A whole service in this process: guard, routes, engine; and a real nats-server where asked."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from bento import embedded, metrics  # noqa: F401  metrics register once per process
from bento import tiny as tiny_model
from bento.app import create_app, endpoints
from bento.guard import Guard
from bento.lanes import Served
from bento.models import ModelSource
from bento.runtime import Runtime
from bento.settings import ServiceSettings
from tests.bento.shop import served

Serve = Callable[..., "asynccontextmanager"]


class Service:
    """A running service with its client."""

    def __init__(self, runtime: Runtime, client: httpx.AsyncClient) -> None:
        self.runtime = runtime
        self.client = client

    async def post(self, path: str, body: object, status: int = 200, **more: object) -> dict:
        response = await self.client.post(path, json=body, **more)
        assert response.status_code == status, response.text
        return response.json()


def assemble(state: Path, model: Served | None = None, **settings: object) -> tuple[Runtime, Guard]:
    """A service's parts on `model` (the counting one), without a store unless `store` is set."""
    given = {"store": "off", "state_dir": state, "deadline_ms": 2000, **settings}
    model = model or served()
    folder = state / "model"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text("{}")
    runtime = Runtime(
        ServiceSettings(**given),
        ModelSource(folder, None, None),
        loader=lambda *_: model,
    )
    return runtime, Guard(create_app(runtime), runtime.admission, endpoints(runtime))


@asynccontextmanager
async def running(
    state: Path, model: Served | None = None, *, wait_ready: bool = True, **settings: object
) -> AsyncIterator[Service]:
    """The same, started; its client calls it without a socket."""
    runtime, app = assemble(state, model, **settings)
    await runtime.start()
    try:
        for _ in range(400):
            if runtime.ready() or not wait_ready:
                break
            await asyncio.sleep(0.025)
        else:
            raise AssertionError("the service did not become ready in 10 s")
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            yield Service(runtime, client)
    finally:
        await runtime.stop()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of two real transformers, trained for a moment on a small synthetic shop."""
    folder = tmp_path_factory.mktemp("models") / "bundle"
    tiny_model.build(folder, users=300, items=120, epochs=3)
    return folder


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of another version on the same items, trained less."""
    folder = tmp_path_factory.mktemp("models") / "other"
    tiny_model.build(folder, users=300, items=120, epochs=1, small=False)
    return folder


@pytest.fixture
def nats(tmp_path: Path) -> AsyncIterator[ServiceSettings]:
    """Settings of an embedded store that is up; real nats-server, own folder."""
    settings = ServiceSettings(state_dir=tmp_path)
    guardian = embedded.start(settings)
    yield settings
    guardian.stdin.close()
    guardian.wait(15)


def alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")  # noqa: PTH110
