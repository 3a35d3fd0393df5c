"""The stand's cloud: the pools that a real cloud would get, and nothing that it does not sell."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pulumi_kubernetes as k8s
import pytest

from infra.clouds import aws as burst_aws
from infra.clouds.burst import GpuPool, UnsupportedBurstError
from infra.clouds.kwok import KwokBurst, KwokBurstArgs
from infra.pricing import prices
from local.karpenter import described, instance_types
from tests.clouds.engine import Engine, build
from tests.clouds.samples import ARGS, IDENTITY

GPU = "nvidia.com/gpu"


def args(*pools: GpuPool) -> KwokBurstArgs:
    return KwokBurstArgs(
        identity=IDENTITY,
        provider=k8s.Provider("cloud", kubeconfig="none"),
        gpu_pools=pools,
        capabilities=burst_aws.CAPABILITIES,
        zones=ARGS.zones,
        sold=tuple(described()["types"]),
    )


def pools_of(engine: Engine) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one["spec"] for one in engine.of("NodePool").values()}


def test_the_stand_gets_the_node_pools_of_aws_with_another_class_of_node() -> None:
    here = pools_of(build(lambda: KwokBurst("burst", args(*ARGS.gpu_pools))))
    there = pools_of(build(lambda: burst_aws.AwsBurst("cloud", ARGS)))
    assert here.keys() == there.keys()
    for name, spec in here.items():
        own = spec["template"]["spec"].pop("nodeClassRef")
        assert own["kind"] == "KWOKNodeClass"
        assert there[name]["template"]["spec"].pop("nodeClassRef")["kind"] == "EC2NodeClass"
        assert spec == there[name]


def test_every_pool_has_a_node_class_of_its_name() -> None:
    made = build(lambda: KwokBurst("burst", args(*ARGS.gpu_pools)))
    classes = {one["metadata"]["name"] for one in made.of("KWOKNodeClass").values()}
    wanted = {spec["template"]["spec"]["nodeClassRef"]["name"] for spec in pools_of(made).values()}
    assert classes == wanted == {pool.name for pool in ARGS.gpu_pools}


def test_idle_nodes_are_given_back_all_at_once_and_others_moved_one_by_one() -> None:
    for spec in pools_of(build(lambda: KwokBurst("burst", args(*ARGS.gpu_pools)))).values():
        # Karpenter takes the lowest of the budgets that apply to a reason
        limits: dict[str, str] = {}
        for budget in spec["disruption"]["budgets"]:
            for reason in budget["reasons"]:
                assert reason not in limits
                limits[reason] = budget["nodes"]
        assert limits == {"Empty": "100%", "Drifted": "1", "Underutilized": "1"}


def test_the_stand_sells_what_aws_does_at_its_price() -> None:
    table = prices()
    for one in instance_types():
        name = one["name"]
        assert int(one["resources"][GPU]) == burst_aws.CAPABILITIES.gpu_types[name].gpus
        dearest = max(Decimal(str(offer["Price"])) for offer in one["offerings"])
        assert dearest == table.get(f"ec2.{name}", "us-east-1").usd


def test_what_the_stand_does_not_sell_is_refused_with_every_reason() -> None:
    pool = replace(ARGS.gpu_pools[0], instance_types=("g6.huge", "p4de.24xlarge"))
    with pytest.raises(UnsupportedBurstError) as error:
        args(pool)
    assert "g6.huge is not one of" in str(error.value)
    assert "the stand does not sell p4de.24xlarge; it sells g6.xlarge" in str(error.value)
