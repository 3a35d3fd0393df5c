"""The Python language host: what the engine asks of `pulumi-language-python`.

Serves `pulumirpc.LanguageRuntime`. Programs and plugins run in child processes of their own
environment (python_environment.py); this process only starts, watches and ends them.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import grpc
from google.protobuf import empty_pb2, json_format
from pulumi.runtime.proto import language_pb2, language_pb2_grpc, plugin_pb2

from local.plugins.python_environment import PythonEnvironment, PythonEnvironmentError, search_up
from local.plugins.server import engine_address, serve

RUN_PROGRAM = Path(__file__).resolve().parent / "run_program.py"
SHOWN = 32  # exit code of a program whose failure the user has already been shown
STOP_SECONDS = 5.0

# Run in the program's interpreter, which may lack this project.
LIST_PLUGINS = """
import importlib.metadata, json, pathlib, sys
found = []
for distribution in importlib.metadata.distributions():
    for file in distribution.files or ():
        if file.name == "pulumi-plugin.json":
            try:
                found.append(json.loads(pathlib.Path(distribution.locate_file(file)).read_text()))
            except (OSError, ValueError) as error:
                sys.exit(f"{distribution.name}: {file}: {error}")
print(json.dumps(found))
"""
LIST_DISTRIBUTIONS = """
import importlib.metadata, json, re
plain = lambda name: re.sub(r"[-_.]+", "-", name).lower()
found, needed = {}, set()
for distribution in importlib.metadata.distributions():
    found.setdefault(plain(distribution.name), distribution.version)
    for need in distribution.requires or ():
        if "extra ==" not in need:
            needed.add(plain(re.match(r"[A-Za-z0-9._-]+", need)[0]))
print(json.dumps({"found": found, "needed": sorted(needed)}))
"""
ABOUT = """
import json, platform, sys
print(json.dumps({"executable": sys.executable, "version": platform.python_version()}))
"""


class Children:
    """The processes this host has started, so that all of them end with it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[Any]] = set()

    def start(self, command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        with self._lock:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, **options)
            self._running.add(child)
        return child

    def finish(self, child: subprocess.Popen[Any]) -> int:
        code = child.wait()
        with self._lock:
            self._running.discard(child)
        return code

    def stop(self, child: subprocess.Popen[Any]) -> None:
        if child.poll() is not None:
            return
        child.terminate()
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()

    def stop_all(self) -> None:
        with self._lock:
            running = list(self._running)
        for child in running:
            self.stop(child)


def _environment(info: language_pb2.ProgramInfo) -> PythonEnvironment:
    options: dict[str, Any] = json_format.MessageToDict(info.options)
    program = Path(info.program_directory)
    return PythonEnvironment.resolve(options, root=Path(info.root_directory), program=program)


def _fail(context: grpc.ServicerContext, problem: Exception) -> Any:
    context.abort(grpc.StatusCode.UNKNOWN, str(problem))
    raise AssertionError("abort raises")


