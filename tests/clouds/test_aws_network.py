"""The AWS site's network: zones, ways in and out, and what reaches what."""

from __future__ import annotations

import ipaddress

from tests.clouds.engine import REFERENCE, Engine
from tests.clouds.samples import ARGS


def test_every_zone_has_its_own_subnets_and_routes_and_no_public_address(either: Engine) -> None:
    subnets = either.of("Subnet")
    assert not [n for n, got in subnets.items() if got["mapPublicIpOnLaunch"] is not False]
    for kind in ("nodes", "control"):
        zones = [got["availabilityZone"] for n, got in subnets.items() if f"-{kind}-" in n]
        assert sorted(zones) == list(ARGS.zones)
    associated = {
        REFERENCE.findall(got["subnetId"])[0][1]
        for got in either.of("RouteTableAssociation").values()
    }
    assert associated == set(subnets), "a subnet without routes of its own falls to the main table"
    nets = [ipaddress.IPv4Network(got["cidrBlock"]) for got in subnets.values()]
    assert all(net.subnet_of(ARGS.vpc_cidr) for net in nets)
    assert not any(a.overlaps(b) for i, a in enumerate(nets) for b in nets[i + 1 :])


def test_without_nat_there_is_no_way_to_the_internet_at_all(site: Engine) -> None:
    for kind in ("InternetGateway", "NatGateway", "Eip", "Route"):
        assert site.of(kind) == {}, f"{kind} opens the VPC"


def test_nat_gives_every_zone_its_own_gateway(site_with_nat: Engine) -> None:
    assert len(site_with_nat.of("NatGateway")) == len(ARGS.zones)
    routes = site_with_nat.of("Route")
    assert "InternetGateway" in routes.pop("cloud-net-edge")["gatewayId"]
    assert len(routes) == len(ARGS.zones)
    for name, route in routes.items():
        zone = name.rsplit("-nat-")[-1]
        assert route["destinationCidrBlock"] == "0.0.0.0/0"
        assert f"-nat-{zone}|" in route["natGatewayId"], "a zone must not depend on another's NAT"
        assert zone in route["routeTableId"]


def test_nodes_reach_every_aws_service_that_they_need_inside_the_vpc(either: Engine) -> None:
    services = {
        got["serviceName"].split("eu-central-1.")[1] for got in either.of("VpcEndpoint").values()
    }
    assert services >= {"s3", "ecr.api", "ecr.dkr", "sts", "ec2", "logs", "eks-auth", "sqs", "ssm",
                         "ssmmessages"}  # fmt: skip
    interfaces = [
        g for g in either.of("VpcEndpoint").values() if g["vpcEndpointType"] == "Interface"
    ]
    assert all(got["privateDnsEnabled"] and len(got["subnetIds"]) == 3 for got in interfaces)


def test_nodes_reach_s3_where_layers_of_images_lie_though_it_keeps_its_public_addresses(
    either: Engine,
) -> None:
    rule = either.of("SecurityGroupEgressRule")["cloud-net-nodes-out-s3"]
    assert "cloud-net-s3|prefixListId" in rule["prefixListId"]
    assert (rule["fromPort"], rule["toPort"]) == (443, 443)
    assert not {"cidrIpv4", "referencedSecurityGroupId"} & set(rule)


def test_the_control_plane_reaches_webhooks_kubelets_and_the_metrics_server(
    either: Engine,
) -> None:
    out = {
        each["fromPort"]
        for name, each in either.of("SecurityGroupEgressRule").items()
        if name.startswith("cloud-net-control-")
    }
    into = {
        each["fromPort"]
        for name, each in either.of("SecurityGroupIngressRule").items()
        if name.startswith("cloud-net-nodes-in-control-")
    }
    assert out == into == {443, 8443, 9443, 10250, 10251}


def test_no_group_rule_opens_anything_to_the_world_inwards_or_every_protocol_outwards(
    either: Engine,
) -> None:
    for way in ("SecurityGroupIngressRule", "SecurityGroupEgressRule"):
        for name, got in either.of(way).items():
            assert got["description"].strip(), f"{name} has no reason"
            world = got.get("cidrIpv4") == "0.0.0.0/0"
            assert not (world and way == "SecurityGroupIngressRule"), name
            if world:
                assert (got["ipProtocol"], got["fromPort"], got["toPort"]) == ("tcp", 443, 443)
            if got["ipProtocol"] == "-1":
                assert got["referencedSecurityGroupId"] == got["securityGroupId"], name
    for name, got in either.of("SecurityGroup").items():
        assert got["description"], name
        assert "ingress" not in got, "inline rules would fight the rule resources"
        assert "egress" not in got, "inline rules would fight the rule resources"
