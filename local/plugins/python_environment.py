"""Which Python runs a program, found the way the official language host does.

`runtime.options` of Pulumi.yaml: `toolchain` (auto, pip, uv) and `virtualenv` (a path, relative to
the project). With `uv`, or when a uv.lock lies in or above the program's folder, the environment is
the one beside the lock and is kept up to date by `uv sync`; with `pip` it is `virtualenv`, or the
`python3` on PATH when none is named.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

TYPECHECKERS = ("mypy", "pyright")
OPTIONS = ("toolchain", "virtualenv", "typechecker")
OUR_UV = Path(__file__).resolve().parent.parent / "uv.sh"


class PythonEnvironmentError(Exception):
    """The program's interpreter cannot be had; the message says what to do."""


def search_up(folder: Path, name: str) -> Path | None:
    """The nearest folder, from `folder` upwards, that holds `name`."""
    return next((place for place in (folder, *folder.parents) if (place / name).exists()), None)


def uv_command() -> str:
    found = shutil.which("uv")
    if found:
        return found
    if OUR_UV.exists():
        return str(OUR_UV)
    raise PythonEnvironmentError(
        "Could not find `uv` executable.\nInstall uv and make sure it is in your PATH."
    )


@dataclass(frozen=True, kw_only=True)
class PythonEnvironment:
    """An interpreter and the environment variables that activate it."""

    toolchain: Literal["uv", "pip"]
    program: Path  # the folder that uv and pip work in
    virtualenv: Path | None  # None: the system's Python
    typechecker: str | None = None

    @classmethod
    def resolve(cls, options: Mapping[str, Any], *, root: Path, program: Path) -> PythonEnvironment:
        """From `runtime.options`; raises PythonEnvironmentError for an option it does not know."""
        for name, value in options.items():
            if name in OPTIONS and not isinstance(value, str):
                raise PythonEnvironmentError(f"{name} option must be a string, got {value!r}")
        toolchain = str(options.get("toolchain", "")).lower()
        if toolchain not in ("", "auto", "pip", "uv"):
            raise PythonEnvironmentError(
                f"toolchain is {toolchain!r}; this host knows 'pip' and 'uv' (Pulumi.yaml,"
                " runtime.options.toolchain)"
            )
        typechecker = str(options.get("typechecker", "")) or None
        if typechecker is not None and typechecker not in TYPECHECKERS:
            raise PythonEnvironmentError(f"typechecker is {typechecker!r}; give mypy or pyright")
        named = str(options.get("virtualenv", ""))
        virtualenv = (root / Path(named).expanduser()) if named else None
        if toolchain in ("", "auto"):
            toolchain = "uv" if search_up(program, "uv.lock") else "pip"
        if toolchain == "pip":
            return cls(
                toolchain="pip", program=program, virtualenv=virtualenv, typechecker=typechecker
            )
        if virtualenv is None:
            project = search_up(program, "uv.lock") or search_up(program, "pyproject.toml")
            virtualenv = (project or program) / os.environ.get("UV_PROJECT_ENVIRONMENT", ".venv")
        return cls(toolchain="uv", program=program, virtualenv=virtualenv, typechecker=typechecker)

    @property
    def interpreter(self) -> str:
        """Path of the interpreter; raises PythonEnvironmentError when there is none."""
        if self.virtualenv is not None:
            return str(self.virtualenv / "bin" / "python")
        wanted = os.environ.get("PULUMI_PYTHON_CMD")
        for name in (wanted,) if wanted else ("python3", "python"):
            if found := shutil.which(name):
                return found
        raise PythonEnvironmentError(
            f"no {wanted or 'python3'} on PATH; install Python or name an environment in"
            " Pulumi.yaml (runtime.options.virtualenv)"
        )

    def variables(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """`base` (this process's variables by default) with the environment activated."""
        active = dict(os.environ if base is None else base)
        if self.virtualenv is not None:
            path = active.get("PATH", "")
            active["PATH"] = f"{self.virtualenv / 'bin'}{os.pathsep + path if path else ''}"
            active["VIRTUAL_ENV"] = str(self.virtualenv)
            active.pop("PYTHONHOME", None)
        return active

    def check(self) -> None:
        """Raise PythonEnvironmentError unless the environment is there."""
        if self.virtualenv is None or (self.virtualenv / "pyvenv.cfg").exists():
            return
        what = "doesn't appear to be a virtual environment"
        if not self.virtualenv.exists():
            what = "doesn't exist"
        raise PythonEnvironmentError(
            f"The Python environment {str(self.virtualenv)!r} {what}; run 'pulumi install' to"
            " create it and install the dependencies into it"
        )

    def refresh(self) -> None:
        """With uv: bring the environment up to date, as `uv run` would. Else nothing."""
        if self.toolchain != "uv" or search_up(self.program, "pyproject.toml") is None:
            return
        done = subprocess.run(
            [uv_command(), "sync", "--inexact", "--quiet"],
            cwd=self.program, env=self._uv_variables(), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise PythonEnvironmentError(
                f"error creating virtual environment: {done.stderr.strip()}"
            )

    def install_commands(self) -> list[list[str]]:
        """What `pulumi install` runs, in order."""
        if self.toolchain == "uv":
            return [[uv_command(), "sync"]]
        commands: list[list[str]] = []
        if self.virtualenv is not None and not (self.virtualenv / "pyvenv.cfg").exists():
            system = PythonEnvironment(toolchain="pip", program=self.program, virtualenv=None)
            commands.append([system.interpreter, "-m", "venv", str(self.virtualenv)])
        requirements = search_up(self.program, "requirements.txt")
        if requirements is not None:
            pip = [self.interpreter, "-m", "pip", "install", "--disable-pip-version-check"]
            commands.append([*pip, "-r", str(requirements / "requirements.txt")])
        return commands

    def install_variables(self) -> dict[str, str]:
        return self._uv_variables() if self.toolchain == "uv" else self.variables()

    def ask(self, code: str, *arguments: str) -> Any:
        """The JSON that `code` prints in the environment's own interpreter."""
        done = subprocess.run(
            [self.interpreter, "-c", code, *arguments],
            cwd=self.program, env=self.variables(), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise PythonEnvironmentError(
                f"{self.interpreter} failed with code {done.returncode}: {done.stderr.strip()}"
            )
        return json.loads(done.stdout)

    def module(self, name: str, arguments: Sequence[str]) -> list[str]:
        return [self.interpreter, "-u", "-m", name, *arguments]

    def _uv_variables(self) -> dict[str, str]:
        variables = dict(os.environ)
        if self.virtualenv is not None:
            variables["UV_PROJECT_ENVIRONMENT"] = str(self.virtualenv)
        return variables