class LanguageHost(language_pb2_grpc.LanguageRuntimeServicer):
    """One per engine; requests come in parallel."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._children = Children()
        self._refresh_lock = threading.Lock()
        self._refreshed: set[PythonEnvironment] = set()

    def close(self) -> None:
        self._children.stop_all()

    # Requests. The names are the protocol's.

    def Handshake(self, request: language_pb2.LanguageHandshakeRequest, context: Any) -> Any:
        if request.engine_address:
            self._engine = request.engine_address
        return language_pb2.LanguageHandshakeResponse()

    def GetPluginInfo(self, request: Any, context: Any) -> plugin_pb2.PluginInfo:
        return plugin_pb2.PluginInfo(version=_sdk_version())

    def Cancel(self, request: Any, context: Any) -> empty_pb2.Empty:
        self._children.stop_all()
        return empty_pb2.Empty()

    def RuntimeOptionsPrompts(self, request: Any, context: Any) -> Any:
        return language_pb2.RuntimeOptionsResponse()

    def GetRequiredPlugins(self, request: Any, context: Any) -> Any:
        plugins = [
            plugin_pb2.PluginDependency(
                name=each["name"], kind="resource", version=each["version"], server=each["server"]
            )
            for each in self._required(request.info, context)
        ]
        return language_pb2.GetRequiredPluginsResponse(plugins=plugins)

    def GetRequiredPackages(self, request: Any, context: Any) -> Any:
        packages = [
            plugin_pb2.PackageDependency(
                name=each["name"], kind="resource", version=each["version"], server=each["server"]
            )
            for each in self._required(request.info, context)
        ]
        return language_pb2.GetRequiredPackagesResponse(packages=packages)

    def About(self, request: Any, context: Any) -> Any:
        try:
            environment = _environment(request.info)
            answer = environment.ask(ABOUT)
        except (PythonEnvironmentError, OSError) as problem:
            return _fail(context, problem)
        return language_pb2.AboutResponse(
            executable=answer["executable"],
            version=answer["version"],
            metadata={"toolchain": environment.toolchain.capitalize()},
        )

    def GetProgramDependencies(self, request: Any, context: Any) -> Any:
        try:
            answer = _environment(request.info).ask(LIST_DISTRIBUTIONS)
        except (PythonEnvironmentError, OSError) as problem:
            return _fail(context, problem)
        needed: set[str] = set() if request.transitiveDependencies else set(answer["needed"])
        return language_pb2.GetProgramDependenciesResponse(
            dependencies=[
                language_pb2.DependencyInfo(name=name, version=version)
                for name, version in sorted(answer["found"].items())
                if name not in needed
            ]
        )

    def InstallDependencies(self, request: Any, context: Any) -> Iterator[Any]:
        answer = language_pb2.InstallDependenciesResponse
        try:
            environment = _environment(request.info)
            commands = environment.install_commands()
        except PythonEnvironmentError as problem:
            _fail(context, problem)
            return
        yield answer(stdout=b"Installing dependencies...\n\n")
        for command in commands:
            child = self._children.start(
                command,
                cwd=environment.program,
                env=environment.install_variables(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            context.add_callback(lambda child=child: self._children.stop(child))
            for stream, line in _lines(child):
                yield answer(stdout=line) if stream == "stdout" else answer(stderr=line)
            code = self._children.finish(child)
            if code != 0:
                problem = f"{' '.join(command)} failed with exit code {code}"
                _fail(context, PythonEnvironmentError(problem))
        yield answer(stdout=b"Finished installing dependencies\n\n")

    def Run(self, request: Any, context: Any) -> Any:
        answer = language_pb2.RunResponse
        try:
            environment = self._ready(request.info)
            program = Path(request.info.program_directory) / request.info.entry_point
            if environment.typechecker is not None:
                problems = self._typecheck(environment, program)
                if problems:
                    sys.stderr.write(problems)
                    return answer(error=f"{environment.typechecker} failed", bail=False)
            child = self._start_program(environment, program, request)
        except (PythonEnvironmentError, OSError) as problem:
            return _fail(context, problem)
        context.add_callback(lambda: self._children.stop(child))
        code = self._children.finish(child)
        if code == 0:
            return answer()
        if code == SHOWN:
            return answer(bail=True)
        if code < 0:
            return answer(error=f"Program was ended by signal {-code}")
        return answer(error=f"Program exited with non-zero exit code: {code}")

    def RunPlugin(self, request: Any, context: Any) -> Iterator[Any]:
        answer = language_pb2.RunPluginResponse
        try:
            environment = self._ready(request.info)
            command = self._plugin_command(environment, request)
            child = self._children.start(
                command,
                cwd=request.pwd or None,
                env=environment.variables(_pairs(request.env)),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        except (PythonEnvironmentError, OSError) as problem:
            _fail(context, problem)
            return
        context.add_callback(lambda: self._children.stop(child))
        for stream, line in _lines(child):
            yield answer(stdout=line) if stream == "stdout" else answer(stderr=line)
        code = self._children.finish(child)
        yield answer(exitcode=code if code >= 0 else 128 - code)

    # What they are made of.

    def _ready(self, info: language_pb2.ProgramInfo) -> PythonEnvironment:
        """The program's environment, brought up to date once per process and checked."""
        environment = _environment(info)
        with self._refresh_lock:
            if environment not in self._refreshed:
                environment.refresh()
                environment.check()
                self._refreshed.add(environment)
        return environment

    def _required(self, info: language_pb2.ProgramInfo, context: Any) -> list[dict[str, str]]:
        """Resource plugins of the installed SDK packages that are at hand on this machine.

        The official host names every one, and the engine downloads what is missing before the
        program runs. This host is for machines where that fails, and a package may be installed
        for tests alone: a plugin that is not at hand is left for the engine to miss when the
        program really uses it.
        """
        try:
            found = _environment(info).ask(LIST_PLUGINS)
        except (PythonEnvironmentError, OSError) as problem:
            return _fail(context, problem)
        return [
            {
                "name": str(each["name"]),
                "version": "v" + str(each.get("version", "")).removeprefix("v"),
                "server": str(each.get("server", "")),
            }
            for each in found
            if each.get("resource") and each.get("version") and _at_hand(str(each["name"]))
        ]

    def _start_program(
        self, environment: PythonEnvironment, program: Path, request: Any
    ) -> subprocess.Popen[Any]:
        variables = environment.variables()
        variables["PULUMI_CONFIG"] = json.dumps(dict(request.config))
        variables["PULUMI_CONFIG_SECRET_KEYS"] = json.dumps(list(request.configSecretKeys))
        command = [
            environment.interpreter, "-u", str(RUN_PROGRAM),
            "--monitor", request.monitor_address,
            "--engine", self._engine,
            "--project", request.project,
            "--stack", request.stack,
            "--organization", request.organization or "organization",
            "--root", request.info.root_directory,
            "--parallel", str(request.parallel),
            "--dry-run", "true" if request.dryRun else "false",
            "--pwd", request.pwd,
            str(program), *request.args,
        ]  # fmt: skip
        # Its standard output and error are this process's, which the engine shows line by line.
        return self._children.start(command, cwd=request.pwd or None, env=variables)

    def _plugin_command(self, environment: PythonEnvironment, request: Any) -> list[str]:
        folder = str(Path(request.info.program_directory) / request.info.entry_point)
        arguments = list(request.args)
        if request.kind == "analyzer":
            return environment.module("pulumi.policy", [*arguments, folder])
        package = _package_name(Path(request.info.program_directory))
        if package is not None:
            return environment.module("pulumi.run.plugin", [package, *arguments])
        return [environment.interpreter, "-u", folder, *arguments]

    def _typecheck(self, environment: PythonEnvironment, program: Path) -> str:
        """What the program's typechecker has to say; empty when it is content."""
        assert environment.typechecker is not None
        folder = program if program.is_dir() else program.parent
        done = subprocess.run(
            environment.module(environment.typechecker, [str(folder)]),
            cwd=folder, env=environment.variables(), stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return "" if done.returncode == 0 else done.stdout + done.stderr


def _package_name(folder: Path) -> str | None:
    """The name of a plugin that is a Python package of its own, else None."""
    import tomllib

    place = search_up(folder, "pyproject.toml")
    if place != folder:
        return None
    table: Mapping[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text())
    if "build-system" not in table:
        return None
    name = table.get("project", {}).get("name")
    return str(name) if name else None


def _pairs(variables: Sequence[str]) -> dict[str, str]:
    return dict(each.split("=", 1) for each in variables if "=" in each)


def _at_hand(name: str) -> bool:
    """Whether the engine finds a resource plugin of this name without a download."""
    if shutil.which(f"pulumi-resource-{name}"):
        return True
    home = Path(os.environ.get("PULUMI_HOME", Path.home() / ".pulumi"))
    return any((home / "plugins").glob(f"resource-{name}-v*/pulumi-resource-{name}"))


def _sdk_version() -> str:
    import importlib.metadata

    return importlib.metadata.version("pulumi")


def _lines(child: subprocess.Popen[Any]) -> Iterator[tuple[str, bytes]]:
    """(stream, line) as they come, until both streams are closed."""
    lines: queue.Queue[tuple[str, bytes] | None] = queue.Queue()

    def pump(stream: str, source: IO[bytes]) -> None:
        for line in source:
            lines.put((stream, line))
        lines.put(None)

    assert child.stdout is not None
    assert child.stderr is not None
    for stream, source in (("stdout", child.stdout), ("stderr", child.stderr)):
        threading.Thread(target=pump, args=(stream, source), daemon=True).start()
    closed = 0
    while closed < 2:
        item = lines.get()
        if item is None:
            closed += 1
        else:
            yield item


def main() -> None:
    host = LanguageHost(engine_address(sys.argv[1:]))
    serve(
        lambda server: language_pb2_grpc.add_LanguageRuntimeServicer_to_server(host, server),
        workers=16,
        clean_up=host.close,
    )


if __name__ == "__main__":
    main()
