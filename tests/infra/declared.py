"""What a stack's program declares when no cluster answers: the whole program under mocks.

    python -m tests.infra.declared staging --output out/policies/staging.resources.json

The list is what `policies check --resources` reads. CI has no kubeconfig of `staging` or `prod`, so
their plans come from here: the example settings in the repository, the same program, every input
that it would send. What the engine alone knows (an update's difference) is not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from infra.program import deploy
from infra.settings import Settings, parse
from tests.clouds.engine import REFERENCE, Engine, Made, build, strings

ROOT = Path(__file__).resolve().parents[2]
STACKS = ("staging", "prod")
KUBECONFIG = """
clusters: [{name: site, cluster: {certificate-authority-data: Q0E=, server: https://site}}]
"""
_OWN = ("pulumi:", "recsys:", "hybrid-recommender:")


def config(stack: str) -> dict[str, str]:
    """The stack file as the engine hands it over: structures as JSON."""
    raw = yaml.safe_load((ROOT / f"Pulumi.{stack}.yaml").read_text(encoding="utf-8"))["config"]
    return {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in raw.items()
    }


def fill_home(home: Path, stack: str) -> None:
    """The files that the example settings point at, with nothing secret in them."""
    for name, text in {
        f".kube/hybrid-recommender-{stack}.yaml": KUBECONFIG,
        ".config/hybrid-recommender/vault-ca.pem": "CA",
        ".config/hybrid-recommender/vault-token": "unused",
    }.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text, encoding="utf-8")


def declare(stack: str, today: date) -> tuple[Settings, Engine]:
    """Run the program of a stack on a day; `HOME` must hold what `fill_home` writes."""
    settings = parse(stack, {**config(stack), "hybrid-recommender:today": today.isoformat()})
    return settings, build(lambda: deploy(settings))


def custom(engine: Engine) -> list[Made]:
    """Everything but components and providers."""
    return [made for made in engine.made if not made.type.startswith(_OWN)]


def plain(made: Made) -> dict[str, Any]:
    """One resource as the policies read it."""
    pointing: dict[str, list[str]] = {}
    for path, text in strings(made.inputs):
        for kind, name, _ in REFERENCE.findall(text):
            target = f"urn:pulumi:test::hybrid-recommender::{kind}::{name}"
            pointing.setdefault(path.split(".", 1)[0], []).append(target)
    return {
        "type": made.type, "name": made.name,
        "urn": f"urn:pulumi:test::hybrid-recommender::{made.type}::{made.name}",
        "properties": _referred(made.inputs), "propertyDependencies": pointing,
        "provider": made.provider,
    }  # fmt: skip


def _referred(value: Any) -> Any:
    """The engine's reference marks as the `${name.property}` that the policies join by."""
    if isinstance(value, str):
        whole = REFERENCE.fullmatch(value)
        return f"${{{whole[2]}.{whole[3]}}}" if whole else value
    if isinstance(value, dict):
        return {key: _referred(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_referred(inner) for inner in value]
    return value


def main() -> None:
    """Write the list of one stack."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stack", choices=STACKS)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--today", type=date.fromisoformat, default=date.today(), metavar="YYYY-MM-DD"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        fill_home(Path(home), given.stack)
        os.environ["HOME"] = home
        _, engine = declare(given.stack, given.today)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    found = [plain(made) for made in custom(engine)]
    given.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
