"""The real AWS provider reads every name and value, and plans the whole site without an account.

Needs `terraform` and a plugin folder with the provider (TF_PLUGIN_MIRROR, or /opt/tf-plugins);
without them the mocks of the other files are what is checked.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from infra.clouds import aws as burst_aws
from tests.clouds import terraform as tf
from tests.clouds.engine import build
from tests.clouds.samples import ARGS, NAT
from tests.clouds.test_traffic import traffic
from tests.clouds.test_vpn_link import link

MIRROR = Path(os.environ.get("TF_PLUGIN_MIRROR", "/opt/tf-plugins"))
pytestmark = pytest.mark.skipif(
    shutil.which("terraform") is None or not MIRROR.is_dir(),
    reason="the AWS provider of Terraform is not on this machine",
)


@pytest.mark.slow
@pytest.mark.parametrize("args", [ARGS, NAT], ids=["no-internet", "nat"])
def test_the_real_provider_plans_every_resource_of_the_site(tmp_path: Path, args) -> None:
    def program() -> None:
        burst_aws.AwsBurst("cloud", args)
        link()
        traffic()

    engine = build(program)
    schema = tf.provider_schema(tmp_path, MIRROR)
    made = tf.program(engine, schema)
    count = sum(len(each) for each in made["resource"].values())
    (tmp_path / "main.tf.json").write_text(json.dumps(made))
    done = tf.terraform(tmp_path, "plan", "-no-color", "-input=false", "-refresh=false")
    assert done.returncode == 0, done.stderr
    assert f"Plan: {count} to add, 0 to change, 0 to destroy." in done.stdout
