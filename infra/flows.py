"""Traffic between workloads as NetworkPolicy rules: every flow has two ends and is named once.

No engine here. A rule says who talks to whom on which port; everything else is denied by the
namespace's default.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

Spec = dict[str, Any]


def pods(labels: dict[str, str], *, namespace: str | None = None) -> Spec:
    """A peer: pods of this namespace, or of another one by name."""
    peer: Spec = {"podSelector": {"matchLabels": labels}}
    if namespace is not None:
        named = {"kubernetes.io/metadata.name": namespace}
        peer["namespaceSelector"] = {"matchLabels": named}
    return peer


def block(cidr: str) -> Spec:
    return {"ipBlock": {"cidr": cidr}}


def ports(*numbers: int) -> list[Spec]:
    return [{"protocol": "TCP", "port": number} for number in numbers]


def into(peers: list[Spec], *numbers: int) -> Spec:
    return {"from": peers, "ports": ports(*numbers)}


def out_of(peers: list[Spec], *numbers: int) -> Spec:
    return {"to": peers, "ports": ports(*numbers)}


def to_address(address: str) -> Spec:
    """Egress to one https address: its own IP, or that port of any host when it has a name."""
    url = urlsplit(address)
    allowed = ports(url.port or 443)
    try:
        return {"to": [block(f"{ip_address(str(url.hostname))}/32")], "ports": allowed}
    except ValueError:  # NetworkPolicy knows no names: the port is all that can be said
        return {"ports": allowed}
