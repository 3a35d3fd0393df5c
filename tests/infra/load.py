"""Shoppers that keep asking a site's gateway while something happens to the site."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

from local.ask import Gateway

ASKED = json.dumps({"history": ["p000376", "p000303"], "k": 5})
PAUSE = 0.05  # seconds between two requests of one shopper


@dataclass
class Load:
    """Threads with one connection each; like a browser, a shopper whose kept connection was closed
    opens a new one once. Any other failure counts, a kept connection that stays silent included."""

    gateways: list[Gateway]
    shoppers: int = 3
    answered: int = 0
    failures: list[str] = field(default_factory=list[str])
    certificates: set[str] = field(default_factory=set[str])

    def __enter__(self) -> Load:
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._shop, args=(number,), daemon=True)
            for number in range(self.shoppers)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(30)

    @property
    def share_failed(self) -> float:
        return len(self.failures) / max(1, self.answered + len(self.failures))

    def _shop(self, number: int) -> None:
        connection: Any = None
        turn = number
        while not self._end.is_set():
            fresh = connection is None
            try:
                if connection is None:
                    connection = self.gateways[turn % len(self.gateways)].connect()
                    connection.connect()
                    serial = connection.sock.getpeercert()["serialNumber"]
                    with self._lock:
                        self.certificates.add(serial)
                connection.request(
                    "POST", "/recommend", ASKED, {"Content-Type": "application/json"}
                )
                answer = connection.getresponse()
                body = answer.read()
                told = "" if answer.status == 200 else f"{answer.status} {body[:120]!r}"
            except (OSError, HTTPException) as error:
                told = f"{type(error).__name__}: {error}"
                if connection is not None:
                    connection.close()
                connection = None
                turn += 1  # the next of the site's addresses, as clients of several do
                if not fresh and not isinstance(error, TimeoutError):
                    continue
            with self._lock:
                if told:
                    self.failures.append(f"{time.time():.1f} {told}")
                else:
                    self.answered += 1
            time.sleep(PAUSE)
