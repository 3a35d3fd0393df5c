"""Every name, label and tag of the deployment is made here and nowhere else.

Pure functions: no cloud, no engine, so that a policy can ask the same questions about a name.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

PROJECT = "hybrid-recommender"
DNS_LABEL_LIMIT = 63  # RFC 1123, also Kubernetes' limit for namespaces, services and label values
_SUFFIX = 8  # hex digits: 1 chance in 4 billion that two shortened names meet
_LABEL_VALUE = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")


def _slug(part: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-")


def name(*parts: str, limit: int = DNS_LABEL_LIMIT) -> str:
    """A legal DNS label of at most `limit` characters from readable `parts`.

    Parts that are already legal and fit are joined as they are. Whenever something had to be
    changed or cut, a hash of the original parts is appended: the readable head is what gives way,
    never the suffix that keeps two names apart.
    """
    if limit < _SUFFIX + 2:
        raise ValueError(f"limit is {limit}; give {_SUFFIX + 2} or more")
    raw = "-".join(parts)
    readable = "-".join(slug for part in parts if (slug := _slug(part)))
    if not readable or not readable[0].isalpha():
        readable = f"n-{readable}".rstrip("-")
    if readable == raw and len(raw) <= limit:
        return raw
    digest = hashlib.sha256("\x00".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
    head = readable[: limit - _SUFFIX - 1].rstrip("-")
    return f"{head}-{digest[:_SUFFIX]}"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who answers for a stack: the source of every required tag."""

    environment: str
    owner: str
    cost_centre: str
    data_class: str
    expiry: date | None = None
    """Last day of a stack that is not meant to stay; None for a permanent one."""


def tags(
    identity: Identity, component: str, extra: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The tags of one resource, legal both as cloud tags and as Kubernetes labels.

    `extra` may add, never replace: a component cannot talk its way out of a required tag.
    """
    required = {
        "project": PROJECT,
        "component": component,
        "environment": identity.environment,
        "owner": identity.owner,
        "cost-centre": identity.cost_centre,
        "data-class": identity.data_class,
    }
    if identity.expiry is not None:
        required["expiry"] = identity.expiry.isoformat()
    made = {**(extra or {}), **required}
    for key, value in made.items():
        if not _LABEL_VALUE.match(value):
            raise ValueError(
                f"tag {key} is {value!r}; use 1 to 63 letters, digits, '.', '_' or '-', "
                "with a letter or digit at both ends"
            )
    return made


def labels(
    identity: Identity, component: str, extra: Mapping[str, str] | None = None
) -> dict[str, str]:
    """`tags` plus the labels Kubernetes recommends."""
    return {
        "app.kubernetes.io/name": name(component),
        "app.kubernetes.io/part-of": PROJECT,
        "app.kubernetes.io/managed-by": "pulumi",
        **tags(identity, component, extra),
    }


def selector(component: str) -> dict[str, str]:
    """The labels that choose a workload's pods: few, and never changed by an update."""
    return {"app.kubernetes.io/name": name(component), "app.kubernetes.io/part-of": PROJECT}
