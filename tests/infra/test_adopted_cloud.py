"""`prod` once its EKS cluster is adopted as the cloud site: jobs may leave for it, under mocks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from infra.jobs_cloud import leave, plan_site
from infra.program import deploy
from infra.settings import PRODUCT_TEAM, Settings, parse
from infra.site_settings import SettingsError
from local.tools.resolve import bring_files
from local.tools.table import GROUPS
from tests.clouds.engine import Engine, build
from tests.infra.declared import config, fill_home

POOL = {"count": 4, "gpus": 8, "cpus": 96, "memory_gib": 1024}
CLOUD = {
    "kubeconfig": "~/.kube/hybrid-recommender-prod.yaml",
    "api": "https://cloud.prod.shop.internal",
    "node_cidr": "10.50.0.0/16",
    "pod_cidr": "10.50.0.0/16",
    "service_cidr": "172.20.0.0/16",
    "service_host": "recommender.cloud.shop.internal",
}


def adopted(home: Path, **site: Any) -> Settings:
    return parse("prod", adopted_values(home, **site))


def adopted_values(home: Path, **site: Any) -> dict[str, str]:
    """The example settings, with GPUs on the private site and the cluster that `burst` made."""
    fill_home(home, "prod")
    values = config("prod")
    sites = json.loads(values["hybrid-recommender:sites"])
    sites["private"]["gpu_pool"] = POOL
    sites["cloud"] = {**CLOUD, **site}
    group = next(one for one in GROUPS if one.name == "kueue")
    manifests = bring_files(group, print)["kueue/manifests"]
    more = {
        "sites": sites,
        "kueue": {"manifests": str(manifests), "program": "/manager"},
        "teams": {PRODUCT_TEAM: {"gpus": 16}, "research": {"gpus": 8}},
        "pod-image": {
            **json.loads(values["hybrid-recommender:pod-image"]),
            "python": "/usr/bin/python3", "project": "/srv/hybrid-recommender",
        },
    }  # fmt: skip
    values |= {f"hybrid-recommender:{key}": json.dumps(value) for key, value in more.items()}
    return {**values, "hybrid-recommender:today": "2026-11-25"}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("HOME", str(tmp_path))
    return adopted(tmp_path)


@pytest.fixture
def made(settings: Settings) -> Engine:
    return build(lambda: deploy(settings))


def test_jobs_leave_for_the_pools_of_the_burst_site(settings: Settings, made: Engine) -> None:
    assert leave(settings)
    assert settings.burst is not None
    wanted = {pool.name for pool in settings.burst.gpu_pools}
    site = plan_site(settings)
    assert {offer.pool for offer in site.offers} == wanted
    assert sum(site.ceilings.values()) == sum(
        pool.max_spot_gpus + pool.max_on_demand_gpus for pool in settings.burst.gpu_pools
    )
    assert made.one("MultiKueueCluster")["metadata"]["name"] == "cloud"
    assert {"queue-mover-pods", "kueue-pods", "cloud-kueue-pods"} <= set(made.of("Deployment"))


def test_what_a_site_says_of_its_gpu_operator_becomes_fields_of_its_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    asked = {
        "driver_installed": True, "mig": "mixed", "mig_layouts": {"sevenths": {"1g.10gb": 7}},
    }  # fmt: skip
    settings = adopted(tmp_path, gpu_operator=asked)
    made = build(lambda: deploy(settings))
    policy = next(one for one in made.made if one.type.startswith("kubernetes:nvidia.com"))
    assert policy.name == "cloud-gpu-cluster-policy"
    assert policy.inputs["spec"]["mig"] == {"strategy": "mixed"}
    assert policy.inputs["spec"]["driver"] == {"enabled": False}
    assert "cloud-gpu-mig-layouts" in made.of("ConfigMap")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"mig_layouts": {"a": {"1g": 1}}}, "mig is none; set single or mixed"),
        ({"mig": "single", "mig_layouts": {"a": {"1g": 0}}}, "give counts above 0"),
        ({"driver": True}, "this key is unknown"),
    ],
    ids=["layouts without MIG", "an empty layout", "an unknown key"],
)
def test_a_wrong_word_on_the_gpu_operator_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any], told: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SettingsError, match=told):
        adopted(tmp_path, gpu_operator={"driver_installed": True, **wrong})


def test_the_ranges_of_the_adopted_cluster_may_lie_in_its_own_network(settings: Settings) -> None:
    assert settings.burst is not None
    assert settings.sites["cloud"].node_cidr.subnet_of(settings.burst.vpc_cidr)


def test_the_ranges_of_the_adopted_cluster_may_not_meet_the_private_sites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(SettingsError, match=r"private\.pod_cidr is .* overlaps sites\.cloud"):
        adopted(tmp_path, pod_cidr="10.20.0.0/20")
