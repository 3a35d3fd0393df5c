"""The cloud half of the deployment: the burst site, then the link that joins it to the private."""

from __future__ import annotations

from ipaddress import IPv4Network

import pulumi
import pulumi_kubernetes as k8s

from infra.cloud_settings import Pool
from infra.clouds.aws import CAPABILITIES, AwsBurst
from infra.clouds.burst import (
    Autoscaler,
    BurstArgs,
    BurstOutputs,
    DevicePlugin,
    GpuPool,
    Internet,
    Workload,
)
from infra.clouds.kwok import KwokBurst, KwokBurstArgs
from infra.components.vpn_keys import tunnel_keys
from infra.components.vpn_link import VpnLink, VpnLinkArgs
from infra.components.vpn_settings import LinkSettings
from infra.jobs_training import store_port
from infra.settings import Settings
from infra.site_settings import SettingsError
from infra.vault import Connection

KNOWN_PORTS = (443, 8200, 7422)
"""TLS, Vault and events of the private site: every cloud site may call them."""


def deploy_cloud(settings: Settings, vault: Connection, mount: pulumi.Input[str]) -> None:
    """Declare the burst site and the link, and export what the private gateway needs."""
    args = burst_args(settings)
    if args is None:
        return
    site = AwsBurst("cloud", args)
    made = site.outputs
    pulumi.export(
        "burst",
        {
            "cluster": made.cluster_name, "api": made.api_endpoint, "network": str(args.vpc_cidr),
        },
    )  # fmt: skip
    link = link_settings(settings)
    if link is not None:
        _link(settings, site.outputs, link, tunnel_keys("cloud", vault, link, mount=mount))


def deploy_simulated(settings: Settings, provider: k8s.Provider) -> None:
    """The GPU pools of the stand's cloud site, under the limits that AWS would have."""
    karpenter = settings.sites["cloud"].karpenter
    if not settings.cloud_pools or karpenter is None:
        return
    KwokBurst(
        "burst",
        KwokBurstArgs(
            identity=settings.identity,
            provider=provider,
            gpu_pools=gpu_pools(settings.cloud_pools),
            capabilities=CAPABILITIES,
            zones=karpenter.zones,
            sold=karpenter.types,
        ),
    )


def gpu_pools(wanted: tuple[Pool, ...]) -> tuple[GpuPool, ...]:
    """The settings' pools as the clouds' modules take them."""
    try:
        return tuple(GpuPool(**pool.model_dump()) for pool in wanted)
    except ValueError as error:
        raise SettingsError(str(error)) from None


def _link(
    settings: Settings,
    site: BurstOutputs,
    link: LinkSettings,
    keys: tuple[pulumi.Output[str], pulumi.Output[str]],
) -> None:
    made = VpnLink(
        "link",
        VpnLinkArgs(
            settings=link,
            identity=settings.identity,
            prefix=site.cluster_name,
            network_id=site.network_id,
            route_table_ids=site.route_table_ids,
            logs_key_arn=site.logs_key,
            alerts_topic_arn=site.alerts_topic,
            keys=keys,
        ),
    )
    pulumi.export("linkGateway", made.gateway_files)
    pulumi.export("linkSecrets", made.gateway_secrets)


def site_ranges(settings: Settings) -> dict[str, IPv4Network]:
    """The private site's ranges that the cloud may learn."""
    private = settings.sites["private"]
    return {
        "nodes": private.node_cidr,
        "pods": private.pod_cidr,
        "services": private.service_cidr,
    }


def site_ports(settings: Settings) -> dict[str, int]:
    """What jobs in the cloud call at the private site beside what every site has."""
    port = store_port(settings)
    return {} if port in (None, *KNOWN_PORTS) else {"artefacts": port}


def burst_args(settings: Settings) -> BurstArgs | None:
    """The burst site's settings as its cloud's module takes them; None without one."""
    wanted = settings.burst
    if wanted is None:
        return None
    return BurstArgs(
        identity=settings.identity,
        account=wanted.account,
        region=wanted.region,
        zones=wanted.zones,
        kubernetes_version=wanted.kubernetes_version,
        vpc_cidr=wanted.vpc_cidr,
        service_cidr=wanted.service_cidr,
        site_cidrs=site_ranges(settings),
        site_ports=site_ports(settings),
        admin_principals=wanted.admin_principals,
        gpu_pools=gpu_pools(wanted.gpu_pools),
        node_image=wanted.node_image,
        autoscaler=Autoscaler(**wanted.autoscaler.model_dump()),
        device_plugin=DevicePlugin(**wanted.device_plugin.model_dump()),
        workloads=tuple(Workload(**access.model_dump()) for access in wanted.workloads),
        repositories=wanted.repositories,
        monthly_budget_usd=wanted.monthly_budget_usd,
        alert_emails=wanted.alert_emails,
        internet=Internet(wanted.internet),
        extra_endpoints=wanted.extra_endpoints,
        log_days=wanted.log_days,
        today=settings.today,
    )


def link_settings(settings: Settings) -> LinkSettings | None:
    """The link as both of its ends are made from it; None without one."""
    wanted, burst = settings.link, settings.burst
    if wanted is None or burst is None:
        return None
    return LinkSettings(
        gateway_address=wanted.gateway_address,
        local_address=wanted.local_address,
        site_asn=wanted.site_asn,
        cloud_asn=wanted.cloud_asn,
        inside=wanted.inside,
        announced=site_ranges(settings),
        accepted={"vpc": burst.vpc_cidr},
        key_step=settings.link_key_step,
    )
