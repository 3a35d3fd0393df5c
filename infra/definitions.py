"""Kinds of object that a stack uses and does not bring: looked for before the first change.

An update that meets a missing CRD half-way leaves half of its objects behind. Kueue's own CRDs, and
Karpenter's on a cluster that this program makes, come with the update and are not looked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from itertools import groupby

from infra import trainer
from infra.clouds import burst_pools, kwok
from infra.components import gpu_site
from infra.jobs import has_queues
from infra.reach import direct
from infra.settings import Settings, SiteName
from infra.site_login import LoginError, ask
from infra.site_settings import SettingsError, Site


@dataclass(frozen=True, kw_only=True)
class Need:
    """A kind that a setting makes this program use on a site."""

    site: SiteName
    api: str
    """Group and version."""
    kind: str
    setting: str
    remedy: str


def needs(settings: Settings) -> Iterator[Need]:
    """Every kind of this stack that the site must have already."""
    for name, site in settings.sites.items():
        if site.gpu_operator is not None and has_queues(settings, name):
            yield Need(
                site=name, api=gpu_site.OPERATOR_API, kind="ClusterPolicy",
                setting=f"sites.{name}.gpu_operator",
                remedy="install NVIDIA's GPU operator there, or remove the setting",
            )  # fmt: skip
        if site.trainer and has_queues(settings, name):
            for api, kind in (
                (trainer.API, "TrainJob"), (trainer.API, "TrainingRuntime"),
                (trainer.JOB_SET_API, "JobSet"),
            ):  # fmt: skip
                yield Need(
                    site=name, api=api, kind=kind, setting=f"sites.{name}.trainer",
                    remedy=f"install Kubeflow Trainer {trainer.VERSION} there, or remove the "
                    "setting: runs are Jobs then",
                )  # fmt: skip
    cloud = settings.sites.get("cloud")
    if settings.cloud_pools and cloud is not None:
        for api, kind in (
            (burst_pools.API, "NodePool"), (kwok.NODE_API, kwok.NODE_CLASS.kind),
        ):  # fmt: skip
            yield Need(
                site="cloud", api=api, kind=kind, setting="cloud-pools",
                remedy="repair the autoscaler with `stand up`, or remove the pools",
            )  # fmt: skip


def require(settings: Settings) -> None:
    """Raises `SettingsError` with one line for each kind that a site lacks.

    Sites in `unreachable`, and those that only a proxy reaches, are not asked.
    """
    wanted = sorted(needs(settings), key=lambda need: (need.site, need.api))
    lines = [
        line
        for (name, api), group in groupby(wanted, lambda need: (need.site, need.api))
        if name not in settings.unreachable and direct(settings.sites[name])
        for line in _missing(settings.sites[name], name, api, list(group))
    ]
    if lines:
        # a login that is refused is refused for each of a site's APIs alike
        raise SettingsError("\n".join(dict.fromkeys(lines)))


def _missing(site: Site, name: SiteName, api: str, wanted: list[Need]) -> Iterator[str]:
    where = f"site {name} at {site.api}"
    try:
        status, text = ask(site, f"/apis/{api}")
        known = (
            {one["kind"] for one in json.loads(text)["resources"]} if status == 200 else set[str]()
        )
    except LoginError as error:
        yield f"{where} cannot be asked with {site.kubeconfig}: {error}; correct the kubeconfig"
        return
    except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
        yield f"{where} does not say what it knows of {api} ({error or type(error).__name__})"
        return
    if status in (401, 403):
        yield (
            f"{where} refuses the login in {site.kubeconfig} (HTTP {status}); give the kubeconfig "
            "of somebody who may deploy there"
        )
    elif status not in (200, 404):
        yield f"{where} does not say what it knows of {api} (HTTP {status}); try again"
    else:
        for need in wanted:
            if need.kind not in known:
                yield (
                    f"{where} does not know {need.kind} ({api}), which `{need.setting}` needs; "
                    f"{need.remedy}"
                )
