"""Where tools come from: PATH, an official release, a build; and what refuses to become one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from dataclasses import replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from local import paths
from local.errors import StandError
from local.paths import PROJECT
from local.tools import build, debian, download, resolve
from local.tools.table import GROUPS, UNKNOWN, Group, Package, Release
from tests.conftest import RunningStand

PAUSE = next(one for one in GROUPS if one.name == "pause")  # ours: builds without a download
NATS = next(one for one in GROUPS if one.name == "nats-server")
SCRIPT = b"#!/bin/sh\necho official\n"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the project's own; Go keeps the user's build cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "hybrid-recommender" / "tools"


@contextlib.contextmanager
def host(
    body: bytes | None, *, breaks_after: int = 0, asked: list[str | None] | None = None
) -> Generator[str]:
    """A release host on this machine; with no body it takes requests and never answers.

    With `breaks_after` it closes the connection after so many bytes. `asked` gets each request's
    range.
    """
    done = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if body is None:
                done.wait(60)
                return
            wanted = self.headers.get("Range")
            if asked is not None:
                asked.append(wanted)
            rest = body[int(wanted.removeprefix("bytes=").rstrip("-")) :] if wanted else body
            self.send_response(HTTPStatus.PARTIAL_CONTENT if wanted else HTTPStatus.OK)
            self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            self.wfile.write(rest[:breaks_after] if breaks_after else rest)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/pause"
    finally:
        done.set()
        server.shutdown()
        serving.join()
        server.server_close()


def released(url: str, body: bytes) -> Group:
    one = Release(url=url, sha256=hashlib.sha256(body).hexdigest(), members={"pause": ""})
    return replace(PAUSE, release={platform.machine(): one})


def kept(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if not path.name.endswith(".lock"))


def test_a_release_with_the_pinned_sum_is_taken(cache: Path) -> None:
    with host(SCRIPT) as url:
        found = resolve.make(released(url, SCRIPT), print)["pause"]
    assert found.source == "official"
    assert subprocess.run([found.path], capture_output=True, check=True).stdout == b"official\n"
    assert kept(cache) == ["pause-1.0.0"]


def test_a_release_with_another_sum_is_refused_and_removed_and_the_tool_is_built(
    cache: Path,
) -> None:
    said: list[str] = []
    with host(SCRIPT + b"# changed on the way") as url:
        found = resolve.make(released(url, SCRIPT), said.append)["pause"]
    assert found.source == "built"
    assert SCRIPT not in found.path.read_bytes()
    refusals = [line for line in said if line.startswith("refused: ")]
    assert len(refusals) == 1
    assert hashlib.sha256(SCRIPT).hexdigest() in refusals[0]
    assert list((cache.parent / "downloads").iterdir()) == []
    assert kept(cache) == ["pause-1.0.0"]


def test_a_download_that_broke_goes_on_where_it_stopped(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_silent", set[str]())
    body, into = SCRIPT * 100_000, cache / "into"
    into.mkdir(parents=True)
    asked: list[str | None] = []
    with host(body, breaks_after=1_000_000, asked=asked) as url:
        release = released(url, body).release[platform.machine()]
        with pytest.raises(download.UnreachableError):
            download.fetch(release, into, print)
    assert list(into.iterdir()) == []
    have = download.part(release).stat().st_size
    assert 0 < have <= 1_000_000
    with host(body, asked=asked) as url:
        download.fetch(replace(release, url=url), into, print)
    assert (into / "pause").read_bytes() == body
    assert asked == [None, f"bytes={have}-"]
    assert not download.part(release).exists()


def test_every_pinned_release_has_a_place_for_each_program_and_a_sum_or_none() -> None:
    for group in GROUPS:
        for release in group.release.values():
            assert set(release.members) == set(group.programs), group.name
            assert group.version in release.url, group.name
            assert "{" not in release.url + "".join(release.members.values()), group.name
            assert release.sha256 == UNKNOWN or len(bytes.fromhex(release.sha256)) == 32


def test_a_release_without_a_known_sum_is_never_asked_for(cache: Path) -> None:
    asked: list[str | None] = []
    with host(SCRIPT, asked=asked) as url:
        one = replace(released(url, SCRIPT).release[platform.machine()], sha256=UNKNOWN)
        group = replace(PAUSE, release={platform.machine(): one})
        assert resolve.make(group, print)["pause"].source == "built"
    assert asked == []
    assert kept(cache) == ["pause-1.0.0"]


def test_a_release_host_that_is_silent_or_closed_is_left_for_a_build(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "PATIENCE", 0.3)
    into = cache / "into"
    into.mkdir(parents=True)
    with host(None) as url:
        group = released(url, SCRIPT)
        release = group.release[platform.machine()]
        with pytest.raises(download.UnreachableError):
            download.fetch(release, into, print)
    with pytest.raises(download.UnreachableError, match="did not answer before"):
        download.fetch(release, into, print)  # closed by now, and not asked a second time
    assert list(into.iterdir()) == []


@pytest.mark.parametrize(
    ("answer", "named"),
    [("v9.9.9", "is 9.9.9, not"), ("hello", "is of an unknown version, not")],
)
def test_a_program_on_path_in_another_version_is_named_and_ignored(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, named: str
) -> None:
    program = tmp_path / "bin" / "nats-server"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho nats-server: {answer}\n", encoding="ascii")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    said: list[str] = []
    assert resolve.on_path(NATS, said.append) is None
    assert said == [f"{program} {named} {NATS.version}: ignored"]
    assert not cache.exists()


def test_a_program_on_path_in_the_pinned_version_is_used(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "nats-server"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho nats-server: v{NATS.version}\n", encoding="ascii")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    found = resolve.on_path(NATS, print)
    assert found == {"nats-server": resolve.Found(program, NATS.version, "PATH")}
    assert not cache.exists()


def test_after_the_first_time_neither_go_nor_a_network_is_needed(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = resolve.make(PAUSE, print)
    stamp = first["pause"].path.stat().st_mtime_ns
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(StandError, match="no `go` on PATH"):
        build.go()
    assert resolve.make(PAUSE, print) == first
    assert first["pause"].path.stat().st_mtime_ns == stamp
    assert kept(cache) == ["pause-1.0.0"]


def test_a_killed_build_leaves_nothing_that_the_next_one_trips_over(cache: Path) -> None:
    code = (
        "from local.tools import resolve; from local.tools.table import GROUPS;"
        "resolve.make(next(one for one in GROUPS if one.name == 'pause'), print)"
    )
    going = subprocess.Popen(
        [sys.executable, "-c", code], cwd=PROJECT, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    end = time.monotonic() + 60
    while not list(cache.glob("pause-1.0.0.new.*")):
        assert time.monotonic() < end, "it never began"
        assert going.poll() is None, "it ended before it could be killed"
        time.sleep(0.001)
    os.killpg(going.pid, signal.SIGKILL)
    going.wait()
    assert not (cache / "pause-1.0.0").exists()
    assert list(cache.glob("pause-1.0.0.new.*")), "there is nothing to trip over"
    assert resolve.make(PAUSE, print)["pause"].path.exists()
    assert kept(cache) == ["pause-1.0.0"]


def test_two_runs_that_start_together_make_a_tool_once(cache: Path) -> None:
    said: list[str] = []
    runs = [threading.Thread(target=resolve.make, args=(PAUSE, said.append)) for _ in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert len([line for line in said if line.startswith("built in")]) == 1
    assert kept(cache) == ["pause-1.0.0"]


def test_a_changed_module_fails_its_sum_and_makes_no_tool(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Go itself refuses what does not fit go.sum: nothing is built from it."""
    module = tmp_path / "mods" / "pause"
    module.mkdir(parents=True)
    (module / "go.mod").write_text(
        "module hybrid-recommender/tools/pause\n\ngo 1.21\n\nrequire example.invalid/x v1.0.0\n",
        encoding="ascii",
    )
    (module / "main.go").write_text(
        'package main\n\nimport _ "example.invalid/x"\n\nfunc main() {}\n', encoding="ascii"
    )
    monkeypatch.setattr(Group, "folder", property(lambda _: module))
    with pytest.raises(StandError, match=r"pause: modules cannot be had: .*go\.sum"):
        resolve.make(PAUSE, print)
    assert kept(cache) == []


