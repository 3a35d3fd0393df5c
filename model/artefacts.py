"""The artefact store of training runs, over any S3 API.

    runs/RUN/state/STAGE-STEP.tar   a whole resumable state, one object: it is there or it is not
    runs/RUN/model/…                the finished model folder, `manifest.json` last
    promoted.json                   the run whose model passed the gate last, with its metrics

Keys are read from files at each start, so that a rotated key needs no new pod. A run is found by
its name alone: workers share no disk.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from model.checkpoint import Manifest
from model.folder import MANIFEST

KEPT_STATES = 2
METRIC = "validation_ndcg@10"
MARGIN = 0.02  # share of the promoted model's metric that a new one may lose


class StoreError(Exception):
    """The store refused or cannot be reached; the message names the place and the reason."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the store is and which files open it."""

    endpoint: str
    bucket: str
    region: str
    keys: Path
    """Folder with `access-key` and `secret-key`."""
    ca: Path | None = None


class Store:
    """One bucket. Every error is a `StoreError`."""

    def __init__(self, place: Place) -> None:
        self.bucket, self.endpoint = place.bucket, place.endpoint
        try:
            access, secret = (
                (place.keys / name).read_text(encoding="utf-8").strip()
                for name in ("access-key", "secret-key")
            )
        except OSError as error:
            raise StoreError(
                f"no key of the store in {place.keys}: {error.strerror}; are its files delivered?"
            ) from None
        self._s3: Any = boto3.client(  # pyright: ignore[reportUnknownMemberType]
            "s3",
            endpoint_url=place.endpoint,
            region_name=place.region,
            aws_access_key_id=access,
            aws_secret_access_key=secret,
            verify=str(place.ca) if place.ca else None,
            config=Config(
                connect_timeout=5,
                read_timeout=60,
                retries={"max_attempts": 5, "mode": "standard"},
                s3={"addressing_style": "path"},
            ),
        )

    def _refused(self, what: str, error: Exception) -> StoreError:
        return StoreError(f"{self.endpoint}, bucket {self.bucket}: {what}: {error}")

    def make_bucket(self) -> None:
        """Make the bucket if there is none."""
        try:
            self._s3.create_bucket(Bucket=self.bucket)
        except ClientError as error:
            if _code(error) not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise self._refused("make the bucket", error) from None
        except BotoCoreError as error:
            raise self._refused("make the bucket", error) from None

    def put(self, key: str, file: Path) -> None:
        """Upload a file; large ones in parts. The object appears whole."""
        try:
            self._s3.upload_file(str(file), self.bucket, key)
        except (ClientError, BotoCoreError, Boto3Error) as error:
            raise self._refused(f"write {key}", error) from None

    def put_bytes(self, key: str, content: bytes) -> None:
        try:
            self._s3.put_object(Bucket=self.bucket, Key=key, Body=content)
        except (ClientError, BotoCoreError) as error:
            raise self._refused(f"write {key}", error) from None

    def get(self, key: str, file: Path) -> None:
        """Download to `file`, which appears whole."""
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.name}.part")
        try:
            self._s3.download_file(self.bucket, key, str(part))
        except (ClientError, BotoCoreError, Boto3Error) as error:
            raise self._refused(f"read {key}", error) from None
        part.replace(file)

    def read(self, key: str) -> bytes | None:
        """A small object; None when it is not there."""
        try:
            answer = self._s3.get_object(Bucket=self.bucket, Key=key)
            return cast("bytes", answer["Body"].read())
        except ClientError as error:
            if _code(error) in ("NoSuchKey", "404"):
                return None
            raise self._refused(f"read {key}", error) from None
        except BotoCoreError as error:
            raise self._refused(f"read {key}", error) from None

    def list(self, prefix: str) -> list[str]:
        """Keys below a prefix, in order."""
        try:
            pages = self._s3.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=prefix
            )
            return sorted(each["Key"] for page in pages for each in page.get("Contents", []))
        except (ClientError, BotoCoreError) as error:
            raise self._refused(f"list {prefix}", error) from None

    def delete(self, key: str) -> None:
        try:
            self._s3.delete_object(Bucket=self.bucket, Key=key)
        except (ClientError, BotoCoreError) as error:
            raise self._refused(f"delete {key}", error) from None


def _code(error: ClientError) -> str:
    return str(cast("dict[str, Any]", error.response).get("Error", {}).get("Code", ""))


# --- a run's state ------------------------------------------------------------------------------


def state_key(run: str, state: str) -> str:
    return f"runs/{run}/state/{state}.tar"


