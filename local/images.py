"""Images without a registry: small docker archives, written here and imported on each node."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
from pathlib import Path

from local.errors import StandError
from local.paths import PROJECT, cache, write_private

BASE = "registry.local/base:1"
PAUSE = "registry.local/pause:1"
USER = 1000  # uid and gid that pods of the base image are meant to run as
_ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}


def _environment() -> Path:
    """The project's virtual environment, else the one that runs this."""
    venv = PROJECT / ".venv"
    return venv if venv.exists() else Path(sys.prefix)


def interpreter() -> Path:
    """The Python with the project's packages, as pods see it."""
    return _environment() / "bin" / "python"


def host_paths() -> list[Path]:
    """What a pod of the base image mounts from the host, read-only and at the same path."""
    venv = _environment()
    interpreter = Path(sys.base_prefix)
    wanted = [
        Path("/usr"), interpreter, interpreter.resolve(), venv, PROJECT, cache() / "tools",
    ]  # fmt: skip
    kept: list[Path] = []
    for path in wanted:
        if not any(path.is_relative_to(other) for other in wanted if other != path):
            kept += [path] if path not in kept else []
    return kept


def unreadable() -> list[Path]:
    """Of `host_paths`, those that a pod's own user could not enter."""
    return [
        path for path in host_paths() if path.exists() and (path.stat().st_mode & 0o005) != 0o005
    ]


def _folder(name: str, mode: int = 0o755) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, mode
    return info


def _link(name: str, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


def _base_layer() -> bytes:
    """Links into /usr, the usual empty folders, and the parents of the mount points.

    The parents are made here with mode 0755: on the host one of them may be a home folder that
    only its owner can enter, and a pod does not run as its owner.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for name in ("bin", "sbin", "lib", "lib64"):
            if Path("/", name).exists():
                layer.addfile(_link(name, f"usr/{name}"))
        made: set[Path] = set()
        for name in ("etc", "proc", "sys", "dev", "var", "run", "srv", "root"):
            layer.addfile(_folder(name))
            made.add(Path(name))
        for name in ("tmp", "var/tmp"):
            layer.addfile(_folder(name, 0o1777))
            made.add(Path(name))
        for path in host_paths():
            inner = path.relative_to("/")
            for folder in (*reversed(inner.parents), inner):
                if folder != Path() and folder not in made:
                    layer.addfile(_folder(str(folder)))
                    made.add(folder)
        texts = {
            "etc/passwd": f"root:x:0:0::/root:/bin/sh\napp:x:{USER}:{USER}::/tmp:/bin/sh\n",
            "etc/group": f"root:x:0:\napp:x:{USER}:\n",
            "etc/nsswitch.conf": "hosts: files dns\n",
        }
        files = {name: text.encode() for name, text in texts.items()}
        # libraries outside the loader's built-in folders are found through its cache
        loader = Path("/etc/ld.so.cache")
        if loader.exists():
            files["etc/ld.so.cache"] = loader.read_bytes()
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            layer.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _pause_layer(program: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        data = program.read_bytes()
        info = tarfile.TarInfo("pause")
        info.size, info.mode = len(data), 0o755
        layer.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _archive(name: str, layer: bytes, config: dict[str, object]) -> bytes:
    """A docker archive of one layer; the same input gives the same bytes."""
    digest = hashlib.sha256(layer).hexdigest()
    machine = os.uname().machine
    described = json.dumps(
        {
            "architecture": _ARCHITECTURE.get(machine, machine),
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        },
        sort_keys=True,
    ).encode()
    file = hashlib.sha256(described).hexdigest() + ".json"
    manifest = json.dumps([{"Config": file, "RepoTags": [name], "Layers": ["layer.tar"]}])
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for member, data in (
            (file, described), ("layer.tar", layer), ("manifest.json", manifest.encode()),
        ):  # fmt: skip
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def write(folder: Path, pause: Path) -> list[Path]:
    """Write both images; the archives. A file that would not change is left alone."""
    closed = unreadable()
    if closed:
        raise StandError(
            f"{closed[0]} is closed to other users, so pods cannot read it",
            f"chmod o+rx {closed[0]}",
        )
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {
        "base.tar": _archive(
            BASE, _base_layer(), {"User": f"{USER}:{USER}", "Env": ["PATH=/usr/bin:/bin"]}
        ),
        "pause.tar": _archive(PAUSE, _pause_layer(pause), {"Entrypoint": ["/pause"]}),
    }
    for name, data in wanted.items():
        path = folder / name
        if not path.exists() or path.read_bytes() != data:
            write_private(path, data)
    for other in folder.iterdir():
        if other.name not in wanted:
            if other.is_dir():
                shutil.rmtree(other)
            else:
                other.unlink()
    return [folder / name for name in wanted]
