"""The bento that the local stack ships: `python -m bento.ship`.

Trains the synthetic tiny model, or one on the data of `--data`, unless it is cached, and bundles it
with this checkout's code unless the newest bento in the store holds exactly that. Prints the tag. A
model that is worse than the one of the same place before is refused. Exit codes: 0 done, 1 refused
or failed, 2 wrong arguments. The store is `$BENTOML_HOME`, else
`bentoml` in the project's cache folder: `bento-store` in `Pulumi.local.yaml`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from bento import models, tiny, trained
from bento.models import BundleError
from bento.settings import cache_root

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = "shipped.json"  # in the store: what the newest bento was made of
PACKAGES = ("bento", "model")


def store_folder() -> Path:
    """Where BentoML keeps what this module makes."""
    given = os.environ.get("BENTOML_HOME")
    return Path(given) if given else cache_root(os.environ) / "bentoml"


def fingerprint(model: Path, root: Path = ROOT) -> str:
    """SHA-256 over the code and the recipe, by name, and the model's own digest."""
    whole = hashlib.sha256(models.read_bundle(model).digest.encode())
    sources = [path for package in PACKAGES for path in (root / package).rglob("*")]
    for path in sorted([*sources, root / "bentofile.yaml"]):
        skipped = "__pycache__" in path.parts or path == models.LOCK
        if path.is_file() and not skipped:
            name = path.relative_to(root).as_posix()
            whole.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def shipped(store: Path, wanted: str) -> str | None:
    """The tag that was made of `wanted`, if it is still the newest one in the store."""
    try:
        known = cast("dict[str, Any]", json.loads((store / SHIPPED).read_text(encoding="utf-8")))
        name, _, version = str(known["bento"]).partition(":")
        latest = (store / "bentos" / name / "latest").read_text(encoding="utf-8").strip()
    except (OSError, ValueError, KeyError):
        return None
    there = (store / "bentos" / name / version / "bento.yaml").exists()
    return str(known["bento"]) if known["of"] == wanted and latest == version and there else None


def bundle(model: Path, store: Path) -> str:
    """Put the bundled model into the store and build the bento that is locked to it; its tag."""
    os.environ["BENTOML_HOME"] = str(store)  # read when bentoml is imported
    # bentoml wants a uv on PATH, and installs one into this environment if there is none
    own = [path.parent for path in cache_root(os.environ).glob("uv-*/bin/uv")]
    os.environ["PATH"] = ":".join([os.environ["PATH"], *(str(folder) for folder in own)])
    from bento import bundle as steps

    made = models.read_bundle(model)
    name = steps.tag_of(made.version)
    known, _, version = name.partition(":")
    if not (store / "models" / known / version / models.BUNDLE).exists():
        steps.store(model, made)
    tag = steps.build(name, made)
    # pods read both from this very place, and do not run as the user who made them
    for folder in (
        store / "models" / name.replace(":", "/"),
        store / "bentos" / tag.replace(":", "/"),
    ):
        for path in (folder, *folder.rglob("*")):
            path.chmod(path.stat().st_mode | (0o055 if path.is_dir() else 0o044))
    return tag


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m bento.ship",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--data", type=Path, metavar="PATH",
        help="sequences to learn from: a file, or a folder that also holds items (docs/data.md)",
    )  # fmt: skip
    parser.add_argument("--size", default="base", help="of the model of --data (base)")
    given = parser.parse_args(argv)
    store = store_folder()
    if given.data:
        try:
            model = trained.from_place(given.data, given.size, cache_root(os.environ))
        except BundleError as error:
            print(f"ship: {error}", file=sys.stderr)
            return 1
    else:
        model = models.default_folder()
        indexed = (model / models.RANKER / "search").is_dir()  # a cache of long ago has none
        if models.signature(model) is None or not indexed:
            tiny.build(model)
    wanted = fingerprint(model)
    tag = shipped(store, wanted)
    if tag is None:
        print("bundling the model …", file=sys.stderr, flush=True)
        store.mkdir(parents=True, exist_ok=True)
        tag = bundle(model, store)
        fresh = store / f".{SHIPPED}.{os.getpid()}"
        fresh.write_text(json.dumps({"of": wanted, "bento": tag}), encoding="utf-8")
        fresh.replace(store / SHIPPED)
    print(tag)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
