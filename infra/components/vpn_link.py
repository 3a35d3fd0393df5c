"""The AWS end of the link: one Site-to-Site VPN connection with two fully specified tunnels.

It ends on a virtual private gateway: one VPC needs no transit gateway (docs/decisions.md). The
private end is rendered from the same settings and this component's outputs (`vpn_render.py`).
Nothing here is replaced when a key or a tunnel option changes; AWS changes one tunnel at a time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

import pulumi
import pulumi_aws as aws

from infra import naming
from infra.components import vpn_render
from infra.components.vpn_settings import LinkSettings

KEY_FORMAT = re.compile(r"^(?!0)[A-Za-z0-9._]{32,64}$")
"""AWS takes 8 to 64 of these and no leading zero; shorter than 32 is not a machine's key."""
DPD_SECONDS = 30  # AWS's minimum
REKEY_MARGIN_SECONDS, REKEY_FUZZ_PERCENT = 540, 100


@dataclass(frozen=True, kw_only=True)
class VpnLinkArgs:
    settings: LinkSettings
    identity: naming.Identity
    prefix: str
    """Head of every name, and of the log group that `logs_key_arn` may encrypt."""
    network_id: pulumi.Input[str]
    route_table_ids: Mapping[str, pulumi.Input[str]]
    """Zone -> route table that must learn the site's ranges."""
    logs_key_arn: pulumi.Input[str]
    alerts_topic_arn: pulumi.Input[str]
    keys: tuple[pulumi.Input[str], pulumi.Input[str]]
    """Pre-shared key of each tunnel, from Vault."""
    log_days: int = 365


class VpnLink(pulumi.ComponentResource):
    """Customer gateway, VPN gateway, connection, propagation, logs and alarms."""

    connection_id: pulumi.Output[str]
    outside: tuple[pulumi.Output[str], pulumi.Output[str]]
    """Public address of each tunnel's AWS end."""
    gateway_files: pulumi.Output[dict[str, str]]
    """Path -> text of the private gateway's configuration; holds no secret."""
    gateway_secrets: pulumi.Output[dict[str, str]]
    """Path -> text of the key files, secret; to be written with mode 0600."""

    def __init__(
        self, name: str, args: VpnLinkArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("recsys:link:VpnLink", name, None, opts)
        self._name, self._args = name, args
        self._child = pulumi.ResourceOptions(parent=self)
        settings = args.settings
        site = aws.ec2.CustomerGateway(
            name,
            type="ipsec.1",
            ip_address=str(settings.gateway_address),
            bgp_asn=str(settings.site_asn),
            device_name=naming.name(args.prefix, "gateway"),
            tags=self._tags("site-gateway"),
            # Another address means another device: the new one is made before the old one goes.
            opts=self._child,
        )
        gateway = aws.ec2.VpnGateway(
            name,
            amazon_side_asn=str(settings.cloud_asn),
            tags=self._tags("cloud-gateway"),
            opts=self._child,
        )
        attached = aws.ec2.VpnGatewayAttachment(
            name, vpc_id=args.network_id, vpn_gateway_id=gateway.id, opts=self._child
        )
        for zone, table in args.route_table_ids.items():
            aws.ec2.VpnGatewayRoutePropagation(
                f"{name}-{zone}",
                vpn_gateway_id=gateway.id,
                route_table_id=table,
                opts=pulumi.ResourceOptions(parent=self, depends_on=[attached]),
            )
        keys = tuple(
            pulumi.Output.secret(pulumi.Output.from_input(key).apply(checked_key))
            for key in args.keys
        )
        logs = aws.cloudwatch.LogGroup(
            name,
            name=f"/{args.prefix}/vpn",
            retention_in_days=args.log_days,
            kms_key_id=args.logs_key_arn,
            tags=self._tags("vpn-logs"),
            opts=self._child,
        )
        connection = aws.ec2.VpnConnection(
            name,
            type="ipsec.1",
            customer_gateway_id=site.id,
            vpn_gateway_id=gateway.id,
            static_routes_only=settings.routing == "static",
            tunnel_inside_ip_version="ipv4",
            **_tunnel(1, settings, keys[0], logs.arn),
            **_tunnel(2, settings, keys[1], logs.arn),
            tags=self._tags("vpn"),
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=[attached],
                additional_secret_outputs=[
                    "customerGatewayConfiguration",
                    "tunnel1PresharedKey",
                    "tunnel2PresharedKey",
                ],
            ),
        )
        if settings.routing == "static":
            for site_range, net in settings.announced.items():
                aws.ec2.VpnConnectionRoute(
                    f"{name}-{site_range}",
                    vpn_connection_id=connection.id,
                    destination_cidr_block=str(net),
                    opts=self._child,
                )
        self.connection_id = connection.id
        self.outside = (connection.tunnel1_address, connection.tunnel2_address)
        self._alarms(connection)
        self.gateway_files = pulumi.Output.all(*self.outside).apply(
            lambda found: vpn_render.gateway_files(settings, _addresses(found))
        )
        self.gateway_secrets = pulumi.Output.secret(
            pulumi.Output.all(*self.outside, *keys).apply(
                lambda found: {
                    vpn_render.secret_path(settings, number): vpn_render.secrets(
                        settings, number, _addresses(found[:2])[number - 1], str(found[1 + number])
                    )
                    for number in (1, 2)
                }
            )
        )
        self.register_outputs({"connection": self.connection_id, "files": self.gateway_files})

    def _tags(self, part: str) -> dict[str, str]:
        return naming.tags(
            self._args.identity, "link", {"Name": naming.name(self._args.prefix, part)}
        )

    def _alarms(self, connection: aws.ec2.VpnConnection) -> None:
        """One tunnel down is a warning with the link still up; both down is an outage."""
        args = self._args
        watched: list[tuple[str, dict[str, pulumi.Input[str]], str, str]] = [
            (f"tunnel-{number}", {"TunnelIpAddress": address}, "Minimum", "the other carries all")
            for number, address in enumerate(self.outside, start=1)
        ]
        watched.append(("link", {"VpnId": connection.id}, "Maximum", "no tunnel is up"))
        for what, dimensions, statistic, meaning in watched:
            aws.cloudwatch.MetricAlarm(
                f"{self._name}-{what}",
                name=naming.name(args.prefix, what, "down"),
                alarm_description=f"VPN {what} down for 3 minutes: {meaning}",
                namespace="AWS/VPN",
                metric_name="TunnelState",
                dimensions=dimensions,
                statistic=statistic,
                period=60,
                evaluation_periods=3,
                datapoints_to_alarm=3,
                comparison_operator="LessThanOrEqualToThreshold",
                threshold=0,
                treat_missing_data="breaching",
                alarm_actions=[args.alerts_topic_arn],
                ok_actions=[args.alerts_topic_arn],
                tags=self._tags(f"{what}-alarm"),
                opts=self._child,
            )


