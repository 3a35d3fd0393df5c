"""The artefact stores: a real S3 client against each, and pods that reach their own."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from local.paths import PROJECT
from tests.conftest import RunningStand
from tests.local.test_stand import eventually, kill

pytestmark = pytest.mark.stand
SITES = ("private", "cloud")


def client(stand: RunningStand, site: str, *, secret: str | None = None) -> Any:
    store = stand.endpoints["artefacts"][site]
    return boto3.client(
        "s3", endpoint_url=store["endpoint"], region_name=store["region"], verify=store["ca_file"],
        aws_access_key_id=Path(store["access_key_file"]).read_text(encoding="ascii"),
        aws_secret_access_key=secret or Path(store["secret_key_file"]).read_text(encoding="ascii"),
        config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
    )  # fmt: skip


@pytest.mark.parametrize("site", SITES)
def test_versions_of_an_object_survive_the_death_of_the_store(
    stand: RunningStand, site: str
) -> None:
    s3, bucket = client(stand, site), f"b-{secrets.token_hex(4)}"
    s3.create_bucket(Bucket=bucket)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    bodies = [secrets.token_bytes(1 << 20) for _ in range(2)]
    versions = [
        s3.put_object(Bucket=bucket, Key="model/weights", Body=one)["VersionId"] for one in bodies
    ]
    assert versions[0] != versions[1]
    kill(stand, f"{site}/artefacts")
    stand.up()
    s3 = client(stand, site)
    for version, body in zip(versions, bodies, strict=True):
        got = s3.get_object(Bucket=bucket, Key="model/weights", VersionId=version)
        assert got["Body"].read() == body
    for version in versions:
        s3.delete_object(Bucket=bucket, Key="model/weights", VersionId=version)
    s3.delete_bucket(Bucket=bucket)


def test_a_wrong_key_and_the_other_sites_key_are_refused(stand: RunningStand) -> None:
    for wrong in ("wrong", client_secret(stand, "cloud")):
        with pytest.raises(ClientError) as refused:
            client(stand, "private", secret=wrong).list_buckets()
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


def client_secret(stand: RunningStand, site: str) -> str:
    return Path(stand.endpoints["artefacts"][site]["secret_key_file"]).read_text(encoding="ascii")


def test_no_key_is_in_the_endpoints_or_in_an_argument(stand: RunningStand) -> None:
    keys = [client_secret(stand, site) for site in SITES]
    shown = (stand.state / "endpoints.json").read_text(encoding="utf-8")
    commands = b"".join(
        path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()
    )
    for key in keys:
        assert key not in shown
        assert key.encode() not in commands


@pytest.mark.parametrize("site", SITES)
def test_a_pod_reaches_the_store_of_its_site_and_trusts_it_by_the_clusters_authority(
    stand: RunningStand, site: str
) -> None:
    if not stand.rooted:
        pytest.skip("real pods need root")
    api, image = stand.client(site), stand.endpoints["pod_image"]
    endpoint = stand.endpoints["artefacts"][site]["endpoint"]
    code = (
        "import ssl, sys, urllib.request as u;"
        "c=ssl.create_default_context("
        "cafile='/var/run/secrets/kubernetes.io/serviceaccount/ca.crt');"
        f"print(u.urlopen('{endpoint}/healthz', context=c, timeout=10).status)"
    )
    paths = image["host_paths"]
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "asks-store"},
        "spec": {
            "restartPolicy": "Never",
            "nodeSelector": {"stand.hybrid-recommender/node": "real"},
            "securityContext": {"runAsUser": image["user"], "runAsNonRoot": True},
            "containers": [{
                "name": "c", "image": image["image"], "imagePullPolicy": "Never",
                "command": [str(PROJECT / ".venv/bin/python"), "-c", code],
                "volumeMounts": [
                    {"name": f"h{i}", "mountPath": path, "readOnly": True}
                    for i, path in enumerate(paths)
                ],
            }],
            "volumes": [
                {"name": f"h{i}", "hostPath": {"path": path}} for i, path in enumerate(paths)
            ],
        },
    }  # fmt: skip
    account, where = (
        "/api/v1/namespaces/default/serviceaccounts/default",
        "/api/v1/namespaces/default/pods",
    )
    eventually(lambda: api.find(account), 30, "account")
    api.request("POST", where, pod)
    try:
        eventually(
            lambda: api.get(f"{where}/asks-store")["status"].get("phase")
            in ("Succeeded", "Failed"), 60, "the pod ends",
        )  # fmt: skip
        assert api.get(f"{where}/asks-store/log")["text"].strip() == "200"
    finally:
        api.delete(f"{where}/asks-store")
