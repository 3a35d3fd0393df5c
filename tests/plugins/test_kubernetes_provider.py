"""The Kubernetes provider, driven by the real engine against a real API server."""

from __future__ import annotations

import json
import os
import urllib.error
from pathlib import Path

import pytest

from local.layout import free_port

from .cluster import Cluster
from .conftest import PRELUDE, Make
from .engine import summary

SHOP = """
shop = k8s.core.v1.Namespace("shop", metadata={"name": os.environ["TEST_SPACE"]}, opts=there)
inside = shop.metadata.name
"""

EVERY_KIND = (
    SHOP
    + """
k8s.core.v1.ConfigMap("settings", metadata={
    "namespace": inside, "labels": {"app.kubernetes.io/name": "a"}}, data={"a": "1"}, opts=there)
k8s.core.v1.Secret("login", metadata={"namespace": inside}, string_data={"key": "s3cr3t-value"},
    opts=there)
k8s.core.v1.ServiceAccount("worker", metadata={"namespace": inside}, opts=there)
k8s.core.v1.ResourceQuota("quota", metadata={"namespace": inside},
    spec={"hard": {"requests.cpu": "1000m", "pods": "10"}}, opts=there)
k8s.networking.v1.NetworkPolicy("deny", metadata={"namespace": inside},
    spec={"pod_selector": {}, "policy_types": ["Ingress", "Egress"]}, opts=there)
role = k8s.rbac.v1.ClusterRole("reader",
    rules=[{"api_groups": [""], "resources": ["pods"], "verbs": ["get"]}], opts=there)
k8s.rbac.v1.ClusterRoleBinding("reader", role_ref={
    "api_group": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role.metadata.name},
    subjects=[{"kind": "Group", "name": "g", "api_group": "rbac.authorization.k8s.io"}], opts=there)
pods = {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{
    "name": "main", "image": "registry.local/a:1", "resources": {"requests": {
        "cpu": "1000m", "memory": "0.5Gi"}}, "env": [{"name": "EMPTY", "value": ""}]}]}}
chosen = {"match_labels": {"app": "a"}}
k8s.apps.v1.Deployment("web", metadata={"namespace": inside},
    spec={"replicas": 0, "selector": chosen, "template": pods}, opts=there)
k8s.apps.v1.StatefulSet("store", metadata={"namespace": inside}, spec={
    "replicas": 0, "selector": chosen, "service_name": "store", "template": pods}, opts=there)
k8s.apps.v1.DaemonSet("agent", metadata={"namespace": inside},
    spec={"selector": chosen, "template": pods}, opts=there)
k8s.core.v1.Service("store", metadata={"name": "store", "namespace": inside}, spec={
    "cluster_ip": "None", "selector": {"app": "a"}, "ports": [{"port": 80}]}, opts=there)
k8s.batch.v1.Job("train", metadata={"namespace": inside}, spec={"suspend": True, "template": {
    "spec": {"restart_policy": "Never", "containers": [{"name": "c", "image": "i"}]}}}, opts=there)
kind = k8s.apiextensions.v1.CustomResourceDefinition("queues", metadata={"name": "queues.test.io"},
    spec={"group": "test.io", "scope": "Namespaced",
          "names": {"plural": "queues", "kind": "Queue"}, "versions": [{
              "name": "v1", "served": True, "storage": True, "schema": {"open_apiv3_schema": {
                  "type": "object", "properties": {"spec": {"type": "object", "properties": {
                      "size": {"type": "integer"}}}}}}}]}, opts=there)
k8s.apiextensions.CustomResource("queue", api_version="test.io/v1", kind="Queue",
    metadata={"namespace": inside}, spec={"size": 3},
    opts=ResourceOptions(provider=cluster, depends_on=[kind]))
k8s.core.v1.ConfigMapPatch("patch", metadata={"name": "kube-root-ca.crt",
    "namespace": "kube-system", "labels": {"patched": "yes"}}, opts=there)
pulumi.export("uid", shop.metadata.uid)
"""
)
OBJECTS = 16


def everything(cluster: Cluster) -> set[str]:
    """Every object of every type, but what the control plane makes on its own."""
    roots = ["/api/v1"]
    for group in cluster.request("GET", "/apis")["groups"]:
        roots += [f"/apis/{version['groupVersion']}" for version in group["versions"]]
    found: set[str] = set()
    for root in roots:
        try:
            types = cluster.request("GET", root)["resources"]
        except urllib.error.HTTPError:
            continue  # a type whose last object has just gone with its definition
        for each in types:
            if "list" not in each["verbs"] or each["kind"] in ("Event", "Lease"):
                continue
            for item in cluster.request("GET", f"{root}/{each['name']}")["items"]:
                meta = item["metadata"]
                found.add(f"{each['kind']} {meta.get('namespace', '')}/{meta['name']}")
    return found


