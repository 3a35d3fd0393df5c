"""The shoppers' entrance, run by a real HAProxy before two real TLS servers."""

from __future__ import annotations

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

from infra.entrance import SITES, Health, SiteDoor, configuration
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


class Site:
    """A gateway that answers 200 after `delay` seconds, until it is cut."""

    def __init__(self, authority: Authority, name: str) -> None:
        self.delay = 0.0
        pair = authority.issue(name, Leaf(name, hosts=(HOST[name],)))
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(pair.cert, pair.key)
        self.port = 0
        self.open()

    def open(self) -> None:
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.path != "/readyz":
                    time.sleep(site.delay)
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                del format, args

        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.server.socket = self.context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def cut(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@dataclass
class Front:
    port: int
    sites: dict[str, Site]
    who: list[str | None] = field(default_factory=list[str | None])

    def ask(self) -> str | None:
        """The site that answered; None for an error."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", "/recommend")
            answer = connection.getresponse()
            answer.read()
            return answer.getheader("X-Site") if answer.status == 200 else None
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    authority = Authority(tmp_path, "ca")
    sites = {name: Site(authority, name) for name in SITES}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    doors = {
        name: SiteDoor(address=f"127.0.0.1:{site.port}", host=HOST[name], slots=2)
        for name, site in sites.items()
    }
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        configuration(
            doors,
            bind=f"127.0.0.1:{port}",
            authority_file=str(authority.cert),
            admin_socket=str(tmp_path / "admin"),
            health=Health(every_ms=100, fall=2, rise=10),
        )
    )
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen(
        [haproxy(), "-db", "-f", config], stdout=log, stderr=subprocess.STDOUT,
        env={**os.environ, "LD_LIBRARY_PATH": debian.library_path(haproxy())},
    )  # fmt: skip
    made = Front(port, sites)
    try:
        assert wait_for(lambda: made.ask() == "private", 20), (tmp_path / "log").read_text()
        yield made
    finally:
        process.terminate()
        process.wait(10)
        for site in sites.values():
            site.cut()


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
    front.sites["private"].delay = front.sites["cloud"].delay = 2.0
    threads = [threading.Thread(target=lambda: front.who.append(front.ask())) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(str(one) for one in front.who) == ["cloud", "cloud", "private", "private"]


def test_settings_that_would_flap_or_lose_a_site_are_refused() -> None:
    door = SiteDoor(address="10.0.0.1:443", host="a.test", slots=1)
    with pytest.raises(ValueError, match="rise 2"):
        Health(fall=2, rise=2)
    with pytest.raises(ValueError, match="slots is 0"):
        replace(door, slots=0)
    with pytest.raises(ValueError, match="give private and cloud"):
        configuration({"private": door}, bind=":1", authority_file="a", admin_socket="s")
    both: dict[str, SiteDoor] = {"private": door, "cloud": door}
    with pytest.raises(ValueError, match="cloud_share is 101"):
        configuration(both, bind=":1", authority_file="a", admin_socket="s", cloud_share=101)
