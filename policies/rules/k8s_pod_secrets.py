"""Secrets and identities of pods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policies.pods import WORKLOADS, Container, Findings, containers, pod_of
from policies.resource import Resource
from policies.rule import Cel, Context, Option, Severity, each, rule
from policies.samples import container, cron_job, deployment, manifest, pod
from policies.secrets_found import secrets_in
from policies.values import Unknown, at, flag, maps, raw, text


def _env(**entry: Any) -> dict[str, Any]:
    return container(env=[{"name": "DB_PASSWORD", **entry}])


_REF = {"secretKeyRef": {"name": "database", "key": "password"}}


@rule(
    "k8s-secret-in-env",
    "Secrets are mounted as files, not put in the environment",
    Severity.HIGH,
    anchors="CKV_K8S_35, CIS EKS 4.4.1",
    applies=WORKLOADS,
    fix="Mount the Secret as a volume (or a projected one) and read the file: environments leak "
    "into logs, crash dumps and child processes.",
    allowed=[
        pod(container(env=[{"name": "LOG_LEVEL", "value": "info"}])),
        pod(
            container(volumeMounts=[{"name": "db", "mountPath": "/run/db", "readOnly": True}]),
            volumes=[{"name": "db", "secret": {"secretName": "database"}}],
        ),
    ],
    refused=[
        pod(_env(valueFrom=_REF)),
        deployment(container(envFrom=[{"secretRef": {"name": "database"}}])),
        pod(container(), initContainers=[_env(valueFrom=_REF)]),
        pod(container(), ephemeralContainers=[_env(valueFrom=_REF)]),
    ],
    cel=Cel(
        (
            "variables.containers.all(c, c.?env.orValue([]).all(e, "
            "!has(e.valueFrom) || !has(e.valueFrom.secretKeyRef)))",
            "variables.containers.all(c, c.?envFrom.orValue([]).all(e, !has(e.secretRef)))",
        ),
        "secrets must be mounted as files",
    ),
)
def secret_in_env(resource: Resource, _: Context) -> Findings:
    def judge(each_container: Container) -> Findings:
        for entry in maps(each_container.spec, "env"):
            if at(entry, "valueFrom", "secretKeyRef") is not None:
                yield f"{each_container.label} puts a secret in {raw(entry, 'name')}"
        for entry in maps(each_container.spec, "envFrom"):
            if at(entry, "secretRef") is not None:
                name = raw(entry, "secretRef", "name")
                yield f"{each_container.label} puts all of secret {name} in its environment"

    yield from each(containers(pod_of(resource)), judge)


@rule(
    "k8s-plain-secret-in-env",
    "No credential stands in a manifest",
    Severity.HIGH,
    anchors="Trivy secret scan, CIS EKS 4.4.1",
    applies=WORKLOADS,
    fix="Keep the value in Vault and mount it; a manifest is stored in plain text.",
    allowed=[
        pod(_env(valueFrom=_REF)),
        pod(container(env=[{"name": "PASSWORD_FILE", "value": "/run/db/password"}])),
        pod(container(env=[{"name": "TOKEN", "value": "$(OTHER)"}])),
    ],
    refused=[
        pod(_env(value="hunter2-plain")),
        pod(container(env=[{"name": "X", "value": "AKIA" + "IOSFODNN7EXAMPLE"}])),
        cron_job(container(args=["--url", "postgres://" + "shop:hunter2@db/shop"])),
    ],
)
def plain_secret_in_env(resource: Resource, _: Context) -> Findings:
    def judge(each_container: Container) -> Findings:
        for entry in maps(each_container.spec, "env"):
            if isinstance(raw(entry, "value"), Unknown):
                continue  # an output or a secret: not a text that stands in the program
            for what in secrets_in(text(entry, "name"), text(entry, "value")):
                yield f"{each_container.label} holds {what} in {text(entry, 'name')}"
        for field in ("args", "command"):
            values = raw(each_container.spec, field)
            for value in values if isinstance(values, list) else ():
                if isinstance(value, str):
                    for what in secrets_in("", value):
                        yield f"{each_container.label} holds {what} in {field}"

    yield from each(containers(pod_of(resource)), judge)


@rule(
    "k8s-secret-in-configmap",
    "A ConfigMap holds no secret",
    Severity.HIGH,
    anchors="KSV-0109, KSV-01010",
    applies=["/ConfigMap"],
    fix="Move the value to a Secret that comes from Vault.",
    allowed=[
        manifest("v1", "ConfigMap", data={"LOG_LEVEL": "info", "token_ttl": "3600"}),
        manifest(
            "v1", "ConfigMap", data={"agent.py": "import os\ntoken = read(os.environ['F'])\n"}
        ),
    ],
    refused=[
        manifest("v1", "ConfigMap", data={"DB_PASSWORD": "hunter2-plain"}),
        manifest("v1", "ConfigMap", data={"app.ini": "[db]\nuser = shop\npassword = hunter2\n"}),
        manifest("v1", "ConfigMap", data={"key.pem": "-----BEGIN " + "PRIVATE KEY-----\nMII"}),
    ],
)
def secret_in_configmap(resource: Resource, _: Context) -> Findings:
    data = at(resource.props, "data")
    for key, value in data.items() if isinstance(data, Mapping) else ():
        if isinstance(value, str):
            for what in dict.fromkeys(secrets_in(key, value)):
                yield f"data.{key} holds {what}"
    values = data.values() if isinstance(data, Mapping) else ()
    for value in values:
        at({"data": value}, "data")


@rule(
    "k8s-pod-service-account",
    "A workload has its own service account",
    Severity.MEDIUM,
    anchors="CIS EKS 4.1.5",
    applies=WORKLOADS,
    fix="Create a ServiceAccount for the workload and set serviceAccountName.",
    allowed=[deployment(serviceAccountName="recommender")],
    refused=[pod(), deployment(serviceAccountName="default")],
    cel=Cel(
        ("!(variables.spec.?serviceAccountName.orValue('default') in ['', 'default'])",),
        "serviceAccountName must name the workload's own account",
    ),
)
def service_account(resource: Resource, _: Context) -> Findings:
    spec = pod_of(resource).spec
    name = text(spec, "serviceAccountName") or text(spec, "serviceAccount")
    if name in {"", "default"}:
        yield f"serviceAccountName is {name or 'not set'}: the pod shares the default account"


_TOKEN = {
    "exceptions": Option(
        [],
        "array",
        "namespace/serviceAccountName pairs whose pods talk to the API server.",
    )
}


@rule(
    "k8s-pod-service-account-token",
    "A pod gets an API token only when it says why",
    Severity.MEDIUM,
    anchors="CKV_K8S_38, KSV-0036, CIS EKS 4.1.6",
    applies=WORKLOADS,
    config=_TOKEN,
    fix="Set automountServiceAccountToken to false on the pod; a pod that needs the API is named "
    "in the rule's exceptions.",
    allowed=[
        deployment(automountServiceAccountToken=False),
        [
            deployment(serviceAccountName="recommender"),
            manifest("v1", "ServiceAccount", "recommender", automountServiceAccountToken=False),
        ],
    ],
    refused=[pod(), deployment(automountServiceAccountToken=True), cron_job()],
)
def service_account_token(resource: Resource, context: Context) -> Findings:
    pod_ = pod_of(resource)
    own = flag(pod_.spec, "automountServiceAccountToken")
    account = text(pod_.spec, "serviceAccountName") or "default"
    if own is False or f"{pod_.namespace}/{account}" in context["exceptions"]:
        return
    if own is None:
        for sibling in context.stack.of("/ServiceAccount"):
            if (sibling.object_name, sibling.namespace) == (account, pod_.namespace) and flag(
                sibling.props, "automountServiceAccountToken"
            ) is False:
                return
    yield "automountServiceAccountToken is " + ("true" if own else "not set, which means true")


@rule(
    "k8s-service-account-token",
    "A service account hands out its token only when it says why",
    Severity.MEDIUM,
    anchors="KSV-0036, CIS EKS 4.1.6, Kyverno restrict-sa-automount-sa-token",
    applies=["/ServiceAccount"],
    config=_TOKEN,
    fix="Set automountServiceAccountToken to false on the ServiceAccount; one whose pods need the "
    "API is named in the rule's exceptions.",
    allowed=[manifest("v1", "ServiceAccount", "shop", automountServiceAccountToken=False)],
    refused=[
        manifest("v1", "ServiceAccount", "shop"),
        manifest("v1", "ServiceAccount", "shop", automountServiceAccountToken=True),
    ],
)
def account_token(resource: Resource, context: Context) -> Findings:
    mount = flag(resource.props, "automountServiceAccountToken")
    if mount is False or f"{resource.namespace}/{resource.object_name}" in context["exceptions"]:
        return
    yield "automountServiceAccountToken is " + ("true" if mount else "not set, which means true")


@rule(
    "k8s-default-service-account-token",
    "The default service account hands out no token",
    Severity.MEDIUM,
    anchors="CKV_K8S_41",
    applies=["/ServiceAccount"],
    fix="Set automountServiceAccountToken to false on the default ServiceAccount.",
    allowed=[
        manifest("v1", "ServiceAccount", "default", automountServiceAccountToken=False),
        manifest("v1", "ServiceAccount", "recommender"),
    ],
    refused=[manifest("v1", "ServiceAccount", "default")],
)
def default_service_account(resource: Resource, _: Context) -> Findings:
    if text(resource.props, "metadata", "name") == "default":
        mount = flag(resource.props, "automountServiceAccountToken")
        if mount is not False:
            yield "automountServiceAccountToken of the default account is not false"
