"""From a checkpoint to a bento: `python -m bento.bundle CHECKPOINT [--small CHECKPOINT]`.

1. Load the checkpoint and ask it one question: a model that cannot answer is not bundled.
2. The quality gate: refuse a model that is worse than the newest bundled one by more than a margin.
3. Store it in BentoML's model store, metrics and data fingerprint as labels and metadata.
4. Build a bento locked to exactly this model (`bentoml serve recommender:latest`).

Exit codes: 0 bundled; 1 refused by the gate or unusable; 2 wrong arguments.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, NamedTuple

import bentoml
import yaml

from bento import models
from bento.models import BUNDLE, CONTRACT, RANKER, SMALL, Bundle, BundleError, Gate, Lock
from bento.ports import PredictorLike
from bento.types import ID_PATTERN

NAME = "recommender"
METRIC = "validation_ndcg@10"
MARGIN = 0.02
ROOT = Path(__file__).resolve().parent.parent
# What the service imports; versions are those it was bundled with.
REQUIREMENTS = (
    "bentoml", "bm25s", "faiss-cpu", "httptools", "httpx", "lightgbm", "nats-py", "numpy", "polars",
    "pyarrow", "pydantic", "pyyaml", "rich", "safetensors", "torch", "uvloop",
)  # fmt: skip


class Current(NamedTuple):
    """The newest bundled model, as the gate sees it."""

    version: str
    metrics: dict[str, float]
    data_fingerprint: str


def metric_of(metrics: dict[str, float], name: str) -> float:
    """A metric by name, whatever its case and separators (`ndcg@10`, `NDCG_10`)."""

    def plain(text: str) -> str:
        return re.sub(r"[^a-z0-9]", "", text.lower())

    for known, value in metrics.items():
        if plain(known) == plain(name):
            return float(value)
    raise BundleError(
        f"the checkpoint has no metric {name!r}; it has {', '.join(sorted(metrics)) or 'none'}: "
        "name one of them with --metric"
    )


def compare(
    metrics: dict[str, float], current: Current | None, metric: str = METRIC, margin: float = MARGIN
) -> Gate:
    """The verdict on a candidate; the first model of a store passes."""
    value = metric_of(metrics, metric)
    if current is None:
        return Gate(
            metric=metric, value=value, baseline_version=None, baseline_value=None,
            margin=margin, passed=True,
        )  # fmt: skip
    baseline = metric_of(current.metrics, metric)
    return Gate(
        metric=metric, value=value, baseline_version=current.version, baseline_value=baseline,
        margin=margin, passed=value >= baseline * (1 - margin),
    )  # fmt: skip


def _try(predictor: PredictorLike, folder: Path) -> None:
    """Refuse a model that the service could not serve."""
    items = predictor.catalogue.items
    pattern = re.compile(ID_PATTERN)
    odd = next((item for item in items if not pattern.fullmatch(item)), None)
    if odd is not None:
        raise BundleError(
            f"{folder}: item id {odd!r} cannot be asked for; ids are 1 to 200 of A-Z a-z 0-9 and "
            ". _ : @ / + = ~ -, beginning with a letter or digit: rename it before training"
        )
    answer = predictor.recommend([[items[0]]], 3)[0]
    if len(items) > 1 and (not answer or any(s.score != s.score for s in answer)):
        raise BundleError(f"{folder}: the model answered {answer}; it cannot be served")


def make_folder(
    out: Path,
    checkpoint: Path,
    small: Path | None = None,
    *,
    current: Current | None = None,
    metric: str = METRIC,
    margin: float = MARGIN,
) -> Bundle:
    """Write a bundle folder; `out` must not exist. BundleError if the model is unusable."""
    out.mkdir(parents=True)
    shutil.copytree(checkpoint, out / RANKER)
    if small is not None:
        shutil.copytree(small, out / SMALL)
    predictor = models.open_predictor(out / RANKER, "cpu", None)
    _try(predictor, checkpoint)
    if small is not None:
        _try(models.open_predictor(out / SMALL, "cpu", None), small)
    manifest = predictor.manifest
    bundle = Bundle(
        contract=CONTRACT,
        version=manifest.version,
        data_fingerprint=manifest.data_fingerprint,
        digest=models.digest_of(out),
        metrics=dict(manifest.metrics),
        gate=compare(dict(manifest.metrics), current, metric, margin),
    )
    (out / BUNDLE).write_text(bundle.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return bundle


def current_model() -> Current | None:
    """The newest model of the store that passed its gate."""
    # Asked for by name, an empty store is an error of its own; the whole list is just empty.
    every = [model for model in bentoml.models.list() if model.tag.name == NAME]
    for model in sorted(every, key=lambda m: m.info.creation_time, reverse=True):
        bundle = models.read_bundle(Path(model.path))
        if bundle.gate.passed:
            return Current(bundle.version, bundle.metrics, bundle.data_fingerprint)
    return None


def tag_of(version: str) -> str:
    """BentoML tags are lower case and take a-z 0-9 . _ - only."""
    return f"{NAME}:{re.sub(r'[^a-z0-9._-]', '-', version.lower())}"


def store(folder: Path, bundle: Bundle) -> str:
    """Put a bundle folder into BentoML's model store; returns its tag."""
    tag = tag_of(bundle.version)
    labels = {
        "version": _label(bundle.version),
        "data-fingerprint": _label(bundle.data_fingerprint),
        "contract": str(bundle.contract),
        bundle_metric(bundle): f"{bundle.gate.value:.5f}",
    }
    metadata: dict[str, Any] = {**bundle.metrics, "digest": bundle.digest}
    with bentoml.models.create(tag, labels=labels, metadata=metadata) as model:
        shutil.copytree(folder, model.path, dirs_exist_ok=True)
    return tag


