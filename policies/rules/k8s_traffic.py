"""Kubernetes services and ingresses: what of a cluster the outside can reach."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policies.pods import Findings
from policies.resource import Resource
from policies.rule import Context, Option, Severity, each, rule
from policies.samples import manifest
from policies.values import at, flag, items, maps, raw, text, texts

SERVICE = "/Service"
INGRESS = frozenset({"networking.k8s.io/Ingress", "extensions/Ingress"})
_INTERNAL = {
    "service.beta.kubernetes.io/aws-load-balancer-internal": {"true", "0.0.0.0/0"},
    "service.beta.kubernetes.io/aws-load-balancer-scheme": {"internal"},
    "service.beta.kubernetes.io/azure-load-balancer-internal": {"true"},
    "networking.gke.io/load-balancer-type": {"internal"},
    "cloud.google.com/load-balancer-type": {"internal"},
}
_AWS_INTERNAL = "service.beta.kubernetes.io/aws-load-balancer-internal"


def _service(annotations: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    meta = {"annotations": annotations or {}}
    return manifest("v1", "Service", metadata=meta, spec={"ports": [{"port": 443}], **spec})


@rule(
    "k8s-service-node-port",
    "No service opens a port on every node",
    Severity.HIGH,
    anchors="Gatekeeper block-nodeport-services, Kyverno restrict-nodeport",
    applies=[SERVICE],
    fix="Use ClusterIP, behind an Ingress or an internal load balancer.",
    allowed=[_service(), _service(type="ClusterIP")],
    refused=[_service(type="NodePort")],
)
def node_port(resource: Resource, _: Context) -> Findings:
    if text(resource.props, "spec", "type") == "NodePort":
        yield "spec.type is NodePort"


@rule(
    "k8s-service-external-ip",
    "No service takes over an address outside the cluster",
    Severity.HIGH,
    anchors="KSV-0108, Gatekeeper externalip, Kyverno restrict-external-ips, CVE-2020-8554",
    applies=[SERVICE],
    config={"allowed": Option([], "array", "Addresses and names that services may take.")},
    fix="Remove externalIPs and externalName; use a load balancer or an Ingress.",
    allowed=[_service(), _service(externalIPs=[])],
    refused=[
        _service(externalIPs=["192.0.2.7"]),
        _service(type="ExternalName", externalName="example.org"),
    ],
)
def external_ip(resource: Resource, context: Context) -> Findings:
    def judge(address: Any) -> Findings:
        if address not in context["allowed"]:
            yield f"spec.externalIPs holds {address}"

    yield from each(items(resource.props, "spec", "externalIPs"), judge)
    name = text(resource.props, "spec", "externalName")
    if name and name not in context["allowed"]:
        yield f"spec.externalName is {name}"


@rule(
    "k8s-service-load-balancer-internal",
    "A service's load balancer is internal",
    Severity.HIGH,
    anchors="Gatekeeper block-loadbalancer-services",
    applies=[SERVICE],
    config={
        "classes": Option(
            [],
            "array",
            "Load balancer classes of a private cloud: all their addresses are private.",
        )
    },
    fix=f'Annotate the service {_AWS_INTERNAL}: "true" (or its scheme: internal).',
    allowed=[_service(), _service({_AWS_INTERNAL: "true"}, type="LoadBalancer")],
    refused=[
        _service(type="LoadBalancer"),
        _service({_AWS_INTERNAL: "false"}, type="LoadBalancer"),
        _service(type="LoadBalancer", loadBalancerClass="example.com/metal"),
    ],
)
def load_balancer_internal(resource: Resource, context: Context) -> Findings:
    if text(resource.props, "spec", "type") != "LoadBalancer":
        return
    if text(resource.props, "spec", "loadBalancerClass") in context["classes"]:
        return
    annotations = at(resource.props, "metadata", "annotations")
    for key, values in _INTERNAL.items():
        if str(at(annotations, key)).lower() in values:
            return
    yield "spec.type is LoadBalancer without an annotation that makes it internal"


def _ingress(
    *hosts: str | None,
    tls: list[dict[str, Any]] | None = None,
    annotations: dict[str, str] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    path = {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "shop"}}}
    rules = [({"host": host} if host is not None else {}) | {"http": {"paths": [path]}}
             for host in hosts]  # fmt: skip
    found: dict[str, Any] = {"rules": rules, **({"tls": tls} if tls is not None else {}), **spec}
    return manifest(
        "networking.k8s.io/v1", "Ingress", metadata={"annotations": annotations or {}}, spec=found
    )


_CERTIFICATE = "alb.ingress.kubernetes.io/certificate-arn"


def _covers(pattern: str, host: str) -> bool:
    # a wildcard stands for one label
    return pattern == host or (
        pattern.startswith("*.") and "." in host and pattern[2:] == host.split(".", 1)[1]
    )


@rule(
    "k8s-ingress-tls",
    "Every host of an ingress has a certificate",
    Severity.HIGH,
    anchors="Gatekeeper httpsonly, Kyverno restrict-ingress-tls",
    applies=INGRESS,
    fix="Add spec.tls with the host and the secret that holds its certificate.",
    allowed=[
        _ingress("shop.example", tls=[{"hosts": ["shop.example"], "secretName": "tls"}]),
        _ingress("a.shop.example", tls=[{"hosts": ["*.shop.example"]}]),
        _ingress("shop.example", tls=[{"secretName": "tls"}]),
        _ingress("shop.example", annotations={_CERTIFICATE: "arn:aws:acm:eu-west-1:1:c/1"}),
    ],
    refused=[
        _ingress("shop.example"),
        _ingress("shop.example", "a.example", tls=[{"hosts": ["shop.example"]}]),
        _ingress("shop.example", annotations={"kubernetes.io/ingress.allow-http": "false"}),
    ],
)
def ingress_tls(resource: Resource, _: Context) -> Findings:
    if at(resource.props, "metadata", "annotations", _CERTIFICATE):
        return
    covered: list[str] = []
    entries = list(maps(resource.props, "spec", "tls"))
    for entry in entries:
        hosts = texts(entry, "hosts")
        if not hosts:  # the controller's default: every host
            return
        covered += hosts
    if not entries:
        yield "spec.tls is absent"
        return
    for entry in maps(resource.props, "spec", "rules"):
        host = text(entry, "host")
        if not any(_covers(pattern, host) for pattern in covered):
            yield f"host {host or '(any)'} is not in spec.tls"


@rule(
    "k8s-ingress-plain-http",
    "An ingress does not switch its redirect to TLS off",
    Severity.MEDIUM,
    anchors="Gatekeeper httpsonly",
    applies=INGRESS,
    fix="Remove the annotation that turns the redirect off.",
    allowed=[
        _ingress("shop.example"),
        _ingress("shop.example", annotations={"kubernetes.io/ingress.allow-http": "false"}),
    ],
    refused=[
        _ingress("a.example", annotations={"nginx.ingress.kubernetes.io/ssl-redirect": "false"}),
        _ingress("a.example", annotations={"kubernetes.io/ingress.allow-http": "true"}),
    ],
)
def ingress_plain_http(resource: Resource, _: Context) -> Findings:
    annotations = at(resource.props, "metadata", "annotations")
    if flag(annotations, "nginx.ingress.kubernetes.io/ssl-redirect") is False:
        yield "nginx.ingress.kubernetes.io/ssl-redirect is false"
    if flag(annotations, "kubernetes.io/ingress.allow-http"):
        yield "kubernetes.io/ingress.allow-http is true"


@rule(
    "k8s-ingress-wildcard-host",
    "An ingress names its hosts",
    Severity.HIGH,
    anchors="Gatekeeper block-wildcard-ingress, Kyverno restrict-ingress-wildcard",
    applies=INGRESS,
    fix="Write one rule for each host, without *.",
    allowed=[_ingress("shop.example"), _ingress(defaultBackend={})],
    refused=[_ingress(None), _ingress(""), _ingress("shop.example", "*.example")],
)
def wildcard_host(resource: Resource, _: Context) -> Findings:
    def judge(entry: Mapping[str, Any]) -> Findings:
        host = text(entry, "host")
        if not host or "*" in host:
            yield f"host is {host or 'absent, which means any'}"

    yield from each(maps(resource.props, "spec", "rules"), judge)


@rule(
    "k8s-ingress-default-backend",
    "An ingress has no backend for whatever else comes",
    Severity.MEDIUM,
    anchors="Kyverno disallow-ingress-default-backend",
    applies=INGRESS,
    fix="Remove defaultBackend; write a rule for each host and path.",
    allowed=[_ingress("shop.example")],
    refused=[
        _ingress("shop.example", defaultBackend={"service": {"name": "shop"}}),
        _ingress(backend={"serviceName": "shop", "servicePort": 80}),
    ],
)
def default_backend(resource: Resource, _: Context) -> Findings:
    for key in ("defaultBackend", "backend"):
        if raw(resource.props, "spec", key):
            yield f"spec.{key} is set"