@pytest.mark.parametrize(
    "group", [one for one in GROUPS if one.name != "pause"], ids=lambda one: one.name
)
def test_the_table_and_the_module_file_pin_one_version(group: Group) -> None:
    """What is built must be what its name in the cache says."""
    pinned = dict(
        re.findall(r"^\s*(?:require )?(\S+) v(\S+)", (group.folder / "go.mod").read_text(), re.M)
    )
    modules = [
        max((one for one in pinned if f"{package}/".startswith(f"{one}/")), key=len, default=None)
        for package in (*group.programs.values(), *([group.module] if group.module else []))
        if not package.startswith("hybrid-recommender/")
    ]
    for module in modules or [f"github.com/coredns/{group.name}"]:
        assert module is not None, f"{group.folder}/go.mod requires no module of {group.programs}"
        assert pinned[module] == group.version


@pytest.mark.stand
def test_the_stand_finds_all_its_tools_without_a_network(stand: RunningStand) -> None:
    if not stand.rooted:
        pytest.skip("taking the network away needs root")
    shown = subprocess.run(
        ["unshare", "--net", sys.executable, "-m", "local", "tools"], cwd=PROJECT,
        env={**os.environ, "STAND_STATE": str(stand.state)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    assert {"kubelet", "vault", "containerd", "etcd", "pulumi"} <= {
        line.split()[0] for line in shown.stdout.splitlines()
    }


def test_a_link_of_the_stand_on_path_is_not_taken_for_a_program_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    real = paths.cache() / "tools" / "debian-thing" / "usr" / "bin" / "thing"
    real.parent.mkdir(parents=True)
    real.write_text("#!/bin/sh\n")
    real.chmod(0o755)
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "thing").symlink_to(real)
    monkeypatch.setenv("PATH", str(bin_folder))
    package = Package(name="thing", programs=("thing",), why="a test")
    assert debian.find(package, "thing") == real.resolve()
