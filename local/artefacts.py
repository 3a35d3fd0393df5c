"""The artefact store of a site: an S3 API over a folder, versioned, TLS by the site's authority.

Each site has its own, because the sites reach each other only through the link: the private one
stands for the private object store, the cloud one for the cloud's S3. Keys are made on the first
`up`, lie in files of mode 0600 and are handed to the server in its environment, never in argv.
"""

from __future__ import annotations

import secrets
import string
from dataclasses import dataclass
from pathlib import Path

from local.control_plane import ControlPlane, https_ok
from local.kube import Json
from local.paths import private_dir, write_private
from local.pki import Leaf
from local.proc import Part

REGION = "eu-local-1"
PORT = "artefacts"  # its name among a site's ports and parts
HEALTH = "/healthz"


@dataclass(frozen=True)
class Artefacts:
    plane: ControlPlane

    @property
    def root(self) -> Path:
        return self.plane.root / "artefacts"

    @property
    def access_key_file(self) -> Path:
        return self.root / "access-key"

    @property
    def secret_key_file(self) -> Path:
        return self.root / "secret-key"

    @property
    def endpoint(self) -> str:
        site = self.plane.site
        return f"https://{site.address}:{site.ports[PORT]}"

    def keys(self) -> tuple[str, str]:
        """Access key and secret key; both made anew when either is missing, which the next
        start of the server takes over (they guard the whole store, no object depends on them)."""
        if not (self.access_key_file.exists() and self.secret_key_file.exists()):
            letters = string.ascii_uppercase + string.digits
            access = "".join(secrets.choice(letters) for _ in range(20))
            write_private(self.access_key_file, access)
            write_private(self.secret_key_file, secrets.token_urlsafe(30))
        return (
            self.access_key_file.read_text(encoding="ascii").strip(),
            self.secret_key_file.read_text(encoding="ascii").strip(),
        )

    def part(self) -> Part:
        plane, site = self.plane, self.plane.site
        data, versions = private_dir(self.root / "data"), private_dir(self.root / "versions")
        pair = plane.ca.issue(PORT, Leaf(PORT, hosts=(site.address, "localhost")))
        access, secret = self.keys()
        return Part(
            name=f"{site.name}/{PORT}",
            argv=(
                str(plane.tools.path("versitygw")),
                f"--port={site.address}:{site.ports[PORT]}", f"--region={REGION}",
                f"--cert={pair.cert}", f"--key={pair.key}", f"--health={HEALTH}", "--quiet",
                "posix", f"--versioning-dir={versions}", str(data),
            ),
            version=plane.tools.version("versitygw"),
            address=self.endpoint,
            netns=site.netns,
            env={"ROOT_ACCESS_KEY": access, "ROOT_SECRET_KEY": secret},
            files=(pair.cert,),
            ready=self.answers,
        )  # fmt: skip

    def answers(self) -> bool:
        site = self.plane.site
        return https_ok(site.address, site.ports[PORT], HEALTH, self.plane.ca.cert)

    def described(self) -> Json:
        """What `endpoints.json` says of it: addresses and paths, never a key."""
        return {
            "endpoint": self.endpoint,
            "region": REGION,
            "ca_file": str(self.plane.ca.cert),
            "access_key_file": str(self.access_key_file),
            "secret_key_file": str(self.secret_key_file),
        }
