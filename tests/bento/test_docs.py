"""docs/service.md says what there is."""

from __future__ import annotations

import re
from pathlib import Path

from bento import metrics
from bento.errors import ServiceError
from bento.settings import ServiceSettings
from bento.types import Tier

TEXT = (Path(__file__).parents[2] / "docs" / "service.md").read_text(encoding="utf-8")


def test_every_setting_is_documented_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| ([^|]*?) *\|", TEXT, re.MULTILINE))
    assert set(rows) == {name.upper() for name in ServiceSettings.model_fields}
    for name, field in ServiceSettings.model_fields.items():
        shown = rows[name.upper()]
        if field.is_required() or field.default is None:
            continue
        default = str(field.default).lower()
        assert shown == default or float(shown) == float(default), f"{name}: {shown}"


def test_every_metric_and_tier_is_documented() -> None:
    for collector in vars(metrics).values():
        name = getattr(collector, "_name", None)
        if isinstance(name, str) and name.startswith("recommender_"):
            short = name.removeprefix("recommender")
            assert name in TEXT or f"`{short}" in TEXT, name
    for tier in Tier:
        assert f"| `{tier}` |" in TEXT, tier


def test_every_status_of_an_error_is_documented() -> None:
    for kind in ServiceError.__subclasses__():
        if kind.status < 500 and kind.status not in (404, 405):
            assert str(kind.status) in TEXT, kind
