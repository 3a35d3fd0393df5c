"""The settings of one stack: `Pulumi.<stack>.yaml`, parsed once into frozen, checked values.

Everything a user can get wrong is told together as `SettingsError`, a line each: the key, the value
found, the rule. Nothing here calls a cluster, a cloud or Vault.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from datetime import date
from ipaddress import IPv4Network
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from infra.cloud_settings import Burst, Link, Pool
from infra.naming import PROJECT, Identity
from infra.queue_settings import Kueue, Leaving, Team
from infra.site_settings import (
    FromStand,
    PodImage,
    PrivateGateway,
    SettingsError,
    Site,
    VaultServer,
)
from infra.traffic_settings import Traffic
from infra.training_settings import Artefacts, TrainingRun

Stack = Literal["local", "staging", "prod"]
STACKS: tuple[str, ...] = ("local", "staging", "prod")
SiteName = Literal["private", "cloud"]
PRODUCT_TEAM = "recommender"


class _Frozen(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=lambda field: field.replace("_", "-")
    )


Name = Annotated[str, Field(pattern=r"^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$")]
TagValue = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")]


class Serving(_Frozen):
    """How much of the recommender a site runs."""

    sites: tuple[SiteName, ...] = Field(default=("private", "cloud"), min_length=1)
    least: int = Field(default=2, ge=2, le=50)
    most: int = Field(default=6, ge=3, le=50)
    cpu: str = "500m"
    memory: str = "1Gi"
    workers: int = Field(default=1, ge=1, le=64)
    deadline_ms: int = Field(default=50, ge=5, le=10_000)
    """What a request gets unless it asks for another; half of it bounds the wait at the door."""
    store_replicas: Literal[1, 3, 5] = 3
    """NATS servers, and copies of each stream."""
    store_size: str = Field(default="20Gi", pattern=r"^[1-9][0-9]*(Mi|Gi|Ti)$")
    certificate_ttl: int = Field(default=72 * 3600, ge=60)
    """Seconds; a certificate is renewed after two thirds of them."""

    @model_validator(mode="after")
    def _room(self) -> Self:
        if self.most <= self.least:
            raise ValueError(f"most is {self.most} and least {self.least}; it must be larger")
        return self


Digest = Annotated[
    str, Field(pattern=r"^[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)+@sha256:[0-9a-f]{64}$")
]


class Endpoints(FromStand):
    """The file `stand up` writes."""

    stand: str
    sites: dict[SiteName, Site]
    vault: VaultServer
    pod_image: PodImage
    private_gateway: PrivateGateway | None = None
    """None without root: there are no namespaces to put it in."""
    manifests: dict[str, Path] = Field(default_factory=dict[str, Path])
    tools: dict[str, Path] = Field(default_factory=dict[str, Path])
    artefacts: dict[SiteName, Artefacts] = Field(default_factory=dict[SiteName, Artefacts])


class Settings(_Frozen):
    """Everything `infra.program.deploy` needs to know."""

    stack: Stack
    owner: TagValue
    cost_centre: TagValue
    data_class: Literal["public", "internal", "confidential"]
    expiry: date | None = None
    """Last day of the stack; required for `staging`, which is not meant to stay."""
    sites: dict[SiteName, Site]
    vault: VaultServer
    pod_image: PodImage
    bento: str
    """What is served: an image by digest, or a tag of `bento_store`."""
    bento_store: Path | None = None
    """Stand only: BentoML's store on this machine."""
    images: dict[Literal["gateway", "nats", "prometheus"], Digest] = Field(
        default_factory=dict[Literal["gateway", "nats", "prometheus"], str]
    )
    """Of the parts around the service; on a stand `pod_image.programs` takes their place."""
    serving: Serving = Serving()
    private_gateway: PrivateGateway | None = None
    link_key_step: int = Field(default=0, ge=0)
    """Raise by one to give one tunnel a new key: odd steps tunnel 1, even steps tunnel 2."""
    teams: dict[Name, Team] = Field(default_factory=lambda: {PRODUCT_TEAM: Team(gpus=0)})
    """Who shares the sites; each gets a namespace on every site, and queues."""
    kueue: Kueue | None = None
    """Without it the stack has no queues."""
    artefacts: dict[SiteName, Artefacts] = Field(default_factory=dict[SiteName, Artefacts])
    training: TrainingRun | None = None
    """The run that is trained now; unset: none."""
    burst: Burst | None = None
    """The cloud site that takes peaks; None where the stack has none of its own."""
    link: Link | None = None
    """The tunnels to `burst`."""
    traffic: Traffic | None = None
    """The name that shoppers use, over both sites; None where something else answers it."""
    cloud_pools: tuple[Pool, ...] = ()
    """Stand only: GPU pools of the adopted cloud site; a `burst` site has its own."""
    leaving: Leaving = Leaving()
    """When jobs leave the private queue for the cloud's pools."""
    unreachable: tuple[SiteName, ...] = ()
    """Sites to leave alone until they are back: their objects stay in the state untouched."""
    secret_rotation: Name | Annotated[str, Field(pattern=r"^[0-9]{1,9}$")] = "1"  # noqa: S105
    """Change it to give every generated secret a new value, in place."""
    today: date = Field(default_factory=date.today)
    """The day that dated limits (a Kubernetes version's support) are judged on."""

    @property
    def rented(self) -> tuple[Pool, ...]:
        """GPU pools of the cloud site, whoever orders their nodes."""
        return self.cloud_pools or (self.burst.gpu_pools if self.burst is not None else ())

    @model_validator(mode="after")
    def _no_overlap(self) -> Self:
        ranges = [
            (f"sites.{name}.{kind}", cast("IPv4Network", getattr(site, kind)))
            for name, site in self.sites.items()
            for kind in ("node_cidr", "pod_cidr", "service_cidr")
        ]
        if self.burst is not None:
            ranges.append(("burst.vpc-cidr", self.burst.vpc_cidr))
            ranges.append(("burst.service-cidr", self.burst.service_cidr))
        # an adopted `burst` cluster lives in its network, where pods have the nodes' addresses
        cloud = ("burst.", "sites.cloud.") if self.burst is not None else ()
        clashes = [
            f"{one} is {net}, which overlaps {other} {its}; the link cannot route both"
            for (one, net), (other, its) in combinations(ranges, 2)
            if net.overlaps(its) and not (one.startswith(cloud) and other.startswith(cloud))
        ]
        if clashes:
            raise ValueError("; ".join(clashes))
        return self

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if "private" not in self.sites:
            raise ValueError("sites has no `private`; the core data lives there")
        if self.stack == "staging" and self.expiry is None:
            raise ValueError(
                "expiry is missing; staging is not permanent and must say its last day"
            )
        if self.link is not None and self.burst is None:
            raise ValueError("link has no `burst` to lead to; describe the cloud site or drop link")
        cloud = self.sites.get("cloud")
        if self.cloud_pools and (cloud is None or cloud.karpenter is None):
            raise ValueError(
                "cloud-pools needs an autoscaler in sites.cloud; set `autoscaler: true` in the "
                "stand's settings and run `stand up`, or use burst.gpu-pools"
            )
        if unknown := set(self.unreachable) - set(self.sites):
            raise ValueError(f"unreachable names {sorted(unknown)}; sites has {sorted(self.sites)}")
        return self

    @model_validator(mode="after")
    def _answered(self) -> Self:
        traffic, cloud = self.traffic, self.sites.get("cloud")
        if traffic is None:
            return self
        if self.burst is None:
            raise ValueError(
                "traffic has no `burst`, whose account its records belong to; "
                "describe the cloud site or drop traffic"
            )
        serving = [site for site in self.sites if site in self.serving.sites]
        if traffic.drained is not None and set(serving) <= {traffic.drained}:
            raise ValueError(
                f"traffic.drained is {traffic.drained}, and no other site serves "
                f"({', '.join(serving) or 'none'} does); adopt one first, or drain none"
            )
        if traffic.cloud.given:
            return self
        wrong = (
            "sites has no cloud" if cloud is None
            else "serving.sites has no cloud" if "cloud" not in serving
            else f"its way_in is {cloud.way_in.kind}" if cloud.way_in.kind != "load-balancer"
            else "its way_in does not face the internet" if not cloud.way_in.faces_internet
            else "burst.internet is none, which leaves it no public subnet"
            if self.burst.internet == "none" else None
        )  # fmt: skip
        if wrong:
            raise ValueError(
                "traffic.cloud has no addresses or balancer, so the gateway of sites.cloud must "
                f"have a public load balancer, but {wrong}; docs/burst.md shows both ways"
            )
        return self

    @model_validator(mode="after")
    def _images(self) -> Self:
        for part in ("gateway", "nats", "prometheus"):
            if part not in self.images and part not in self.pod_image.programs:
                raise ValueError(f"images has no `{part}`; name its image by digest")
        return self

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        if PRODUCT_TEAM not in self.teams:
            raise ValueError(
                f"teams has no `{PRODUCT_TEAM}`, which the service belongs to; "
                f"it has {', '.join(self.teams) or 'none'}"
            )
        if self.training is not None and not (self.kueue and "private" in self.artefacts):
            raise ValueError(
                f"training names run {self.training.name}, but the stack has no "
                f"{'artefact store for the private site' if self.kueue else 'queue controller'}; "
                f"set {'artefacts' if self.kueue else 'kueue'}"
            )
        pool = self.sites["private"].gpu_pool if "private" in self.sites else None
        there = pool.count * pool.gpus if pool else 0
        asked = sum(team.gpus for team in self.teams.values())
        if asked > there:
            each = ", ".join(f"{name} {team.gpus}" for name, team in self.teams.items())
            raise ValueError(
                f"teams own {asked} GPUs ({each}), the private site has {there}; lower a share"
            )
        return self

    @property
    def identity(self) -> Identity:
        return Identity(
            environment=self.stack,
            owner=self.owner,
            cost_centre=self.cost_centre,
            data_class=self.data_class,
            expiry=self.expiry,
        )


