"""The state of an unfinished fit on disk, so that a killed run goes on where it stood.

`<work>/<stage>-<step>/` holds `place.json` and `state.safetensors`; a folder appears whole by one
rename, and the one before it goes only then, so there is a good state at every moment.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.folder import replace_folder, sha256
from model.loop import Best, Fit, Place

TENSORS = "state.safetensors"
PLACE = "place.json"


def _whole(tensor: Tensor) -> Tensor:
    """The full tensor of a sharded one; all workers must call this together."""
    gather = getattr(tensor, "full_tensor", None)
    return (cast("Tensor", gather()) if gather is not None else tensor).detach().cpu().contiguous()


def whole_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Unsharded copies on the CPU, by name."""
    return {name: _whole(tensor) for name, tensor in weights.items()}


def save_state(work: Path, stage: str, fit: Fit) -> None:
    """Write the state of a fit; every worker calls it, the first one writes."""
    names = [name for name, _ in fit.net.named_parameters()]
    tensors = {f"net.{n}": _whole(p) for n, p in fit.net.named_parameters()}
    tensors |= {f"average.{n}": _whole(t) for n, t in fit.average.items()}
    tensors |= {f"best.{n}": _whole(t) for n, t in fit.best_weights.items()}
    moments = cast("dict[int, dict[str, Any]]", fit.optimiser.state_dict()["state"])
    for number, entry in moments.items():
        for key, value in entry.items():
            tensors[f"optimiser.{names[number]}.{key}"] = _whole(torch.as_tensor(value))
    if not fit.workers.first:
        return
    place = asdict(fit.place)

    def fill(folder: Path) -> None:
        # safetensors refuses tensors that share memory, as best and average may
        save_file({n: t.clone() for n, t in tensors.items()}, folder / TENSORS)
        record = {"place": place, "sha256": sha256(folder / TENSORS)}
        (folder / PLACE).write_text(json.dumps(record), encoding="utf-8")

    target = work / f"{stage}-{fit.place.total:09d}"
    replace_folder(target, fill)
    for old in states(work, stage):
        if old != target:
            shutil.rmtree(old, ignore_errors=True)


def states(work: Path, stage: str) -> list[Path]:
    """State folders of a stage, latest first."""
    return sorted((p for p in work.glob(f"{stage}-*") if p.is_dir()), reverse=True)


def load_state(work: Path, stage: str, fit: Fit) -> bool:
    """Put the latest readable state into a fresh fit; False if there is none."""
    for folder in states(work, stage):
        try:
            record = json.loads((folder / PLACE).read_text(encoding="utf-8"))
            if sha256(folder / TENSORS) != record["sha256"]:
                continue
            tensors = load_file(folder / TENSORS)
        except (OSError, ValueError, KeyError, SafetensorError):
            continue  # cut off by a full disk or a crash of the machine: the one before is good
        _restore(fit, record["place"], tensors)
        return True
    return False


def _like(tensor: Tensor, model: Tensor) -> Tensor:
    """`tensor` sharded and placed as `model` is."""
    mesh = getattr(model, "device_mesh", None)
    if mesh is not None:
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(tensor.to(mesh.device_type), mesh, cast("Any", model).placements)
    return tensor.to(model.device)


def _restore(fit: Fit, place: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    parameters = dict(fit.net.named_parameters())
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(_like(tensors[f"net.{name}"], parameter))
            if f"average.{name}" in tensors:
                fit.average[name].copy_(_like(tensors[f"average.{name}"], parameter))
            if f"best.{name}" in tensors:
                fit.best_weights[name] = _like(tensors[f"best.{name}"], parameter)
    state: dict[int, dict[str, Tensor]] = {}
    for number, (name, parameter) in enumerate(parameters.items()):
        prefix = f"optimiser.{name}."
        entry = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if entry:
            state[number] = {
                k: v if v.ndim == 0 and parameter.ndim else _like(v, parameter)
                for k, v in entry.items()
            }
    groups = fit.optimiser.state_dict()["param_groups"]
    fit.optimiser.load_state_dict({"state": state, "param_groups": groups})
    best = Best(**place.pop("best"))
    fit.place = Place(**place, best=best)
