"""Measurements from a Prometheus that scrapes cAdvisor (every kubelet) and NVIDIA's DCGM exporter.

HTTP API: https://prometheus.io/docs/prometheus/latest/querying/api/#instant-queries
"""

from __future__ import annotations

import json
import math
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policies.load import InputError
from policies.usage import ContainerUse, GpuUse, Usage

TIMEOUT = 120.0  # seconds; two weeks of a large site are read from disk
STEP = "5m"
STEPS_AN_HOUR = 12
_REAL = '{container!="",container!="POD",pod!=""}'
# An exporter's own labels are renamed where the scrape has such labels itself.
_POD = (("namespace", "exported_namespace"), ("pod", "exported_pod"))


_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, kw_only=True)
class Server:
    """Where Prometheus is and how to get in."""

    url: str
    ca_file: Path | None = None
    token_file: Path | None = None
    """A bearer token; a file, since arguments are seen by everybody on the machine."""


class _StayHere(urllib.request.HTTPRedirectHandler):
    """The API never redirects, and the token must not follow to another host."""

    def redirect_request(self, *_args: Any, **_named: Any) -> None:
        return None


def measure(server: Server, days: float) -> Usage:
    """The window that ends now. Raises `InputError`."""
    span = f"{max(1, round(days * 24))}h"
    # steps for rates and times; a peak may lie between two, so the highest is of every sample
    window = f"[{span}:{STEP}]"
    cpu = (
        f"quantile_over_time(0.95, rate(container_cpu_usage_seconds_total{_REAL}[{STEP}]){window})"
    )
    memory = f"max_over_time(container_memory_working_set_bytes{_REAL}[{span}])"
    seen = f"count_over_time(container_memory_working_set_bytes{_REAL}{window})"
    gpu = 'DCGM_FI_DEV_GPU_UTIL{pod!=""}'
    by_container = "max by (namespace, pod, container)"
    found = [_ask(server, f"{by_container} ({query})") for query in (cpu, memory, seen)]
    cpus, memories, steps = ({_container(m): value for m, value in one} for one in found)
    used = _ask(server, f"avg_over_time({gpu}[{span}])")
    lasted = dict(_gpus(_ask(server, f"count_over_time({gpu}{window})")))
    return Usage(
        days=days,
        containers=tuple(
            ContainerUse(
                namespace=key[0], pod=key[1], container=key[2],
                hours=steps.get(key, 0) / STEPS_AN_HOUR,
                cpu_p95=cpus.get(key), memory_peak=memories.get(key),
            )
            for key in sorted({*cpus, *memories})
        ),
        gpus=tuple(
            GpuUse(
                namespace=key[0], pod=key[1], gpu=key[2],
                hours=lasted.get(key, 0) / STEPS_AN_HOUR, utilisation=min(100, max(0, value)),
            )
            for key, value in sorted(_gpus(used))
        ),
    )  # fmt: skip


def _container(labels: Mapping[str, str]) -> tuple[str, str, str]:
    return labels.get("namespace", ""), labels.get("pod", ""), labels.get("container", "")


def _gpus(
    samples: Iterable[tuple[Mapping[str, str], float]],
) -> Iterable[tuple[tuple[str, str, str], float]]:
    for labels, value in samples:
        namespace, pod = (labels.get(other) or labels.get(name, "") for name, other in _POD)
        card = labels.get("UUID") or f"{labels.get('Hostname', '')}/{labels.get('gpu', '')}"
        yield (namespace, pod, card), value


def _ask(server: Server, query: str) -> list[tuple[Mapping[str, str], float]]:
    """The samples of an instant query; those that are no number are left out."""
    address = f"{server.url.rstrip('/')}/api/v1/query"
    where = urllib.parse.urlsplit(address)
    if where.scheme not in ("http", "https") or not where.hostname:
        raise InputError(f"--prometheus {server.url!r} is no address; give https://host[:port]")
    if server.token_file and where.scheme == "http" and where.hostname not in _LOOPBACK:
        raise InputError(f"--token-file with {server.url}: a token goes over https only")
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    try:
        if server.token_file is not None:
            headers["Authorization"] = f"Bearer {server.token_file.read_text('utf-8').strip()}"
        trusted = ssl.create_default_context(cafile=server.ca_file) if server.ca_file else None
        opener = urllib.request.build_opener(
            _StayHere, urllib.request.HTTPSHandler(context=trusted)
        )
        body = urllib.parse.urlencode({"query": query}).encode()
        request = urllib.request.Request(address, body, headers)  # noqa: S310 - http(s), above
        with opener.open(request, timeout=TIMEOUT) as answer:
            text: Any = json.load(answer)
        return [
            (sample["metric"], value)
            for sample in text["data"]["result"]
            if math.isfinite(value := float(sample["value"][1]))
        ]
    except urllib.error.HTTPError as error:
        said = error.read(300).decode(errors="replace").strip()
        raise InputError(
            f"Prometheus at {server.url} answered {error.code} to {query}: {said}"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"Prometheus at {server.url} gives no answer ({error}); check the address, --ca-file "
            "and --token-file"
        ) from None
