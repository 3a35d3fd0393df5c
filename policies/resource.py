"""Resources as plain data, and the stack that joins siblings.

A resource has one canonical `kind`: the Pulumi type token for clouds (`aws:ec2/vpc:Vpc`) and
`group/Kind` for Kubernetes (`apps/Deployment`, `/Pod` for the core group), whichever door it came
through.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from policies.values import Unknown, raw

T = TypeVar("T")
_REFERENCE = re.compile(r"^\$\{\s*(?:[\w-]+:)?([\w./-]+?)(?:\.(\w+))?\s*\}$")


@dataclass(frozen=True, slots=True)
class Resource:
    """One resource of a plan, a state or a manifest.

    `references` maps a top-level property to the URNs it depends on (known even at preview).
    `line` is the first line in `source_file`, 1-based, 0 when there is none.
    """

    type: str
    name: str
    props: Mapping[str, Any]
    kind: str
    urn: str = ""
    id: str = ""
    source_file: str = ""
    line: int = 0
    protect: bool = False
    references: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    provider: str = ""
    """Name of the provider that manages it, empty for the default one or outside a program."""
    memo: dict[str, Any] = field(
        default_factory=dict[str, Any], init=False, compare=False, repr=False
    )
    """What many rules read out of `props`, worked out once."""

    @property
    def is_kubernetes(self) -> bool:
        """Whether `kind` is `group/Kind`."""
        return ":" not in self.kind

    @property
    def label(self) -> str:
        """What reports and waivers call it: the URN, `Kind/namespace/name`, or `type::name`."""
        if self.urn:
            return self.urn
        if self.is_kubernetes and "/" in self.kind:
            parts = (self.kind.rsplit("/", 1)[1], self.namespace, self.object_name)
            return "/".join(part for part in parts if part)
        return f"{self.type}::{self.name}"

    @property
    def namespace(self) -> str:
        """`metadata.namespace`, empty when absent or unknown."""
        value = raw(self.props, "metadata", "namespace")
        return value if isinstance(value, str) else ""

    @property
    def object_name(self) -> str:
        """`metadata.name` (or `generateName`), else the resource's own name."""
        for key in ("name", "generateName"):
            value = raw(self.props, "metadata", key)
            if isinstance(value, str) and value:
                return value
        return self.name


def kubernetes_kind(api_version: str, kind: str) -> str:
    """`apps/v1` + `Deployment` -> `apps/Deployment`; the core group is empty."""
    group = api_version.rsplit("/", 1)[0] if "/" in api_version else ""
    return f"{'' if group == 'core' else group}/{kind}"


def _aliases() -> dict[str, str]:
    # modules and resources that the AWS provider keeps under two names
    found: dict[str, str] = {}
    for old in ("alb", "elasticloadbalancingv2", "applicationloadbalancing"):
        for name in ("LoadBalancer", "Listener", "ListenerRule", "TargetGroup"):
            lower = name[0].lower() + name[1:]
            found[f"aws:{old}/{lower}:{name}"] = f"aws:lb/{lower}:{name}"
    found["aws:elasticloadbalancing/loadBalancer:LoadBalancer"] = (
        "aws:elb/loadBalancer:LoadBalancer"
    )
    for name in (
        "Acl", "CorsConfiguration", "LifecycleConfiguration", "Logging",
        "RequestPaymentConfiguration", "ServerSideEncryptionConfiguration", "Versioning",
        "WebsiteConfiguration",
    ):  # fmt: skip
        found[f"aws:s3/bucket{name}V2:Bucket{name}V2"] = f"aws:s3/bucket{name}:Bucket{name}"
    found["aws:s3/bucketV2:BucketV2"] = "aws:s3/bucket:Bucket"
    return found


ALIASES = _aliases()


def canonical(type_token: str, props: Mapping[str, Any]) -> str:
    """The canonical kind of a type token or of a manifest.

    >>> canonical("kubernetes:apps/v1:Deployment", {}), canonical("v1/Pod", {})
    ('apps/Deployment', '/Pod')
    """
    if type_token.startswith("kubernetes:"):
        parts = type_token.split(":")
        if len(parts) == 3 and "/" in parts[1]:
            return kubernetes_kind(parts[1], _plain_kind(parts[2]))
    elif ":" in type_token:
        return ALIASES.get(type_token, type_token)
    elif "/" in type_token:
        api_version, kind = type_token.rsplit("/", 1)
        return kubernetes_kind(api_version, kind)
    api_version, kind = props.get("apiVersion"), props.get("kind")
    if isinstance(kind, str) and kind:
        return kubernetes_kind(api_version if isinstance(api_version, str) else "v1", kind)
    return type_token


def _plain_kind(kind: str) -> str:
    # the provider's patch resources carry the same fields as the object they patch
    return kind.removesuffix("Patch") if kind.endswith("Patch") else kind


