"""What plain `pulumi` needs to run the `local` stack on this stand."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import re
import shlex
from pathlib import Path

from local.paths import PROJECT, Folders, private_dir, write_private
from local.plugins import install as plugins

SETTINGS = "Pulumi.local.yaml"
SALT = re.compile(r"^encryptionsalt:.*\n?", re.MULTILINE)


def stack_file(home: Path, checkout: Path = PROJECT) -> Path:
    """This machine's copy of the stack's settings, which the engine takes for the checkout's.

    The engine writes a salt into the file that it reads, and `pulumi config set` its values: the
    checkout stays as it was committed. When the checkout's file changes, the copy follows and keeps
    the salt, without which the secrets in the state could not be read.
    """
    folder = private_dir(home / "project")
    text = (checkout / SETTINGS).read_text(encoding="utf-8")
    copy, seen = folder / SETTINGS, folder / "copied.sha256"
    digest = hashlib.sha256(text.encode()).hexdigest()
    if not copy.exists() or not seen.exists() or seen.read_text(encoding="ascii") != digest:
        salt = SALT.search(copy.read_text(encoding="utf-8")) if copy.exists() else None
        write_private(copy, text + (salt.group() if salt else ""))
        write_private(seen, digest)
    # for `pulumi stack init`, which writes beside the project's file whatever it is told
    write_private(folder / "Pulumi.yaml", (checkout / "Pulumi.yaml").read_bytes())
    return copy


# The engine renames a whole new state over the old one, but writes a sidecar of metadata, which it
# has no use for, in place: killed there it leaves an empty one, and can read its state no more.
NO_SIDECARS = "metadata=skip"


def environment(folders: Folders) -> str:
    """What a shell needs for `pulumi up -s local` from the repository root."""
    home = private_dir(folders.pulumi)
    backend = private_dir(home / "state")
    for sidecar in (backend / ".pulumi" / "stacks").rglob("*.attrs"):
        sidecar.unlink(missing_ok=True)
    passphrase = folders.passphrase
    if not passphrase.exists():
        write_private(passphrase, os.urandom(24).hex())
    tools = folders.root / "bin"
    pulumi_home = private_dir(home / "home")
    if (tools / "pulumi").exists():
        # From here the engine takes its plugins without a warning in every command's output.
        plugins.install(pulumi_home, tools / "pulumi")
        places = [pulumi_home / "bin", tools, PROJECT / ".venv" / "bin"]
    else:
        places = [tools, PROJECT / "local" / "plugins" / "bin", PROJECT / ".venv" / "bin"]
    current = [one for one in os.environ.get("PATH", "").split(":") if one not in map(str, places)]
    values = {
        "PATH": ":".join([*map(str, places), *current]),
        "PULUMI_BACKEND_URL": f"file://{backend}?{NO_SIDECARS}",
        "PULUMI_HOME": str(pulumi_home),
        "PULUMI_CONFIG_PASSPHRASE_FILE": str(passphrase),
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        # every step writes the whole state: no copy of the last one beside it (a whole file takes
        # its place or none does), and less time for the engine's garbage
        "PULUMI_DIY_BACKEND_DISABLE_CHECKPOINT_BACKUPS": "true",
        "GOGC": os.environ.get("GOGC", "400"),
        # most of a step's time on two cores is waiting for pods
        "PULUMI_PARALLEL": os.environ.get("PULUMI_PARALLEL", "16"),
        # the file of this stand, whatever `Pulumi.local.yaml` says: STAND_STATE moves it
        "HYBRID_RECOMMENDER_ENDPOINTS": str(folders.endpoints),
        "PULUMI_OPTION_CONFIG_FILE": str(stack_file(home)),
    }
    if "USER" not in os.environ and not _has_account():
        values["USER"] = f"uid-{os.geteuid()}"  # the engine, built without cgo, asks for a name
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in values.items())


def untouched(folders: Folders) -> bool:
    """Whether this stand's stack holds nothing yet: there is nothing that a preview could spare."""
    for state in (folders.pulumi / "state" / ".pulumi" / "stacks").rglob("local.json"):
        try:
            held = json.loads(state.read_text(encoding="utf-8"))["checkpoint"]["latest"] or {}
            if held.get("resources") or held.get("pending_operations"):
                return False
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False
    return True


def killed(folders: Folders) -> bool:
    """Whether an update of this stand's stack was killed: its lock is there, its engine is not."""
    for lock in (folders.pulumi / "state" / ".pulumi" / "locks").rglob("*.json"):
        try:
            holder = json.loads(lock.read_text(encoding="utf-8"))
            program = Path(f"/proc/{int(holder['pid'])}/comm").read_text(encoding="utf-8").strip()
        except (FileNotFoundError, ProcessLookupError):
            return lock.exists()  # it may have ended just now
        except (ValueError, KeyError, TypeError):
            return True  # killed while it wrote the lock
        if program != "pulumi":
            return True  # the number is another's by now
    return False


def _has_account() -> bool:
    """Whether this user is in the machine's list; in a container it often is a bare number."""
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return True
