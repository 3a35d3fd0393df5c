"""The cloud site's autoscaler: Karpenter with its KWOK provider.

The real Karpenter decides; what it orders are simulated nodes, which the site's KWOK keeps alive.
Node pools are the program's; here are Karpenter's own definitions, the types on sale and the part.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from local.control_plane import ControlPlane, http_ok
from local.errors import StandError
from local.kube import ApiError, Json
from local.paths import write_private
from local.pki import Leaf
from local.proc import Part
from local.waiting import wait_for

PART = "karpenter"  # its name among a site's ports and parts
HEALTH, METRICS = "karpenter", "karpenter-metrics"  # ports
CLAIMS = "/apis/karpenter.sh/v1/nodeclaims"
_DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_TYPES = Path(__file__).with_name("cloud-types.yaml")


@dataclass(frozen=True)
class Karpenter:
    plane: ControlPlane

    def part(self) -> Part:
        plane, site = self.plane, self.plane.site
        own = plane.config(PART, Leaf("karpenter", "system:masters"))
        types = plane.root / "instance-types.json"
        write_private(types, json.dumps(list(instance_types()), indent=1))
        return Part(
            name=f"{site.name}/{PART}",
            argv=(
                str(plane.tools.path("karpenter")),
                f"--instance-types-file-path={types}",
                f"--health-probe-port={site.ports[HEALTH]}",
                f"--metrics-port={site.ports[METRICS]}",
                "--disable-leader-election=true",
                "--disable-cluster-state-observability=true",
            ),
            kind="simulated",
            version=plane.tools.version("karpenter"),
            netns=site.netns,
            env={"KUBECONFIG": str(own), "GOMEMLIMIT": "128MiB"},
            files=(own, types),
            ready=self.answers,
        )

    def answers(self) -> bool:
        return http_ok(self.plane.site.address, self.plane.site.ports[HEALTH], "/readyz")

    def define(self) -> None:
        """Karpenter's kinds, of the very module that it is built of; served when this returns."""
        names: list[str] = []
        for crd in self._definitions():
            name = str(crd["metadata"]["name"])
            self.plane.client.apply(f"{_DEFINITIONS}/{name}", crd)
            names.append(name)
        if not wait_for(lambda: all(served(self._definition(name)) for name in names), 60):
            raise StandError(f"{self.plane.site.name}: Karpenter's kinds are not served after 60 s")

    def _definitions(self) -> Iterator[Json]:
        files = self.plane.tools.files
        for folder in ("karpenter/crds", "karpenter/kwok-crds"):
            for file in sorted(files[folder].glob("karpenter.*.yaml")):
                yield cast("Json", yaml.safe_load(file.read_text(encoding="utf-8")))

    def _definition(self, name: str) -> Json:
        return self.plane.client.get(f"{_DEFINITIONS}/{name}")

    def ordered(self) -> int:
        """How many nodes Karpenter holds or has ordered now."""
        try:
            return len(self.plane.client.items(CLAIMS))
        except ApiError as error:
            if error.status == 404:  # its kinds are not there yet
                return 0
            raise


def served(definition: Json) -> bool:
    """Whether the API server answers for a kind; its conditions are null until it has looked."""
    status = definition.get("status") or {}
    conditions = cast("list[Json]", status.get("conditions") or [])
    return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)


def _sold() -> dict[str, Any]:
    return cast("dict[str, Any]", yaml.safe_load(_TYPES.read_text(encoding="utf-8")))


def described() -> Json:
    """What a program that declares node pools must know."""
    sold = _sold()
    return {"zones": sold["zones"], "types": list(sold["types"])}


def instance_types() -> Iterator[Json]:
    """The file that the KWOK provider reads: each type, spot and on demand, in every zone."""
    sold = _sold()
    for name, size in cast("dict[str, dict[str, Any]]", sold["types"]).items():
        prices = {
            "spot": size["usd_per_hour"] * sold["spot_share"], "on-demand": size["usd_per_hour"],
        }  # fmt: skip
        yield {
            "name": name,
            "architecture": "amd64",
            "operatingSystems": ["linux"],
            "resources": {
                "cpu": str(size["cpus"]),
                "memory": f"{size['memory_gib']}Gi",
                "ephemeral-storage": "200Gi",
                "pods": "110",
                "nvidia.com/gpu": str(size["gpus"]),
            },
            "offerings": [
                {
                    "Price": price,
                    "Available": True,
                    "Requirements": [
                        _is("karpenter.sh/capacity-type", capacity),
                        _is("topology.kubernetes.io/zone", zone),
                    ],
                }
                for capacity, price in prices.items()
                for zone in sold["zones"]
            ],
        }


def _is(key: str, value: str) -> Json:
    return {"key": key, "operator": "In", "values": [value]}
