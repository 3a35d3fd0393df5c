"""Which site answers shoppers: health-checked, weighted Route 53 records, private site first.

Route 53's rules carry the whole design. A record of weight 0 is answered only while every record
above 0 is unhealthy; so the cloud at 0 is a standby that costs nothing until the private site
fails, and the private site at 0 is drained but still the last resort. Health must be seen, or
missed, `failure_threshold` times in a row in both directions: a site that flaps does not come back
with its first good answer.

DNS alone cannot switch within seconds: detection takes `interval * threshold` and resolvers keep an
answer for `ttl` (`worst_switch_seconds`). Clients that must not wait go through the site's own load
balancer, which sees the other site over the link.

Each site also has a plain record of its own, which no health decides: the check asks that one.
Route 53 looks from the internet, takes any 2xx or 3xx, and does not verify the certificate.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any, Literal

import pulumi
import pulumi_aws as aws

from infra import cidr
from infra.clouds.aws_account import Account

CHECKERS = ("eu-west-1", "us-east-1", "us-west-2", "ap-southeast-1")  # Route 53 wants three or more
# Of network load balancers ("Elastic Load Balancing endpoints" in AWS's general reference). No
# `aws.lb.get_hosted_zone_id`: a preview asks AWS nothing.
BALANCER_ZONES = {
    "eu-central-1": "Z3F0SRJ5LGBH90",
    "eu-west-1": "Z2IFOLAFXWLO4F",
    "eu-north-1": "Z1UDT6IFJ4EJM",
    "us-east-1": "Z26RNL4JYFTOTI",
    "us-east-2": "ZLMOA37VPKANP",
    "us-west-2": "Z18D5FSROUN65G",
    "ap-northeast-1": "Z31USIVHYNEOWT",
    "ap-southeast-1": "ZKVM4W9LS7TM",
}
HOST = re.compile(r"^(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}$")
SiteName = Literal["private", "cloud"]


@dataclass(frozen=True, kw_only=True)
class Alias:
    """An AWS load balancer."""

    dns_name: pulumi.Input[str]
    zone_id: pulumi.Input[str]
    """Hosted zone of the load balancer itself, not the one the record goes into."""


@dataclass(frozen=True, kw_only=True)
class Entrance:
    """Where one site takes shoppers' requests from the internet."""

    target: tuple[IPv4Address, ...] | Alias
    check_host: str
    """Name of this site alone, which the health check resolves, and names in its handshake."""
    weight: int
    """Share of the traffic, 0 to 255; 0 is answered only while no other site is healthy."""

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 255:
            raise ValueError(f"weight is {self.weight}; Route 53 takes 0 to 255")
        if not HOST.match(self.check_host):
            raise ValueError(f"check_host {self.check_host!r}; give a full lower-case DNS name")
        if not self.target:
            raise ValueError("an entrance needs at least one public address or a load balancer")
        if isinstance(self.target, tuple):
            hidden = [str(address) for address in self.target if cidr.unreachable(address)]
            if hidden:
                raise ValueError(f"{', '.join(hidden)}: shoppers cannot reach a private address")


@dataclass(frozen=True, kw_only=True)
class AwsTrafficArgs:
    account: Account
    zone_id: pulumi.Input[str]
    host: str
    """The name that shoppers use, such as recommend.shop.example."""
    sites: Mapping[SiteName, Entrance]
    ttl: int = 10
    """Seconds that a resolver may keep an answer; an alias follows its load balancer instead."""
    path: str = "/readyz"
    interval: Literal[10, 30] = 10
    failure_threshold: int = 2

    def __post_init__(self) -> None:
        if not HOST.match(self.host):
            raise ValueError(f"host {self.host!r}; give a full lower-case DNS name")
        if set(self.sites) != {"private", "cloud"}:
            raise ValueError(f"sites are {sorted(self.sites)}; give both private and cloud")
        if not any(site.weight for site in self.sites.values()):
            raise ValueError(
                "both weights are 0, which Route 53 reads as equal shares; give one site more"
            )
        hosts = [self.host, *(site.check_host for site in self.sites.values())]
        if len(set(hosts)) != len(hosts):
            raise ValueError(
                f"names {hosts} repeat: a check of the shared name would follow the very answer "
                "that it decides; give each site a name of its own"
            )
        if not 1 <= self.failure_threshold <= 10:
            raise ValueError(f"failure_threshold is {self.failure_threshold}; give 1 to 10")
        if not 1 <= self.ttl <= 60:
            raise ValueError(f"ttl is {self.ttl}; give 1 to 60 s, or a dead site is kept too long")

    @property
    def worst_switch_seconds(self) -> int:
        """Longest time from a site's death to the last resolver that forgets it."""
        return self.interval * (self.failure_threshold + 1) + max(self.ttl, 60 * self._aliased)

    @property
    def _aliased(self) -> bool:
        """An alias to a load balancer has that balancer's own TTL: 60 s."""
        return any(isinstance(site.target, Alias) for site in self.sites.values())


class AwsTraffic(pulumi.ComponentResource):
    """A health check, a weighted record and a record of its own for each site."""

    health_checks: Mapping[SiteName, pulumi.Output[str]]

    def __init__(
        self, name: str, args: AwsTrafficArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("recsys:aws:Traffic", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        checks: dict[SiteName, pulumi.Output[str]] = {}
        for site, entrance in sorted(args.sites.items()):
            check = aws.route53.HealthCheck(
                f"{name}-{site}",
                type="HTTPS",
                fqdn=entrance.check_host,
                port=443,
                resource_path=args.path,
                enable_sni=True,
                request_interval=args.interval,
                failure_threshold=args.failure_threshold,
                regions=list(CHECKERS),
                tags=args.account.tags("traffic", args.account.name("serves", site)),
                opts=child,
            )
            aws.route53.Record(
                f"{name}-{site}-own",
                zone_id=args.zone_id,
                name=entrance.check_host,
                type="A",
                **_answer(entrance.target, args.ttl, healthy=False),
                opts=child,
            )
            aws.route53.Record(
                f"{name}-{site}",
                zone_id=args.zone_id,
                name=args.host,
                type="A",
                set_identifier=site,
                weighted_routing_policies=[{"weight": entrance.weight}],
                health_check_id=check.id,
                **_answer(entrance.target, args.ttl, healthy=True),
                opts=child,
            )
            checks[site] = check.id
        self.health_checks = checks
        self.register_outputs({"host": args.host, "worst_switch": args.worst_switch_seconds})


def _answer(target: tuple[IPv4Address, ...] | Alias, ttl: int, *, healthy: bool) -> dict[str, Any]:
    """What a record holds; a `healthy` one is not answered while its balancer has no target."""
    if isinstance(target, tuple):
        return {"records": sorted(str(address) for address in target), "ttl": ttl}
    return {
        "aliases": [
            {
                "name": target.dns_name,
                "zone_id": target.zone_id,
                "evaluate_target_health": healthy,
            }
        ]
    }