@pytest.mark.slow
def test_every_kind_comes_up_stays_unchanged_and_goes_without_a_trace(
    project: Make, cluster: Cluster, space: str
) -> None:
    before = everything(cluster)
    stack = project(EVERY_KIND)
    assert summary(stack.run("up", "--yes"))["created"] == OBJECTS + 2  # the stack, the provider
    quota = cluster.request("GET", f"/api/v1/namespaces/{space}/resourcequotas")["items"][0]
    assert quota["spec"]["hard"] == {"requests.cpu": "1", "pods": "10"}
    patched = cluster.request("GET", "/api/v1/namespaces/kube-system/configmaps/kube-root-ca.crt")
    assert patched["metadata"]["labels"] == {"patched": "yes"}

    for turn in range(int(os.environ.get("PLUGIN_TEST_UPDATES", "2"))):
        again = stack.run("up", "--yes")
        assert set(summary(again)) == {"unchanged"}, f"turn {turn}:\n{again}"
    refreshed = stack.run("refresh", "--yes", "--skip-preview")
    assert set(summary(refreshed)) == {"unchanged"}, refreshed

    stack.destroy()
    assert everything(cluster) == before
    patched = cluster.request("GET", "/api/v1/namespaces/kube-system/configmaps/kube-root-ca.crt")
    assert "labels" not in patched["metadata"]
    assert "ca.crt" in patched["data"], "a patch gives back its own fields and nothing else"


@pytest.mark.parametrize(
    "body",
    [
        'inside = "default"',
        SHOP,
        SHOP + 'labels = {"later": shop.metadata.uid}',
    ],
    ids=["in a namespace that is there", "in one to come", "beside a value not known yet"],
)
def test_a_wrong_field_fails_at_preview(
    project: Make, cluster: Cluster, space: str, body: str
) -> None:
    stack = project(
        body
        + """
k8s.core.v1.Pod("wrong", metadata={"namespace": inside, "labels": globals().get("labels")},
    spec={"containers": [{"name": "c", "image": "i", "imagePullPolice": "Never"}]}, opts=there)
"""
    )
    code, output = stack.attempt("preview")
    assert code != 0
    assert "imagePullPolice" in output
    assert "would not be created" in output
    assert "Traceback" not in output
    assert cluster.get(f"/api/v1/namespaces/{space}") is None


def test_a_wrong_value_fails_at_preview_too(project: Make) -> None:
    stack = project(
        SHOP
        + """
k8s.core.v1.Service("wrong", metadata={"namespace": inside},
    spec={"ports": [{"port": 123456}]}, opts=there)
"""
    )
    code, output = stack.attempt("preview")
    assert code != 0
    assert "123456" in output


def test_an_immutable_field_replaces_the_object_in_the_right_order(
    project: Make, cluster: Cluster, space: str
) -> None:
    stack = project(
        SHOP
        + """
label = {"app": config.get("app") or "a"}
pod = {"metadata": {"labels": label}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
for name, fixed in (("auto", {}), ("fixed", {"name": "fixed"})):
    k8s.apps.v1.Deployment(name, metadata={"namespace": inside, **fixed},
        spec={"replicas": 0, "selector": {"match_labels": label}, "template": pod}, opts=there)
k8s.core.v1.PersistentVolumeClaim("disk", metadata={"name": "disk", "namespace": inside,
    "annotations": {"pulumi.com/skipAwait": "true"}}, spec={
    "access_modes": ["ReadWriteOnce"],
    "resources": {"requests": {"storage": config.get("size") or "1Gi"}}}, opts=there)
"""
    )
    stack.up()
    deployments = f"/apis/apps/v1/namespaces/{space}/deployments"
    before = {n.split("-")[0]: n for n in cluster.names(deployments)}
    old = cluster.request("GET", f"{deployments}/fixed")["metadata"]["uid"]

    stack.run("config", "set", "app", "b")
    preview = stack.run("preview")
    assert summary(preview)["to replace"] == 2, preview
    output = stack.up()
    assert summary(output)["replaced"] == 2, output
    after = {n.split("-")[0]: n for n in cluster.names(deployments)}
    assert after["auto"] != before["auto"], "the new one comes before the old one goes"
    assert after["fixed"] == "fixed"
    assert cluster.request("GET", f"{deployments}/fixed")["metadata"]["uid"] != old

    stack.run("config", "set", "size", "2Gi")
    code, output = stack.attempt("preview")
    # The claim is not bound and its class cannot grow it: the server decides, not a table.
    assert code != 0 or "replace" in output, output


