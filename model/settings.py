"""How a model is trained: one frozen record, saved in every checkpoint.

Units: `batch` counts sequences over all workers, `warmup` and `save_every` optimiser steps,
`evaluate_every` and `epochs` passes over the users; `clip` is the global gradient norm.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TrainConfig(BaseModel):
    """Frozen; `model.recipe` fills it from the data, command-line flags replace single fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(default=0, ge=0)
    epochs: int = Field(default=40, ge=1, description="at most; early stopping may end before")
    batch: int = Field(default=256, ge=1)
    lr: float = Field(default=1e-3, gt=0)
    warmup: int = Field(default=100, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    clip: float = Field(default=1.0, gt=0)
    smoothing: float = Field(default=0.0, ge=0, lt=1, description="label smoothing, full loss")
    negatives: int = Field(default=0, ge=0, description="0: full softmax over the catalogue")
    uniform: float = Field(default=0.5, ge=0, le=1, description="share of uniform negatives")
    ema: float = Field(default=0.999, ge=0, lt=1, description="0: no averaging of weights")
    evaluate_every: int = Field(default=1, ge=1)
    patience: int = Field(default=4, ge=1, description="evaluations without a better NDCG@10")
    validation_users: int = Field(default=5000, ge=1)
    links: bool = Field(default=True, description="join item-to-item links to the score")
    link_l2: float = Field(default=100.0, gt=0)
    refit: bool = Field(default=True, description="fit again with the validation items")
    save_every: int = Field(default=500, ge=1)
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    sharded: bool = Field(default=False, description="FSDP2 instead of DDP")
