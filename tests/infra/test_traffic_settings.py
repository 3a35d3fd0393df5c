"""The name that shoppers use, in a stack's settings: what is refused, drained, and declared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from infra.clouds.aws import CAPABILITIES
from infra.clouds.aws_traffic import BALANCER_ZONES
from infra.program import deploy
from infra.settings import Settings, parse
from infra.site_settings import AWS_SCHEME, SettingsError
from infra.traffic_settings import Traffic
from tests.clouds import engine
from tests.clouds.engine import Engine, build
from tests.infra.declared import config, fill_home
from tests.infra.test_adopted_cloud import CLOUD

KEY = "hybrid-recommender:traffic"
GIVEN: dict[str, Any] = json.loads(config("prod")[KEY])
BALANCER = "k8s-recommend-gateway-0123456789-0123456789abcdef.elb.eu-central-1.amazonaws.com"
WAY_IN: dict[str, Any] = {
    "kind": "load-balancer",
    "balancer_class": "service.k8s.aws/nlb",
    "clients": ["0.0.0.0/0"],
    "annotations": {AWS_SCHEME: "internet-facing"},
}


def changed(**changes: Any) -> dict[str, Any]:
    """The example's traffic; `site__key` goes into that site, None removes a key."""
    made = json.loads(json.dumps(GIVEN))
    for key, value in changes.items():
        first, _, rest = key.partition("__")
        where = made[first] if rest else made
        name = (rest or first).replace("_", "-")
        where.pop(name, None)
        if value is not None:
            where[name] = value
    return made


def stack(
    home: Path,
    traffic: dict[str, Any],
    cloud: dict[str, Any] | None = None,
    burst: dict[str, Any] | None = None,
    **serving: Any,
) -> Settings:
    """`prod` with this traffic; `cloud` is the way into the cloud site, where there is one."""
    fill_home(home, "prod")
    values = config("prod")
    found = {name: json.loads(values[f"hybrid-recommender:{name}"]) for name in ("sites", "burst")}
    if cloud is not None:
        found["sites"]["cloud"] = {**CLOUD, "way_in": cloud}
    found["burst"] |= burst or {}
    found["serving"] = serving
    values |= {f"hybrid-recommender:{key}": json.dumps(value) for key, value in found.items()}
    values[KEY] = json.dumps(traffic)
    return parse("prod", {**values, "hybrid-recommender:today": "2026-11-25"})


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def weights(made: Engine) -> dict[str, int]:
    return {
        name.removeprefix("traffic-"): one["weightedRoutingPolicies"][0]["weight"]
        for name, one in made.of("Record").items()
        if "weightedRoutingPolicies" in one
    }


def test_the_example_gives_the_private_site_everything_and_the_cloud_what_it_cannot_take(
    home: Path,
) -> None:
    made = build(lambda: deploy(stack(home, GIVEN)))
    assert weights(made) == {"private": 255, "cloud": 0}
    assert {one["zoneId"] for one in made.of("Record").values()} == {GIVEN["zone"]["id"]}
    checks = made.of("HealthCheck")
    assert {one["fqdn"] for one in checks.values()} == {
        GIVEN["private"]["name"], GIVEN["cloud"]["name"],
    }  # fmt: skip
    for one in checks.values():
        assert (one["requestInterval"], one["failureThreshold"]) == (10, 2)


@pytest.mark.parametrize(
    ("site", "cloud_weight", "after"),
    [
        ("private", 0, {"private": 0, "cloud": 1}),
        ("private", 40, {"private": 0, "cloud": 40}),
        ("cloud", 40, {"private": 255, "cloud": 0}),
    ],
)
def test_a_drained_site_has_weight_0_and_the_other_more_than_that(
    site: str, cloud_weight: int, after: dict[str, int]
) -> None:
    given = changed(drained=site, cloud__weight=cloud_weight)
    assert Traffic.model_validate(given).weights == after


def test_a_site_is_not_drained_while_no_other_serves(home: Path) -> None:
    with pytest.raises(SettingsError, match="drained is private, and no other site serves"):
        stack(home, changed(drained="private"))
    internal = {**WAY_IN, "clients": ["10.0.0.0/8"], "annotations": {}}
    traffic = stack(home, changed(drained="private"), cloud=internal).traffic
    assert traffic is not None
    assert traffic.weights["private"] == 0
    with pytest.raises(SettingsError, match=r"no other site serves \(private does\)"):
        stack(home, changed(drained="private"), cloud=internal, sites=["private"])


