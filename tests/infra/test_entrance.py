"""The shoppers' entrance, run by a real HAProxy before two real TLS servers."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from infra.entrance import ALIVE, SITES, Health, SiteDoor, configuration
from local.pki import Authority, Leaf
from local.tools import debian
from local.tools.table import PACKAGES
from local.waiting import wait_for

HOST = {site: f"recommend.{site}.test" for site in SITES}


def haproxy() -> Path:
    package = next(one for one in PACKAGES if one.name == "haproxy")
    found = debian.find(package, "haproxy")
    assert found is not None, "no haproxy here: `make test` brings it (`stand tools`)"
    return found


class Node:
    """A site's gateway on one node: it answers 200 after `delay` seconds, until it is cut."""

    def __init__(self, authority: Authority, name: str) -> None:
        self.delay, self.answered = 0.0, 0
        self.status = 200
        self.unanswered: list[float] = []
        pair = authority.issue(name, Leaf(name, hosts=(HOST[name],)))
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(pair.cert, pair.key)
        self.port = 0
        self.open()

    def open(self) -> None:
        node = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.path != "/readyz":
                    time.sleep(node.delay)
                    node.answered += 1
                self.send_response(node.status)
                self.send_header("Content-Length", "2")
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(b"ok")

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                if node.unanswered:
                    time.sleep(node.unanswered.pop())
                self.do_GET()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                del format, args

        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.server.socket = self.context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def cut(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def hang(self) -> None:
        """As a node without power: what comes in is never answered, not even the handshake."""
        self.server.shutdown()


class Site:
    """The nodes of one site."""

    def __init__(self, authority: Authority, name: str, nodes: int) -> None:
        self.nodes = [Node(authority, name) for _ in range(nodes)]

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(f"127.0.0.1:{node.port}" for node in self.nodes)

    def slow(self, seconds: float) -> None:
        for node in self.nodes:
            node.delay = seconds

    def leave_one_unanswered(self, seconds: float) -> list[float]:
        """The next request with a body, at whichever node; the list is empty once it came."""
        due = [seconds]
        for node in self.nodes:
            node.unanswered = due
        return due

    def open(self) -> None:
        for node in self.nodes:
            node.open()

    def cut(self) -> None:
        for node in self.nodes:
            node.cut()


@dataclass
class Front:
    port: int
    sites: dict[str, Site]
    trust: ssl.SSLContext
    who: list[str | None] = field(default_factory=list[str | None])

    def ask(self) -> str | None:
        """The site that answered; None for an error."""
        connection = http.client.HTTPSConnection(
            "localhost", self.port, timeout=10, context=self.trust
        )
        try:
            connection.request("GET", "/recommend")
            answer = connection.getresponse()
            answer.read()
            return answer.getheader("X-Site") if answer.status == 200 else None
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()


@contextlib.contextmanager
def running(folder: Path, nodes: dict[str, int]) -> Iterator[Front]:
    """An entrance before sites with as many nodes."""
    authority = Authority(folder, "ca")
    sites = {name: Site(authority, name, count) for name, count in nodes.items()}
    own = authority.issue("entrance", Leaf("entrance", hosts=("localhost",)))
    shown = folder / "shown.pem"
    shown.write_bytes(own.cert.read_bytes() + own.key.read_bytes())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    doors = {
        name: SiteDoor(addresses=site.addresses, host=HOST[name], slots=2)
        for name, site in sites.items()
    }
    config = folder / "haproxy.cfg"
    config.write_text(
        configuration(
            doors,
            bind=f"127.0.0.1:{port}",
            authority_file=str(authority.cert),
            admin_socket=str(folder / "admin"),
            certificate_file=str(shown),
            health=Health(every_ms=100, fall=2, rise=10),
        )
    )
    log = (folder / "log").open("wb")
    process = subprocess.Popen(
        [haproxy(), "-db", "-f", config], stdout=log, stderr=subprocess.STDOUT, env=environment(),
    )  # fmt: skip
    made = Front(port, sites, ssl.create_default_context(cafile=str(authority.cert)))
    try:
        assert wait_for(lambda: made.ask() == "private", 20), (folder / "log").read_text()
        yield made
    finally:
        process.terminate()
        process.wait(10)
        for site in sites.values():
            site.cut()


def environment() -> dict[str, str]:
    return {**os.environ, "LD_LIBRARY_PATH": debian.library_path(haproxy())}


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    with running(tmp_path, {"private": 2, "cloud": 1}) as made:
        yield made


def test_a_lost_private_site_fails_no_request_and_comes_back_only_after_a_while(
    front: Front,
) -> None:
    front.sites["private"].cut()
    cut = time.monotonic()
    while time.monotonic() - cut < 1.0:  # long enough for its checks to fail too
        assert front.ask() == "cloud"
    front.sites["private"].open()
    began = time.monotonic()
    assert front.ask() == "cloud", "its first good check must not bring it back"
    assert wait_for(lambda: front.ask() == "private", 20)
    assert time.monotonic() - began > 0.5


def test_a_lost_cloud_site_is_not_noticed(front: Front) -> None:
    front.sites["cloud"].cut()
    assert {front.ask() for _ in range(20)} == {"private"}


def test_only_what_the_private_site_cannot_take_spills_to_the_cloud(front: Front) -> None:
    for site in front.sites.values():
        site.slow(2.0)
    threads = [threading.Thread(target=lambda: front.who.append(front.ask())) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(str(one) for one in front.who) == ["cloud", "cloud", "private", "private"]


def test_both_nodes_of_a_site_serve(front: Front) -> None:
    assert {front.ask() for _ in range(40)} == {"private"}
    assert all(node.answered >= 5 for node in front.sites["private"].nodes)


@pytest.mark.parametrize("how", ["cut", "hang"])
def test_a_lost_node_fails_no_request_and_its_site_keeps_the_traffic(
    front: Front, how: str
) -> None:
    lost, left = front.sites["private"].nodes
    getattr(lost, how)()
    before = left.answered
    seen = [front.ask() for _ in range(40)]
    assert set(seen) == {"private"}
    assert left.answered >= before + 40


def test_a_node_whose_gateway_has_no_service_is_left_for_the_other(front: Front) -> None:
    ill, well = front.sites["private"].nodes
    ill.status = 503
    before = well.answered
    assert {front.ask() for _ in range(20)} == {"private"}
    assert well.answered >= before + 20


def test_a_site_without_service_on_any_node_sends_its_requests_to_the_other(front: Front) -> None:
    for node in front.sites["private"].nodes:
        node.status = 503
    assert {front.ask() for _ in range(20)} == {"cloud"}


def test_a_request_that_came_in_pieces_is_tried_again_as_any_other(tmp_path: Path) -> None:
    """Many clients send head and body apart; what was passed on by halves cannot be repeated."""
    with running(tmp_path, {"private": 2}) as alone:
        due = alone.sites["private"].leave_one_unanswered(6)
        connection = http.client.HTTPSConnection("localhost", alone.port, context=alone.trust)
        connection.putrequest("POST", "/recommend")
        connection.putheader("Content-Length", "2")
        connection.endheaders()
        time.sleep(0.3)
        connection.send(b"{}")
        assert connection.getresponse().status == 200
        assert not due


@pytest.mark.parametrize("how", ["cut", "hang"])
def test_a_site_alone_loses_a_node_and_no_request(tmp_path: Path, how: str) -> None:
    with running(tmp_path, {"private": 2}) as alone:
        getattr(alone.sites["private"].nodes[0], how)()
        assert {alone.ask() for _ in range(40)} == {"private"}


def test_shoppers_cannot_ask_what_the_entrance_asks_itself(front: Front) -> None:
    connection = http.client.HTTPSConnection("localhost", front.port, context=front.trust)
    connection.request("GET", ALIVE)
    assert connection.getresponse().status == 404


def test_a_load_balancer_may_be_given_by_its_name(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    doors = {
        "private": SiteDoor(addresses=("10.0.0.1:443",), host="a.test", slots=1),
        "cloud": SiteDoor(addresses=("gateway.example.com:443",), host="b.test", slots=1),
    }
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        configuration(
            doors,
            bind=":8443",
            authority_file=str(authority.cert),
            admin_socket=str(tmp_path / "admin"),
        )
    )
    done = subprocess.run(
        [haproxy(), "-c", "-f", config], capture_output=True, text=True, check=False,
        env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_settings_that_would_flap_or_lose_a_site_are_refused() -> None:
    door = SiteDoor(addresses=("10.0.0.1:443",), host="a.test", slots=1)
    with pytest.raises(ValueError, match="rise 2"):
        Health(fall=2, rise=2)
    with pytest.raises(ValueError, match="slots is 0"):
        replace(door, slots=0)
    with pytest.raises(ValueError, match="give each node once"):
        replace(door, addresses=("10.0.0.1:443", "10.0.0.1:443"))
    with pytest.raises(ValueError, match=r"holds '10\.0\.0\.1'; give ip:port"):
        replace(door, addresses=("10.0.0.1",))
    for doors in ({}, {"cloud": door}, {"private": door, "other": door}):
        with pytest.raises(ValueError, match="give private, and cloud where it serves"):
            configuration(doors, bind=":1", authority_file="a", admin_socket="s")
    with pytest.raises(ValueError, match="cloud_share is 5, but doors have no cloud"):
        configuration(
            {"private": door}, bind=":1", authority_file="a", admin_socket="s", cloud_share=5
        )
    both: dict[str, SiteDoor] = {"private": door, "cloud": door}
    with pytest.raises(ValueError, match="cloud_share is 101"):
        configuration(both, bind=":1", authority_file="a", admin_socket="s", cloud_share=101)