def make(
    type_token: str,
    name: str,
    props: Mapping[str, Any],
    *,
    urn: str = "",
    id_: str = "",
    source_file: str = "",
    line: int = 0,
    protect: bool = False,
    references: Mapping[str, tuple[str, ...]] | None = None,
    provider: str = "",
) -> Iterator[Resource]:
    """The resource, or for a Kubernetes list each object in it. `props` are decoded."""
    kind = canonical(type_token, props)
    elements = props.get("items")
    if kind.endswith("List") and ":" not in kind and isinstance(elements, list):
        element_kind = kind.rsplit("/", 1)[1].removesuffix("List")
        for position, element in enumerate(elements):
            if not isinstance(element, Mapping):
                continue
            inner: dict[str, Any] = dict(element)
            if element_kind:  # a typed list: its elements may leave out apiVersion and kind
                inner.setdefault("kind", element_kind)
                inner.setdefault("apiVersion", props.get("apiVersion", "v1"))
            yield from make(
                "", f"{name}[{position}]", inner, source_file=source_file, line=line,
                urn=f"{urn}[{position}]" if urn else "", provider=provider,
            )  # fmt: skip
        return
    yield Resource(
        type=type_token or kind,
        name=name,
        props=props,
        kind=kind,
        urn=urn,
        id=id_,
        source_file=source_file,
        line=line,
        protect=protect,
        references=references or {},
        provider=provider,
    )


class Stack:
    """All resources that are checked together, and the joins between them."""

    def __init__(self, resources: list[Resource]) -> None:
        self.resources = resources
        self._by_kind: dict[str, list[Resource]] = {}
        for resource in resources:
            self._by_kind.setdefault(resource.kind, []).append(resource)
        self._memo: dict[Any, Any] = {}

    def of(self, *kinds: str) -> list[Resource]:
        """Every resource of these canonical kinds, in input order within a kind."""
        return [resource for kind in kinds for resource in self._by_kind.get(kind, [])]

    def once(self, key: Any, compute: Callable[[], T]) -> T:
        """A value computed once a stack (an index for a join)."""
        if key not in self._memo:
            self._memo[key] = compute()
        return self._memo[key]

    def refers(self, source: Resource, path: str, target: Resource) -> bool | None:
        """Whether `source.<path>` points at `target`; `None` when that cannot be known.

        The engine's own dependency record decides when it names a resource of the target's kind.
        Else a known value decides: it is one of the target's names, or a `${name.property}`
        reference. A value that is not known at preview is the output of something that this plan
        makes, so it can only mean the target when the plan makes no other of its kind.
        """
        recorded = source.references.get(path.split(".", 1)[0], ())
        if target.urn and target.urn in recorded:
            return True
        if any(_type_in(urn) == target.kind for urn in recorded):
            return False
        value = raw(source.props, *path.split("."))
        if isinstance(value, Unknown):
            alone = not recorded and len(self._by_kind.get(target.kind, [])) == 1
            return True if alone else None
        if not isinstance(value, str) or not value:
            return False
        if match := _REFERENCE.match(value):
            return match.group(1).rsplit(".", 1)[-1] == target.name
        if value in names_of(target):
            return True
        # a program's own name for it, unless that is what a sibling is really called
        siblings = self._by_kind.get(target.kind, [])
        return value == target.name and not any(value in names_of(other) for other in siblings)

    def pointing_at(
        self, target: Resource, path: str, *kinds: str
    ) -> tuple[list[Resource], list[Resource]]:
        """The resources of these kinds whose `path` is the target, and those where it may be."""
        sure: list[Resource] = []
        perhaps: list[Resource] = []
        for source in self.of(*kinds):
            answer = self.refers(source, path, target)
            if answer:
                sure.append(source)
            elif answer is None:
                perhaps.append(source)
        return sure, perhaps


def _type_in(urn: str) -> str:
    # urn:pulumi:stack::project::parent$type::name
    parts = urn.split("::")
    return canonical(parts[2].rsplit("$", 1)[-1], {}) if len(parts) > 3 else ""


# the properties that name a resource to others, if it has them
_NAMES = (
    "bucket", "name", "arn", "id", "keyId", "repositoryName", "url", "clusterName",
    "metadata.name",
)  # fmt: skip


def names_of(target: Resource) -> set[str]:
    """The texts by which another resource may name this one.

    The name in the program counts only while the plan has no physical name: the engine derives
    the physical name from it.
    """
    given = {
        value
        for key in _NAMES
        if isinstance(value := raw(target.props, *key.split(".")), str) and value
    }
    found = {target.id, *given} if given or target.id else {target.name}
    if target.kind == "aws:s3/bucket:Bucket":
        found |= {f"arn:aws:s3:::{name}" for name in tuple(found) if name}
    return found - {""}