def test_the_gateway_of_an_adopted_cluster_is_the_clouds_entrance_where_none_is_given(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = {"status": {"loadBalancer": {"ingress": [{"hostname": BALANCER}]}}}
    monkeypatch.setitem(engine.COMPUTED, "kubernetes:core/v1:Service", status)
    settings = stack(home, changed(cloud__balancer=None), cloud=WAY_IN, burst={"internet": "nat"})
    made = build(lambda: deploy(settings))
    for name in ("traffic-cloud", "traffic-cloud-own"):
        answer = made.of("Record")[name]["aliases"][0]
        assert (answer["name"], answer["zoneId"]) == (BALANCER, BALANCER_ZONES["eu-central-1"])
    role = made.of("PkiRole")["cloud-gateway-vault-certificates"]
    assert {GIVEN["host"], GIVEN["cloud"]["name"]} <= set(role["domains"]), "it shows itself"
    private = made.of("PkiRole")["private-gateway-vault-certificates"]
    assert GIVEN["host"] not in private["domains"], "its entrance has a certificate of the shop"
    edges = [one for name, one in made.of("Subnet").items() if "-edge-" in name]
    assert len(edges) == 3
    assert all(one["tags"]["kubernetes.io/role/elb"] == "1" for one in edges)


@pytest.mark.parametrize(
    ("cloud", "burst", "serving", "told"),
    [
        (None, {}, {}, "sites has no cloud"),
        (WAY_IN, {"internet": "nat"}, {"sites": ["private"]}, "serving.sites has no cloud"),
        ({"kind": "cluster"}, {"internet": "nat"}, {}, "its way_in is cluster"),
        (
            {**WAY_IN, "clients": ["10.0.0.0/8"], "annotations": {}},
            {"internet": "nat"}, {}, "does not face the internet",
        ),
        (WAY_IN, {}, {}, "burst.internet is none, which leaves it no public subnet"),
    ],
    ids=["not adopted", "does not serve", "inside", "internal", "no public subnet"],
)  # fmt: skip
def test_a_gateway_that_the_internet_cannot_reach_is_no_entrance_and_the_reason_is_told(
    home: Path,
    cloud: dict[str, Any] | None,
    burst: dict[str, Any],
    serving: dict[str, Any],
    told: str,
) -> None:
    with pytest.raises(SettingsError, match=told):
        stack(home, changed(cloud__balancer=None), cloud=cloud, burst=burst, **serving)


@pytest.mark.parametrize(
    ("traffic", "told"),
    [
        (changed(private__addresses=None), "private has no entrance; give its addresses"),
        (changed(private__addresses=["10.10.0.4"]), "must be a public address"),
        (changed(private__addresses=["9.9.9.9", "9.9.9.9"]), "addresses names one twice"),
        (changed(cloud__addresses=["9.9.9.9"]), "has addresses and a balancer; give one"),
        (changed(private__weight=0), "both weights are 0, which DNS reads as equal shares"),
        (changed(private__weight=256), "traffic.private.weight is 256: .* less than or equal"),
        (changed(host="recommend.other.example"), "which is not in zone shop.example"),
        (changed(host="evilshop.example"), "which is not in zone shop.example"),
        (changed(cloud__name=GIVEN["host"]), "names repeat"),
        (changed(host="Recommend.shop.example"), "traffic.host is 'Recommend.shop.example'"),
        (changed(ttl=3600), "traffic.ttl is 3600: .* less than or equal to 60"),
        (changed(health={"every-seconds": 20}), "traffic.health.every-seconds is 20: .* 10 or 30"),
        (
            changed(health={"misses": 0}),
            "traffic.health.misses is 0: .* greater than or equal to 1",
        ),
        (changed(drained="both"), "traffic.drained is 'both'"),
        (changed(colour="red"), "traffic.colour is 'red': this key is unknown"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_work_is_refused_with_its_key_value_and_rule(
    home: Path, traffic: dict[str, Any], told: str
) -> None:
    with pytest.raises(SettingsError, match=told) as error:
        stack(home, traffic)
    assert "Pulumi.prod.yaml" in str(error.value)


def test_records_need_the_account_that_they_are_made_in(home: Path) -> None:
    fill_home(home, "prod")
    values = config("prod")
    del values["hybrid-recommender:burst"], values["hybrid-recommender:link"]
    with pytest.raises(SettingsError, match="traffic has no `burst`"):
        parse("prod", values)


def test_every_region_of_the_capability_table_has_its_zone_of_balancers() -> None:
    assert set(BALANCER_ZONES) == set(CAPABILITIES.zones)
