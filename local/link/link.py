"""The link as a whole: up, down, state, and the planned change of a key."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from local import proc
from local.errors import StandError
from local.link import control, ends, network, packages
from local.link.ends import End, Places
from local.link.files import Description
from local.link.network import Attachment
from local.paths import MARKER, PROJECT, Folders, write_private
from local.proc import Part, Record, record_path
from local.supervisor import Supervisor
from local.waiting import wait_for

Say = Callable[[str], None]
UP_IN = 60.0  # seconds from start to routes through both tunnels


@dataclass
class Link:
    """A link between two attachments, made from a rendered folder (see `files`)."""

    folder: Path
    folders: Folders
    places: Places
    site_at: Attachment
    cloud_at: Attachment
    say: Say
    marker: str = MARKER
    described: Description = field(init=False)
    site: End = field(init=False)
    cloud: End = field(init=False)

    def __post_init__(self) -> None:
        self.described, self.site, self.cloud = ends.both(self.folder, self.places)

    # -- life --

    def up(self) -> None:
        """Bring the link to its wanted state; returns when both tunnels carry routes."""
        packages.ensure(self.say)
        network.build(self.places, self.described, self.site_at, self.cloud_at)
        supervisor = Supervisor(self.folders, self.say)
        for end in (self.cloud, self.site):  # the side that is called first
            supervisor.ensure(self._part(end))
        if not wait_for(self.settled, UP_IN):
            raise StandError(f"the link is not up after {UP_IN:.0f} s: {self.state()}")

    def down(self) -> None:
        for end in (self.site, self.cloud):
            record = Record.read(record_path(self.folders, f"link/{end.name}"))
            if record is not None:
                proc.stop(self.folders, record)
        network.detach(self.site_at, self.described.accepted)
        network.detach(self.cloud_at, self.described.announced)
        network.remove(self.places)

    def _part(self, end: End) -> Part:
        path = self.folder / f"{end.name}-end.json"
        end.write(path)
        return Part(
            name=f"link/{end.name}",
            argv=(sys.executable, "-m", "local.link.supervise", str(path)),
            env={"PYTHONPATH": str(PROJECT)},
            files=(
                path, Path(end.router_config), Path(end.rules),
                *(Path(one.config) for one in end.ikes),
            ),
            ready=end.status_file.exists,
            ready_in=60.0,
            marker=self.marker,
        )  # fmt: skip

    # -- state --

    def established(self, number: int) -> bool:
        """Whether tunnel `number` could carry all traffic: SAs, and every route at both ends.

        A BGP session is up before its routes are there: who drains the other tunnel in between
        leaves no way at all.
        """
        tunnel = self.described.tunnel(number)
        return (
            control.established(self.site, self.site.ike(number))
            and self._routes_from(self.site, str(tunnel.cloud)) >= len(self.described.accepted)
            and self._routes_from(self.cloud, str(tunnel.site)) >= len(self.described.announced)
        )

    def _routes_from(self, end: End, peer: str) -> int:
        try:
            return control.bgp_received(end).get(peer, -1)
        except (StandError, ValueError):  # its daemon is restarting
            return -1

    def settled(self) -> bool:
        """Both tunnels are up and both sides use the first one."""
        return all(
            self.established(tunnel.number) for tunnel in self.described.tunnels
        ) and self.carrying() == (1, 1)

    def carrying(self) -> tuple[int | None, int | None]:
        """Tunnel that (site, cloud) sends through; None where there is no route."""

        def used(end: End, networks: tuple[Any, ...]) -> int | None:
            devices = {
                device for net in networks for device in control.routes(end.router_netns, str(net))
            }
            numbers = {
                tunnel.number for tunnel in self.described.tunnels if tunnel.device in devices
            }
            return numbers.pop() if len(numbers) == 1 else None

        return used(self.site, self.described.accepted), used(self.cloud, self.described.announced)

    def daemons(self, end: End) -> dict[str, dict[str, int]]:
        """Daemon -> pid and number of restarts."""
        try:
            return cast(
                "dict[str, dict[str, int]]",
                json.loads(end.status_file.read_text(encoding="utf-8")),
            )
        except FileNotFoundError:
            return {}

    def state(self) -> str:
        """One line for people."""
        tunnels = [
            f"tunnel {one.number} {'up' if self.established(one.number) else 'down'}"
            for one in self.described.tunnels
        ]
        return ", ".join([*tunnels, f"carrying (site, cloud): {self.carrying()}"])

    # -- planned work --

    def drain(self, number: int) -> None:
        """Move all traffic off a tunnel: its routes are withdrawn while it still carries."""
        self._neighbour(number, "shutdown")
        other = 3 - number
        if not wait_for(lambda: self.carrying() == (other, other), 10):
            raise StandError(f"traffic stays on tunnel {number}: {self.state()}")

    def undrain(self, number: int) -> None:
        self._neighbour(number, None)
        if not wait_for(lambda: self.established(number), UP_IN):
            raise StandError(f"tunnel {number} did not come back: {self.state()}")

    def _neighbour(self, number: int, word: str | None) -> None:
        peer = self.described.tunnel(number).cloud
        line = f"neighbor {peer} shutdown"
        control.configure(
            self.site,
            [f"router bgp {self.described.site_asn}", line if word else f"no {line}"],
        )

    def change_key(self, number: int, key: str, site_secret: str) -> None:
        """Give one tunnel a new key while the other one carries the traffic.

        `site_secret` is the rendered text of the tunnel's key file. The peer of a changed key is
        called anew, as AWS restarts a tunnel whose options change.
        """
        if not self.established(3 - number):
            raise StandError(
                f"tunnel {3 - number} is down", "repair it first: the key of the only "
                "tunnel is not changed",
            )  # fmt: skip
        self.drain(number)
        write_private(ends.key_file(self.folder, number), key)
        ends.write_cloud_secret(self.folder, self.described, number)
        write_private(Path(self.site.ike(number).secrets), site_secret)
        for end in (self.cloud, self.site):
            control.load_secrets(end, end.ike(number))
        control.terminate(self.site, self.site.ike(number))
        control.initiate(self.site, self.site.ike(number), seconds=10)
        self.undrain(number)
