"""Lay out a PULUMI_HOME as the official installer does, with stand-ins for what is missing.

`<home>/bin` gets the engine and, beside it, the language host and the host of dynamic providers;
`<home>/plugins/resource-<name>-v<version>` gets provider plugins. The engine takes plugins from
these two places silently and in the right version; a plugin that it merely finds on PATH costs a
warning in every command's output. Official plugins that are already there are left alone.

    python -m local.plugins.install --home DIR --engine PATH
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shutil
from pathlib import Path

BIN = Path(__file__).resolve().parent / "bin"
BESIDE_THE_ENGINE = ("pulumi-language-python", "pulumi-resource-pulumi-python")
PROVIDERS = {"kubernetes": "pulumi-kubernetes"}  # plugin -> distribution that fixes its version


def install(home: Path, engine: Path) -> list[str]:
    """Make or renew the layout; returns the names of the stand-ins in use.

    `engine` is the `pulumi` executable. Idempotent, and safe beside another caller: every entry
    appears by one rename. Raises FileNotFoundError when the engine is missing.
    """
    engine = engine.resolve(strict=True)
    folder = home / "bin"
    folder.mkdir(parents=True, exist_ok=True)
    _same_file(engine, folder / "pulumi")
    used: list[str] = []
    for name in BESIDE_THE_ENGINE:
        official = engine.parent / name
        ours = not official.exists() or official.resolve().parent == BIN
        _link(BIN / name if ours else official, folder / name)
        used += [name] if ours else []
    for plugin, distribution in PROVIDERS.items():
        name = f"pulumi-resource-{plugin}"
        version = importlib.metadata.version(distribution)
        place = home / "plugins" / f"resource-{plugin}-v{version}" / name
        if place.exists() and not place.is_symlink():
            continue  # the official one
        place.parent.mkdir(parents=True, exist_ok=True)
        _link(BIN / name, place)
        used.append(name)
    return used


def _same_file(source: Path, target: Path) -> None:
    """A hard link, because the engine looks for its neighbours where its own file really lies."""
    if target.exists() and target.samefile(source):
        return
    new = target.with_name(f"{target.name}.{os.getpid()}")
    new.unlink(missing_ok=True)
    try:
        os.link(source, new)
    except OSError:  # another file system
        shutil.copy2(source, new)
    new.replace(target)


def _link(source: Path, target: Path) -> None:
    if target.is_symlink() and target.readlink() == source:
        return
    new = target.with_name(f"{target.name}.{os.getpid()}")
    new.unlink(missing_ok=True)
    new.symlink_to(source)
    new.replace(target)


def main() -> None:
    parser = argparse.ArgumentParser(description="Lay out a PULUMI_HOME with stand-in plugins.")
    parser.add_argument("--home", type=Path, required=True, help="the PULUMI_HOME to fill")
    parser.add_argument("--engine", type=Path, required=True, help="the pulumi executable")
    arguments = parser.parse_args()
    used = install(arguments.home.expanduser().absolute(), arguments.engine)
    print(f"stand-ins: {', '.join(used) or 'none'}; engine: {arguments.home / 'bin' / 'pulumi'}")


if __name__ == "__main__":
    main()
