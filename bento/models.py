"""Which model this process serves, and whether it may.

A *bundle* is a folder made by `python -m bento.bundle`: `ranker/` and perhaps `small/` (model
folders as training writes them) and `bundle.json`, which pins both. A *lock* (`model.lock.json`
beside this file, put there at bundling) is what a bento was built for.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bento.lanes import Served
from bento.ports import PredictorLike
from bento.settings import ServiceSettings, cache_root
from bento.shelf import Shelf

# Raised when the service needs something else from a bundle; a bento takes its own number only.
CONTRACT = 1
BUNDLE = "bundle.json"
MANIFEST = "manifest.json"
LOCK = Path(__file__).with_name("model.lock.json")
RANKER, SMALL = "ranker", "small"


class BundleError(ValueError):
    """This model may not be served here; the message says what was found and what to do."""


class Gate(BaseModel):
    """The quality comparison made when the bundle was built."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str
    value: float
    baseline_version: str | None = Field(description="The version it was compared with.")
    baseline_value: float | None
    margin: float = Field(ge=0, description="Share of the baseline that may be lost.")
    passed: bool


class Bundle(BaseModel):
    """What `bundle.json` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    contract: int
    version: str
    data_fingerprint: str
    digest: str = Field(description="SHA-256 over the name and hash of every file of the bundle.")
    metrics: dict[str, float]
    gate: Gate


class Lock(BaseModel):
    """What a bento was built for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    contract: int
    model: str = Field(description="BentoML model tag.")
    version: str
    digest: str
    bento_for: Literal["hybrid-recommender"] = "hybrid-recommender"


def digest_of(folder: Path) -> str:
    """SHA-256 over every file but `bundle.json`, by name; equal folders give equal digests."""
    whole = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if name in (BUNDLE, "model.yaml"):  # the second is BentoML's own record in its store
            continue
        with path.open("rb") as file:
            whole.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()


def read_bundle(folder: Path) -> Bundle:
    """The bundle's record; BundleError if it is missing or malformed."""
    try:
        return Bundle.model_validate_json((folder / BUNDLE).read_bytes())
    except FileNotFoundError:
        raise BundleError(
            f"{folder} has no {BUNDLE}; make a bundle of it with `python -m bento.bundle`"
        ) from None
    except ValidationError as error:
        raise BundleError(f"{folder / BUNDLE} is malformed: {error.errors()[0]['msg']}") from None


def check(folder: Path, bundle: Bundle, lock: Lock | None) -> None:
    """Refuse a bundle that is damaged, of another contract, or not what the bento was built for.

    With a lock, the built-in version must match it exactly; another version is taken only if it
    passed the quality gate when it was bundled.
    """
    if bundle.contract != CONTRACT:
        raise BundleError(
            f"bundle {bundle.version} is for service contract {bundle.contract}, this service has "
            f"{CONTRACT}; bundle the checkpoint again with this release"
        )
    found = digest_of(folder)
    if found != bundle.digest:
        raise BundleError(
            f"bundle {bundle.version} is damaged: its files have digest {found[:12]}, its record "
            f"says {bundle.digest[:12]}; copy it again"
        )
    if lock is None:
        return
    if bundle.version == lock.version and bundle.digest != lock.digest:
        raise BundleError(
            f"version {bundle.version} has digest {bundle.digest[:12]}, this bento was built for "
            f"{lock.digest[:12]}; a version names one set of weights only"
        )
    if bundle.version != lock.version and not bundle.gate.passed:
        raise BundleError(
            f"bundle {bundle.version} did not pass the quality gate "
            f"({bundle.gate.metric} {bundle.gate.value:.4f} against "
            f"{bundle.gate.baseline_value or 0:.4f}); this bento stays with {lock.version}"
        )


@dataclass(frozen=True)
class ModelSource:
    """Where this process looks for its model, and what it accepts there."""

    folder: Path
    lock: Lock | None
    bento: str | None

    def path(self) -> Path:
        """The folder now: a link is followed anew each time."""
        return self.folder.resolve()


def find(settings: ServiceSettings, lock_file: Path = LOCK) -> ModelSource:
    """The setting, else the bento's own model, else the cached synthetic one.

    Raises BundleError if there is none.
    """
    lock = Lock.model_validate_json(lock_file.read_bytes()) if lock_file.exists() else None
    bento = None if lock is None else _bento_tag(lock_file)
    if settings.model_dir is not None:
        return ModelSource(settings.model_dir, lock, bento)
    if lock is not None:
        import bentoml

        return ModelSource(Path(bentoml.models.get(lock.model).path), lock, bento)
    return ModelSource(default_folder(), None, None)


def default_folder() -> Path:
    """Where `python -m bento.tiny` puts the synthetic model."""
    import os

    return cache_root(os.environ) / "models" / "synthetic-tiny"


def _bento_tag(lock_file: Path) -> str | None:
    # A bento is <name>/<version>/src/bento/model.lock.json beside <version>/bento.yaml.
    for parent in lock_file.parents:
        described = parent / "bento.yaml"
        if described.exists():
            import yaml

            found = cast("dict[str, Any]", yaml.safe_load(described.read_text(encoding="utf-8")))
            return f"{found.get('name')}:{found.get('version')}"
    return None


def signature(folder: Path) -> str | None:
    """Changes when another version stands there; None while there is no complete model."""
    for name in (BUNDLE, MANIFEST):
        try:
            stat = (folder / name).stat()
        except OSError:
            continue
        return f"{folder}:{name}:{stat.st_ino}:{stat.st_mtime_ns}:{stat.st_size}"
    return None


def load(folder: Path, lock: Lock | None, device: str, threads: int | None) -> Served:
    """Load and check the model in a folder: a bundle, or (outside a bento) a bare checkpoint.

    Raises BundleError if it may not be served, and what the predictor raises if it cannot.
    """
    if (folder / BUNDLE).exists() or lock is not None:
        bundle = read_bundle(folder)
        check(folder, bundle, lock)
        ranker, small, digest = folder / RANKER, folder / SMALL, bundle.digest
    else:
        bundle, ranker, small, digest = None, folder, folder / SMALL, ""
    predictor = open_predictor(ranker, device, threads)
    if bundle is not None and predictor.manifest.version != bundle.version:
        raise BundleError(
            f"{BUNDLE} says version {bundle.version}, the checkpoint inside is "
            f"{predictor.manifest.version}; bundle it again"
        )
    served = Served(
        predictor=predictor,
        small=open_predictor(small, device, threads) if small.is_dir() else None,
        shelf=Shelf(predictor),
        searchable=(ranker / "search").is_dir(),
        bundle_digest=digest,
    )
    _check_small(served)
    return served


def _check_small(served: Served) -> None:
    if served.small is None:
        return
    big, small = set(served.shelf.ids), set(served.small.catalogue.items)
    if not small <= big:
        raise BundleError(
            f"the small ranker knows {len(small - big)} items that the ranker does not; train "
            "both on the same data"
        )


def unusable() -> type[Exception]:
    """What the model package raises for a folder that it cannot use."""
    from model.folder import CheckpointError

    return CheckpointError


def open_predictor(folder: Path, device: str, threads: int | None) -> PredictorLike:
    """The model in a folder, on a device; `unusable()` is raised if it is damaged."""
    # torch is heavy, and not needed to read a lock
    from model.predictor import Predictor

    if device == "auto":
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    return cast("PredictorLike", Predictor.load(folder, device=device, threads=threads))
