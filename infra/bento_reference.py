"""What the stack ships: an image by digest, or on a stand a bento of the local store.

Pure: reads a store's own small files, never imports the product. Every fault is one line: the value
found, the rule, what to do.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

PORT = 3000
HOME = "/tmp/bentoml"  # noqa: S108 - the pod's own
ENTRYPOINT = "/home/bentoml/bento/env/docker/entrypoint.sh"  # of `bentoml containerize`
SERVICE = "bento.service:Recommender"
_IMAGE = re.compile(r"^[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+@sha256:[0-9a-f]{64}$")
_TAG = re.compile(r"^[a-z0-9_][a-z0-9_.-]*:[A-Za-z0-9_][A-Za-z0-9_.-]*$")


class BentoReferenceError(ValueError):
    """The reference names nothing that can be shipped; the message is one line."""


@dataclass(frozen=True, kw_only=True)
class Bento:
    """A bento as a pod runs it."""

    reference: str
    """Image with digest, or the local tag with its real version."""
    image: str | None
    """None for a local bento: the stand's own image runs it from `host_paths`."""
    command: tuple[str, ...]
    """Without the interpreter, for a local bento; the image's own words otherwise."""
    host_paths: tuple[str, ...] = ()
    model_dir: str | None = None
    """Where a local bento finds its model; an image carries its own."""

    def words(self, python: str) -> list[str]:
        """The container's command: the image's entry point, or an interpreter of the host."""
        return [ENTRYPOINT, *self.command] if self.image else [python, *self.command]


def find(reference: str, store: Path | None) -> Bento:
    """The bento that `reference` names. Raises `BentoReferenceError`."""
    if "@" in reference or "/" in reference:
        if not _IMAGE.match(reference):
            raise BentoReferenceError(
                f"bento is {reference!r}; an image is named registry/path@sha256:<64 hex digits>"
            )
        serve = ("serve", "--port", str(PORT))
        return Bento(reference=reference, image=reference, command=serve)
    if not _TAG.match(reference):
        raise BentoReferenceError(
            f"bento is {reference!r}; give an image by digest or a local tag, name:version"
        )
    if store is None:
        raise BentoReferenceError(
            f"bento is {reference!r}, a local tag, and this stack has no bento-store; "
            "give an image by digest, registry/path@sha256:..."
        )
    return _local(reference, store)


def _local(reference: str, store: Path) -> Bento:
    name, _, version = reference.partition(":")
    home = store / "bentos" / name
    if version == "latest":
        try:
            version = (home / "latest").read_text(encoding="utf-8").strip()
        except OSError:
            raise BentoReferenceError(
                f"bento is {reference!r}; {store} has no bento of that name: "
                "`python -m bento.ship` makes one"
            ) from None
    place = home / version
    try:
        described = cast(
            "dict[str, Any]", yaml.safe_load((place / "bento.yaml").read_text(encoding="utf-8"))
        )
        tag = str(described["models"][0]["tag"])
    except OSError:
        there = sorted(one.name for one in home.glob("*") if (one / "bento.yaml").exists())
        raise BentoReferenceError(
            f"bento is {reference!r}; {store} has {', '.join(there) or 'none'} of {name}: "
            "correct the version, or `python -m bento.ship` makes a new one"
        ) from None
    except (KeyError, IndexError, TypeError, yaml.YAMLError):
        raise BentoReferenceError(
            f"bento is {reference!r}; {place / 'bento.yaml'} names no model: "
            "bundle it again with `python -m bento.bundle`"
        ) from None
    model = store / "models" / tag.replace(":", "/")
    if not (model / "bundle.json").exists():
        raise BentoReferenceError(
            f"bento is {reference!r}; its model {tag} is not in {store}: "
            "bundle it again with `python -m bento.bundle`"
        )
    return Bento(
        reference=f"{name}:{version}",
        image=None,
        command=("-m", "bentoml", "serve", SERVICE, "--working-dir", str(place / "src"),
                 "--host", "0.0.0.0", "--port", str(PORT)),  # noqa: S104 - the pod's own address
        host_paths=(str(place), str(model)),
        model_dir=str(model),
    )  # fmt: skip
