"""Drive the real engine through its command line, in a folder and a PULUMI_HOME of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from local.plugins.install import install

from .cluster import tool

PASSPHRASE = "only-for-tests"


class Project:
    """One program and one stack on file state."""

    def __init__(self, folder: Path, program: str, *, stack: str = "dev") -> None:
        self.folder = folder
        self.stack = stack
        self.home = folder / "home"
        self.state = folder / "state"
        self.program = folder / "program"
        for place in (self.home, self.state, self.program):
            place.mkdir(parents=True)
        install(self.home, Path(tool("pulumi")))
        virtualenv = Path(sys.prefix)
        (self.program / "Pulumi.yaml").write_text(
            json.dumps(
                {
                    "name": "plugins",
                    "runtime": {
                        "name": "python",
                        "options": {"toolchain": "pip", "virtualenv": str(virtualenv)},
                    },
                }
            )
        )
        self.write(program)
        self.run("stack", "init", stack)

    def write(self, program: str) -> None:
        (self.program / "__main__.py").write_text(program)

    @property
    def environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PULUMI_", "KUBE", "VIRTUAL_ENV"))
        }
        return kept | {
            "PATH": f"{self.home / 'bin'}{os.pathsep}{kept['PATH']}",
            "PULUMI_HOME": str(self.home),
            "PULUMI_BACKEND_URL": f"file://{self.state}?metadata=skip",
            "PULUMI_CONFIG_PASSPHRASE": PASSPHRASE,
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_DIY_BACKEND_DISABLE_CHECKPOINT_BACKUPS": "true",
        }

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["pulumi", *arguments, "--non-interactive", "--color=never"],
            cwd=self.program, env=self.environment | variables, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def attempt(self, *arguments: str, **variables: str) -> tuple[int, str]:
        """(exit code, all output)."""
        process = self.start(*arguments, **variables)
        output, _ = process.communicate(timeout=300)
        return process.returncode, output

    def run(self, *arguments: str, **variables: str) -> str:
        code, output = self.attempt(*arguments, **variables)
        assert code == 0, f"pulumi {' '.join(arguments)} exited with {code}:\n{output}"
        return output

    def up(self, *arguments: str, **variables: str) -> str:
        return self.run("up", "--yes", "--skip-preview", *arguments, **variables)

    def destroy(self) -> str:
        return self.run("destroy", "--yes", "--skip-preview")

    def export(self) -> dict[str, Any]:
        process = subprocess.run(
            ["pulumi", "stack", "export"], cwd=self.program, env=self.environment,
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return json.loads(process.stdout)

    def resources(self) -> dict[str, dict[str, Any]]:
        """Name in the program -> resource in the state, of Kubernetes objects alone."""
        return {
            each["urn"].split("::", 3)[3]: each
            for each in self.export()["deployment"].get("resources", [])
            if each["type"].startswith("kubernetes:")
        }


def summary(output: str) -> dict[str, int]:
    """`{"created": 2, "unchanged": 1}` out of the engine's closing lines."""
    found: dict[str, int] = {}
    listing = output.rpartition("Resources:")[2].splitlines()
    for line in listing[1:]:
        words = line.translate(str.maketrans("+-~=", "    ")).split()
        if len(words) < 2 or not words[0].isdigit():
            break
        found[" ".join(words[1:])] = int(words[0])
    return found