def test_names_are_automatic_and_the_same_after_everything_was_lost(
    project: Make, cluster: Cluster, space: str
) -> None:
    stack = project(SHOP + 'k8s.core.v1.ConfigMap("one", metadata={"namespace": inside}, '
        'data={"a": config.get("a") or "1"}, opts=there)\n')  # fmt: skip
    stack.up()
    maps = f"/api/v1/namespaces/{space}/configmaps"
    first = [n for n in cluster.names(maps) if n.startswith("one-")]
    assert len(first) == 1
    state = stack.export()
    state["deployment"]["resources"] = [
        each for each in state["deployment"]["resources"] if not each["urn"].endswith("::one")
    ]
    (stack.folder / "state.json").write_text(json.dumps(state))
    stack.run("stack", "import", "--file", str(stack.folder / "state.json"))
    assert summary(stack.up())["created"] == 1
    assert [n for n in cluster.names(maps) if n.startswith("one-")] == first

    stack.run("config", "set", "a", "2")
    assert summary(stack.up())["replaced"] == 1
    second = [n for n in cluster.names(maps) if n.startswith("one-")]
    assert len(second) == 1
    assert second != first


def test_refresh_finds_drift_and_the_next_update_mends_it(
    project: Make, cluster: Cluster, space: str
) -> None:
    stack = project(
        SHOP
        + """
k8s.core.v1.ConfigMap("one", metadata={"name": "one", "namespace": inside,
    "labels": {"tier": "web"}}, data={"a": "1"}, opts=there)
k8s.core.v1.Secret("key", metadata={"name": "key", "namespace": inside},
    string_data={"k": "ours"}, opts=there)
k8s.core.v1.ConfigMap("gone", metadata={"name": "gone", "namespace": inside}, opts=there)
"""
    )
    stack.up()
    base = f"/api/v1/namespaces/{space}"
    merge = "application/merge-patch+json"
    theirs = {"metadata": {"labels": {"tier": "theirs", "foreign": "x"}}}
    cluster.request("PATCH", f"{base}/configmaps/one", theirs, merge)
    cluster.request("PATCH", f"{base}/secrets/key", {"data": {"k": "dGhlaXJz"}}, merge)
    cluster.request("DELETE", f"{base}/configmaps/gone")

    refreshed = stack.run("refresh", "--yes", "--skip-preview")
    assert summary(refreshed)["updated"] == 2, refreshed
    assert summary(refreshed)["deleted"] == 1, refreshed
    one = stack.resources()["one"]["inputs"]["metadata"]["labels"]
    assert one == {"tier": "theirs"}, "a label of somebody else is not drift"

    code, output = stack.attempt("up", "--yes", "--skip-preview")
    assert code != 0
    assert "conflict" in output
    assert "pulumi.com/patchForce" in output, "the message says how to take the field over"
    stack.write(PRELUDE + 'os.environ["PULUMI_K8S_ENABLE_PATCH_FORCE"] = "true"\n' + SHOP)
    forced = stack.program / "__main__.py"
    forced.write_text(
        (PRELUDE + SHOP).replace("read_text())", "read_text(), enable_patch_force=True)")
        + """
k8s.core.v1.ConfigMap("one", metadata={"name": "one", "namespace": inside,
    "labels": {"tier": "web"}}, data={"a": "1"}, opts=there)
k8s.core.v1.Secret("key", metadata={"name": "key", "namespace": inside},
    string_data={"k": "ours"}, opts=there)
k8s.core.v1.ConfigMap("gone", metadata={"name": "gone", "namespace": inside}, opts=there)
"""
    )
    stack.up()
    labels = cluster.request("GET", f"{base}/configmaps/one")["metadata"]["labels"]
    assert labels == {"tier": "web", "foreign": "x"}
    assert cluster.request("GET", f"{base}/secrets/key")["data"] == {"k": "b3Vycw=="}
    assert cluster.get(f"{base}/configmaps/gone") is not None


