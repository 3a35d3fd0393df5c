"""Run one Pulumi program in this process; the language host starts one such process per run.

Started by path with the program's interpreter, so it imports the SDK and the standard library
only. Configuration comes in the environment (its values may be secret), the rest as arguments.
Exits with 0, with 32 when the user has been shown what went wrong, else with 1.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import runpy
import signal
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

SHOWN = 32
NO_SDK = """
It looks like the Pulumi SDK has not been installed. Have you run 'pulumi install'?
If you use a virtual environment, name it in Pulumi.yaml (runtime.options.virtualenv)."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run a Pulumi program")
    for name in ("monitor", "engine", "project", "stack", "organization", "root"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--parallel", type=int, required=True)
    parser.add_argument("--dry-run", choices=("true", "false"), required=True)
    parser.add_argument("--pwd", required=True)
    parser.add_argument("program", type=Path)
    parser.add_argument("arguments", nargs="*")
    return parser.parse_args()


def end_with(parent: int) -> None:
    """End this process soon after the language host is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, name="host-watch", daemon=True).start()


def users_part(error: BaseException, program: Path) -> str:
    """The traceback from the program's first line on, without the frames that led there."""
    starts = {str(program), str(program / "__main__.py")}
    frames = traceback.extract_tb(error.__traceback__)
    first = next((i for i, frame in enumerate(frames) if frame.filename in starts), 0)
    limit = first - len(frames) if first else None
    return "".join(traceback.format_exception(error, limit=limit))


def run(pulumi: Any, program: Path, parallel: int) -> int:
    def body() -> None:
        if program.is_dir() and not (program / "__main__.py").is_file():
            pulumi.log.error(f"unable to find main python program `__main__.py` in `{program}`")
            raise SystemExit(SHOWN)
        runpy.run_path(str(program), run_name="__main__")

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    pool = ThreadPoolExecutor(max_workers=max(parallel, 1) * 4)
    loop.set_default_executor(pool)
    # A failed program leaves futures that nobody awaits; asyncio's complaints would only bury the
    # cause, which is shown below.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        loop.run_until_complete(pulumi.runtime.run_in_stack(body))
        return 0
    except pulumi.RunError as error:
        pulumi.log.error(str(error))
        return 1
    except Exception as error:  # noqa: BLE001 - whatever the user's program raises
        shown = users_part(error, program)
        pulumi.log.error(f"Program failed with an unhandled exception:\n{shown}")
        return SHOWN
    finally:
        pool.shutdown(wait=True)
        loop.close()
        sys.stdout.flush()
        sys.stderr.flush()


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the engine interrupts; no traceback then
    end_with(os.getppid())
    arguments = parse()
    here = str(Path(__file__).resolve().parent)
    sys.path = [place for place in sys.path if place != here]
    try:
        import pulumi
        import pulumi.runtime
    except ImportError:
        traceback.print_exc()
        print(NO_SDK, file=sys.stderr)
        return 1
    pulumi.runtime.set_all_config(
        pulumi.runtime.get_config_env(), pulumi.runtime.get_config_secret_keys_env()
    )
    pulumi.runtime.configure(
        pulumi.runtime.Settings(
            monitor=arguments.monitor,
            engine=arguments.engine,
            project=arguments.project,
            stack=arguments.stack,
            parallel=arguments.parallel,
            dry_run=arguments.dry_run == "true",
            organization=arguments.organization,
            root_directory=arguments.root,
        )
    )
    program: Path = arguments.program.absolute()
    sys.argv = [str(program), *arguments.arguments]
    os.chdir(arguments.pwd)
    return run(pulumi, program, arguments.parallel)


if __name__ == "__main__":
    sys.exit(main())
