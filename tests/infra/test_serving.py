"""The serving half of the program under mocks: shape, labels, flows, nothing public or secret."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra import bento_reference
from infra.bento_reference import BentoReferenceError
from infra.haproxy import PATHS, error_page
from infra.program import deploy
from infra.settings import Settings
from infra.site_settings import SettingsError
from tests.clouds.engine import Engine, build, strings

DIGEST = "@sha256:" + "a" * 64
IMAGES = {
    "gateway": f"registry.example/haproxy{DIGEST}",
    "nats": f"registry.example/nats{DIGEST}",
    "prometheus": f"registry.example/prometheus{DIGEST}",
}


def site(folder: Path, name: str, second: int) -> dict[str, Any]:
    config = {
        "clusters": [{"cluster": {"certificate-authority-data": base64.b64encode(b"CA").decode()}}]
    }
    (folder / name).write_text(yaml.safe_dump(config), encoding="utf-8")
    return {
        "kubeconfig": folder / name,
        "api": f"https://10.{second}.0.1:6443",
        "node_cidr": f"10.{second}.0.0/24",
        "pod_cidr": f"10.{second}.128.0/17",
        "service_cidr": f"10.{second}.16.0/20",
        "service_host": f"recommend.{name}.example.com",
    }


def settings(folder: Path, **more: Any) -> Settings:
    (folder / "ca.crt").write_text("CA", encoding="utf-8")
    return Settings.model_validate(
        {
            "stack": "prod",
            "owner": "platform",
            "cost-centre": "cc-0001",
            "data-class": "internal",
            "sites": {"private": site(folder, "private", 20), "cloud": site(folder, "cloud", 30)},
            "vault": {
                "address": "https://10.20.0.9:8200",
                "ca_file": folder / "ca.crt",
                "token_file": folder / "token",
            },
            "pod-image": {"image": f"registry.example/python{DIGEST}"},
            "bento": f"registry.example/team/recommender{DIGEST}",
            "images": IMAGES,
            **more,
        }
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return build(lambda: deploy(settings(tmp_path_factory.mktemp("prod"))))


WORKLOADS = ("service-pods", "gateway-pods", "monitoring-pods", "events-servers")


def workloads(made: Engine) -> dict[str, dict[str, Any]]:
    found = {**made.of("Deployment"), **made.of("StatefulSet")}
    return {name: spec for name, spec in found.items() if name.endswith(WORKLOADS)}


def test_both_sites_get_the_same_four_workloads_each_with_its_own_service_account(
    made: Engine,
) -> None:
    found = workloads(made)
    assert {name.partition("-")[0] for name in found} == {"private", "cloud"}
    assert len(found) == 2 * len(WORKLOADS)
    for where in ("private", "cloud"):
        accounts = [
            one["spec"]["template"]["spec"]["serviceAccountName"]
            for name, one in found.items()
            if name.startswith(where)
        ]
        assert len(set(accounts)) == len(WORKLOADS)


def test_every_container_is_hardened_probed_and_bounded(made: Engine) -> None:
    for name, one in workloads(made).items():
        spec = one["spec"]["template"]["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        for box in [*spec["containers"], *spec.get("initContainers", [])]:
            secured = box["securityContext"]
            assert secured["readOnlyRootFilesystem"] is True, name
            assert secured["runAsNonRoot"] is True, name
            assert secured["capabilities"] == {"drop": ["ALL"]}
            assert secured["seccompProfile"] == {"type": "RuntimeDefault"}
            assert {"cpu", "memory"} <= set(box["resources"]["requests"])
            assert "@sha256:" in box["image"]
        for box in spec["containers"]:
            assert box["readinessProbe"] != box["livenessProbe"], name


def test_replicas_are_spread_budgeted_and_simulated_nodes_do_not_count(made: Engine) -> None:
    budgets = made.of("PodDisruptionBudget")
    for name, one in workloads(made).items():
        spec = one["spec"]["template"]["spec"]
        assert all(
            each["nodeTaintsPolicy"] == "Honor" for each in spec["topologySpreadConstraints"]
        ), name
        match = one["spec"]["selector"]["matchLabels"]
        assert any(each["spec"]["selector"]["matchLabels"] == match for each in budgets.values())


def test_the_autoscaler_owns_the_number_of_pods(made: Engine) -> None:
    for name, one in made.of("HorizontalPodAutoscaler").items():
        pods = made.of("Deployment")[name.replace("scaling", "pods")]
        assert one["spec"]["minReplicas"] == 2
        assert "replicas" not in pods["spec"]


def test_no_service_is_public_and_every_workload_stands_behind_a_policy(made: Engine) -> None:
    assert {one["spec"].get("type", "ClusterIP") for one in made.of("Service").values()} == {
        "ClusterIP"
    }
    policies = list(made.of("NetworkPolicy").values())
    for one in workloads(made).values():
        match = one["spec"]["selector"]["matchLabels"]
        own = [p for p in policies if p["spec"]["podSelector"].get("matchLabels") == match]
        assert own, match
        assert all(set(p["spec"]["policyTypes"]) == {"Ingress", "Egress"} for p in own)
        assert all(rule.get("from") for p in own for rule in p["spec"]["ingress"])


def test_every_object_carries_the_required_labels(made: Engine) -> None:
    for one in made.made:
        if one.type.startswith("kubernetes:"):
            labels = one.inputs["metadata"]["labels"]
            assert {"owner", "cost-centre", "environment", "data-class"} <= set(labels), one.name


def test_a_workloads_policy_names_its_own_paths_alone(made: Engine) -> None:
    for name, one in made.of("Policy").items():
        where = name.partition("-")[0]
        for _, text in strings(one["document"]):
            assert "*" not in text
            assert f"/{'cloud' if where == 'private' else 'private'}/" not in text


def test_three_event_servers_find_each_other_over_tls(made: Engine) -> None:
    config = made.of("ConfigMap")["private-events-files"]["data"]["nats.conf"]
    assert config.count("tls://nats-") == 3
    assert "verify: true" in config
    assert made.of("StatefulSet")["private-events-servers"]["spec"]["replicas"] == 3


def test_prometheus_watches_every_pod_and_vault(made: Engine) -> None:
    files = made.of("ConfigMap")["private-monitoring-files"]["data"]
    jobs = {one["job_name"] for one in yaml.safe_load(files["prometheus.yaml"])["scrape_configs"]}
    assert jobs == {
        "bento", "bento-agent", "gateway", "gateway-agent", "nats-agent", "vault",
    }  # fmt: skip
    assert {"recording.yaml", "alerts.yaml"} <= set(files)


def test_a_site_that_cannot_reach_vault_serves_nothing_yet(tmp_path: Path) -> None:
    given = settings(tmp_path)
    cloud = given.sites["cloud"].model_copy(update={"reaches_vault": False})
    apart = given.model_copy(update={"sites": {**given.sites, "cloud": cloud}})
    names = {name.partition("-")[0] for name in workloads(build(lambda: deploy(apart)))}
    assert names == {"private"}


def test_a_part_without_an_image_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"images has no `nats`; name its image by digest"):
        settings(tmp_path, images={key: IMAGES[key] for key in ("gateway", "prometheus")})


def test_the_gateway_answers_in_the_services_own_shape_while_no_pod_does() -> None:
    head, _, body = error_page().partition("\r\n\r\n")
    assert f"Content-Length: {len(body)}" in head
    assert set(json.loads(body)) == {"error", "message", "fields", "request_id"}
    assert "/metrics" not in PATHS


# --- the bento reference ----------------------------------------------------------------------


def store(folder: Path) -> Path:
    place = folder / "bentos" / "recommender" / "v1"
    place.mkdir(parents=True)
    (place / "bento.yaml").write_text("models: [{tag: 'recommender:m1'}]", encoding="utf-8")
    (place.parent / "latest").write_text("v1", encoding="utf-8")
    model = folder / "models" / "recommender" / "m1"
    model.mkdir(parents=True)
    (model / "bundle.json").write_text("{}", encoding="utf-8")
    return folder


def test_latest_becomes_the_version_that_is_shipped(tmp_path: Path) -> None:
    found = bento_reference.find("recommender:latest", store(tmp_path))
    assert found.reference == "recommender:v1"
    assert found.model_dir in found.host_paths


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("recommender:v2", "has v1 of recommender: correct the version"),
        ("shop:latest", "has no bento of that name"),
        ("Recommender", "give an image by digest or a local tag"),
        ("registry.example/recommender:1", "registry/path@sha256:<64 hex digits>"),
        ("registry.example/recommender@sha256:12", "registry/path@sha256:<64 hex digits>"),
    ],
)
def test_a_wrong_reference_is_one_line_that_says_what_to_do(
    tmp_path: Path, reference: str, told: str
) -> None:
    with pytest.raises(BentoReferenceError) as error:
        bento_reference.find(reference, store(tmp_path))
    assert told in str(error.value)
    assert reference in str(error.value)
    assert "\n" not in str(error.value)


def test_a_local_tag_without_a_store_is_refused_before_anything_is_declared(tmp_path: Path) -> None:
    engine = Engine()
    with pytest.raises(SettingsError, match="this stack has no bento-store"):
        deploy(settings(tmp_path, bento="recommender:latest"))
    assert engine.made == []