def test_an_object_of_somebody_else_is_refused_and_can_be_imported(
    project: Make, cluster: Cluster
) -> None:
    base = "/api/v1/namespaces/default/configmaps"
    cluster.request("POST", base, {"metadata": {"name": "theirs"}, "data": {"a": "1", "b": "2"}})
    plain = (
        'k8s.core.v1.ConfigMap("one", metadata={"name": "theirs", "namespace": "default"}, '
        'data={"a": "1", "b": "2"}, opts=%s)\n'
    )
    stack = project(plain % "there")
    code, output = stack.attempt("up", "--yes", "--skip-preview")
    assert code != 0
    assert "already exists" in output
    assert "import it" in output

    stack.write(PRELUDE + plain % 'ResourceOptions(provider=cluster, import_="default/theirs")')
    output = stack.up()
    assert summary(output)["imported"] == 1, output
    stack.write(PRELUDE + plain % "there")
    output = stack.up()
    assert set(summary(output)) == {"unchanged"}, output
    stack.destroy()
    assert cluster.get(f"{base}/theirs") is None


def test_a_stalled_deployment_says_why_and_the_next_update_waits_again(
    project: Make, cluster: Cluster, space: str
) -> None:
    stack = project(
        SHOP
        + """
k8s.apps.v1.Deployment("web", metadata={"name": "web", "namespace": inside, "annotations": {
    "pulumi.com/timeoutSeconds": "3"}}, spec={"selector": {"match_labels": {"app": "a"}},
    "template": {"metadata": {"labels": {"app": "a"}}, "spec": {
        "containers": [{"name": "c", "image": "i"}]}}}, opts=there)
"""
    )
    code, output = stack.attempt("up", "--yes", "--skip-preview")
    assert code != 0
    assert "[1/2] Waiting for app ReplicaSet to be available (0/1 Pods available)" in output
    assert "no scheduler has looked at it" in output
    assert "web" in stack.resources(), "the object exists, so the state must know it"
    code, output = stack.attempt("up", "--yes", "--skip-preview")
    assert code != 0, "an object that is not ready is not done"
    quota = {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    cluster.request("POST", f"/api/v1/namespaces/{space}/resourcequotas", quota)
    cluster.request("DELETE", f"/apis/apps/v1/namespaces/{space}/deployments/web")
    stack.attempt("refresh", "--yes", "--skip-preview")
    code, output = stack.attempt("up", "--yes", "--skip-preview")
    assert "exceeded quota" in output, output


def test_an_unreachable_cluster_gives_one_line_and_loses_nothing(
    project: Make, cluster: Cluster, tmp_path: Path
) -> None:
    body = 'k8s.core.v1.ConfigMap("one", metadata={"namespace": "default"}, opts=there)\n'
    stack = project(body)
    stack.up()
    held = stack.resources()
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        cluster.kubeconfig.replace(cluster.url, f"https://127.0.0.1:{free_port()}")
    )
    stack.up()  # the provider moves; nothing else needs the cluster
    for command in (("refresh", "--yes", "--skip-preview"), ("destroy", "--yes", "--skip-preview")):
        code, output = stack.attempt(*command)
        assert code != 0
        line = next(each for each in output.splitlines() if "is unreachable" in each)
        assert "connection refused" in line
        assert "PULUMI_K8S_DELETE_UNREACHABLE" in line
        assert set(stack.resources()) == set(held)

    assert "skipped as asked" in stack.run(
        "refresh", "--yes", "--skip-preview", PULUMI_K8S_SKIP_UPDATE_UNREACHABLE="true"
    )
    assert stack.resources()["one"]["outputs"] == held["one"]["outputs"]
    stack.run("refresh", "--yes", "--skip-preview", PULUMI_K8S_DELETE_UNREACHABLE="true")
    assert stack.resources() == {}
    cluster.request(
        "DELETE", f"/api/v1/namespaces/default/configmaps/{held['one']['id'].split('/')[1]}"
    )


def test_a_kubeconfig_that_cannot_be_used_is_named(
    project: Make, cluster: Cluster, tmp_path: Path
) -> None:
    stack = project('k8s.core.v1.Namespace("one", opts=there)\n')
    for change, expected in (
        ({"current-context": "nowhere"}, "has no context 'nowhere'"),
        ({"clusters": []}, "has no cluster 'test'"),
        ({"users": [{"name": "admin", "user": {"exec": {"command": "aws"}}}]}, "'exec'"),
    ):
        (tmp_path / "kubeconfig").write_text(json.dumps(json.loads(cluster.kubeconfig) | change))
        code, output = stack.attempt("up", "--yes", "--skip-preview")
        assert code != 0
        assert expected in output
        assert "Traceback" not in output
