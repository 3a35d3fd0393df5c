"""Official releases: fetched only when their host answers at once, kept only with the right sum.

What a broken connection or a killed run leaves is kept under its sum and continued by the next run.
"""

from __future__ import annotations

import hashlib
import http.client
import shutil
import tarfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from local.errors import StandError
from local.paths import cache
from local.tools.table import Release

PATIENCE = 4.0  # seconds for a host to answer; a closed network must not cost minutes
HEARTBEAT = 10.0  # seconds between two progress lines of one download
NOT_SATISFIABLE = 416  # nothing is left to send: the part is the whole file, or more


class WrongSumError(StandError):
    """What was downloaded is not what the table pins. The file is gone already."""


class UnreachableError(StandError):
    """The host did not answer in time, or has no such file."""


_silent: set[str] = set()  # hosts that did not answer in this run: asked once
_lock = threading.Lock()


def part(release: Release) -> Path:
    """Where a download grows; its name is the sum that it must come to."""
    return cache() / "downloads" / release.sha256


def fetch(release: Release, into: Path, say: Callable[[str], None]) -> None:
    """Put the programs of a release into the folder `into`.

    Raises `UnreachableError` (what had come is kept for the next run) or `WrongSumError` (it is
    removed); in both cases nothing is left in `into`.
    """
    host = urlsplit(release.url).netloc
    with _lock:
        if host in _silent:
            raise UnreachableError(f"{host} did not answer before")
    archive = part(release)
    archive.parent.mkdir(parents=True, exist_ok=True)
    try:
        _continue(release.url, archive, say)
    except (OSError, http.client.HTTPException) as error:
        if not isinstance(error, urllib.error.HTTPError):
            with _lock:
                _silent.add(host)
        raise UnreachableError(f"{release.url}: {getattr(error, 'reason', error)}") from error
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != release.sha256:
        archive.unlink()
        raise WrongSumError(
            f"{release.url} has sha256 {found}, the table pins {release.sha256}; "
            "the file was removed"
        )
    say(f"{release.url} verified")
    try:
        for program, member in release.members.items():
            _extract(archive, member, into / program)
    except KeyError as error:
        raise UnreachableError(f"{release.url} holds no {error.args[0]}") from error
    finally:
        archive.unlink(missing_ok=True)


def _continue(url: str, archive: Path, say: Callable[[str], None]) -> None:
    """Download what is missing of a file. Raises `OSError` or `HTTPException` when that breaks."""
    have = archive.stat().st_size if archive.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310
    try:
        answer = urllib.request.urlopen(request, timeout=PATIENCE)  # noqa: S310 - our own table
    except urllib.error.HTTPError as error:
        if error.code == NOT_SATISFIABLE and have:
            return
        raise
    spoken = time.monotonic()
    goes_on = answer.status == http.HTTPStatus.PARTIAL_CONTENT
    with answer, archive.open("ab" if goes_on else "wb") as f:
        if f.tell():
            say(f"{url}: going on after {have / 2**20:.0f} MiB")
        whole = f.tell() + (answer.length or 0)
        while block := answer.read(1 << 20):
            f.write(block)
            if time.monotonic() - spoken > HEARTBEAT:
                spoken = time.monotonic()
                say(f"{url}: {f.tell() / 2**20:.0f} of {whole / 2**20:.0f} MiB")
        if f.tell() < whole:
            raise http.client.IncompleteRead(b"", whole - f.tell())


def _extract(archive: Path, member: str, target: Path) -> None:
    if not member:
        shutil.copyfile(archive, target)
    elif zipfile.is_zipfile(archive):
        with (
            zipfile.ZipFile(archive) as packed,
            packed.open(member) as source,
            target.open("wb") as file,
        ):
            shutil.copyfileobj(source, file)
    else:
        with tarfile.open(archive) as packed:
            source = packed.extractfile(member)
            if source is None:
                raise KeyError(member)
            with source, target.open("wb") as file:
                shutil.copyfileobj(source, file)
    target.chmod(0o755)