def newest_state(store: Store, run: str) -> str | None:
    """Key of the latest state. `choose-…` sorts before `final-…`, steps are zero-padded."""
    keys = [key for key in store.list(f"runs/{run}/state/") if key.endswith(".tar")]
    return keys[-1] if keys else None


def newest_folder(work: Path) -> Path | None:
    """The latest state folder that `model.state` wrote into a work folder."""
    found = sorted(path.parent for path in work.glob("*-*/place.json"))
    return found[-1] if found else None


def pack(work: Path, folder: Path, into: Path) -> None:
    """A tar of one state folder and the small files beside it.

    Raises FileNotFoundError when a newer state has just replaced it.
    """
    with tarfile.open(into, "w") as archive:
        for file in (*sorted(folder.iterdir()), *_notes(work)):
            archive.add(file, file.relative_to(work).as_posix(), recursive=False)


def _notes(work: Path) -> Iterator[Path]:
    for name in ("run.json", "choice.json", "metrics.jsonl"):
        if (work / name).exists():
            yield work / name


def push_state(store: Store, run: str, work: Path, scratch: Path) -> str | None:
    """Upload the latest state of a work folder; its key, or None when there is nothing yet."""
    folder = newest_folder(work)
    if folder is None:
        return None
    archive = scratch / "state.tar"
    try:
        pack(work, folder, archive)
    except FileNotFoundError:
        return None  # replaced while it was read: the next look finds the newer one
    key = state_key(run, folder.name)
    store.put(key, archive)
    archive.unlink()
    for old in store.list(f"runs/{run}/state/")[:-KEPT_STATES]:
        store.delete(old)
    return key


def pull_state(store: Store, key: str | None, work: Path, scratch: Path) -> None:
    """Make the work folder what the store says: that state, or nothing."""
    shutil.rmtree(work, ignore_errors=True)
    if key is None:
        return
    archive = scratch / "pulled.tar"
    store.get(key, archive)
    work.mkdir(parents=True)
    with tarfile.open(archive) as packed:
        packed.extractall(work, filter="data")
    archive.unlink()


# --- the finished model -------------------------------------------------------------------------


def model_prefix(run: str) -> str:
    return f"runs/{run}/model/"


def finished(store: Store, run: str) -> Manifest | None:
    """The manifest of a run's model, once all of it is in the store."""
    found = store.read(model_prefix(run) + MANIFEST)
    return None if found is None else Manifest.model_validate_json(found)


def push_model(store: Store, run: str, folder: Path) -> None:
    """Upload a model folder; its manifest, which makes it complete, comes last."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for file in sorted(files, key=lambda path: path.name == MANIFEST):
        store.put(model_prefix(run) + file.relative_to(folder).as_posix(), file)


def pull_model(store: Store, run: str, folder: Path) -> None:
    """The whole model folder of a run."""
    for key in store.list(model_prefix(run)):
        store.get(key, folder / key.removeprefix(model_prefix(run)))


@dataclass(frozen=True)
class Verdict:
    """What the gate says of a model."""

    passed: bool
    value: float
    needed: float
    against: str | None
    """The run that is promoted now; None for the first one."""


def judge(metrics: dict[str, float], current: dict[str, Any] | None) -> Verdict:
    """Pass a model that is as good as the promoted one, a margin aside; the first one passes.

    Raises `StoreError` when the metric is missing: such a model cannot be compared.
    """
    if METRIC not in metrics:
        raise StoreError(f"the model has no {METRIC}, it has {', '.join(sorted(metrics))}")
    value = metrics[METRIC]
    if current is None:
        return Verdict(True, value, 0.0, None)
    needed = float(current["metrics"][METRIC]) * (1 - MARGIN)
    return Verdict(value >= needed, value, needed, str(current["run"]))


def promote(store: Store, run: str) -> Verdict:
    """The gate: point `promoted.json` at a run's model if it is good enough."""
    manifest = finished(store, run)
    if manifest is None:
        raise StoreError(f"run {run} has no finished model")
    found = store.read("promoted.json")
    current = None if found is None else cast("dict[str, Any]", json.loads(found))
    if current is not None and current["run"] == run:
        return Verdict(True, manifest.metrics[METRIC], 0.0, run)
    verdict = judge(manifest.metrics, current)
    if verdict.passed:
        note = {"run": run, "version": manifest.version, "metrics": manifest.metrics}
        store.put_bytes("promoted.json", json.dumps(note, indent=1).encode())
    return verdict
