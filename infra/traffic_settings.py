"""Settings of the name that shoppers use: which site answers it, how much, and how it is judged."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from infra import cidr

SiteName = Literal["private", "cloud"]


def _public(address: IPv4Address) -> IPv4Address:
    if cidr.unreachable(address):
        raise ValueError("must be a public address: shoppers and health checkers ask it")
    return address


PublicAddress = Annotated[IPv4Address, AfterValidator(_public)]
Host = Annotated[
    str, Field(pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}$", max_length=253)
]
ZoneId = Annotated[str, Field(pattern=r"^Z[A-Z0-9]{5,31}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=lambda field: field.replace("_", "-")
    )


class Zone(_Frozen):
    """The public hosted zone that the records go into; it exists."""

    id: ZoneId
    name: Host


class Balancer(_Frozen):
    """A load balancer of AWS that faces the internet."""

    dns_name: Host
    zone_id: ZoneId
    """Of the balancer itself (`CanonicalHostedZoneId`), not of the records."""


class Way(_Frozen):
    """One site's entrance from the internet, and its part of the traffic."""

    name: Host
    """Of this site alone: what the health check asks."""
    weight: int = Field(ge=0, le=255)
    """0 is answered only while no other site is healthy."""
    addresses: tuple[PublicAddress, ...] = ()
    balancer: Balancer | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.addresses and self.balancer:
            raise ValueError("has addresses and a balancer; give one of them")
        if len(set(self.addresses)) < len(self.addresses):
            raise ValueError("addresses names one twice; give each once")
        return self

    @property
    def given(self) -> bool:
        return bool(self.addresses or self.balancer)


class Health(_Frozen):
    """When a site counts as gone, and as back: the same number of looks both ways."""

    path: str = Field(default="/readyz", pattern=r"^/[\w./-]*$", max_length=255)
    every_seconds: Literal[10, 30] = 10
    misses: int = Field(default=2, ge=1, le=10)


class Traffic(_Frozen):
    """One name over both sites: health-checked, weighted, private first."""

    zone: Zone
    host: Host
    """The name that shoppers use."""
    private: Way
    cloud: Way
    """Without addresses or balancer: the load balancer of the site's own gateway."""
    ttl: int = Field(default=10, ge=1, le=60)
    """Seconds that a resolver may keep an address."""
    health: Health = Health()
    drained: SiteName | None = None
    """A site that gets no new shoppers while the other one is healthy."""

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = {"host": self.host, "private.name": self.private.name,
                 "cloud.name": self.cloud.name}  # fmt: skip
        for key, value in names.items():
            if not f".{value}".endswith(f".{self.zone.name}"):
                raise ValueError(f"{key} is {value}, which is not in zone {self.zone.name}")
        if len(set(names.values())) < len(names):
            told = ", ".join(f"{key} {value}" for key, value in names.items())
            raise ValueError(
                f"names repeat ({told}); a check of a shared name would follow the very answer "
                "that it decides: give each site one of its own"
            )
        return self

    @model_validator(mode="after")
    def _answers(self) -> Self:
        if not self.private.given:
            raise ValueError("private has no entrance; give its addresses or its balancer")
        if not self.private.weight and not self.cloud.weight:
            raise ValueError(
                "both weights are 0, which DNS reads as equal shares; give one site more"
            )
        return self

    @property
    def weights(self) -> dict[SiteName, int]:
        """What each record says: a drained site 0, and the other one then more than that."""
        given: dict[SiteName, int] = {"private": self.private.weight, "cloud": self.cloud.weight}
        if self.drained is None:
            return given
        return {site: 0 if site == self.drained else max(1, own) for site, own in given.items()}
