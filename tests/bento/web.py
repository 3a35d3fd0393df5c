"""The application on a real socket, for clients that speak HTTP only (browsers, fuzzers)."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from local.layout import free_port
from tests.bento.conftest import assemble


@contextmanager
def on_socket(state: Path, **settings: object) -> Iterator[str]:
    """The counting model's service in a thread of this process; yields its address."""
    runtime, app = assemble(state, **settings)
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=port, lifespan="off", log_config=None)
    )

    async def serve() -> None:
        await runtime.start()
        try:
            await server.serve()
        finally:
            await runtime.stop()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="service")
    thread.start()
    try:
        until = time.monotonic() + 60
        while not (server.started and runtime.ready()):
            assert thread.is_alive(), "the service ended at once"
            assert time.monotonic() < until, "the service did not become ready in 60 s"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)
