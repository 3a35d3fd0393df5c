"""New connections under load: how many turns of the event loop they take to be let in."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import ExitStack

import pytest
import uvicorn
import uvloop

from bento import listen

CLIENTS = 160
REQUEST = b"GET / HTTP/1.1\r\nhost: service\r\n\r\n"


async def turns_until_all_are_served() -> int:
    """Turns of the loop for clients who came while one long turn was under way."""
    served = 0

    async def app(scope, receive, send) -> None:
        nonlocal served
        served += 1
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    with ExitStack() as stack:
        front = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=CLIENTS))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        running = asyncio.create_task(server.serve(sockets=[front]))
        while not server.started:
            await asyncio.sleep(0.01)
        for _ in range(CLIENTS):  # the kernel lets them in; the loop does not run meanwhile
            client = stack.enter_context(socket.create_connection(front.getsockname()))
            client.sendall(REQUEST)
        turns = 0
        while served < CLIENTS:
            turns += 1
            await asyncio.sleep(0)
        server.should_exit = True
    await running
    return turns


@pytest.fixture
def widened(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("startup", "shutdown"):  # put back after the test
        monkeypatch.setattr(uvicorn.Server, name, getattr(uvicorn.Server, name))
    listen.widen()


@pytest.mark.usefixtures("widened")
def test_clients_who_come_during_a_long_turn_of_the_loop_are_let_in_within_a_few() -> None:
    assert uvloop.run(turns_until_all_are_served()) < CLIENTS / 4


@pytest.mark.usefixtures("widened")
def test_a_worker_that_starts_does_not_make_the_others_wait_in_accept() -> None:
    async def blocks_while_starting(shared: socket.socket) -> bool:
        loading, loaded = asyncio.Event(), asyncio.Event()

        async def app(scope, receive, send) -> None:
            while True:
                step = (await receive())["type"]
                if step == "lifespan.startup":
                    loading.set()
                    await loaded.wait()
                await send({"type": f"{step}.complete"})

        # as BentoML makes it in every worker from the descriptor that they all inherit
        mine = socket.socket(fileno=os.dup(shared.fileno()))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on"))
        running = asyncio.create_task(server.serve(sockets=[mine]))
        await loading.wait()
        found = os.get_blocking(shared.fileno())
        loaded.set()
        server.should_exit = True
        await running
        return found

    with socket.create_server(("127.0.0.1", 0)) as shared:
        shared.setblocking(False)  # by the event loop of a worker that serves
        assert not uvloop.run(blocks_while_starting(shared))
