"""The name that shoppers use: records and health checks over both sites' entrances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address

import pulumi

from infra.clouds.aws_account import Account
from infra.clouds.aws_traffic import BALANCER_ZONES, Alias, AwsTraffic, AwsTrafficArgs, Entrance
from infra.settings import Settings, SiteName
from infra.site_settings import SettingsError
from infra.traffic_settings import Traffic, Way


def deploy_traffic(settings: Settings, doors: Mapping[SiteName, pulumi.Output[list[str]]]) -> None:
    """`doors` are the addresses of the sites' own gateways."""
    traffic, burst = settings.traffic, settings.burst
    if traffic is None or burst is None:
        return
    ways: dict[SiteName, Way] = {"private": traffic.private, "cloud": traffic.cloud}
    try:
        args = AwsTrafficArgs(
            account=Account.of(burst.account, burst.region, settings.identity),
            zone_id=traffic.zone.id,
            host=traffic.host,
            sites={
                site: Entrance(
                    target=_target(way, doors.get(site), burst.region),
                    check_host=way.name,
                    weight=traffic.weights[site],
                )
                for site, way in ways.items()
            },
            ttl=traffic.ttl,
            path=traffic.health.path,
            interval=traffic.health.every_seconds,
            failure_threshold=traffic.health.misses,
        )
    except ValueError as error:
        raise SettingsError(f"traffic: {error}") from None
    made = AwsTraffic("traffic", args)
    pulumi.export(
        "traffic",
        {
            "url": f"https://{traffic.host}",
            "weights": traffic.weights,
            "worstSwitchSeconds": args.worst_switch_seconds,
            "healthChecks": dict(made.health_checks),
        },
    )


def certificate_names(traffic: Traffic | None, site: SiteName) -> Sequence[str]:
    """Names that a gateway must show itself, as no entrance of the shop stands before it."""
    if traffic is None or site != "cloud" or traffic.cloud.given:
        return ()
    return (traffic.host, traffic.cloud.name)


def _target(
    way: Way, door: pulumi.Output[list[str]] | None, region: str
) -> Alias | tuple[IPv4Address, ...]:
    if way.balancer is not None:
        return Alias(dns_name=way.balancer.dns_name, zone_id=way.balancer.zone_id)
    if way.addresses:
        return way.addresses
    if door is None:
        raise SettingsError(
            "traffic.cloud has no addresses or balancer, and sites.cloud runs no gateway "
            "(real_nodes, reaches_vault); give one of them"
        )
    if region not in BALANCER_ZONES:
        raise SettingsError(
            f"burst.region is {region}, whose zone of load balancers is not known "
            f"({', '.join(BALANCER_ZONES)} are); give traffic.cloud.balancer"
        )
    return Alias(dns_name=door.apply(_balancer), zone_id=BALANCER_ZONES[region])


def _balancer(addresses: list[str]) -> str:
    """The name of the load balancer among a gateway's addresses, `name:port`."""
    for one in addresses:
        host = one.rpartition(":")[0]
        if host.endswith(".amazonaws.com"):
            return host
    raise pulumi.RunError(
        f"the gateway of sites.cloud has {addresses or 'no address'}, not a load balancer of AWS; "
        "see whether its controller runs, or give traffic.cloud.balancer"
    )
