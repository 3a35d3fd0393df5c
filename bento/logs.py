"""One JSON object per line on standard error, each with the request id, none with personal data.

Request bodies, user ids, queries and item ids are never passed to the logger. A traceback names
code, not values: an exception's message may quote input, so only its type is logged.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from contextvars import ContextVar
from types import TracebackType

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

_OWN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _frames(trace: TracebackType | None) -> list[str]:
    return [f"{f.filename}:{f.lineno} {f.name}" for f in traceback.extract_tb(trace)]


class JsonFormatter(logging.Formatter):
    """A log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": request_id.get(),
            "pid": record.process,
        }
        line.update({k: v for k, v in vars(record).items() if k not in _OWN})
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = record.exc_info[0].__name__
            line["frames"] = _frames(record.exc_info[2])
        return json.dumps(line, default=str, separators=(",", ":"))


def configure(level: str) -> None:
    """Send every logger of this process through the JSON formatter."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for name in ("bento", "bentoml", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers[:] = []
        logger.propagate = True
        logger.setLevel(level.upper())
    # Its lines name the client's address and whatever path was made up; the guard's do not.
    access = logging.getLogger("uvicorn.access")
    access.handlers[:] = []
    access.propagate = False
    access.disabled = True
    # nats-py logs the server's address and errors with text from the wire; ours say the same
    # without it.
    logging.getLogger("nats").setLevel(logging.CRITICAL)
