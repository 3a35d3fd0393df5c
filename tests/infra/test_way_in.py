"""How clients outside a site reach its gateway: the setting, and what it declares under mocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from infra.program import deploy
from infra.site_settings import Site, WayIn
from tests.clouds import engine
from tests.clouds.engine import Engine, build
from tests.infra.test_serving import settings, site

NODES = ["10.20.0.11", "10.20.0.12"]
PORTS = {"kind": "node-port", "port": 30443, "nodes": NODES, "clients": ["10.99.0.0/16"]}
BALANCER = {
    "kind": "load-balancer",
    "clients": ["10.99.0.0/16", "192.168.7.0/24"],
    "annotations": {"service.beta.kubernetes.io/aws-load-balancer-scheme": "internal"},
    "balancer_class": "service.k8s.aws/nlb",
}


def made_with(folder: Path, way_in: dict[str, Any] | None) -> Engine:
    private = site(folder, "private", 20) | ({"way_in": way_in} if way_in else {})
    sites = {"private": private, "cloud": site(folder, "cloud", 30)}
    return build(lambda: deploy(settings(folder, sites=sites)))


def service(made: Engine) -> dict[str, Any]:
    return made.of("Service")["private-gateway-service"]


def admitted(made: Engine) -> set[str]:
    """Ranges that the gateway's NetworkPolicy lets in to its door."""
    policy = made.of("NetworkPolicy")["private-gateway-traffic"]
    return {one["ipBlock"]["cidr"] for one in policy["spec"]["ingress"][0]["from"]}


OWN = {"10.20.0.0/24", "10.20.128.0/17", "10.30.0.0/24", "10.30.128.0/17"}


def test_by_default_a_gateway_is_reached_from_inside_and_by_the_stacks_own_ranges_alone(
    tmp_path: Path,
) -> None:
    made = made_with(tmp_path, None)
    assert set(service(made)["spec"]) == {"selector", "ports"}
    assert admitted(made) == OWN


def test_a_node_port_is_fixed_and_leads_to_the_nodes_own_pod(tmp_path: Path) -> None:
    made = made_with(tmp_path, PORTS)
    spec = service(made)["spec"]
    assert (spec["type"], spec["externalTrafficPolicy"]) == ("NodePort", "Local")
    assert [one["nodePort"] for one in spec["ports"]] == [30443]
    assert admitted(made) == {*OWN, "10.99.0.0/16"}, "clients come under their own address"


def test_a_load_balancer_admits_the_clients_alone_and_opens_no_port_on_nodes(
    tmp_path: Path,
) -> None:
    made = made_with(tmp_path, BALANCER)
    spec = service(made)["spec"]
    assert (spec["type"], spec["externalTrafficPolicy"]) == ("LoadBalancer", "Local")
    assert spec["loadBalancerSourceRanges"] == BALANCER["clients"]
    assert spec["loadBalancerClass"] == "service.k8s.aws/nlb"
    assert spec["allocateLoadBalancerNodePorts"] is False
    assert "nodePort" not in spec["ports"][0]
    assert service(made)["metadata"]["annotations"] == BALANCER["annotations"]
    assert admitted(made) >= set(BALANCER["clients"])


def test_a_load_balancer_that_sends_to_nodes_gets_fixed_ports_for_requests_and_checks(
    tmp_path: Path,
) -> None:
    spec = service(made_with(tmp_path, BALANCER | {"port": 30443, "health_port": 30444}))["spec"]
    assert spec["allocateLoadBalancerNodePorts"] is True
    assert (spec["ports"][0]["nodePort"], spec["healthCheckNodePort"]) == (30443, 30444)


@pytest.mark.parametrize(
    ("way_in", "balancers", "ports"),
    [
        (None, "0", "0"),
        (PORTS, "0", "1"),
        (BALANCER, "1", "0"),
        (BALANCER | {"port": 30443}, "1", "1"),
    ],
    ids=["cluster", "node-port", "load-balancer", "load-balancer-to-nodes"],
)
def test_the_quota_of_the_serving_team_has_room_for_that_door_and_no_team_for_another(
    tmp_path: Path, way_in: dict[str, Any] | None, balancers: str, ports: str
) -> None:
    private = site(tmp_path, "private", 20) | ({"way_in": way_in} if way_in else {})
    sites = {"private": private, "cloud": site(tmp_path, "cloud", 30)}
    teams = {"recommender": {"gpus": 0}, "research": {"gpus": 0}}
    made = build(lambda: deploy(settings(tmp_path, sites=sites, teams=teams)))
    found = {
        name: (hard["services.loadbalancers"], hard["services.nodeports"])
        for name, one in made.of("ResourceQuota").items()
        if "services.nodeports" in (hard := one["spec"]["hard"])
    }
    assert found.pop("private-recommender-quota") == (balancers, ports)
    assert len(found) >= 3
    assert set(found.values()) == {("0", "0")}


def exported(monkeypatch: pytest.MonkeyPatch, folder: Path, way_in: dict[str, Any] | None) -> Any:
    """The addresses that the stack puts out for the private site."""
    from infra import program

    found: dict[str, Any] = {}

    def export(name: str, value: Any) -> None:
        if name == "private":
            value["addresses"].apply(lambda addresses: found.update(addresses=addresses))

    monkeypatch.setattr(program.pulumi, "export", export)
    made_with(folder, way_in)
    return found["addresses"]


def test_the_addresses_put_out_are_those_that_clients_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert exported(monkeypatch, tmp_path, PORTS) == ["10.20.0.11:30443", "10.20.0.12:30443"]
    given = {"loadBalancer": {"ingress": [{"ip": "10.99.0.7"}, {"hostname": "nlb.example.com"}]}}
    kind = "kubernetes:core/v1:Service"
    monkeypatch.setitem(engine.COMPUTED, kind, {"status": given})
    assert exported(monkeypatch, tmp_path, BALANCER) == ["10.99.0.7:443", "nlb.example.com:443"]
    monkeypatch.setitem(engine.COMPUTED, kind, {"status": {}})
    assert exported(monkeypatch, tmp_path, BALANCER) == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"kind": "node-port", "port": 30443, "nodes": NODES}, "clients is empty; name who may"),
        (PORTS | {"port": None}, "give its port and the nodes that clients try"),
        (PORTS | {"nodes": []}, "give its port and the nodes that clients try"),
        (PORTS | {"nodes": [NODES[0], NODES[0]]}, "names an address twice"),
        (PORTS | {"port": 443}, "greater than or equal to 30000"),
        (PORTS | {"health_port": 30444}, "kind is node-port, which has no health_port; remove it"),
        (PORTS | {"clients": ["8.8.8.0/24"]}, "must be a private range"),
        (BALANCER | {"nodes": NODES}, "kind is load-balancer, which has no nodes; remove it"),
        (BALANCER | {"port": 30443, "health_port": 30443}, "both 30443; give two"),
        ({"port": 30443}, "kind is cluster, which has no port; remove it"),
        (PORTS | {"colour": "red"}, "Extra inputs are not permitted"),
    ],
)
def test_what_does_not_fit_together_is_refused_with_the_rule(
    given: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValidationError, match=told):
        WayIn.model_validate(given)


def test_an_address_that_is_no_node_of_the_site_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"holds 10\.21\.0\.11, which is not in node_cidr"):
        Site.model_validate(
            site(tmp_path, "private", 20) | {"way_in": PORTS | {"nodes": ["10.21.0.11"]}}
        )
