"""Settings of training: where artefacts go, and the run to be trained now."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Artefacts(BaseModel):
    """One site's store. `stand up` writes it too, and may say more than this program needs."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    endpoint: str = Field(pattern=r"^https://")
    region: str
    bucket: str = Field(default="training", pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
    access_key_file: Path
    secret_key_file: Path
    ca_file: Path | None = None


class TrainingRun(BaseModel):
    """A run of the product's team; a new name is a new run, the same name goes on with it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")
    sequences: str = Field(min_length=1)
    """Key of the sequences in the bucket."""
    items: str | None = None
    size: str = "base"
    workers: int = Field(default=2, ge=1, le=64)
    least: int = Field(default=1, ge=1)
    gpus: int = Field(default=0, ge=0, le=16)
    """Of each worker."""
    cpu: str = "4"
    memory: str = "16Gi"
    flags: tuple[str, ...] = ()
    hours: float = Field(default=24, gt=0, le=24 * 14)
    priority: str = Field(default="normal", pattern=r"^(urgent|normal|low)$")
    may_leave: bool = False
    """Whether it may run in the cloud when the private GPUs are taken: its data may go there."""
    input_gb: float = Field(default=0, ge=0)
    """What it then reads over the link, as the plan of what leaves reckons with."""

    @model_validator(mode="after")
    def _leaves_by_gpus(self) -> Self:
        if self.may_leave and not self.gpus:
            raise ValueError("may_leave is true and gpus 0; only jobs that ask for GPUs leave")
        return self
