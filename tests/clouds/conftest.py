"""Settings for the cloud tests."""

from __future__ import annotations

import pytest

from infra.clouds import aws as burst_aws
from infra.clouds.burst import Internet
from tests.clouds.engine import Engine, build
from tests.clouds.samples import ARGS, NAT


def pytest_configure(config: pytest.Config) -> None:
    # The AWS SDK warns about its own old names while it imports them; ours are the new ones.
    config.addinivalue_line("filterwarnings", r"ignore:.*:DeprecationWarning:pulumi_aws\..*")


@pytest.fixture(scope="module")
def site() -> Engine:
    return build(lambda: burst_aws.AwsBurst("cloud", ARGS))


@pytest.fixture(scope="module")
def site_with_nat() -> Engine:
    return build(lambda: burst_aws.AwsBurst("cloud", NAT))


@pytest.fixture(params=[Internet.NONE, Internet.NAT])
def either(request: pytest.FixtureRequest, site: Engine, site_with_nat: Engine) -> Engine:
    return site if request.param is Internet.NONE else site_with_nat
