"""The command `stand`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from local import cleanup, doctor, engine, layout, owner, proc, settings, status
from local.errors import StandError
from local.link.attached import StandLink
from local.paths import Folders, state, write_private
from local.stand import Stand, can_root, node_record, note_link
from local.tools import resolve
from local.tools.table import GROUPS

_BEGAN = time.monotonic()


def say(text: str) -> None:
    """One line of progress, on stderr with the seconds since the start."""
    print(f"[{time.monotonic() - _BEGAN:6.1f}s] {text}", file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run one command. 0 = done, 1 = this machine stands in the way, 2 = wrong use."""
    words = _parser().parse_args(argv)
    try:
        return int(words.run(words))
    except StandError as error:
        print(f"stand: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("stand: interrupted; `stand up` goes on from here", file=sys.stderr)
        return 1
    except OSError as error:
        # a full disk or a file of another user: the path says more than a traceback
        print(f"stand: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stand", description="Both sites on one machine, made of real parts."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser("up", help="start everything, or repair what is not well")
    up.add_argument("--timings", metavar="FILE", help="write the seconds of each part as JSON")
    up.set_defaults(run=_up)

    down = commands.add_parser("down", help="end everything and check that nothing is left")
    down.add_argument("--purge", action="store_true", help="also delete databases and keys")
    down.set_defaults(run=_down)

    shown = commands.add_parser("status", help="one line a part")
    shown.add_argument("--json", action="store_true")
    shown.set_defaults(run=_status)

    commands.add_parser("doctor", help="what this host lacks, and what follows").set_defaults(
        run=_doctor
    )
    commands.add_parser("env", help='for the shell: eval "$(stand env)"').set_defaults(run=_env)
    commands.add_parser(
        "killed", help="exit 0 when an update of the stack was killed and holds its lock"
    ).set_defaults(run=_killed)
    commands.add_parser(
        "untouched", help="exit 0 when the stack holds nothing yet: a preview could spare nothing"
    ).set_defaults(run=_untouched)
    tools = commands.add_parser("tools", help="bring the tools, start nothing")
    tools.add_argument("--all", action="store_true", help="also those that no workload runs yet")
    tools.set_defaults(run=_tools)

    commands.add_parser("bin", help="the folder of links to the tools, for PATH").set_defaults(
        run=_bin
    )

    link = commands.add_parser("link", help="the link between the sites, as the program wrote it")
    link.add_argument("what", choices=("up", "down"))
    link.set_defaults(run=_link)

    kill = commands.add_parser("kill-node", help="cut the power of a real node")
    kill.add_argument("node")
    kill.set_defaults(run=_kill_node)
    return parser


def _folders() -> Folders:
    return Folders(state())


def _end_abandoned() -> None:
    """A killed test run cannot end its stand, and its owner may not know where it is."""
    for place in owner.abandoned():
        say(f"ending the stand of a test run that was killed: {place}")
        with owner.only_one("down", say):
            cleanup.down(Folders(place), say, rooted=can_root(), purge=True)


def _up(words: argparse.Namespace) -> int:
    wanted = settings.load()
    rooted = can_root()
    if not rooted:
        say("no root here: control planes with simulated nodes only, no real node and no link")
    folders = _folders()
    _end_abandoned()
    with owner.only_one("up", say):
        stand = Stand(folders, wanted, rooted, say)
        where = stand.up()
    if words.timings:
        write_private(Path(words.timings), json.dumps(stand.seconds, indent=1))
    say(f"stand {where.stand} is up; endpoints in {folders.endpoints}")
    return 0


def _down(words: argparse.Namespace) -> int:
    folders = _folders()
    _end_abandoned()
    with owner.only_one("down", say):
        left = cleanup.down(folders, say, rooted=can_root(), purge=words.purge)
    for line in left:
        print(f"left: {line}", file=sys.stderr)
    if left:
        raise StandError(f"{len(left)} things are left", "run `stand down` again, then report it")
    say("the stand is down; nothing of it is left on this machine")
    return 0


def _status(words: argparse.Namespace) -> int:
    lines = status.collect(_folders(), settings.load())
    if words.json:
        print(json.dumps([line.plain() for line in lines], indent=1))
    else:
        print(status.table(lines))
    return 0 if lines and all(line.state == "up" for line in lines) else 1


def _doctor(words: argparse.Namespace) -> int:
    del words
    findings = doctor.examine(_folders())
    print(doctor.report(findings))
    return 1 if any(one.grave for one in findings) else 0


def _env(words: argparse.Namespace) -> int:
    del words
    print(engine.environment(_folders()))
    return 0


def _killed(words: argparse.Namespace) -> int:
    del words
    return 0 if engine.killed(_folders()) else 1


def _untouched(words: argparse.Namespace) -> int:
    del words
    return 0 if engine.untouched(_folders()) else 1


def _tools(words: argparse.Namespace) -> int:
    extra = settings.load().workload_tools
    if words.all:
        extra = tuple(group.name for group in GROUPS)
    tools = resolve.resolve(say, rooted=can_root(), extra=extra)
    resolve.link_all(tools, _folders().root / "bin")
    for name, one in sorted(tools.found.items()):
        print(f"{name:24} {one.version or '-':10} {one.source:9} {one.path}")
    return 0


def _bin(_: argparse.Namespace) -> int:
    print(_folders().root / "bin")
    return 0


def _link(words: argparse.Namespace) -> int:
    folders = _folders()
    where = layout.read(folders)
    if words.what == "down" and not folders.endpoints.exists():
        return 0  # no stand, no link: a program being destroyed need not wait for either
    if where is None or not folders.endpoints.exists():
        raise StandError(f"no stand is up in {folders.root}", "run `stand up`")
    link = StandLink(folders, where, say)
    with owner.only_one(f"link {words.what}"):
        if words.what == "up":
            link.up()
        else:
            link.down()
        note_link(folders, link.is_up())
    say(f"the link is {words.what}")
    return 0


def _kill_node(words: argparse.Namespace) -> int:
    record = node_record(_folders(), words.node)
    record.identity.signal(proc.signal.SIGKILL)
    if not record.identity.wait_gone(10):
        raise StandError(f"{words.node} (pid {record.identity.pid}) survives SIGKILL")
    say(f"{words.node} is dead; `stand up` brings it back")
    return 0


if __name__ == "__main__":
    sys.exit(main())
