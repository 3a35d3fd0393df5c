"""`staging` and `prod`: the whole program under mocks, from the example settings in the repository,
with every policy and every price run over what was registered."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

from infra.clouds.burst import UnsupportedBurstError
from infra.settings import parse
from infra.site_settings import SettingsError
from policies.cost import bill
from policies.cost_report import read_accepted
from policies.engine import Plan, Row, run
from policies.load import from_list
from policies.resource import Stack
from policies.rules import all_rules
from policies.settings import apply_waivers, plan_from, read_settings, read_waivers
from tests.infra.declared import ROOT, STACKS, config, custom, declare, fill_home, plain

REQUIRED = {"owner", "cost-centre", "environment", "data-class"}
TODAY = date(2026, 11, 25)  # versions go out of support and waivers end: those are other tests


class Built:
    """One stack's settings, what its program registered, and what the policies say of it."""

    def __init__(self, stack: str) -> None:
        self.settings, self.engine = declare(stack, TODAY)
        self.custom = custom(self.engine)
        self.plan_stack = Stack(list(from_list([plain(made) for made in self.custom])))
        files = ROOT / "policies" / "stacks"
        self.checks = read_settings(files / f"{stack}.yaml")
        rules = all_rules()
        self.accepted = read_accepted(files / f"{stack}.accepted.json")
        plan: Plan = plan_from(rules, self.checks, accepted=self.accepted)
        where = files / f"{stack}.waivers.yaml"
        waivers = read_waivers(where, rules)
        rows = run(self.plan_stack, plan)
        self.rows: list[Row] = apply_waivers(rows, waivers, plan, TODAY, str(where))


@pytest.fixture(scope="module", params=STACKS)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    home = tmp_path_factory.mktemp("home")
    fill_home(home, request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        return Built(request.param)


def test_the_program_declares_both_sites_and_the_link(built: Built) -> None:
    kinds = {made.type for made in built.custom}
    assert "kubernetes:apps/v1:Deployment" in kinds
    assert {"aws:eks/cluster:Cluster", "aws:ec2/vpnConnection:VpnConnection"} <= kinds


def test_one_name_leads_to_both_sites_and_a_health_check_watches_each(built: Built) -> None:
    traffic = built.settings.traffic
    assert traffic is not None
    records = built.engine.of("Record").values()
    shared = [one for one in records if one["name"] == traffic.host]
    assert {one["setIdentifier"] for one in shared} == {"private", "cloud"}
    assert len(built.engine.of("HealthCheck")) == 2


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
    assert built.checks.cost.guardrail().broken(made.total, made.ceiling, built.accepted) == []


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


def test_a_version_past_its_support_is_refused_by_the_day_that_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_home(tmp_path, "prod")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UnsupportedBurstError, match="standard support ended on 2027-03-27"):
        declare("prod", date(2027, 3, 28))
