"""The data files of each stack, beside the rules: one place for every door.

    policies/stacks/<stack>.yaml            enforcement, settings of rules, cost guardrails
    policies/stacks/<stack>.waivers.yaml    accepted findings
    policies/stacks/<stack>.accepted.json   the last estimate that a person said yes to

`default` stands in for a stack without a file of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "stacks"
DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class StackFiles:
    """What is there for one stack; `accepted` is where it belongs, whether or not it is there."""

    settings: Path | None
    waivers: Path | None
    accepted: Path


def stack_files(folder: Path, stack: str) -> StackFiles:
    """The files of a stack. Waivers and estimates are never shared: they name one stack's own."""
    name = stack.rsplit("/", 1)[-1]
    own, shared = folder / f"{name}.yaml", folder / f"{DEFAULT}.yaml"
    waivers = folder / f"{name}.waivers.yaml"
    return StackFiles(
        settings=own if own.is_file() else shared if shared.is_file() else None,
        waivers=waivers if waivers.is_file() else None,
        accepted=folder / f"{name}.accepted.json",
    )
