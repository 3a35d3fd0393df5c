"""Traffic between the sites: what Route 53 is told, and what it may not be told."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest

from infra.clouds.aws_account import Account
from infra.clouds.aws_traffic import CHECKERS, Alias, AwsTraffic, AwsTrafficArgs, Entrance
from tests.clouds.engine import REFERENCE, Engine, build
from tests.clouds.samples import IDENTITY

PRIVATE = Entrance(
    target=(IPv4Address("9.9.9.10"), IPv4Address("9.9.9.9")),
    check_host="private.shop.example", weight=255,
)  # fmt: skip
CLOUD = Entrance(
    target=Alias(dns_name="nlb-1.elb.eu-central-1.amazonaws.com", zone_id="Z3F0SRJ5LGBH90"),
    check_host="cloud.shop.example", weight=0,
)  # fmt: skip
ARGS = AwsTrafficArgs(
    account=Account(
        id="123456789012", region="eu-central-1", prefix="recsys-prod", identity=IDENTITY
    ),
    zone_id="Z0123456789ABCDEFGHIJ",
    host="recommend.shop.example",
    sites={"private": PRIVATE, "cloud": CLOUD},
)


def traffic(args: AwsTrafficArgs = ARGS) -> AwsTraffic:
    return AwsTraffic("traffic", args)


@pytest.fixture(scope="module")
def made() -> Engine:
    return build(traffic)


def test_both_sites_answer_one_name_and_the_cloud_only_when_the_private_site_is_down(
    made: Engine,
) -> None:
    records = {n: each for n, each in made.of("Record").items() if "setIdentifier" in each}
    assert {each["name"] for each in records.values()} == {"recommend.shop.example"}
    assert {each["type"] for each in records.values()} == {"A"}, "a weighted set has one type"
    weights = {each["setIdentifier"]: each["weightedRoutingPolicies"] for each in records.values()}
    assert weights == {"private": [{"weight": 255}], "cloud": [{"weight": 0}]}


def test_every_record_hangs_on_the_health_of_its_own_site(made: Engine) -> None:
    for site, host in (("private", "private.shop.example"), ("cloud", "cloud.shop.example")):
        check = made.of("HealthCheck")[f"traffic-{site}"]
        assert (check["type"], check["fqdn"], check["resourcePath"]) == ("HTTPS", host, "/readyz")
        assert check["enableSni"] is True
        found = REFERENCE.fullmatch(made.of("Record")[f"traffic-{site}"]["healthCheckId"])
        assert found is not None
        assert found[2] == f"traffic-{site}"
        assert {"owner", "cost-centre", "environment", "data-class"} <= set(check["tags"])
    assert len(CHECKERS) >= 3


def test_each_site_has_a_name_of_its_own_that_no_health_decides(made: Engine) -> None:
    for site, host in (("private", "private.shop.example"), ("cloud", "cloud.shop.example")):
        own = made.of("Record")[f"traffic-{site}-own"]
        shared = made.of("Record")[f"traffic-{site}"]
        assert own["name"] == host
        assert not {"healthCheckId", "weightedRoutingPolicies", "setIdentifier"} & set(own)
        if "aliases" in own:  # the check must find a balancer whose targets are all gone
            assert own["aliases"] == [{**shared["aliases"][0], "evaluateTargetHealth": False}]
        else:
            assert (own["records"], own["ttl"]) == (shared["records"], shared["ttl"])


def test_addresses_have_a_ttl_and_a_load_balancer_is_asked_for_its_health(made: Engine) -> None:
    private, cloud = (made.of("Record")[f"traffic-{site}"] for site in ("private", "cloud"))
    assert (private["records"], private["ttl"]) == (["9.9.9.10", "9.9.9.9"], 10)
    assert cloud["aliases"][0]["evaluateTargetHealth"] is True
    assert "ttl" not in cloud, "Route 53 refuses a TTL beside an alias"


def test_draining_a_site_changes_weights_and_nothing_else(made: Engine) -> None:
    drained = {"private": replace(PRIVATE, weight=0), "cloud": replace(CLOUD, weight=255)}
    after = build(lambda: traffic(replace(ARGS, sites=drained)))
    before = {(m.type, m.name): m.inputs for m in made.made}
    changed = {
        key
        for each in after.made
        for key, value in each.inputs.items()
        if before[each.type, each.name].get(key) != value
    }
    assert changed == {"weightedRoutingPolicies"}


def test_the_longest_switch_is_detection_and_what_resolvers_keep() -> None:
    assert ARGS.worst_switch_seconds == 90, "30 s of checks, and the balancer's own 60 s"
    plain = replace(CLOUD, target=(IPv4Address("8.8.8.8"),))
    assert replace(ARGS, sites={"private": PRIVATE, "cloud": plain}).worst_switch_seconds == 40


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sites": {"private": PRIVATE}}, "give both private and cloud"),
        ({"sites": {"private": replace(PRIVATE, weight=0), "cloud": CLOUD}}, "both weights are 0"),
        ({"host": "private.shop.example"}, "name of its own"),
        ({"host": "Shop Example"}, "full lower-case DNS name"),
        ({"failure_threshold": 0}, "give 1 to 10"),
        ({"ttl": 3600}, "give 1 to 60"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_traffic_that_could_not_fail_over_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(ARGS, **changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"weight": 256}, "0 to 255"),
        ({"target": ()}, "at least one public address"),
        ({"target": (IPv4Address("10.1.2.3"),)}, "10.1.2.3: shoppers cannot reach"),
        ({"check_host": "localhost"}, "full lower-case DNS name"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_entrance_that_nobody_reaches_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(PRIVATE, **changes)
