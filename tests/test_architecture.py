"""The import table of docs/architecture.md, enforced on the syntax trees.

Each folder names what it may import besides the standard library. Imports inside functions count
too: a lazy import is still a dependency.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
OURS = {"bento", "benchmarks", "infra", "local", "model", "policies", "tests"}

# folder or file -> the modules of ours that it may import (itself always allowed)
MAY_IMPORT_OURS: dict[str, set[str]] = {
    "infra/naming.py": set(),
    "infra/cidr.py": set(),
    "infra/pricing.py": set(),
    "infra/settings.py": {
        "infra.naming",
        "infra.cidr",
        "infra.pricing",
        "infra.cloud_settings",
        "infra.queue_settings",
        "infra.site_settings",
        "infra.traffic_settings",
        "infra.training_settings",
    },
    "infra/traffic_settings.py": {"infra.cidr"},
    "infra/site_settings.py": {"infra.cloud_settings", "infra.queue_settings"},
    "infra/reach.py": {"infra.settings", "infra.site_settings"},
    "infra/site_login.py": {"infra.site_settings"},
    "infra/cloud_settings.py": set(),
    "infra/queue_settings.py": set(),
    "infra/training_settings.py": set(),
    "infra/vault_session.py": set(),
    "infra/vault.py": {"infra.vault_session"},
    "infra/vault_engines.py": {"infra.vault"},
    "infra/vault_login.py": {"infra.vault", "infra.vault_session"},
    "infra/handover.py": set(),
    "infra/pods.py": {"infra.naming"},
    "infra/workloads.py": {
        "infra.naming",
        "infra.pods",
        "infra.vault",
        "infra.vault_engines",
        "infra.vault_login",
    },
    "infra/flows.py": set(),
    "infra/haproxy.py": set(),
    "infra/entrance.py": set(),
    "infra/bento_reference.py": set(),
    "infra/kueue.py": {"infra.trainer"},
    "infra/trainer.py": set(),
    "infra/components": {
        "infra.naming",
        "infra.cidr",
        "infra.pricing",
        "infra.vault",
        "infra.vault_engines",
        "infra.vault_login",
        "infra.handover",
        "infra.pods",
        "infra.workloads",
        "infra.flows",
        "infra.haproxy",
        "infra.kueue",
        "infra.trainer",
        "infra.clouds.burst",
    },
    "infra/clouds": {"infra.naming", "infra.cidr", "infra.pricing", "infra.vault"},
    "policies": {"policies", "infra.naming", "infra.pricing"},
    "model": {"model"},
    "bento": {"bento", "model"},
    "local": {"local"},
}
# folder -> third-party packages it must never touch
NEVER: dict[str, set[str]] = {
    "infra/naming.py": {"pulumi", "pulumi_aws", "pulumi_kubernetes", "pydantic"},
    "infra/cidr.py": {"pulumi", "pulumi_aws", "pulumi_kubernetes", "pydantic"},
    "infra/pricing.py": {"pulumi", "pulumi_aws", "pulumi_kubernetes", "pydantic"},
    "infra/settings.py": {"pulumi_aws", "pulumi_kubernetes", "hvac"},
    "infra": {"torch", "bentoml"},
    "policies": {"pulumi_aws", "pulumi_kubernetes", "hvac", "torch", "bentoml"},
    "model": {"pulumi", "pulumi_aws", "pulumi_kubernetes", "bentoml", "hvac"},
    "bento": {"pulumi", "pulumi_aws", "pulumi_kubernetes", "hvac"},
    "local": {"torch", "bentoml", "pulumi_aws", "pulumi_kubernetes"},
}


def files(place: str) -> list[Path]:
    path = ROOT / place
    return [path] if path.suffix == ".py" else sorted(path.rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module a file imports, absolute, with its line."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            for name in node.names:
                yield f"{module}.{name.name}", node.lineno


def allowed(module: str, permitted: set[str]) -> bool:
    return any(module == name or module.startswith(name + ".") for name in permitted)


@pytest.mark.parametrize("place", MAY_IMPORT_OURS)
def test_a_folder_imports_only_what_the_design_allows(place: str) -> None:
    broken: list[str] = []
    for path in files(place) if (ROOT / place).exists() else []:
        itself = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        package = {itself.removesuffix(".__init__")}
        if place == "infra/clouds":
            # the burst interface and a cloud's own sub-modules; never a neighbour cloud
            package |= {"infra.clouds.burst", "infra.clouds.burst_pools"}
            package |= {f"infra.clouds.{path.stem.split('_')[0]}"}
            package |= {
                "infra.clouds." + other.stem
                for other in path.parent.glob(f"{path.stem.split('_')[0]}_*.py")
            }
        if place == "infra/components":
            # the other files of the same component; never another component
            package |= {
                "infra.components." + other.stem
                for other in path.parent.glob(f"{path.stem.split('_')[0]}_*.py")
            }
        for module, line in imports(path):
            if module.split(".")[0] in OURS and not allowed(
                module, MAY_IMPORT_OURS[place] | package
            ):
                broken.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert not broken, "docs/architecture.md forbids these imports:\n" + "\n".join(broken)


@pytest.mark.parametrize("place", NEVER)
def test_a_folder_never_touches_the_packages_that_its_neighbours_own(place: str) -> None:
    broken = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in (files(place) if (ROOT / place).exists() else [])
        for module, line in imports(path)
        if module.split(".")[0] in NEVER[place]
    ]
    assert not broken, "docs/architecture.md forbids these imports:\n" + "\n".join(broken)


def test_a_component_never_imports_another_component() -> None:
    broken = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in files("infra/components")
        for module, line in imports(path)
        if module.startswith("infra.components.")
        and module.split(".")[2].split("_")[0] != path.stem.split("_")[0]
    ]
    assert not broken, "program.py passes outputs between components:\n" + "\n".join(broken)


def test_the_stand_runs_on_the_standard_library_and_small_tools() -> None:
    small = {"pulumi", "grpc", "google", "yaml", "rich", "cryptography", "semver", "pydantic"}
    broken = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in files("local")
        for module, line in imports(path)
        if (top := module.split(".")[0]) not in sys.stdlib_module_names | OURS | small
        and top != "__future__"
    ]
    assert not broken, "local/ grew a dependency:\n" + "\n".join(broken)


def test_no_file_names_a_package_registry_or_a_path_of_one_machine() -> None:
    hosts = ("proxy.golang" + ".org", "py" + "pi.org", "registry.npm" + "js", "deb.deb" + "ian")
    words = (*hosts, "/wo" + "rk/", "/ro" + "ot/")
    kinds = {".py", ".md", ".toml", ".yaml", ".yml", ".sh", ".json", ".go", ""}
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    broken = [
        f"{name}: {word}"
        for name in listed
        if (path := ROOT / name).suffix in kinds and path.is_file()
        for word in words
        if word in path.read_text(encoding="utf-8", errors="ignore")
    ]
    assert not broken, "works on one machine only:\n" + "\n".join(broken)


def test_every_folder_of_tests_has_its_place_in_the_order() -> None:
    named = (ROOT / "pytest.ini").read_text(encoding="utf-8").split()
    folders = {path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("tests/*/test_*.py")}
    assert folders <= set(named), "a folder that pytest.ini does not name is never run"
