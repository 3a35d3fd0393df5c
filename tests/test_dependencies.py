"""What is imported is declared, and what is declared is listed with its version and its licence."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

from local.tools.table import GROUPS

ROOT = Path(__file__).resolve().parent.parent
OWN = {"infra", "bento", "model", "policies", "local", "tests", "benchmarks"}
NEEDS = {
    "infra": ("infra",),
    "policies": ("infra",),
    "model": ("train",),
    "bento": ("serve",),
    "local": ("infra",),
}
OPTIONAL = {"pyspark"}  # of a cluster that a user brings; a clear error says so where it lacks


def read(name: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / name).read_text(encoding="utf-8"))


def plain(requirement: str) -> str:
    return re.split(r"[\[><=!~; ]", requirement)[0].lower().replace("_", "-")


def declared() -> dict[str, list[str]]:
    """Group -> packages it names itself; `always` for those that every group gets."""
    project = read("pyproject.toml")
    found = {"always": [plain(one) for one in project["project"]["dependencies"]]}
    for group, entries in project["dependency-groups"].items():
        found[group] = [plain(one) for one in entries if isinstance(one, str)]
    found["serve"] += found["train"]
    return found


def locked() -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in read("uv.lock")["package"]}


def closure(names: list[str]) -> set[str]:
    """These packages and all that they bring, by uv.lock."""
    lock, found, todo = locked(), set[str](), list(names)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += [each["name"] for each in lock[name].get("dependencies", ())]
    return found


def imported(folder: str) -> dict[str, set[str]]:
    """Top-level module -> files that import it, of other people's code only."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in (one.split(".")[0] for one in names):
                if name not in sys.stdlib_module_names and name not in OWN | OPTIONAL:
                    found.setdefault(name, set()).add(str(path.relative_to(ROOT)))
    return found


@pytest.mark.parametrize("folder", sorted(NEEDS))
def test_a_folder_imports_nothing_that_its_dependency_groups_do_not_bring(folder: str) -> None:
    groups = declared()
    given = closure([*groups["always"], *(one for each in NEEDS[folder] for one in groups[each])])
    owners = packages_distributions()
    for module, files in imported(folder).items():
        packages = {plain(one) for one in owners.get(module, [module])}
        assert packages & given, f"{module}, imported by {sorted(files)}, comes with no group"


def rows() -> dict[tuple[str, str], tuple[str, str, str]]:
    """(group, name) -> version, licence, purpose of docs/dependencies.md."""
    text = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ") and not line.startswith(("| ---", "| package", "| program"))
    ]
    return {(group, name): (version, licence, why) for name, version, group, licence, why in cells}


def test_every_declared_dependency_is_listed_with_its_tested_version_a_licence_and_a_purpose() -> (
    None
):
    listed, lock = rows(), locked()
    groups = declared()
    groups["serve"] = [one for one in groups["serve"] if one not in groups["train"]]
    wanted = {(group, one): lock[one]["version"] for group in groups for one in groups[group]}
    wanted |= {("stand", group.name): group.version for group in GROUPS}
    assert {key: row[0] for key, row in listed.items()} == wanted
    for key, (_, licence, why) in listed.items():
        assert licence, f"{key} has no licence"
        assert why, f"{key} has no purpose"
