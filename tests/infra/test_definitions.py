"""Kinds that a site lacks are named before an update, asked of a real API server."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.cloud_settings import Pool
from infra.definitions import needs, require
from infra.queue_settings import GpuOperator
from infra.settings import Settings
from infra.site_login import LoginError, login_of
from infra.site_settings import SettingsError, Site
from tests.infra.test_adopted_cloud import adopted
from tests.plugins.cluster import Cluster

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
OPERATOR = GpuOperator(driver_installed=True)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"), controllers=False)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


def stack(cluster: Cluster, folder: Path, *, user: Any = None, **private: Any) -> Settings:
    """`prod` whose both sites are the cluster; `user` replaces the kubeconfig's login."""
    file = folder / "kubeconfig"
    config = json.loads(cluster.kubeconfig)
    if user is not None:
        config["users"][0]["user"] = user
    file.write_text(json.dumps(config), encoding="utf-8")
    settings = adopted(folder)
    there = {"api": cluster.url, "kubeconfig": file}
    sites: dict[str, Site] = {
        name: site.model_copy(update={**there, **(private if name == "private" else {})})
        for name, site in settings.sites.items()
    }
    return settings.model_copy(update={"sites": sites})


def define(cluster: Cluster, group: str, version: str, kind: str) -> None:
    """A CRD of this name that takes anything; served once this returns."""
    plural = f"{kind.lower()}s"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    cluster.request(
        "POST",
        CRDS,
        {
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": f"{plural}.{group}"},
            "spec": {
                "group": group, "scope": "Cluster",
                "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
                "versions": [{"name": version, "served": True, "storage": True,
                              "schema": {"openAPIV3Schema": schema}}],
            },
        },
    )  # fmt: skip
    end = time.monotonic() + 20
    while not (cluster.get(f"/apis/{group}/{version}") or {}).get("resources"):
        assert time.monotonic() < end, f"{kind} is not served"
        time.sleep(0.1)


def undefine(cluster: Cluster, name: str) -> None:
    cluster.request("DELETE", f"{CRDS}/{name}")


def told(settings: Settings) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        require(settings)
    return str(caught.value).splitlines()


def test_a_stack_that_brings_all_it_uses_asks_no_site(cluster: Cluster, tmp_path: Path) -> None:
    settings = stack(cluster, tmp_path, user={})
    assert not list(needs(settings))
    require(settings)


def test_a_missing_kind_is_named_with_its_setting_its_site_and_what_to_do(
    cluster: Cluster, tmp_path: Path
) -> None:
    settings = stack(cluster, tmp_path, gpu_operator=OPERATOR)
    (line,) = told(settings)
    assert line == (
        f"site private at {cluster.url} does not know ClusterPolicy (nvidia.com/v1), which "
        "`sites.private.gpu_operator` needs; install NVIDIA's GPU operator there, or remove the "
        "setting"
    )
    require(settings.model_copy(update={"unreachable": ("private",)}))
    # another kind of the group is not enough
    define(cluster, "nvidia.com", "v1", "GpuCluster")
    assert told(settings) == [line]
    define(cluster, "nvidia.com", "v1", "ClusterPolicy")
    require(settings)
    for plural in ("gpuclusters", "clusterpolicys"):
        undefine(cluster, f"{plural}.nvidia.com")


def test_every_kind_that_a_site_lacks_is_named_at_once(cluster: Cluster, tmp_path: Path) -> None:
    pool = Pool.model_validate(
        {"name": "p", "instance-types": ["g6.xlarge"], "max-spot-gpus": 1, "max-on-demand-gpus": 0}
    )
    settings = stack(cluster, tmp_path, gpu_operator=OPERATOR)
    lines = told(settings.model_copy(update={"cloud_pools": (pool,)}))
    assert [line.split(" (")[0].split()[-1] for line in lines] == [
        "KWOKNodeClass", "NodePool", "ClusterPolicy",
    ]  # fmt: skip


def test_the_kubeconfig_may_log_in_with_a_token_a_file_or_a_command(
    cluster: Cluster, tmp_path: Path
) -> None:
    accounts = "/api/v1/namespaces/default/serviceaccounts"
    cluster.request("POST", accounts, {"metadata": {"name": "deployer"}})
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    token = cluster.request("POST", f"{accounts}/deployer/token", asked)["status"]["token"]
    (tmp_path / "token").write_text(token + "\n", encoding="utf-8")
    command = tmp_path / "log-in"
    command.write_text('#!/bin/sh\nprintf \'{"status": {"token": "%s"}}\' "$(cat "$FILE")"\n')
    command.chmod(0o700)
    env = [{"name": "FILE", "value": str(tmp_path / "token")}]
    for user in (
        {"token": token},
        {"tokenFile": "token"},
        {"exec": {"command": "./log-in", "args": ["there"], "env": env}},
    ):
        (line,) = told(stack(cluster, tmp_path, user=user, gpu_operator=OPERATOR))
        assert "does not know ClusterPolicy" in line, user


def test_a_refused_login_is_told_once_and_not_shown(cluster: Cluster, tmp_path: Path) -> None:
    settings = stack(cluster, tmp_path, user={"token": "not-a-token"}, gpu_operator=OPERATOR)
    (line,) = told(settings)
    assert "refuses the login in" in line
    assert "HTTP 401" in line
    assert "not-a-token" not in line


@pytest.mark.parametrize(
    ("user", "why"),
    [
        ({}, "it names no token, client certificate or login command"),
        ({"tokenFile": "nowhere"}, r"nowhere cannot be read \(No such file"),
        ({"client-key-data": "?", "client-certificate-data": "?"}, "is not base64"),
        ({"exec": {"command": "/nowhere/log-in"}}, "/nowhere/log-in cannot be run"),
        ({"exec": {"command": "false"}}, "its login command false ends with 1"),
        ({"exec": {"command": "true"}}, "its login command true answers without credentials"),
    ],
    ids=["none", "no token file", "no base64", "no command", "a failing command", "no answer"],
)
def test_a_login_that_cannot_be_used_is_named(user: Any, why: str, tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    config = {
        "contexts": [{"name": "c", "context": {"user": "u"}}],
        "users": [{"name": "u", "user": user}],
    }
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    with pytest.raises(LoginError, match=why):
        login_of(file)


def test_a_certificate_without_its_key_cannot_be_used(cluster: Cluster, tmp_path: Path) -> None:
    pem = base64.b64encode((cluster.folder / "admin.crt").read_bytes()).decode()
    user = {"client-certificate-data": pem, "client-key-data": pem}
    (line,) = told(stack(cluster, tmp_path, user=user, gpu_operator=OPERATOR))
    assert "its client certificate and key do not fit" in line
    assert line.endswith("correct the kubeconfig")
