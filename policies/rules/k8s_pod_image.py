"""Images: pinned, and from registries that are ours to trust."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from policies.pods import WORKLOADS, Container, Findings, containers, pod_of
from policies.resource import Resource
from policies.rule import Cel, Context, Option, Severity, each, rule
from policies.samples import container, cron_job, deployment, pod
from policies.values import text

# any digest pins: one that is too short can only fail to be pulled, never change
_DIGEST_FORM = "@[a-z0-9]+([+._-][a-z0-9]+)*:[a-zA-Z0-9=_-]+$"
_DIGEST = re.compile(_DIGEST_FORM)


def tag_of(image: str) -> str:
    """The tag of an image name, empty when it has none.

    >>> tag_of("registry.local:5000/app"), tag_of("app:1.2")
    ('', '1.2')
    """
    last = image.split("@", 1)[0].rsplit("/", 1)[-1]
    return last.partition(":")[2]


def registry_of(image: str) -> str:
    """The registry host of an image name, `docker.io` when it names none."""
    first, slash, _ = image.partition("/")
    named = slash and ("." in first or ":" in first or first == "localhost")
    return first if named else "docker.io"


@rule(
    "k8s-image-tag",
    "An image has a fixed tag or a digest",
    Severity.MEDIUM,
    anchors="CKV_K8S_14, KSV-0013",
    applies=WORKLOADS,
    fix="Give a version tag other than latest, or better a digest.",
    allowed=[pod(container(image="registry.local/app:1.4.2")), pod()],
    refused=[
        pod(container(image="nginx")),
        deployment(container(image="registry.local:5000/app:latest")),
        pod(container(), initContainers=[container("prepare", image="busybox:latest")]),
    ],
)
def image_tag(resource: Resource, _: Context) -> Findings:
    def judge(each_container: Container) -> Findings:
        image = text(each_container.spec, "image")
        if "@" not in image and tag_of(image) in {"", "latest"}:
            yield f"{each_container.label} runs {image or 'no image'}, which can change under it"

    yield from each(containers(pod_of(resource)), judge)


@rule(
    "k8s-image-digest",
    "An image is named by its digest",
    Severity.HIGH,
    anchors="CKV_K8S_43",
    applies=WORKLOADS,
    fix="Append @sha256:... to the image.",
    allowed=[pod(), deployment(container(image="registry.local/app:1.4.2@sha256:123456"))],
    refused=[
        pod(container(image="registry.local/app:1.4.2")),
        cron_job(container(image="app:1@2")),
        pod(container(), ephemeralContainers=[container("debug", image="busybox:1.36")]),
    ],
    cel=Cel(
        (f"variables.containers.all(c, c.?image.orValue('').matches('{_DIGEST_FORM}'))",),
        "images must be named by digest",
    ),
)
def image_digest(resource: Resource, _: Context) -> Findings:
    def judge(each_container: Container) -> Findings:
        image = text(each_container.spec, "image")
        if not _DIGEST.search(image):
            yield f"{each_container.label} runs {image or 'no image'} without a digest"

    yield from each(containers(pod_of(resource)), judge)


@rule(
    "k8s-image-registry",
    "An image comes from an agreed registry",
    Severity.HIGH,
    anchors="KSV-0125, CIS EKS 5.1.4, Gatekeeper allowedrepos",
    applies=WORKLOADS,
    config={
        "registries": Option(
            [
                "registry.local",
                "registry.k8s.io",
                "nvcr.io",
                "*.dkr.ecr.*.amazonaws.com",
                "*.dkr.ecr-fips.*.amazonaws.com",
                "*.dkr.ecr.*.amazonaws.com.cn",
                "gcr.io",
                "*.gcr.io",
                "*.pkg.dev",
                "*.azurecr.io",
            ],
            "array",
            "Registry hosts, or host/prefix, that images may come from; * matches any text.",
        )
    },
    fix="Mirror the image into an agreed registry, or add the registry to the rule's setting.",
    allowed=[
        pod(),
        pod(container(image="123456789012.dkr.ecr.eu-central-1.amazonaws.com/app:1")),
    ],
    refused=[
        pod(container(image="nginx:1.27")),
        deployment(container(image="evil.example/app:1")),
        pod(container(), initContainers=[container("prepare", image="docker.io/library/busybox")]),
        pod(container(image="registry.local.evil.example/app:1")),
    ],
)
def image_registry(resource: Resource, context: Context) -> Findings:
    allowed = [str(entry).rstrip("/") for entry in context["registries"]]

    def judge(each_container: Container) -> Findings:
        image = text(each_container.spec, "image")
        host = registry_of(image)
        full = image if image.startswith(host + "/") else f"{host}/{image}"
        if not any(
            fnmatchcase(host, entry) if "/" not in entry else fnmatchcase(full, entry + "[/:@]*")
            for entry in allowed
        ):
            yield f"{each_container.label} runs {image or 'no image'} from {host}"

    yield from each(containers(pod_of(resource)), judge)
