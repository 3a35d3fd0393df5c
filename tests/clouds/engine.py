"""A recording engine: every resource of a program, with outputs that can be traced to their maker.

A computed attribute of resource R is the string `«type|name|attribute»`; wherever it turns up in
another resource's inputs, the reference can be followed back.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pulumi

REFERENCE = re.compile(r"«([^|»]+)\|([^|»]+)\|([^|»]+)»")
COMPUTED = {
    "aws:eks/cluster:Cluster": {"certificateAuthority": {"data": "Q0EK"}},
    "aws:ec2/launchTemplate:LaunchTemplate": {"latestVersion": 1},
    "aws:ec2/vpnConnection:VpnConnection": {
        "tunnel1Address": "198.51.100.11", "tunnel2Address": "198.51.100.12"
    },
}  # fmt: skip
ATTRIBUTES = (
    "arn", "keyId", "url", "endpoint", "repositoryUrl", "allocationId", "dnsName", "zoneId",
    "prefixListId",
)  # fmt: skip


@dataclass(frozen=True)
class Made:
    type: str
    name: str
    inputs: dict[str, Any]
    parent: str | None = None
    provider: str = ""
    """`URN::id` of an explicit provider, as the engine writes it."""

    @property
    def short(self) -> str:
        return self.type.rsplit(":", 1)[-1]


@dataclass
class Engine(pulumi.runtime.Mocks):
    made: list[Made] = field(default_factory=list)

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str, dict[str, Any]]:
        made = Made(args.typ, args.name, dict(args.inputs), provider=args.provider or "")
        self.made.append(made)
        outputs = {key: f"«{args.typ}|{args.name}|{key}»" for key in ATTRIBUTES}
        outputs |= COMPUTED.get(args.typ, {})
        outputs |= {"name": f"«{args.typ}|{args.name}|name»"} if "name" not in args.inputs else {}
        outputs |= args.inputs
        if args.typ.endswith(":TunnelKey"):  # traced by a text that is itself a legal key
            outputs["value"] = f"{args.name}.{'k' * 40}".replace("-", "_")
        return f"«{args.typ}|{args.name}|id»", outputs

    def call(self, args: pulumi.runtime.MockCallArgs) -> dict[str, Any]:
        raise AssertionError(f"a preview must ask nothing, but this asks {args.token}")

    def of(self, short: str) -> dict[str, dict[str, Any]]:
        """Name -> inputs of every resource of one type, by the type's last word."""
        return {each.name: each.inputs for each in self.made if each.short == short}

    def one(self, short: str) -> dict[str, Any]:
        found = self.of(short)
        assert len(found) == 1, f"{len(found)} resources of type {short}: {sorted(found)}"
        return next(iter(found.values()))


def build(program: Callable[[], Any]) -> Engine:
    """Run a program on a fresh engine; returns once every registration has landed."""
    engine = Engine()
    # set_mocks needs a current loop, and `asyncio.run` in an earlier test leaves none behind.
    asyncio.set_event_loop(asyncio.new_event_loop())
    pulumi.runtime.set_mocks(engine, project="recsys", stack="test", preview=False)
    pulumi.runtime.test(program)()
    counted = Counter((each.type, each.name) for each in engine.made)
    twice = sorted(each for each, times in counted.items() if times > 1)
    # The real engine refuses a second resource with the same URN; mocks would keep either one.
    assert not twice, f"declared twice: {twice}"
    return engine


def strings(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every string in a value with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from strings(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for inner in value:
            yield from strings(inner, path)
