"""A month's bill from a plan."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from policies.cli import main
from policies.cost import bill
from policies.cost_settings import CostSettings
from policies.load import from_list
from policies.resource import Stack
from policies.samples import container, deployment, manifest, resource

US = CostSettings(region="us-east-1", usage={})
TAGS = {"component": "site", "owner": "platform"}


def cost_of(*entries: dict[str, Any], settings: CostSettings = US):
    return bill(Stack(list(from_list(list(entries)))), settings)


def total(*entries: dict[str, Any], settings: CostSettings = US) -> Decimal:
    found = cost_of(*entries, settings=settings)
    assert found.unpriced == ()
    return found.estimate.total


LARGE = {"requests": {"cpu": "2000", "memory": "1Gi"}}
NODES = resource(
    "aws:eks/nodeGroup:NodeGroup",
    "system",
    instanceTypes=["m7i.large", "m6i.large"],
    scalingConfig={"minSize": 3, "desiredSize": 3, "maxSize": 4},
    launchTemplate={"id": "${system-template.id}"},
    tags=TAGS,
)
TEMPLATE = resource(
    "aws:ec2/launchTemplate:LaunchTemplate",
    "system-template",
    blockDeviceMappings=[{"ebs": {"volumeType": "gp3", "volumeSize": 60}}],
)
POOL = manifest(
    "karpenter.sh/v1",
    "NodePool",
    spec={
        "limits": {"nvidia.com/gpu": "16"},
        "template": {
            "spec": {
                "requirements": [
                    {"key": "karpenter.sh/capacity-type", "values": ["spot"]},
                    {
                        "key": "node.kubernetes.io/instance-type",
                        "values": ["g6.xlarge", "g6e.xlarge"],
                    },
                ]
            }
        },
    },
)
GPU_POD = container(
    resources={
        "requests": {"cpu": "2", "memory": "4Gi"},
        "limits": {"memory": "4Gi", "nvidia.com/gpu": 1},
    }
)


def test_a_control_plane_costs_its_hours():
    assert total(resource("aws:eks/cluster:Cluster")) == Decimal("73.00")


def test_a_node_group_costs_its_desired_nodes_and_their_disks_and_its_ceiling_all_of_them():
    found = cost_of(NODES, TEMPLATE)
    nodes, disks = Decimal("0.1008") * 730, Decimal("0.08") * 60
    assert found.estimate.total == (3 * (nodes + disks)).quantize(Decimal("0.01"))
    assert found.estimate.ceiling == (4 * (nodes + disks)).quantize(Decimal("0.01"))


def test_an_endpoint_costs_once_per_zone_and_a_gateway_endpoint_nothing():
    interface = resource(
        "aws:ec2/vpcEndpoint:VpcEndpoint", vpcEndpointType="Interface", subnetIds=["a", "b", "c"]
    )
    gateway = resource("aws:ec2/vpcEndpoint:VpcEndpoint", vpcEndpointType="Gateway")
    assert total(interface) == Decimal("21.90")
    assert total(gateway) == 0


def test_a_health_check_costs_its_endpoint_and_each_option_that_it_uses():
    kind = "aws:route53/healthCheck:HealthCheck"
    assert total(resource(kind, type="TCP", requestInterval=30)) == Decimal("0.75")
    assert total(resource(kind, type="HTTPS", requestInterval=30)) == Decimal("2.75")
    slow = resource(kind, type="HTTPS_STR_MATCH", requestInterval=10, measureLatency=True)
    assert total(slow) == Decimal("8.75"), "TLS, a text to find, every 10 s, a graph of latencies"


def test_a_pool_from_zero_costs_the_cheapest_for_its_share_and_can_reach_the_dearest_for_all():
    found = cost_of(POOL)
    hours = 16 * 730
    low, high = Decimal("0.8048") * Decimal("0.45"), Decimal("1.861") * Decimal("0.45")
    assert abs(found.estimate.total - hours * low / 10) < Decimal("0.01")
    assert abs(found.estimate.ceiling - hours * high) < Decimal("0.01")
    assert [rate.kind for rate in found.estimate.gpu_rates()] == ["L4"]


def test_what_the_settings_call_free_costs_nothing_even_when_it_has_a_price():
    assert total(POOL) > 0
    assert total(POOL, settings=US.model_copy(update={"free": ("karpenter.sh/*",)})) == 0


def test_pods_of_the_private_site_cost_their_requests_and_those_of_a_cloud_its_nodes():
    here = deployment(GPU_POD, replicas=2)
    server = US.server()
    expected = 2 * 730 * (2 * server.vcpu_hour + 4 * server.gib_hour + server.gpu_hour)
    assert abs(total(here) - expected) < Decimal("0.01")
    stack = Stack(list(from_list([here])))
    from dataclasses import replace

    moved = Stack([replace(each, provider="cloud") for each in stack.resources])
    assert bill(moved, US).estimate.total == 0


def test_a_pod_costs_its_largest_init_container_when_that_asks_for_more():
    small = container(resources={"requests": {"cpu": "1", "memory": "1Gi"}})
    large = container("prepare", resources={"requests": {"cpu": "3", "memory": "1Gi"}})
    alone = total(deployment(container(resources={"requests": {"cpu": "3", "memory": "1Gi"}})))
    assert total(deployment(small, initContainers=[large])) == alone


def test_a_job_costs_one_run_no_longer_than_its_deadline_and_a_repeated_one_its_share_of_a_month():
    def job(kind: str, **spec: Any) -> Decimal:
        pod = {"spec": {"containers": [container(resources=LARGE)]}}
        template = {"template": pod, **spec}
        wrapped = template if kind == "Job" else {"jobTemplate": {"spec": template}}
        return total(manifest("batch/v1", kind, spec=wrapped))

    month = job("Job")
    assert month > 0
    hour = job("Job", activeDeadlineSeconds=3600)
    assert abs(hour - month / 20) < Decimal("0.01")  # of the assumed 20 hours
    assert job("Job", activeDeadlineSeconds=100 * 3600) == month
    assert job("CronJob", activeDeadlineSeconds=3600) == month


def test_an_autoscaler_raises_the_ceiling_and_not_the_estimate():
    scaler = manifest(
        "autoscaling/v2",
        "HorizontalPodAutoscaler",
        spec={"maxReplicas": 10, "scaleTargetRef": {"kind": "Deployment", "name": "sample"}},
    )
    plain, scaled = cost_of(deployment(GPU_POD)), cost_of(deployment(GPU_POD), scaler)
    assert scaled.estimate.total == plain.estimate.total
    assert abs(scaled.estimate.ceiling - 5 * plain.estimate.total) < Decimal("0.05")


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (resource("aws:rds/cluster:Cluster"), "not on the price list"),
        (manifest("example.org/v1", "Database"), "not on the price list"),
        (resource("aws:ec2/instance:Instance", instanceType="z9.mega"), "add a row"),
        (resource("aws:ebs/volume:Volume", type="gp3"), "says no number"),
        (
            resource(
                "aws:ebs/volume:Volume", type="gp3", size="04da6b54-80e4-46f7-96ec-b56ff0331ba9"
            ),
            "not known yet",
        ),
        (deployment(container()), "requests no cpu"),
        (
            manifest("karpenter.sh/v1", "NodePool", spec={"limits": {"cpu": "10"}}),
            "else no bill is bounded",
        ),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
def test_what_cannot_be_priced_is_listed_and_never_counts_as_nothing(entry: Any, says: str):
    found = cost_of(entry)
    assert [text for _, text in found.unpriced if says in text], found


def test_a_type_may_be_declared_as_priced_elsewhere():
    settings = CostSettings(region="us-east-1", free=("aws:rds/*",))
    assert total(resource("aws:rds/cluster:Cluster"), settings=settings) == 0


def test_components_and_teams_come_from_the_required_tags():
    found = cost_of(NODES, TEMPLATE).estimate
    assert set(found.by(lambda line: line.component)) == {"site"}
    assert set(found.by(lambda line: line.team)) == {"platform"}


# The command line


def files(tmp_path: Path, *entries: dict[str, Any], **limits: object) -> list[str]:
    listed, config = tmp_path / "list.json", tmp_path / "config.yaml"
    listed.write_text(json.dumps(list(entries)))
    config.write_text(json.dumps({"cost": {"region": "us-east-1", "usage": {}, **limits}}))
    return ["--resources", str(listed), "--config", str(config)]


CLUSTER = resource("aws:eks/cluster:Cluster")  # 73.00 a month


@pytest.mark.parametrize(("limit", "code"), [(73, 0), (72.99, 1)])
def test_the_command_fails_past_the_budget_and_not_at_it(tmp_path: Path, limit: float, code: int):
    assert main(["cost", *files(tmp_path, CLUSTER, total_usd=limit)]) == code


def test_an_unpriced_resource_fails_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["cost", *files(tmp_path, resource("aws:rds/cluster:Cluster"))]) == 1
    assert "UNPRICED aws:rds" in capsys.readouterr().out


def test_a_rise_needs_a_new_yes_and_gets_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    accepted = ["--accepted", str(tmp_path / "accepted.json")]
    one = ["cost", *files(tmp_path, CLUSTER, rise_percent=50), *accepted]
    assert main(one) == 1, "nothing was accepted yet"
    assert main([*one, "--accept", "finance"]) == 0
    assert main(one) == 0
    two = ["cost", *files(tmp_path, CLUSTER, {**CLUSTER, "name": "b"}, rise_percent=50), *accepted]
    capsys.readouterr()
    assert main(two) == 1
    assert "rises by 100.0 %" in capsys.readouterr().out
    assert main([*two, "--accept", "finance"]) == 0
    assert main(two) == 0


def test_an_estimate_with_holes_cannot_be_accepted(tmp_path: Path):
    asked = files(tmp_path, resource("aws:rds/cluster:Cluster"))
    where = tmp_path / "accepted.json"
    assert main(["cost", *asked, "--accepted", str(where), "--accept", "me"]) == 2
    assert not where.exists()


def test_the_json_report_holds_lines_that_sum_to_the_total(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    asked = files(tmp_path, CLUSTER, NODES, TEMPLATE, POOL, deployment(GPU_POD))
    assert main(["cost", *asked, "--format", "json"]) == 0
    report = json.loads(capsys.readouterr().out)
    whole = Decimal(report["total_usd"])
    assert abs(sum(Decimal(line["usd"]) for line in report["lines"]) - whole) < Decimal("0.05")
    assert sum(map(Decimal, report["by"]["component"].values())) == whole
    gpus = report["gpu_hours"]
    assert {rate["gpu"] for rate in gpus} == {"L4", "H100"}
    parts = sum(Decimal(rate["direct_usd"]) + Decimal(rate["shared_usd"]) for rate in gpus)
    assert parts == whole


def test_the_summary_of_a_change_holds_the_bill_and_the_new_findings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    base = tmp_path / "base.json"
    base.write_text("[]")
    asked = files(tmp_path, CLUSTER, deployment(container()))
    assert main(["report", *asked, "--base", str(base)]) == 1
    text = capsys.readouterr().out
    assert "73.00 USD a month" in text
    assert "New since the base" in text
    assert "**unpriced** `Deployment/shop/sample`" in text
