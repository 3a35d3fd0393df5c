"""Jobs that cannot fit are refused with the settings, before any engine or cluster is asked."""

from __future__ import annotations

import json
from typing import Any

import pytest

from infra.settings import PRODUCT_TEAM, parse
from infra.site_settings import SettingsError
from tests.infra.declared import config

POOL = {"count": 2, "gpus": 8, "cpus": 64, "memory_gib": 512}
KUEUE = {
    "manifests": "kueue.yaml",
    "sha256": "0" * 64,
    "image": "r.example/kueue@sha256:" + "0" * 64,
}
RUN = {"name": "r1", "sequences": "data/train.txt"}


def prod(*, gpus: bool = True, **more: Any) -> dict[str, str]:
    """The example settings with 16 private GPUs (or none) and more of what jobs need."""
    values = config("prod")
    sites = json.loads(values["hybrid-recommender:sites"])
    if gpus:
        sites["private"]["gpu_pool"] = POOL
    values["hybrid-recommender:sites"] = json.dumps(sites)
    for key, value in more.items():
        values[f"hybrid-recommender:{key}"] = json.dumps(value)
    return values


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            prod(teams={PRODUCT_TEAM: {"gpus": 12}, "research": {"gpus": 8}}),
            r"teams own 20 GPUs \(recommender 12, research 8\), the private site has 16; lower",
        ),
        (prod(gpus=False, teams={PRODUCT_TEAM: {"gpus": 1}}), "the private site has 0; lower"),
        (
            prod(teams={"research": {"gpus": 1}}),
            "teams has no `recommender`, which the service belongs to; it has research",
        ),
        (prod(training=RUN), "names run r1, but the stack has no queue controller; set kueue"),
        (
            prod(training=RUN, kueue=KUEUE),
            "no artefact store for the private site; set artefacts",
        ),
        (prod(kueue={**KUEUE, "program": "/manager"}), "give `image` by its digest .* not both"),
        (prod(kueue={**KUEUE, "sha256": None}), "sha256 is missing; pin the release's manifest"),
        (prod(unreachable=["cloud"]), r"unreachable names \['cloud'\]; sites has \['private'\]"),
    ],
    ids=[
        "shares above the site", "shares without GPUs", "no product team", "a run without queues",
        "a run without a store", "two controllers", "manifests unpinned", "an unknown site",
    ],
)  # fmt: skip
def test_what_cannot_fit_is_one_line_with_the_numbers_and_the_remedy(
    values: dict[str, str], told: str
) -> None:
    with pytest.raises(SettingsError, match=told) as refused:
        parse("prod", values)
    assert "\n" not in str(refused.value)


def test_shares_that_fill_the_site_exactly_are_accepted() -> None:
    settings = parse(
        "prod", prod(kueue=KUEUE, teams={PRODUCT_TEAM: {"gpus": 12}, "research": {"gpus": 4}})
    )
    assert sum(team.gpus for team in settings.teams.values()) == 16
