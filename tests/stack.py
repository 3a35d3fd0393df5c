"""A stack of the real program in the real engine, kept out of the checkout."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from local.paths import PROJECT

UNTOUCHED = ("infra", "policies", ".venv", "pyproject.toml", "uv.lock", "local", "bento", "model")


@dataclass(frozen=True)
class Stack:
    """`pulumi` over a project folder of its own: the engine writes a salt into the stack's file."""

    project: Path
    env: dict[str, str]
    name: str = "local"

    @classmethod
    def over(cls, project: Path, env: dict[str, str], name: str = "local") -> Stack:
        """The checkout's program and settings, seen from `project`; the stack is made."""
        project.mkdir(parents=True)
        for part in UNTOUCHED:
            (project / part).symlink_to(PROJECT / part)
        for file in ("Pulumi.yaml", f"Pulumi.{name}.yaml"):
            shutil.copy(PROJECT / file, project / file)
        stack = cls(project, env, name)
        stack.run("stack", "init", name)
        return stack

    def run(self, *words: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        """One command of the engine, without questions or colours."""
        done = subprocess.run(
            ["pulumi", *words, "--non-interactive", "--color", "never"],
            cwd=self.project, env={**self.env, **env}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        told = f"pulumi {' '.join(words)}: {done.stdout}\n{done.stderr}"
        assert not check or done.returncode == 0, told
        return done

    def up(self, *words: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        return self.run(
            "up", "-s", self.name, "--yes", "--skip-preview", *words, check=check, **env
        )

    def outputs(self) -> dict[str, Any]:
        return json.loads(self.run("stack", "output", "-s", self.name, "--json").stdout)

    def changes(self, *words: str) -> dict[str, int]:
        """What a preview would do: operation -> count, `same` included."""
        done = self.run("preview", "-s", self.name, "--json", *words)
        return json.loads(done.stdout)["changeSummary"]

    def resources(self) -> list[dict[str, Any]]:
        done = self.run("stack", "export", "-s", self.name)
        return json.loads(done.stdout)["deployment"].get("resources", [])

    def ids(self) -> dict[str, str]:
        """URN -> id of all that is there; unlike ciphertexts, the same from save to save."""
        return {one["urn"]: str(one.get("id", "")) for one in self.resources()}
