"""A trained model as a folder: written whole or not at all, read without running any code.

    manifest.json      what it is: configuration, data fingerprint, metrics, a SHA-256 per file
    model.safetensors  the network, the item links and the item popularity
    items.json         item ids by index
    products.jsonl     optional: what is known of the items (`model.data.schema.Product`)
    search/            optional: the search index (`python -m model.search`)

Tensors are safetensors and the rest is JSON, so a hostile file can be wrong but cannot execute.
Every reader checks the hashes first; a mismatch raises `CheckpointError` and nothing is used.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from model.folder import (
    CheckpointError,
    FileRecord,
    check_files,
    read_checked,
    records,
    replace_folder,
    version,
    write_manifest,
)
from model.links import Links
from model.net import NetConfig, Recommender
from model.settings import TrainConfig

FORMAT = 1
TENSORS = "model.safetensors"
ITEMS = "items.json"
PRODUCTS = "products.jsonl"


class Fusion(BaseModel):
    """How item links join the network's score: score = network + weight x links(decay)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    decay: float = Field(default=0.25, ge=0, allow_inf_nan=False)


class Manifest(BaseModel):
    """The first file to read. `metrics` were measured on the validation items of the run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = FORMAT
    version: str
    created: datetime
    size: str
    parameters: int = Field(ge=1)
    item_count: int = Field(ge=1)
    user_count: int = Field(ge=1)
    data_fingerprint: str
    net: NetConfig
    train: TrainConfig
    fusion: Fusion
    metrics: dict[str, float]
    files: dict[str, FileRecord]


def save_model(
    out: Path,
    net: Recommender,
    *,
    items: list[str],
    users: int,
    popularity: Tensor,
    links: Links | None,
    fusion: Fusion,
    train: TrainConfig,
    size: str,
    data_fingerprint: str,
    metrics: dict[str, float],
    products: list[dict[str, Any]] | None = None,
    extra: list[Path] | None = None,
) -> Manifest:
    """Write the model folder `out`; `extra` files are copied beside (metrics of the run)."""
    tensors = {f"net.{name}": t.detach().cpu().clone() for name, t in net.state_dict().items()}
    tensors["popularity"] = popularity.detach().cpu().clone()
    if links is not None:
        tensors["links.items"] = links.items.to(torch.int32)
        tensors["links.weights"] = links.weights.contiguous()
    manifests: list[Manifest] = []

    def fill(folder: Path) -> None:
        save_file(tensors, folder / TENSORS)
        (folder / ITEMS).write_text(json.dumps(items), encoding="utf-8")
        if products:
            lines = (json.dumps(row, ensure_ascii=False) for row in products)
            (folder / PRODUCTS).write_text("\n".join(lines) + "\n", encoding="utf-8")
        for path in extra or []:
            shutil.copyfile(path, folder / path.name)
        created = datetime.now(UTC)
        files = records(folder)
        manifest = Manifest(
            version=version(created, files[TENSORS]),
            created=created,
            size=size,
            parameters=sum(p.numel() for p in net.parameters()),
            item_count=len(items),
            user_count=users,
            data_fingerprint=data_fingerprint,
            net=net.config,
            train=train,
            fusion=fusion,
            metrics=metrics,
            files=files,
        )
        write_manifest(folder, manifest)
        manifests.append(manifest)

    replace_folder(out, fill)
    return manifests[0]


def read_manifest(folder: Path) -> Manifest:
    """The manifest alone, checked against its schema; the files are not touched."""
    return read_checked(folder, Manifest, "a model folder", "`model.train --out`")


def verify(folder: Path) -> Manifest:
    """The manifest of a folder whose every listed file is present and unchanged."""
    manifest = read_manifest(folder)
    check_files(folder, manifest.files, needed=(TENSORS, ITEMS))
    return manifest


class _Unfilled(TorchFunctionMode):
    """No initial values for parameters that are about to be read.

    On the meta device they would cost half of the start: torch imports its compiler for them.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return given["tensor"] if "tensor" in given else args[0]
        return func(*args, **given)


class Loaded(BaseModel):
    """Everything that a folder holds, ready to use."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    manifest: Manifest
    net: Recommender
    items: list[str]
    popularity: Tensor
    links: Links | None


def load_model(folder: Path, device: torch.device | str = "cpu") -> Loaded:
    """Check and read a model folder; the network is in eval mode on `device`."""
    manifest = verify(folder)
    try:
        tensors = load_file(folder / TENSORS)
        items = json.loads((folder / ITEMS).read_text(encoding="utf-8"))
    except (SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(f"{folder} cannot be read: {error}; train it again") from error
    if (
        not isinstance(items, list)
        or len(items) != manifest.net.items
        or not all(isinstance(item, str) for item in items)
    ):
        raise CheckpointError(
            f"{folder / ITEMS} does not list {manifest.net.items} ids; train it again"
        )
    with torch.device("meta"), _Unfilled():
        net = Recommender(manifest.net)
    state = {
        name.removeprefix("net."): tensor
        for name, tensor in tensors.items()
        if name.startswith("net.")
    }
    try:
        net.load_state_dict(state, assign=True)
        popularity = tensors["popularity"]
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(
            f"{folder / TENSORS} does not fit its manifest: {error}; train it again"
        ) from error
    links = None
    if "links.items" in tensors:
        links = Links(tensors["links.items"].long(), tensors["links.weights"])
    net.requires_grad_(False).eval().to(device)
    return Loaded(manifest=manifest, net=net, items=items, popularity=popularity, links=links)
