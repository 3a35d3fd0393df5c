"""New connections are taken by the dozen, not one in a turn of the event loop.

libuv, under uvloop, accepts a single connection for each time that a listening socket is reported
(https://github.com/libuv/libuv/pull/3696). Under load a turn takes 20 ms, so that fifty new clients
a second are let in, and those behind them wait in the kernel's queue for seconds, where they are
neither served nor refused (docs/decisions.md, 25). A socket that is registered `ACCEPTS` times is
taken from as often.
"""

from __future__ import annotations

import socket

import uvicorn

# At 20 ms a turn 3,200 a second. A connection that comes alone costs as many calls of accept less
# one that find nothing.
ACCEPTS = 64


def widen() -> None:
    """Let uvicorn's servers of this process, which BentoML makes, listen so; call it once."""
    startup, shutdown = uvicorn.Server.startup, uvicorn.Server.shutdown
    more: list[socket.socket] = []

    async def wider_startup(
        self: uvicorn.Server, sockets: list[socket.socket] | None = None
    ) -> None:
        for one in sockets or ():
            # the flag is the listener's, not this process's, and `dup` would set it anew: other
            # workers would be held in `accept` until this one has its model
            one.setblocking(False)
            more.extend(one.dup() for _ in range(ACCEPTS - 1))
        await startup(self, sockets=None if sockets is None else [*sockets, *more])

    async def wider_shutdown(
        self: uvicorn.Server, sockets: list[socket.socket] | None = None
    ) -> None:
        await shutdown(self, sockets=None if sockets is None else [*sockets, *more])

    uvicorn.Server.startup, uvicorn.Server.shutdown = wider_startup, wider_shutdown
