"""Official releases: fetched only when their host answers at once, kept only with the right sum."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from local.errors import StandError
from local.tools.table import Release

PATIENCE = 4.0  # seconds for a host to answer; a closed network must not cost minutes


class WrongSumError(StandError):
    """What was downloaded is not what the table pins. The file is gone already."""


class UnreachableError(StandError):
    """The host did not answer in time, or has no such file."""


_silent: set[str] = set()  # hosts that did not answer in this run: asked once
_lock = threading.Lock()


def fetch(release: Release, into: Path, say: Callable[[str], None]) -> None:
    """Put the programs of a release into the folder `into`.

    Raises `UnreachableError` or `WrongSumError`; in both cases nothing is left behind.
    """
    host = urlsplit(release.url).netloc
    with _lock:
        if host in _silent:
            raise UnreachableError(f"{host} did not answer before")
    archive = into / ".download"
    mixed = hashlib.sha256()
    try:
        with (
            urllib.request.urlopen(release.url, timeout=PATIENCE) as answer,  # noqa: S310 - our own table
            archive.open("wb") as f,
        ):
            while block := answer.read(1 << 20):
                mixed.update(block)
                f.write(block)
    except (urllib.error.URLError, OSError) as error:
        archive.unlink(missing_ok=True)
        if not isinstance(error, urllib.error.HTTPError):
            with _lock:
                _silent.add(host)
        raise UnreachableError(f"{release.url}: {getattr(error, 'reason', error)}") from error
    if mixed.hexdigest() != release.sha256:
        archive.unlink()
        raise WrongSumError(
            f"{release.url} has sha256 {mixed.hexdigest()}, the table pins {release.sha256}; "
            "the file was removed"
        )
    say(f"{release.url} verified")
    try:
        for program, member in release.members.items():
            _extract(archive, member, into / program)
    finally:
        archive.unlink(missing_ok=True)


def _extract(archive: Path, member: str, target: Path) -> None:
    if not member:
        shutil.copyfile(archive, target)
    elif zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed, target.open("wb") as file:
            file.write(packed.read(member))
    else:
        with tarfile.open(archive) as packed:
            source = packed.extractfile(member)
            if source is None:
                raise StandError(f"{member} in the archive is not a file")
            with source, target.open("wb") as file:
                shutil.copyfileobj(source, file)
    target.chmod(0o755)