def _tunnel(
    number: int, settings: LinkSettings, key: pulumi.Output[str], log_group: pulumi.Output[str]
) -> dict[str, Any]:
    """Every option of one tunnel, so that no default of AWS (older ciphers) is ever offered."""
    bgp = settings.routing == "bgp"
    options: dict[str, Any] = {
        "inside_cidr": str(settings.inside[number - 1]),
        "preshared_key": key,
        "ike_versions": ["ikev2"],
        "phase1_encryption_algorithms": ["AES256-GCM-16"],
        "phase1_integrity_algorithms": ["SHA2-384"],
        "phase1_dh_group_numbers": [20],
        "phase1_lifetime_seconds": 28_800,
        "phase2_encryption_algorithms": ["AES256-GCM-16"],
        "phase2_integrity_algorithms": ["SHA2-384"],
        "phase2_dh_group_numbers": [20],
        "phase2_lifetime_seconds": 3_600,
        "rekey_margin_time_seconds": REKEY_MARGIN_SECONDS,
        "rekey_fuzz_percentage": REKEY_FUZZ_PERCENT,
        "replay_window_size": 1024,
        "startup_action": "start",
        "dpd_timeout_action": "restart",
        "dpd_timeout_seconds": DPD_SECONDS,
        # Maintenance of an endpoint waits for us, so that it never takes both tunnels.
        "enable_tunnel_lifecycle_control": True,
        "log_options": {
            "cloudwatch_log_options": {
                "log_enabled": True,
                "log_group_arn": log_group,
                "log_output_format": "json",
                "bgp_log_enabled": bgp,
                **(
                    {"bgp_log_group_arn": log_group, "bgp_log_output_format": "json"} if bgp else {}
                ),
            }
        },
    }
    return {f"tunnel{number}_{option}": value for option, value in options.items()}


def checked_key(key: str) -> str:
    """The key itself when AWS would take it; the error never shows it."""
    if not KEY_FORMAT.match(key):
        raise ValueError(
            f"a tunnel key of {len(key)} characters is refused: give 32 to 64 letters, digits, "
            "'.' or '_', not starting with 0"
        )
    return key


def _addresses(found: list[str]) -> list[IPv4Address]:
    return [IPv4Address(address) for address in found]
