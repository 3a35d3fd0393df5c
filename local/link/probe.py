"""Answers over time: one UDP datagram every few milliseconds, and the longest wait for an answer.

    python -m local.link.probe serve ADDRESS PORT
    python -m local.link.probe ask ADDRESS PORT --every MS --seconds S    (or until SIGINT)

Both print `ready` first. `ask` then prints one JSON line: sent, answered, the longest gap between
two answers and the moment after the start at which it began, all in seconds. The time before the
first answer and after the last one counts too: a link that never comes back is no short loss.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import select
import signal
import socket
import sys
import time
from types import FrameType


def serve(address: str, port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.bind((address, port))
        print("ready", flush=True)
        while True:
            data, peer = own.recvfrom(2048)
            # no route back for the moment: the asker counts the missing answer
            with contextlib.suppress(OSError):
                own.sendto(data, peer)


class Asker:
    """One run of questions. `payload` goes into every datagram, before its number."""

    def __init__(self, address: str, port: int, every: float, payload: bytes) -> None:
        self.peer = (address, port)
        self.every = every
        self.payload = payload
        self.stopped = False
        self.sent = 0
        self.answers: list[float] = []  # seconds since the start, of every answer

    def stop(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.stopped = True

    def run(self, seconds: float) -> dict[str, float]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.setblocking(False)
            start = time.monotonic()
            end = start + seconds
            due = start
            while not self.stopped and (now := time.monotonic()) < end:
                if now >= due:
                    with contextlib.suppress(OSError):  # unreachable: shows as a missing answer
                        own.sendto(self.payload + self.sent.to_bytes(8, "big"), self.peer)
                    self.sent += 1
                    due = max(due + self.every, now - 10 * self.every)
                select.select([own], [], [], max(0.0, min(due, end) - time.monotonic()))
                self._read(own, start)
            stop = time.monotonic()
            late = stop + 0.2
            while time.monotonic() < late:  # answers on their way
                select.select([own], [], [], 0.02)
                self._read(own, start)
        return self.result(stop - start)

    def _read(self, own: socket.socket, start: float) -> None:
        with contextlib.suppress(OSError):  # nothing there, or an ICMP error of an earlier one
            while own.recv(2048):
                self.answers.append(time.monotonic() - start)

    def result(self, lasted: float) -> dict[str, float]:
        moments = [0.0, *self.answers, max(lasted, self.answers[-1] if self.answers else 0.0)]
        gap, at = max(
            ((after - before, before) for before, after in itertools.pairwise(moments)),
            default=(lasted, 0.0),
        )
        return {
            "sent": self.sent,
            "answered": len(self.answers),
            "longest_gap_s": round(gap, 4),
            "gap_began_s": round(at, 4),
            "lasted_s": round(lasted, 3),
        }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m local.link.probe")
    parser.add_argument("role", choices=("serve", "ask"))
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("--every", type=float, default=10.0, help="milliseconds")
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--payload", default="")
    words = parser.parse_args(argv)
    if words.role == "serve":
        with contextlib.suppress(KeyboardInterrupt):
            serve(words.address, words.port)
        return 0
    asker = Asker(words.address, words.port, words.every / 1000, words.payload.encode())
    signal.signal(signal.SIGINT, asker.stop)
    signal.signal(signal.SIGTERM, asker.stop)
    print("ready", flush=True)
    print(json.dumps(asker.run(words.seconds)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