def text_of(path: Path) -> str:
    """The content of a file that the settings name. Raises `SettingsError`."""
    where = path.expanduser()
    try:
        return where.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsError(
            f"{where} cannot be read: {error.strerror}; start the site or correct the path"
        ) from None


def read_endpoints(path: Path) -> dict[str, Any]:
    """The stand's own description of itself, under the names that a stack file would use."""
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"endpoints is {path}: {error.strerror}; run `stand up` first, or name its file"
        ) from None
    except ValueError:
        raise SettingsError(f"endpoints is {path}: not JSON; run `stand up` again") from None
    try:
        found = Endpoints.model_validate(raw)
    except ValidationError as error:
        raise SettingsError(_explain(str(path), error, Endpoints)) from None
    values: dict[str, Any] = {
        "sites": found.sites,
        "vault": found.vault,
        "pod-image": found.pod_image,
        "private-gateway": found.private_gateway,
        "artefacts": found.artefacts,
    }
    if "kueue/manifests" in found.manifests and "kueue" in found.tools:
        values["kueue"] = Kueue(
            manifests=found.manifests["kueue/manifests"], program=found.tools["kueue"]
        )
    return values


def parse(stack: str, config: Mapping[str, str], *, endpoints_file: str | None = None) -> Settings:
    """Settings of `stack` from Pulumi's configuration (`project:key` -> text, objects as JSON).

    `endpoints_file` replaces the path in the configuration. Raises `SettingsError`.
    """
    if stack not in STACKS:
        raise SettingsError(f"stack is {stack!r}; use one of {', '.join(STACKS)}")
    values: dict[str, Any] = {"stack": stack}
    for key, text in config.items():
        project, _, field = key.partition(":")
        if project == PROJECT:
            values[field] = _value(text)
    named = values.pop("endpoints", None)
    endpoints = endpoints_file or named
    if endpoints is not None:
        path = Path(os.path.expandvars(str(endpoints))).expanduser()
        values = {**read_endpoints(path), **values}
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(_explain(f"Pulumi.{stack}.yaml", error, Settings)) from None


def _value(text: str) -> Any:
    """The engine hands over lists and maps as JSON, everything else as text."""
    if text[:1] in ("[", "{"):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def _explain(source: str, error: ValidationError, model: type[BaseModel]) -> str:
    return "\n".join(_lines(source, error, model))


def _lines(source: str, error: ValidationError, model: type[BaseModel]) -> Iterable[str]:
    for problem in error.errors(include_url=False):
        key = ".".join(str(part) for part in problem["loc"])
        rule = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "missing":
            yield f"{source}: {key} is missing; add it"
        elif problem["type"] == "extra_forbidden":
            known = sorted(field.alias or name for name, field in model.model_fields.items())
            hint = f"; known keys: {', '.join(known)}" if len(problem["loc"]) == 1 else ""
            yield f"{source}: {key} is {_shown(problem['input'])}: this key is unknown{hint}"
        elif not key:
            yield f"{source}: {rule}"
        else:
            yield f"{source}: {key} is {_shown(problem['input'])}: {rule}"


def _shown(value: Any) -> str:
    """A value short enough for one line; the content of a structure is not repeated."""
    if isinstance(value, (dict, list, tuple, BaseModel)):
        return f"a {type(value).__name__}"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
