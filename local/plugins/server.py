"""The part every plugin shares: a gRPC server on a free port, announced on standard output."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent import futures
from types import FrameType
from typing import Any

import grpc

from local.plugins.lifetime import end_with_the_engine

MESSAGE_LIMIT = 400 * 1024 * 1024  # bytes; what the engine and the SDK agree on
OPTIONS = [
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
    ("grpc.max_send_message_length", MESSAGE_LIMIT),
    # A request may queue behind many awaited resources; gRPC's default gives up after 30 s.
    ("grpc.server_max_unrequested_time_in_server", 1800),
]


def engine_address(arguments: Sequence[str]) -> str:
    """The engine's address among a plugin's arguments; the rest are logging flags.

    Raises SystemExit when there is none: a plugin is started by the engine, not by hand.
    """
    for argument in reversed(arguments):
        host, colon, port = argument.rpartition(":")
        if colon and host and port.isdigit() and not argument.startswith("-"):
            return argument
    raise SystemExit("a plugin is started by the Pulumi engine, which passes its own address")


def serve(
    register: Callable[[grpc.Server], Any], *, workers: int, clean_up: Callable[[], None]
) -> None:
    """Serve until the engine interrupts this process or is gone; `clean_up` runs at the end."""
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=workers), options=OPTIONS)
    register(server)
    port = server.add_insecure_port("127.0.0.1:0")
    stop = threading.Event()

    def interrupted(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGINT, interrupted)
    signal.signal(signal.SIGTERM, interrupted)
    end_with_the_engine(clean_up)
    server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    stop.wait()
    clean_up()
    server.stop(grace=0.2).wait(1)
    # Threads that still wait for a cluster must not keep the process alive.
    with contextlib.suppress(BrokenPipeError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
