"""The AWS end of the link: the graph, the tunnels' options, and the private end made from it."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pulumi
import pytest

from infra.components.vpn_link import VpnLink, VpnLinkArgs, checked_key
from infra.components.vpn_settings import LinkDemand, LinkSettings, Timers, preflight
from tests.clouds.engine import REFERENCE, Engine, build, strings
from tests.clouds.samples import IDENTITY

SETTINGS = LinkSettings(
    gateway_address=IPv4Address("203.0.113.2"),
    site_asn=65000,
    inside=(IPv4Network("169.254.10.0/30"), IPv4Network("169.254.20.0/30")),
    announced={"nodes": IPv4Network("10.10.0.0/20"), "pods": IPv4Network("10.20.0.0/16")},
    accepted={"vpc": IPv4Network("10.50.0.0/16")},
)
KEYS = ("a" * 40 + ".1", "b" * 40 + "_2")


def link(
    settings: LinkSettings = SETTINGS, keys: tuple[pulumi.Input[str], pulumi.Input[str]] = KEYS
) -> VpnLink:
    return VpnLink(
        "link",
        VpnLinkArgs(
            settings=settings,
            identity=IDENTITY,
            prefix="recsys-prod",
            network_id="vpc-1",
            route_table_ids={"eu-central-1a": "rtb-a", "eu-central-1b": "rtb-b"},
            logs_key_arn="arn:aws:kms:eu-central-1:123456789012:key/k",
            alerts_topic_arn="arn:aws:sns:eu-central-1:123456789012:alerts",
            keys=tuple(pulumi.Output.secret(key) for key in keys),
        ),
    )


@pytest.fixture(scope="module")
def made() -> Engine:
    return build(link)


def test_both_tunnels_are_fully_specified_and_only_strong(made: Engine) -> None:
    connection = made.one("VpnConnection")
    assert connection["staticRoutesOnly"] is False
    for n, key in ((1, KEYS[0]), (2, KEYS[1])):
        got = {
            k.removeprefix(f"tunnel{n}"): v
            for k, v in connection.items()
            if k.startswith(f"tunnel{n}")
        }
        assert got["IkeVersions"] == ["ikev2"]
        for phase in ("Phase1", "Phase2"):
            assert got[f"{phase}EncryptionAlgorithms"] == ["AES256-GCM-16"]
            assert got[f"{phase}IntegrityAlgorithms"] == ["SHA2-384"]
            assert got[f"{phase}DhGroupNumbers"] == [20]
        assert (got["DpdTimeoutAction"], got["StartupAction"]) == ("restart", "start")
        assert got["DpdTimeoutSeconds"] in (30, 40)
        assert got["PresharedKey"]["value"] == key, "the engine must get it marked as a secret"
        logs = got["LogOptions"]["cloudwatchLogOptions"]
        assert logs["logEnabled"] is True
        assert REFERENCE.match(logs["logGroupArn"])[1].endswith("LogGroup")
    assert connection["tunnel1InsideCidr"] != connection["tunnel2InsideCidr"]


def test_the_keys_are_secrets_wherever_they_go() -> None:
    seen: dict[str, bool] = {}

    def program() -> None:
        made = link()
        seen["secret"] = False

        async def check() -> None:
            seen["secret"] = await made.gateway_secrets.is_secret()
            seen["files"] = await made.gateway_files.is_secret()

        pulumi.Output.from_input(check())

    build(program)
    assert seen == {"secret": True, "files": False}


def test_no_file_without_the_key_holds_the_key(made: Engine) -> None:
    found: dict[str, dict[str, str]] = {}

    def program() -> None:
        made = link()
        made.gateway_files.apply(lambda files: found.update(files=files))
        made.gateway_secrets.apply(lambda files: found.update(secrets=files))

    build(program)
    for key in KEYS:
        assert not [path for path, text in found["files"].items() if key in text]
        assert [path for path, text in found["secrets"].items() if key in text]
    assert "198.51.100.11" in found["files"]["swanctl.conf"], "the outside address comes from AWS"


def test_every_zone_learns_the_sites_routes_from_the_gateway(made: Engine) -> None:
    tables = {got["routeTableId"] for got in made.of("VpnGatewayRoutePropagation").values()}
    assert tables == {"rtb-a", "rtb-b"}
    for got in made.of("VpnGatewayRoutePropagation").values():
        assert "VpnGateway|link|id" in got["vpnGatewayId"]
    assert "VpnGateway|link|id" in made.one("VpnConnection")["vpnGatewayId"]
    assert "CustomerGateway|link|id" in made.one("VpnConnection")["customerGatewayId"]


def test_each_tunnel_and_the_whole_link_raise_their_own_alarm(made: Engine) -> None:
    alarms = made.of("MetricAlarm")
    assert set(alarms) == {"link-tunnel-1", "link-tunnel-2", "link-link"}
    for got in alarms.values():
        assert got["treatMissingData"] == "breaching", "no data is the worst state of a tunnel"
        assert got["alarmActions"]
        assert got["okActions"]
    addresses = [alarms[f"link-tunnel-{n}"]["dimensions"]["TunnelIpAddress"] for n in (1, 2)]
    assert addresses == ["198.51.100.11", "198.51.100.12"]


def test_everything_in_the_link_is_tagged(made: Engine) -> None:
    untaggable = {"VpnGatewayAttachment", "VpnGatewayRoutePropagation", "VpnLink"}
    for each in made.made:
        if each.short not in untaggable:
            assert {"owner", "cost-centre", "environment"} <= set(each.inputs["tags"]), each.name


def test_a_static_link_lists_exactly_the_declared_ranges() -> None:
    static = replace(SETTINGS, routing="static", static_reason="the firewall speaks no BGP")
    made = build(lambda: link(static))
    assert made.one("VpnConnection")["staticRoutesOnly"] is True
    routes = {got["destinationCidrBlock"] for got in made.of("VpnConnectionRoute").values()}
    assert routes == {"10.10.0.0/20", "10.20.0.0/16"}


@pytest.mark.parametrize("key", ["short", "0" + "a" * 40, "a" * 65, "with-dash" * 5, "a b" * 12])
def test_a_key_that_aws_would_refuse_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(ValueError, match="32 to 64") as error:
        checked_key(key)
    assert key not in str(error.value)


def test_one_step_of_rotation_changes_exactly_one_tunnels_key() -> None:
    versions = [replace(SETTINGS, key_step=step).key_versions for step in range(6)]
    assert versions == [(0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (3, 2)]


def test_a_new_key_changes_one_property_of_the_connection_and_nothing_else(made: Engine) -> None:
    after = build(lambda: link(replace(SETTINGS, key_step=1), ("c" * 40, KEYS[1])))
    before = {(m.type, m.name): m.inputs for m in made.made}
    changed = {
        (name, path)
        for (typ, name), inputs in {(m.type, m.name): m.inputs for m in after.made}.items()
        for path, _ in set(strings(inputs)) ^ set(strings(before[typ, name]))
    }
    assert changed == {("link", "tunnel1PresharedKey.value")}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"inside": (IPv4Network("169.254.10.0/30"),) * 2}, "own /30"),
        ({"inside": (IPv4Network("169.254.1.0/30"), IPv4Network("169.254.9.0/30"))}, "reserved"),
        ({"accepted": {"vpc": IPv4Network("10.20.0.0/17")}}, "site pods and cloud vpc"),
        ({"site_asn": 3320}, "private one"),
        ({"site_asn": 64512}, "two different"),
        ({"routing": "static"}, "static_reason"),
        ({"announced": {}}, "nothing is routed"),
        ({"key_step": -1}, "count up"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_that_cannot_make_a_link_say_why(changes, says) -> None:
    with pytest.raises(ValueError, match=says):
        replace(SETTINGS, **changes)


def test_bgp_timers_must_let_two_keepalives_be_lost() -> None:
    with pytest.raises(ValueError, match="three keepalives"):
        Timers(keepalive=5, hold=14)


DEMAND = LinkDemand(replication_mbps=100, burst_gb=50, burst_minutes=30)


def test_a_fit_link_passes_the_preflight() -> None:
    assert preflight(SETTINGS, path_mtu=1500, capacity_mbps=1250, demand=DEMAND) == []


def test_the_preflight_names_a_small_mtu_and_an_overload_at_once() -> None:
    reasons = preflight(SETTINGS, path_mtu=1452, capacity_mbps=200, demand=DEMAND)
    assert len(reasons) == 2
    assert "path MTU is 1452; a full 1400-byte packet leaves as 1462 bytes" in reasons[0]
    assert re.search(r"peak demand is 322 Mbit/s and one tunnel carries 200", reasons[1])
