"""Waiting for a condition, with growing pauses so that two cores stay free for the work."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Poll until the condition holds; False when the time is over."""
    end = time.monotonic() + seconds
    pause = 0.05
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
        pause = min(pause * 1.5, 0.5)
    return True
