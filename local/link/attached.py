"""The link of the stand: between its two sites, from what the program handed over.

The program writes the private gateway's files into `link/site` of the state folder and runs
`stand link up`. Both ends' keys are fetched from Vault by the paths that its templates name, as
Vault's own agent would on a gateway. A new key in Vault reaches one tunnel at a time, drained.
"""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any, Literal

from local.errors import StandError
from local.layout import PREFIX, Layout, SiteLayout
from local.link import ends
from local.link.ends import End, Places
from local.link.files import read
from local.link.link import Link
from local.link.network import Attachment
from local.paths import PROJECT, Folders, write_private
from local.proc import Record, record_path
from local.supervisor import Say
from local.vault import Vault

GATEWAY = IPv4Address("203.0.113.2")  # addresses of documentation: nobody's internet
OUTSIDE = (IPv4Address("203.0.113.11"), IPv4Address("203.0.113.12"))
INSIDE = (IPv4Network("169.254.10.0/30"), IPv4Network("169.254.20.0/30"))
PORT = "tolink"  # our wire in a site's namespace
TEMPLATE = re.compile(
    r'\{\{ with secret "(?P<path>[^"]+)" \}\}\{\{ \.Data\.data\.(?P<field>\w+) \}\}\{\{ end \}\}'
)
EndName = Literal["site", "cloud"]
PARTS = ("link/site", "link/cloud")


@dataclass(frozen=True)
class StandLink:
    folders: Folders
    where: Layout
    say: Say

    @property
    def root(self) -> Path:
        return self.folders.root / "link"

    @property
    def handed_over(self) -> bool:
        """Whether the program has described a link, which `up` then keeps alive."""
        return (self.root / "site" / "link.json").exists()

    # -- life --

    def up(self) -> None:
        """Bring the link to what was handed over, with the keys that Vault holds now."""
        if not self.where.rooted:
            raise StandError("a link needs namespaces, and this stand was made without root")
        if not self.handed_over:
            raise StandError(f"no link described in {self.root}", "`pulumi up` writes it there")
        texts = self._fetch()
        keep = self._alive() and self._has_keys()
        if not keep:
            for number, (key, text) in texts.items():
                self._store(number, key, text)
        made = self.made()
        made.up()
        for number, (key, text) in texts.items():
            if ends.key_file(self.root, number).read_text(encoding="utf-8").strip() != key:
                self.say(f"tunnel {number}: a new key in Vault, changing it")
                made.change_key(number, key, text)

    def repair(self) -> None:
        """Bring it back as it last was, without asking Vault for keys that are here."""
        if self._has_keys():
            self.made().up()
        else:
            self.up()

    def down(self) -> None:
        if self._has_keys() and self.handed_over:
            self.made().down()
        for folder in ("run", "cloud"):
            shutil.rmtree(self.root / folder, ignore_errors=True)
        for secret in self.root.glob("site/*/secrets.conf"):
            secret.unlink()

    def made(self) -> Link:
        sites = self.where.sites
        described = read(self.root)
        return Link(
            folder=self.root,
            folders=self.folders,
            places=Places(prefix=PREFIX),
            site_at=_attachment(sites["private"], described.announced),
            cloud_at=_attachment(sites["cloud"], described.accepted),
            say=self.say,
        )

    def is_up(self) -> bool:
        """Whether at least one tunnel could carry everything."""
        if not (self.handed_over and self._has_keys() and self._alive()):
            return False
        made = self.made()
        return any(made.established(tunnel.number) for tunnel in made.described.tunnels)

    def state(self, part: str) -> tuple[bool, str]:
        """Whether one end's daemons and tunnels are well, and a note for people."""
        made = self.made()
        end: End = made.site if part == "link/site" else made.cloud
        daemons = made.daemons(end)
        restarts = sum(one["restarts"] for one in daemons.values())
        note = f"{len(daemons)} daemons, {restarts} restarts"
        if end is made.cloud:
            return bool(daemons), note
        up = [one.number for one in made.described.tunnels if made.established(one.number)]
        return len(up) == 2, f"{note}; tunnels up: {', '.join(map(str, up)) or 'none'}"

    def _alive(self) -> bool:
        found = [Record.read(record_path(self.folders, part)) for part in PARTS]
        return all(one is not None and one.identity.alive() for one in found)

    # -- keys --

    def _has_keys(self) -> bool:
        site = (self.root / "site" / f"tunnel{number}" / "secrets.conf" for number in (1, 2))
        both = (ends.key_file(self.root, number) for number in (1, 2))
        return all(path.exists() for path in (*site, *both))

    def _fetch(self) -> dict[int, tuple[str, str]]:
        """Tunnel -> key, and its filled-in file."""
        vault = Vault(self.folders, self.where)
        token = vault.token_file.read_text(encoding="ascii").strip()
        found: dict[int, tuple[str, str]] = {}
        for number in (1, 2):
            template = self._secret(number).with_name("secrets.conf.ctmpl")
            text = template.read_text(encoding="utf-8")
            asked = TEMPLATE.search(text)
            if asked is None:
                raise StandError(f"{template} names no secret", "`pulumi up` writes it anew")
            answer: dict[str, Any] = vault.call("GET", asked["path"], token=token)
            key = str(answer["data"]["data"][asked["field"]])
            found[number] = key, text.replace(asked[0], key)
        return found

    def _secret(self, number: int) -> Path:
        return self.root / "site" / f"tunnel{number}" / "secrets.conf"

    def _store(self, number: int, key: str, text: str) -> None:
        write_private(ends.key_file(self.root, number), key)
        write_private(self._secret(number), text)

    # -- for the program --

    def described(self) -> dict[str, Any]:
        """What `endpoints.json` says: where the gateway is and how to hand things to it."""
        python = Path(sys.prefix) / "bin" / "python"
        command = [
            "env", f"STAND_STATE={self.folders.root}", f"PYTHONPATH={PROJECT}",
            str(python), "-m", "local", "link",
        ]  # fmt: skip
        return {
            "address": str(GATEWAY),
            "outside": [str(one) for one in OUTSIDE],
            "inside": [str(one) for one in INSIDE],
            "folder": str(self.root / "site"),
            "apply": [*command, "up"],
            "remove": [*command, "down"],
        }


def _attachment(site: SiteLayout, ranges: tuple[IPv4Network, ...]) -> Attachment:
    """Gateway `.2` of the site, on its bridge."""
    if site.netns is None:
        raise StandError(f"site {site.name} has no namespace")
    return Attachment(
        netns=site.netns,
        port=PORT,
        bridge="br0",
        gateway=IPv4Interface(f"{site.node_cidr[2]}/24"),
        router=site.router,
        networks=ranges,
    )
