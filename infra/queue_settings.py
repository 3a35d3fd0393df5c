"""Settings of the queues: what a site holds, whose it is, where the controller comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Described(BaseModel):
    """Also written by `stand up`, which may say more than this program needs."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class GpuPool(_Described):
    """GPU nodes of one site, all alike."""

    count: int = Field(ge=0)
    """Nodes that are there."""
    gpus: int = Field(gt=0)
    """Of one node, like the two below."""
    cpus: int = Field(gt=0)
    memory_gib: int = Field(gt=0)
    labels: dict[str, str] = Field(default_factory=lambda: {"nvidia.com/gpu.present": "true"})
    taints: tuple[dict[str, str], ...] = (
        {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"},
    )


class GpuOperator(BaseModel):
    """What this program asks of NVIDIA's GPU operator, which the site has already."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    driver_installed: bool
    """The hosts bring the driver and the container toolkit: the operator leaves both alone."""
    mig: Literal["none", "single", "mixed"] = "none"
    mig_layouts: dict[str, dict[str, int]] = Field(default_factory=dict[str, dict[str, int]])
    """Layout -> profile -> how many, such as `sevenths: {1g.10gb: 7}`."""
    time_slices: int = Field(default=1, ge=1)
    """Pods that share one GPU in turn; no memory is kept apart, so 1 where that matters."""

    @model_validator(mode="after")
    def _cut(self) -> Self:
        if self.mig_layouts and self.mig == "none":
            raise ValueError("mig_layouts are given but mig is none; set single or mixed")
        for name, slices in self.mig_layouts.items():
            if not slices or min(slices.values()) < 1:
                raise ValueError(f"mig_layouts.{name} is {slices}; give counts above 0")
        return self


class CpuPool(_Described):
    """What jobs without a GPU may use of a site, together."""

    cpus: int = Field(default=4, gt=0)
    memory_gib: int = Field(default=16, gt=0)


class Team(BaseModel):
    """A team's share of the private GPUs. Its namespaces and queues follow from it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gpus: int = Field(ge=0)
    """Its own: never waits for them longer than it takes to get them back."""
    borrow: int | None = Field(default=None, ge=0)
    """Most GPUs of others that it may use while they are idle; unset: all of them."""
    weight: int = Field(default=1, ge=1, le=100)
    """Of its part in what is borrowed."""


class Leaving(BaseModel):
    """When a job that waits for private GPUs is worth rented ones."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=lambda field: field.replace("_", "-")
    )

    usd_per_hour_saved: float = Field(default=20, ge=0)
    """Worth of one hour of earlier finish, for jobs that name none."""
    link_mbps: float = Field(default=300, gt=0)
    """What the link has left for inputs."""
    node_minutes: float = Field(default=3, ge=0)
    """From the order of a node to its first pod."""
    spot_share: float = Field(default=0.45, gt=0, le=1)
    """Price of spot capacity as a share of on-demand."""
    region: str = "us-east-1"
    """Whose prices are compared."""
    look_seconds: int = Field(default=15, ge=1)
    """Between two looks at the queue."""


class Kueue(_Described):
    """Where the queue controller comes from."""

    manifests: Path
    """The release's manifest file, or its module's folder `config/components`."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Of the manifest file; the stand's folder was verified when it was brought."""
    image: str | None = Field(default=None, pattern=r"^[^\s@]+@sha256:[0-9a-f]{64}$")
    program: Path | None = None
    """Stand only: the controller's program among the pod image's host paths."""
    pods_ready_seconds: int = Field(default=300, ge=30)
    """How long a gang may hold its quota before all of its pods are ready."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.image is None) == (self.program is None):
            raise ValueError("give `image` by its digest (or, on the stand, `program`), not both")
        if self.image is not None and self.sha256 is None:
            raise ValueError("sha256 is missing; pin the release's manifest file by its digest")
        return self