def bundle_metric(bundle: Bundle) -> str:
    """The gate's metric as a label key."""
    return _label(bundle.gate.metric.replace("@", "-at-"))


def _label(text: str) -> str:
    # The rule of Kubernetes labels, which BentoML follows.
    return re.sub(r"[^A-Za-z0-9._-]", "-", text)[:63].strip("-._")


def requirements() -> list[str]:
    """Packages of the bento, at the versions that are installed here."""
    # A local part (+cu132) names one index's build and is not on the default one.
    return [f"{name}=={installed(name).split('+')[0]}" for name in REQUIREMENTS]


def build(tag: str, bundle: Bundle, root: Path = ROOT) -> str:
    """Build the bento that is locked to this model; returns its tag."""
    with tempfile.TemporaryDirectory(prefix="bento-") as work:
        stage = Path(work)
        for package in ("bento", "model"):
            shutil.copytree(
                root / package, stage / package, ignore=shutil.ignore_patterns("__pycache__")
            )
        lock = Lock(contract=CONTRACT, model=tag, version=bundle.version, digest=bundle.digest)
        (stage / "bento" / models.LOCK.name).write_text(lock.model_dump_json(indent=2) + "\n")
        recipe: dict[str, Any] = yaml.safe_load((root / "bentofile.yaml").read_text("utf-8"))
        recipe["models"] = [tag]
        recipe["labels"] = {
            **recipe.get("labels", {}),
            "model-version": _label(bundle.version),
            "data-fingerprint": _label(bundle.data_fingerprint),
            bundle_metric(bundle): f"{bundle.gate.value:.5f}",
        }
        recipe["python"] = {**recipe.get("python", {}), "packages": requirements()}
        (stage / "bentofile.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "bentoml", "build", "--output", "tag", str(stage)],
            cwd=stage, capture_output=True, text=True, check=False,
        )  # fmt: skip
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-5:]
        raise BundleError("bentoml build failed:\n  " + "\n  ".join(last))
    found = re.search(r"(recommender:\S+)", done.stdout)
    if found is None:
        raise BundleError(f"bentoml build printed no tag: {done.stdout[-300:]}")
    return found[1]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bento.bundle",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, help="Model folder written by model.train.")
    parser.add_argument("--small", type=Path, help="Smaller model of the same data, for tier 2.")
    parser.add_argument("--metric", default=METRIC, help=f"What the gate compares ({METRIC}).")
    parser.add_argument(
        "--margin", type=float, default=MARGIN, help=f"Share that may be lost ({MARGIN})."
    )
    parser.add_argument("--out", type=Path, help="Write the bundle folder here and stop.")
    parser.add_argument("--no-bento", action="store_true", help="Stop after the model store.")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    given = _parser().parse_args(argv)
    try:
        print(json.dumps(_bundle(given)))
    except BundleError as error:
        print(f"refused: {error}", file=sys.stderr)
        return 1
    except models.unusable() as error:
        print(f"unusable: {error}", file=sys.stderr)
        return 1
    return 0


def _bundle(given: argparse.Namespace) -> dict[str, str]:
    current = current_model()
    with tempfile.TemporaryDirectory(prefix="bundle-") as work:
        folder = Path(work) / "bundle"
        bundle = make_folder(
            folder, given.checkpoint, given.small,
            current=current, metric=given.metric, margin=given.margin,
        )  # fmt: skip
        gate = bundle.gate
        if not gate.passed:
            raise BundleError(
                f"{gate.metric} is {gate.value:.4f}, the current model {gate.baseline_version} has "
                f"{gate.baseline_value:.4f}; at least "
                f"{(gate.baseline_value or 0) * (1 - gate.margin):.4f} is needed. Train a better "
                "one, or say with --margin how much may be lost"
            )
        if current is not None and current.data_fingerprint != bundle.data_fingerprint:
            print(
                "note: the two models were measured on different data, so the gate compares "
                "their own validation figures",
                file=sys.stderr,
            )
        if given.out is not None:
            shutil.copytree(folder, given.out)
            return {"bundle": str(given.out), "version": bundle.version}
        tag = store(folder, bundle)
    if given.no_bento:
        return {"model": tag, "version": bundle.version}
    return {"model": tag, "version": bundle.version, "bento": build(tag, bundle)}


if __name__ == "__main__":
    raise SystemExit(main())
