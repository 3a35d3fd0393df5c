"""What pods really used: read from a file, or from Prometheus (`policies.prometheus`).

A measurement covers a window of days. Numbers are per container (vCPUs, bytes) and per GPU
(percent); `hours` says how long it was seen within the window.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from policies.load import InputError

USAGE_IDS = frozenset({"usage-oversized", "usage-undersized", "usage-idle", "usage-gpu-idle"})
"""What `policies usage` can find (`policies.rightsize`); waivers name them like rules."""


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ContainerUse(_Strict):
    """One container of one pod."""

    namespace: str
    pod: str
    container: str
    hours: float = Field(ge=0)
    cpu_p95: float | None = Field(default=None, ge=0)
    """vCPUs that 95 % of the window's five-minute means stay below; None when unknown."""
    memory_peak: float | None = Field(default=None, ge=0)
    """Bytes of the working set at its highest; None when unknown."""


class GpuUse(_Strict):
    """One GPU while one pod had it."""

    namespace: str
    pod: str
    gpu: str
    hours: float = Field(ge=0)
    utilisation: float = Field(ge=0, le=100)
    """Mean percent of the time in which a kernel ran (DCGM_FI_DEV_GPU_UTIL)."""


class Usage(_Strict):
    """Everything that was measured."""

    days: float = Field(gt=0)
    containers: tuple[ContainerUse, ...] = ()
    gpus: tuple[GpuUse, ...] = ()


class UsageSettings(_Strict):
    """`usage:` of a stack's file: from when on a difference is a finding."""

    days: float = Field(default=14, gt=0, le=90)
    """Window that Prometheus is asked for."""
    least_hours: float = Field(default=24, ge=0)
    """Measured for less, a workload is listed as unknown."""
    headroom: float = Field(default=1.25, ge=1)
    """What a container should ask for, over what it used."""
    oversize: float = Field(default=2.0, gt=1)
    """A request is too large from so many times that on."""
    least_cpu: float = Field(default=0.1, ge=0)
    """vCPUs of a request that are too few to speak of."""
    least_memory: float = Field(default=128 * 2**20, ge=0)
    """Bytes of a request that are too few to speak of."""
    idle_cpu: float = Field(default=0.005, ge=0)
    """vCPUs of a whole pod, below which it does nothing."""
    idle_gpu: float = Field(default=5.0, ge=0, le=100)
    """Percent of the time, below which a GPU does nothing."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.least_hours > self.days * 24:
            raise ValueError(f"least_hours {self.least_hours} is longer than days {self.days}")
        return self


def read_usage(path: Path) -> Usage:
    """A file of measurements, as `policies usage --save` writes it. Raises `InputError`."""
    try:
        return Usage.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give an existing file") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise InputError(
            f"{path}: {where}: {first['msg']}; `policies usage --prometheus URL --save FILE` "
            "writes such a file"
        ) from None
