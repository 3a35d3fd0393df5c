"""Where the stand keeps things: one state folder, one cache folder, one owner folder."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
MARKER = "HYBRID_RECOMMENDER_STAND"  # in the environment of every process that a stand starts


def _home(variable: str, default: str) -> Path:
    value = os.environ.get(variable, "")
    # the XDG specification: a relative value must be ignored
    return Path(value) if value.startswith("/") else Path.home() / default


def cache() -> Path:
    """Downloaded and built tools; shared by every clone of one user."""
    return _home("XDG_CACHE_HOME", ".cache") / "hybrid-recommender"


def state() -> Path:
    """Everything a stand writes, in one folder. `STAND_STATE` names another one."""
    own = os.environ.get("STAND_STATE")
    if own:
        return Path(own).expanduser().resolve()
    return (_home("XDG_STATE_HOME", ".local/state") / "hybrid-recommender" / "stand").resolve()


def owner_file() -> Path:
    """The record of the one stand that this user may run on this machine, whatever its state."""
    if os.geteuid() == 0:
        return Path("/run/hybrid-recommender/stand.json")
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/hybrid-recommender-{os.geteuid()}"  # noqa: S108
    return Path(runtime) / "hybrid-recommender" / "stand.json"


@dataclass(frozen=True)
class Folders:
    """The inside of a state folder."""

    root: Path

    @property
    def endpoints(self) -> Path:
        return self.root / "endpoints.json"

    @property
    def layout(self) -> Path:
        return self.root / "layout.json"

    @property
    def parts(self) -> Path:
        """One JSON per running part: pid, start time, command."""
        return self.root / "parts"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def pulumi(self) -> Path:
        return self.root / "pulumi"

    @property
    def passphrase(self) -> Path:
        """Encrypts the secrets in the engine's state. It lies beside the stand's folder and
        outlives `down --purge`: a state that was exported before can still be read.
        """
        return self.root.parent / "passphrase"

    @property
    def vault(self) -> Path:
        return self.root / "vault"

    @property
    def images(self) -> Path:
        return self.root / "images"

    def site(self, name: str) -> Path:
        return self.root / "sites" / name

    def node(self, name: str) -> Path:
        return self.root / "nodes" / name


def private_dir(path: Path) -> Path:
    """Make a folder that only this user can enter."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


def write_private(path: Path, text: str | bytes) -> None:
    """Replace a file in one step, mode 0600 from its first byte on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # two threads may write the same file: parts are started and looked at side by side
    new = path.with_name(f".{path.name}.{threading.get_native_id()}.new")
    data = text.encode() if isinstance(text, str) else text
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    new.replace(path)
