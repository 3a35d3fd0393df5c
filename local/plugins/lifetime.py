"""A plugin ends with the engine that started it, however the engine ends.

The engine gives every plugin a pipe as standard input and never writes to it; the pipe closes when
the engine is gone, `kill -9` included. Without this a killed engine leaves its plugins behind.
"""

from __future__ import annotations

import os
import stat
import sys
import threading
from collections.abc import Callable


def end_with_the_engine(clean_up: Callable[[], None] | None = None) -> None:
    """Exit this process, after `clean_up`, as soon as standard input closes.

    Does nothing when standard input is not a pipe (a plugin started by hand or by a test harness
    that attaches to a port).
    """
    try:
        descriptor = sys.stdin.fileno()
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return
    except (OSError, ValueError, AttributeError):  # closed or replaced: nothing to watch
        return
    # Watch a private copy: children started later get /dev/null instead of the engine's pipe.
    pipe = os.dup(descriptor)
    os.set_inheritable(pipe, False)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, descriptor)
    os.close(null)

    def watch() -> None:
        while os.read(pipe, 4096):
            pass
        try:
            if clean_up is not None:
                clean_up()
        finally:
            os._exit(0)

    threading.Thread(target=watch, name="engine-watch", daemon=True).start()
