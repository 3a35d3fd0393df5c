"""A link of our own between two one-host sites, rendered by the infrastructure's own code.

Everything lies in namespaces `lk-<pid>-<start>-…`, so that two runs never meet and what a killed
run left behind is known by its dead process.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

from infra.components import vpn_render
from infra.components.vpn_settings import DataPath, LinkSettings, Timers
from local import net, proc
from local.link import packages
from local.link.ends import Places, key_file
from local.link.link import Link
from local.link.network import Attachment
from local.paths import PROJECT, Folders, write_private
from local.waiting import wait_for

SITE_HOST, CLOUD_HOST = IPv4Address("192.168.10.10"), IPv4Address("10.50.0.10")
OUTSIDE = (IPv4Address("203.0.113.11"), IPv4Address("203.0.113.12"))
SETTINGS = LinkSettings(
    gateway_address=IPv4Address("203.0.113.2"),
    site_asn=65000,
    inside=(IPv4Network("169.254.10.0/30"), IPv4Network("169.254.20.0/30")),
    announced={"nodes": IPv4Network("192.168.10.0/24")},
    accepted={"vpc": IPv4Network("10.50.0.0/16")},
    timers=Timers(keepalive=3, hold=9),
    bfd=True,
    data_path=DataPath.LIBIPSEC,
)
MARK = "HYBRID_RECOMMENDER_LINK_LAB"


def new_key() -> str:
    return "k" + secrets.token_hex(20)


def render(folder: Path, settings: LinkSettings, keys: tuple[str, str]) -> None:
    """Write what the infrastructure program renders, in the layout that the stand reads."""
    for name, text in vpn_render.gateway_files(settings, OUTSIDE).items():
        write_private(folder / "site" / name, text)
    for number, key in enumerate(keys, start=1):
        write_site_key(folder, settings, number, key)
        write_private(key_file(folder, number), key)


def site_secret(settings: LinkSettings, number: int, key: str) -> str:
    return vpn_render.secrets(settings, number, OUTSIDE[number - 1], key)


def write_site_key(folder: Path, settings: LinkSettings, number: int, key: str) -> None:
    write_private(
        folder / "site" / vpn_render.secret_path(settings, number),
        site_secret(settings, number, key),
    )


@dataclass
class Lab:
    """The link, its two hosts, and ways to hurt it."""

    link: Link
    settings: LinkSettings
    site_host: str
    cloud_host: str

    @property
    def folder(self) -> Path:
        return self.link.folder

    def endpoint(self, number: int) -> str:
        return self.link.places.endpoints[number - 1]

    def run(self, netns: str, *argv: str, check: bool = True) -> str:
        done = subprocess.run(
            ["nsenter", f"--net=/run/netns/{netns}", *argv], capture_output=True, text=True,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout

    def spawn(self, netns: str, *argv: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["nsenter", f"--net=/run/netns/{netns}", *argv],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
        )  # fmt: skip

    @contextmanager
    def asking(
        self, *, backwards: bool = False, every_ms: float = 10, payload: str = ""
    ) -> Iterator[dict[str, float]]:
        """Ask through the link all the while; the answer's figures are filled in at the end."""
        asker, server = self.site_host, self.cloud_host
        address = CLOUD_HOST
        if backwards:
            asker, server, address = server, asker, SITE_HOST
        probe = (sys.executable, "-m", "local.link.probe")
        echo = self.spawn(server, *probe, "serve", str(address), "7007")
        _await_ready(echo)
        ask = self.spawn(
            asker, *probe, "ask", str(address), "7007", "--every", str(every_ms),
            "--payload", payload,
        )  # fmt: skip
        _await_ready(ask)
        figures: dict[str, float] = {}
        try:
            yield figures
        finally:
            ask.send_signal(signal.SIGINT)
            out, err = ask.communicate(timeout=20)
            echo.kill()
            echo.communicate()
            assert out, err
            figures |= json.loads(out)

    def answers(self, *, backwards: bool = False) -> bool:
        """Whether one ping crosses the link now."""
        asker, target = (self.cloud_host, SITE_HOST) if backwards else (self.site_host, CLOUD_HOST)
        done = subprocess.run(
            ["nsenter", f"--net=/run/netns/{asker}", "ping", "-c1", "-W1", str(target)],
            capture_output=True,
        )
        return done.returncode == 0

    # -- faults; each with its way back --

    def cut(self, number: int, *, inbound: bool = True, outbound: bool = True) -> None:
        """The internet to one cloud endpoint loses everything, in the given directions."""
        for chain, device, wanted in (("INPUT", "-i", inbound), ("OUTPUT", "-o", outbound)):
            if wanted:
                self.run(
                    self.endpoint(number), "iptables", "-I", chain, device, "wan", "-j", "DROP"
                )

    def heal(self, number: int) -> None:
        for chain in ("INPUT", "OUTPUT"):
            self.run(self.endpoint(number), "iptables", "-F", chain)

    def kill(self, end: str, daemon: str) -> int:
        """kill -9 of one daemon; its pid."""
        which = self.link.site if end == "site" else self.link.cloud
        pid = self.link.daemons(which)[daemon]["pid"]
        os.kill(pid, signal.SIGKILL)
        return pid

    def restarts(self, end: str, daemon: str) -> int:
        which = self.link.site if end == "site" else self.link.cloud
        return self.link.daemons(which)[daemon]["restarts"]

    def settle(self, seconds: float = 60) -> None:
        """Wait until both tunnels are up and the first one carries both ways."""
        assert wait_for(self.link.settled, seconds), self.link.state()


