"""`staging` and `prod`: the whole program under mocks, from the example settings in the repository,
with every policy and every price run over what was registered."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.program import deploy
from infra.settings import Settings, SettingsError, parse
from policies.cost import bill
from policies.engine import Plan, Row, run
from policies.load import from_list
from policies.resource import Stack
from policies.rules import all_rules
from policies.settings import apply_waivers, plan_from, read_settings, read_waivers
from tests.clouds.engine import REFERENCE, Engine, Made, build, strings

ROOT = Path(__file__).resolve().parents[2]
STACKS = ("staging", "prod")
REQUIRED = {"owner", "cost-centre", "environment", "data-class"}
KUBECONFIG = """
clusters: [{name: site, cluster: {certificate-authority-data: Q0E=, server: https://site}}]
"""


def config(stack: str) -> dict[str, str]:
    """The stack file as the engine hands it over: structures as JSON."""
    raw = yaml.safe_load((ROOT / f"Pulumi.{stack}.yaml").read_text(encoding="utf-8"))["config"]
    return {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in raw.items()
    }


def urn(made: Made) -> str:
    return f"urn:pulumi:test::hybrid-recommender::{made.type}::{made.name}"


def referred(value: Any) -> Any:
    """The engine's reference marks as the `${name.property}` that the policies join by."""
    if isinstance(value, str):
        whole = REFERENCE.fullmatch(value)
        return f"${{{whole[2]}.{whole[3]}}}" if whole else value
    if isinstance(value, dict):
        return {key: referred(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [referred(inner) for inner in value]
    return value


def plain(made: Made) -> dict[str, Any]:
    pointing: dict[str, list[str]] = {}
    for path, text in strings(made.inputs):
        for kind, name, _ in REFERENCE.findall(text):
            target = f"urn:pulumi:test::hybrid-recommender::{kind}::{name}"
            pointing.setdefault(path.split(".", 1)[0], []).append(target)
    return {
        "type": made.type, "name": made.name, "urn": urn(made),
        "properties": referred(made.inputs), "propertyDependencies": pointing,
    }  # fmt: skip


class Built:
    """One stack's settings, what its program registered, and what the policies say of it."""

    def __init__(self, stack: str) -> None:
        self.settings: Settings = parse(stack, config(stack))
        self.engine: Engine = build(lambda: deploy(self.settings))
        self.custom = [
            made
            for made in self.engine.made
            if not made.type.startswith(("pulumi:", "recsys:", "hybrid-recommender:"))
        ]
        self.plan_stack = Stack(list(from_list([plain(made) for made in self.custom])))
        files = ROOT / "policies" / "stacks"
        self.checks = read_settings(files / f"{stack}.yaml")
        rules = all_rules()
        plan: Plan = plan_from(rules, self.checks, [])
        where = files / f"{stack}.waivers.yaml"
        waivers = read_waivers(where, rules)
        today = datetime.now(UTC).date()
        rows = run(self.plan_stack, plan)
        self.rows: list[Row] = apply_waivers(rows, waivers, plan, today, str(where))


@pytest.fixture(scope="module", params=STACKS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    home = tmp_path_factory.mktemp("home")
    for name, text in {
        f".kube/hybrid-recommender-{request.param}.yaml": KUBECONFIG,
        ".config/hybrid-recommender/vault-ca.pem": "CA",
        ".config/hybrid-recommender/vault-token": "unused",
    }.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        return Built(request.param)


def test_the_program_declares_both_sites_and_the_link(built: Built) -> None:
    kinds = {made.type for made in built.custom}
    assert "kubernetes:apps/v1:Deployment" in kinds
    assert {"aws:eks/cluster:Cluster", "aws:ec2/vpnConnection:VpnConnection"} <= kinds


def test_every_taggable_resource_of_the_cloud_has_the_required_tags(built: Built) -> None:
    tagged = [made for made in built.custom if "tags" in made.inputs]
    assert len(tagged) > 40
    for made in tagged:
        tags = made.inputs["tags"]
        missing = REQUIRED - set(tags)
        assert not missing, f"{made.type} {made.name} lacks {sorted(missing)}"
        assert tags["environment"] == built.settings.stack
        assert ("expiry" in tags) is (built.settings.expiry is not None)


def test_everything_has_a_price_and_the_bill_is_under_the_budget(built: Built) -> None:
    costs = bill(built.plan_stack, built.checks.cost)
    assert list(costs.unpriced) == []
    made = costs.estimate
    assert made.total > 0
    assert built.checks.cost.guardrail().broken(made.total, made.ceiling, made.total) == []


def test_every_policy_passes_or_has_a_written_waiver(built: Built) -> None:
    broken = [f"{row.rule} {row.resource}: {row.message}" for row in built.rows if row.blocks]
    assert not broken, "\n".join(broken)


def test_nothing_is_public(built: Built) -> None:
    for made in built.custom:
        inputs = made.inputs
        assert not inputs.get("mapPublicIpOnLaunch"), made.name
        assert made.short not in {"InternetGateway", "Eip"}, made.name
        assert inputs.get("type") not in {"NodePort"}, made.name
    cluster = built.engine.of("Cluster")["cloud-eks"]["vpcConfig"]
    assert (cluster["endpointPublicAccess"], cluster["endpointPrivateAccess"]) == (False, True)


def test_a_link_without_a_cloud_site_is_one_clear_error() -> None:
    values = config("prod")
    del values["hybrid-recommender:burst"]
    with pytest.raises(SettingsError, match="link has no `burst` to lead to"):
        parse("prod", values)


def test_a_cloud_range_that_meets_a_site_range_is_named_with_its_rule() -> None:
    values = config("prod")
    burst = json.loads(values["hybrid-recommender:burst"])
    values["hybrid-recommender:burst"] = json.dumps({**burst, "vpc-cidr": "10.20.0.0/16"})
    with pytest.raises(SettingsError, match=r"sites\.private\.pod_cidr is .* overlaps burst"):
        parse("prod", values)
