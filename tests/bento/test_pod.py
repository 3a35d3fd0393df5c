"""The service as a pod runs it: another user, two writable folders, an end by SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from tests.bento.process import serving
from tests.bento.test_serve import items_of

POD_USER = 64_321  # no account of this machine, so that whatever it writes is this test's
SHARED = ("/tmp", "/var/tmp", "/dev/shm")  # where any user may write


def written_by(user: int, outside: Path, since: float) -> list[str]:
    """A user's files that changed since a time where anyone may write, `outside` left out."""
    found: list[str] = []
    for top in SHARED:
        for folder, _, names in os.walk(top):
            if Path(folder).is_relative_to(outside):
                continue
            for path in (Path(folder, name) for name in names):
                try:
                    it = path.lstat()
                    if it.st_uid == user and it.st_ctime >= since:
                        found.append(str(path))
                except FileNotFoundError:
                    continue  # another program's, gone meanwhile
    return found


def half_sent(port: int, body: bytes) -> socket.socket:
    """A connection that has sent a request but for the last byte of its body."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    head = (
        "POST /recommend HTTP/1.1\r\nhost: service\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    connection.sendall(head.encode() + body[:-1])
    return connection


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_pod_serves_as_another_user_without_writing_outside_its_two_folders(
    tiny: Path, tmp_path: Path
) -> None:
    state = tmp_path / "writable"
    for name in ("tmp", "bentoml"):
        (state / name).mkdir(parents=True)
        os.chown(state / name, POD_USER, POD_USER)
    os.chown(state, POD_USER, POD_USER)
    start = state.stat().st_ctime  # by the file system's clock, which lags a little
    # It may read what root alone may (the interpreter of a test machine), and write nothing of it.
    prefix = [
        "setpriv", f"--reuid={POD_USER}", f"--regid={POD_USER}", "--clear-groups", "--no-new-privs",
        "--bounding-set=-all,+dac_read_search", "--inh-caps=-all,+dac_read_search",
        "--ambient-caps=-all,+dac_read_search",
    ]  # fmt: skip
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "TMPDIR": str(state / "tmp"),
        "BENTOML_HOME": str(state / "bentoml"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    with serving(
        state,
        prefix=prefix,
        environ=environ,
        model_dir=tiny,
        store="off",
        workers=2,
        deadline_ms=10_000,
    ) as served:
        answer = served.client.post(
            "/recommend", json={"history": items_of(tiny)[:3], "deadline_ms": 5000}
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["items"]
        assert len(served.workers()) == 2
        for path in ("/livez", "/readyz"):
            assert served.client.get(path).status_code == 200
    assert not written_by(POD_USER, state, start), "only the two given folders may be written to"


def test_a_request_under_way_at_sigterm_is_answered_and_the_service_ends_cleanly(
    tiny: Path, tmp_path: Path
) -> None:
    body = json.dumps({"history": items_of(tiny)[:2], "k": 3, "deadline_ms": 9000}).encode()
    # a busy machine must not make this about overload
    settings = {"model_dir": tiny, "store": "off", "workers": 2, "deadline_ms": 10_000}
    with serving(tmp_path / "state", **settings) as served:
        port = int(served.url.rsplit(":", 1)[1])
        connections = [half_sent(port, body) for _ in range(6)]
        time.sleep(0.5)  # every worker has read its share
        served.process.send_signal(signal.SIGTERM)
        time.sleep(1)
        for connection in connections:
            connection.sendall(body[-1:])
        for connection in connections:
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
            connection.close()
            assert answer.startswith(b"HTTP/1.1 200"), answer[:200]
            assert b"connection: close" in answer.lower(), "a caller must look for another replica"
        assert served.process.wait(30) == 0
