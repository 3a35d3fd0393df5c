"""What a cloud cannot do is refused at preview, with every reason and before any resource."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from ipaddress import IPv4Network

import pytest

from infra.clouds import aws as burst_aws
from infra.clouds.burst import GpuPool, UnsupportedBurstError, require, unsupported
from tests.clouds.engine import build
from tests.clouds.samples import ARGS, changed


def pool(**changes) -> GpuPool:
    given = {"name": "x", "instance_types": ("g6.xlarge",), "max_spot_gpus": 4,
             "max_on_demand_gpus": 0}  # fmt: skip
    return GpuPool(**{**given, **changes})


def test_the_sample_is_something_aws_sells() -> None:
    assert unsupported(ARGS, burst_aws.CAPABILITIES) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"region": "mars-north-1"}, "mars-north-1 is not one of"),
        ({"zones": ("eu-central-1a", "eu-central-1d")}, "eu-central-1d: eu-central-1 has"),
        ({"zones": ("eu-central-1a",)}, "needs 2 to 7 different zones"),
        ({"kubernetes_version": "1.19"}, "1.19 is not offered"),
        ({"today": date(2027, 6, 1)}, "standard support ended on 2027-03-27"),
        ({"service_cidr": IPv4Network("10.50.3.0/24")}, "cloud vpc and cloud services share"),
        ({"vpc_cidr": IPv4Network("10.20.0.0/16")}, "site pods and cloud vpc share"),
        ({"vpc_cidr": IPv4Network("100.64.0.0/16")}, "not a private range"),
        ({"service_cidr": IPv4Network("172.20.0.0/28")}, "between /12 and /24"),
        ({"vpc_cidr": IPv4Network("10.50.0.0/24")}, "too small for 3 zones"),
        ({"gpu_pools": (pool(instance_types=("g6.huge",)),)}, "g6.huge is not one of"),
        ({"gpu_pools": (pool(instance_types=("p5e.48xlarge",), max_spot_gpus=8),)},
         "p5e.48xlarge is not sold as spot"),
        ({"gpu_pools": (pool(instance_types=("g6.12xlarge",), max_spot_gpus=2),)},
         "the spot ceiling of 2 GPUs is below one g6.12xlarge"),
        ({"autoscaler": replace(ARGS.autoscaler, image=None)}, "autoscaler.image is unset"),
        ({"device_plugin": replace(ARGS.device_plugin, image=None)}, "plugin.image is unset"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_aws_does_not_sell_is_refused_with_the_reason(changes, says) -> None:
    with pytest.raises(UnsupportedBurstError) as error:
        require(changed(**changes), burst_aws.CAPABILITIES)
    assert says in str(error.value)


def test_every_reason_is_given_at_once_and_before_any_resource() -> None:
    wrong = changed(
        region="mars-north-1", kubernetes_version="1.19", vpc_cidr=IPv4Network("10.20.0.0/16")
    )
    with pytest.raises(UnsupportedBurstError) as error:
        build(lambda: burst_aws.AwsBurst("cloud", wrong))
    assert str(error.value).count("\n  - ") == 3


@pytest.mark.parametrize(
    "changes",
    [{"max_spot_gpus": -1}, {"max_spot_gpus": 0}, {"instance_types": ()}, {"name": "Bad_Name"},
     {"idle_minutes": 0}],
    ids=str,
)  # fmt: skip
def test_a_pool_that_means_nothing_cannot_be_written(changes) -> None:
    with pytest.raises(ValueError, match=r"pool|idle"):
        pool(**changes)


def test_the_most_a_pool_can_hold_is_what_both_kinds_may_hold_together() -> None:
    assert pool(max_spot_gpus=12, max_on_demand_gpus=4).ceiling == 16
