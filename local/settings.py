"""The stand's own settings: `local/stand.yaml`, or the file that `STAND_SETTINGS` names."""

from __future__ import annotations

import os
from ipaddress import IPv4Network
from pathlib import Path
from typing import Literal, Self, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from local.errors import StandError

SiteName = Literal["private", "cloud"]
SITES: tuple[SiteName, ...] = ("private", "cloud")
# A site is one /16 and half of it 256 /25s, one for the pods of each node; some stay for real nodes
# and for those that an autoscaler orders.
MOST_NODES = 240


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GpuPool(_Frozen):
    """Simulated GPU nodes of one site: the real scheduler sees them, no kernel runs on them."""

    count: int = Field(ge=0, le=MOST_NODES)
    gpus: int = Field(gt=0, le=16)  # whole devices per node


class SiteSettings(_Frozen):
    real_nodes: int = Field(ge=0, le=4)
    gpu_nodes: GpuPool
    autoscaler: bool = False  # Karpenter; its simulated nodes come beside `gpu_nodes`


class StandSettings(_Frozen):
    private: SiteSettings = SiteSettings(real_nodes=2, gpu_nodes=GpuPool(count=8, gpus=8))
    cloud: SiteSettings = SiteSettings(
        real_nodes=1, gpu_nodes=GpuPool(count=0, gpus=8), autoscaler=True
    )
    # Programs that workloads run from the mounted tools folder; names of the pinned table.
    workload_tools: tuple[str, ...] = ()
    # A site takes the first /16 below that no route or address of this host touches.
    ranges: tuple[IPv4Network, ...] = Field(
        default=tuple(IPv4Network(f"10.{second}.0.0/16") for second in range(77, 127)), min_length=2
    )

    @model_validator(mode="after")
    def _ranges_fit(self) -> Self:
        for one in self.ranges:
            if one.prefixlen != 16 or not one.is_private:
                raise ValueError(f"ranges holds {one}; give private /16 networks")
        return self

    def site(self, name: SiteName) -> SiteSettings:
        return self.private if name == "private" else self.cloud


def load() -> StandSettings:
    """The settings file, checked. Raises `StandError` with the key, the value and the rule."""
    named = os.environ.get("STAND_SETTINGS")
    path = Path(named).expanduser() if named else Path(__file__).with_name("stand.yaml")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise StandError(
            f"settings file {path} cannot be read ({error.strerror})",
            "correct or unset STAND_SETTINGS",
            code=2,
        ) from error
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise StandError(f"{path} is not YAML: {error}", code=2) from error
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise StandError(f"{path} holds a {type(raw).__name__}; it must hold a mapping", code=2)
    try:
        return StandSettings.model_validate(cast("dict[str, object]", raw))
    except ValidationError as error:
        lines = [
            f"{'.'.join(str(part) for part in one['loc']) or 'settings'} = {one['input']!r}: "
            f"{one['msg']}"
            for one in error.errors()
        ]
        raise StandError(f"{path}: " + "; ".join(lines), code=2) from error