def _await_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line == "ready\n", (line, process.communicate()[1])


def clear_dead_runs() -> None:
    """Remove the namespaces of runs whose process is gone, and what still runs in them."""
    for name in net.namespaces("lk-"):
        pid, started = name.split("-")[1:3]
        if proc.start_time(int(pid)) == int(started):
            continue
        if net.is_namespace(name):
            for one in proc.run(["ip", "netns", "pids", name]).split():
                identity = proc.Identity.of(int(one))
                if identity is not None:
                    proc.end(identity)
        net.remove_namespace(name)


@contextmanager
def lab(folder: Path, settings: LinkSettings = SETTINGS, *, name: str = "a") -> Iterator[Lab]:
    """A link that is up; everything of it is gone afterwards. `name` tells two at a time apart."""
    clear_dead_runs()
    packages.ensure(print, measuring=True)
    prefix = f"lk-{os.getpid()}-{proc.start_time(os.getpid())}-{name}-"
    site_host, cloud_host = f"{prefix}shop", f"{prefix}rented"
    render(folder, settings, (new_key(), new_key()))
    for name in (site_host, cloud_host):
        net.ensure_namespace(name)
    made = Lab(
        Link(
            folder=folder,
            folders=Folders(folder / "state"),
            places=Places(prefix=prefix),
            site_at=Attachment(
                netns=site_host, port="tolink", bridge=None,
                gateway=IPv4Interface("192.168.10.1/24"), router=SITE_HOST,
                networks=tuple(settings.announced.values()),
            ),
            cloud_at=Attachment(
                netns=cloud_host, port="tolink", bridge=None,
                gateway=IPv4Interface("10.50.0.1/16"), router=CLOUD_HOST,
                networks=tuple(settings.accepted.values()),
            ),
            say=print,
            marker=MARK,
        ),
        settings, site_host, cloud_host,
    )  # fmt: skip
    try:
        made.link.up()
        yield made
    finally:
        made.link.down()
        for name in (site_host, cloud_host):
            net.remove_namespace(name)


def with_timers(keepalive: int, hold: int, *, bfd: bool) -> LinkSettings:
    return replace(SETTINGS, timers=Timers(keepalive=keepalive, hold=hold), bfd=bfd)
