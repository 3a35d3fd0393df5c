"""What comes from Debian: installed as root, or unpacked in the cache where that is enough."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from local.errors import StandError
from local.paths import cache
from local.tools.table import PACKAGES, Package, at_least, parse_version

LOCK_TIMEOUT = 300  # seconds to wait for another apt


def unpacked(package: Package, program: str) -> Path | None:
    """A program that an earlier run unpacked in the cache."""
    for place in ("usr/bin", "usr/sbin"):
        path = cache() / "tools" / f"debian-{package.name}" / place / program
        if path.exists():
            return path
    return None


def library_path(program: Path) -> str:
    """Where the libraries lie that were unpacked beside a program; empty for an installed one."""
    root = next((one for one in program.parents if one.name.startswith("debian-")), None)
    if root is None:
        return ""
    return ":".join(str(one) for one in sorted(root.glob("usr/lib/*-linux-gnu")))


def find(package: Package, program: str) -> Path | None:
    """Where a package's program is on this machine; None when it is missing or too old."""
    if program.startswith("/"):
        return Path(program) if Path(program).exists() else None
    # the admin folders are not on the PATH of every user
    path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        return unpacked(package, program)
    if package.least:
        asked = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
        version = parse_version(asked.stdout + asked.stderr)
        if version is None or not at_least(version, package.least):
            return unpacked(package, program)
    own = Path(path).resolve()
    # a stand's own folder of links may be on PATH: the link must not come to name itself
    return own if own.is_relative_to(cache().resolve()) else Path(path)


def missing(*, rooted: bool, packages: Sequence[Package] = PACKAGES) -> list[Package]:
    return [
        package
        for package in packages
        if (rooted or not package.needs_root)
        and any(find(package, program) is None for program in package.programs)
    ]


def ensure(
    *, rooted: bool, say: Callable[[str], None], packages: Sequence[Package] = PACKAGES
) -> None:
    """Bring what is missing. Raises `StandError` naming the packages and the command."""
    lacking = missing(rooted=rooted, packages=packages)
    if not lacking:
        return
    if not shutil.which("apt-get"):
        names = ", ".join(f"{one.name} ({', '.join(one.programs)})" for one in lacking)
        raise StandError(f"no apt-get here and these are missing: {names}", "install them")
    for package in (one for one in lacking if one.unpack):
        say(f"unpacking the Debian package {package.name}")
        _with_update(lambda package=package: _unpack(package), say)
    names = [one.name for one in lacking if not one.unpack]
    if names:
        if os.geteuid() != 0:
            raise StandError(
                f"missing: {' '.join(names)}", f"as root: apt-get install {' '.join(names)}"
            )
        say(f"installing the Debian packages {', '.join(names)}")
        _with_update(lambda: _apt("install", "-y", "--no-install-recommends", *names), say)
    still = missing(rooted=rooted, packages=packages)
    if still:
        raise StandError(
            "installed, yet not found: " + ", ".join(one.name for one in still),
            "see which version your Debian release has: " + still[0].why,
        )


def _with_update(step: Callable[[], None], say: Callable[[str], None]) -> None:
    """A fresh machine has no package lists: when a step fails, update them and try once more."""
    try:
        step()
    except StandError:
        if os.geteuid() != 0:
            raise
        say("updating the package lists")
        _apt("update")
        step()


def _apt(*words: str) -> None:
    done = subprocess.run(
        ["apt-get", "-q", "-o", f"DPkg::Lock::Timeout={LOCK_TIMEOUT}", *words],
        capture_output=True, text=True, check=False,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
    )  # fmt: skip
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith("E:")]
        raise StandError(f"apt-get {words[0]} failed: {' '.join(lines) or done.stderr[-300:]}")


def _unpack(package: Package) -> None:
    target = cache() / "tools" / f"debian-{package.name}"
    fresh = target.with_name(f"{target.name}.new.{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        done = subprocess.run(
            ["apt-get", "-q", "download", package.name, *package.libraries], cwd=fresh,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        archives = sorted(fresh.glob("*.deb"))
        if done.returncode != 0 or not archives:
            raise StandError(
                f"apt-get download {package.name} failed: {done.stderr.strip()[-300:]}",
                "as root: apt-get update",
            )
        for archive in archives:
            subprocess.run(["dpkg-deb", "-x", archive, fresh], check=True, capture_output=True)
            archive.unlink()
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
