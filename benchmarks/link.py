"""How long shoppers go without answers when the link is hurt, over many runs.

    python -m benchmarks.link [--runs 20] [--aws-runs 3] [--only NAME ...]     (root)

One datagram every 10 ms crosses a real link (strongSwan, FRR, two cloud endpoints in namespaces).
`gap` is the longest time between two answers; `back` is the time from the repair, or from the kill,
until both tunnels are up and the first one carries both ways again. The rendered private end of
production runs in all cases; only the timers differ. Writes out/bench/link.json after every case.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from infra.components.vpn_settings import LinkSettings
from local.waiting import wait_for
from tests.link.lab import Lab, lab, new_key, site_secret, with_timers

OUT = Path("out/bench/link.json")
FELT_IN = 60.0  # seconds until the other tunnel must carry, AWS's own timers included


@dataclass
class Result:
    """Figures of one case, seconds; `target` is None where there is none to hold."""

    name: str
    measure: str
    target: float | None
    lossless: bool = False
    """The target is that no answer is lost."""
    values: list[float] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)

    @property
    def worst(self) -> float:
        return max(self.values)

    @property
    def held(self) -> bool:
        if self.lossless:
            return not any(self.lost)
        return self.target is None or self.worst <= self.target

    def row(self) -> str:
        target = "-" if self.target is None else f"{self.target:g}"
        ratio = "-" if not self.target else f"{self.worst / self.target:.2f}"
        judged = self.lossless or self.target is not None
        verdict = "-" if not judged else ("held" if self.held else "MISSED")
        return (
            f"{self.name:<34} {self.measure:<5} {len(self.values):>4} "
            f"{statistics.median(self.values):>8.3f} {self.worst:>8.3f} {target:>7} {ratio:>6} "
            f"{max(self.lost, default=0):>6} {verdict}"
        )


HEAD = f"{'case':<34} {'what':<5} {'runs':>4} {'median':>8} {'worst':>8} {'target':>7} {'ratio':>6} {'lost':>6}"  # noqa: E501


def timed(wanted: Callable[[], bool], seconds: float, what: str) -> float:
    start = time.monotonic()
    if not wait_for(wanted, seconds):
        raise SystemExit(f"benchmarks.link: {what} did not happen within {seconds:.0f} s")
    return time.monotonic() - start


def tunnel_dies(link: Lab, gap: Result, back: Result) -> None:
    """The active tunnel loses every packet in both directions; then its path is repaired."""
    with link.asking() as figures:
        time.sleep(0.5)
        link.cut(1)
        timed(lambda: link.link.carrying() == (2, 2), FELT_IN, "the change to tunnel 2")
        time.sleep(0.5)
        link.heal(1)
        back.values.append(timed(link.link.settled, 90, "the return to tunnel 1"))
    gap.values.append(figures["longest_gap_s"])
    gap.lost.append(int(figures["sent"] - figures["answered"]))


def key_changes(link: Lab, gap: Result) -> None:
    """Both tunnels get a new key, one after the other."""
    with link.asking() as figures:
        for number in (1, 2):
            key = new_key()
            link.link.change_key(number, key, site_secret(link.settings, number, key))
            link.settle()
    gap.values.append(figures["longest_gap_s"])
    gap.lost.append(int(figures["sent"] - figures["answered"]))


def daemon_dies(link: Lab, end: str, daemon: str, gap: Result, back: Result) -> None:
    with link.asking() as figures:
        time.sleep(0.5)
        before = link.restarts(end, daemon)
        start = time.monotonic()
        link.kill(end, daemon)
        timed(lambda: link.restarts(end, daemon) > before, 60, f"a new {daemon}")
        link.settle(90)
        back.values.append(time.monotonic() - start)
    gap.values.append(figures["longest_gap_s"])
    gap.lost.append(int(figures["sent"] - figures["answered"]))


class Cases:
    """Every case by name; each adds to `done` and saves."""

    def __init__(self, runs: int, aws_runs: int) -> None:
        self.runs, self.aws_runs = runs, aws_runs
        self.done: list[Result] = []

    def repeat(self, times: int, one: Callable[[], None], *results: Result) -> None:
        for number in range(1, times + 1):
            one()
            shown = "  ".join(f"{each.measure} {each.values[-1]:.3f}" for each in results)
            print(f"{results[0].name} {number}/{times}: {shown}", file=sys.stderr, flush=True)
        self.done.extend(results)
        save(self.done)

    def deaths(self, name: str, times: int, link: Lab, target: float | None) -> None:
        gap, back = Result(name, "gap", target), Result(name, "back", 60)
        self.repeat(times, lambda: tunnel_dies(link, gap, back), gap, back)

    def bfd(self) -> None:
        with made(with_timers(3, 9, bfd=True), "bfd") as link:
            self.deaths("active tunnel dies, BFD", self.runs, link, 1.5)

    def bgp(self) -> None:
        with made(with_timers(3, 9, bfd=False), "bgp") as link:
            self.deaths("active tunnel dies, BGP 3/9", self.runs, link, 10)

    def aws(self) -> None:
        with made(with_timers(10, 30, bfd=False), "aws") as link:
            self.deaths("active tunnel dies, AWS BGP 10/30", self.aws_runs, link, None)

    def keys(self) -> None:
        with made(with_timers(3, 9, bfd=True), "keys") as link:
            # the target is lost answers: none; a longer gap alone is a busy machine
            gap = Result("both keys changed", "gap", None, lossless=True)
            self.repeat(self.runs, lambda: key_changes(link, gap), gap)

    def kill(self) -> None:
        with made(with_timers(3, 9, bfd=True), "kill") as link:
            for end, daemon in (("site", "tunnel1"), ("cloud", "tunnel1"), ("site", "frr/bgpd")):
                self._kills(link, end, daemon)

    def _kills(self, link: Lab, end: str, daemon: str) -> None:
        name = f"kill -9 {end} {daemon}"
        gap, back = Result(name, "gap", None), Result(name, "back", 60)
        self.repeat(
            max(1, self.runs // 4), lambda: daemon_dies(link, end, daemon, gap, back), gap, back
        )


@contextmanager
def made(settings: LinkSettings, name: str) -> Iterator[Lab]:
    with (
        tempfile.TemporaryDirectory(prefix="link-bench-") as folder,
        lab(Path(folder), settings, name=name) as link,
    ):
        yield link


def save(results: list[Result]) -> None:
    OUT.parent.mkdir(parents=True, exist_ok=True)
    body = {
        "cores": os.cpu_count(),
        "load_1m": round(os.getloadavg()[0], 2),
        "results": [
            {**asdict(each), "median": statistics.median(each.values), "worst": each.worst}
            for each in results
        ],
    }
    OUT.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")


CASES = ("bfd", "keys", "bgp", "kill", "aws")


def main(argv: list[str] | None = None) -> int:
    """Exit 0 when every target held, 1 when one was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.link")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--aws-runs", type=int, default=3, help="each takes about a minute")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    words = parser.parse_args(argv)
    if os.geteuid() != 0:
        print("benchmarks.link: namespaces and TUN devices need root", file=sys.stderr)
        return 2
    cases = Cases(words.runs, words.aws_runs)
    for name in words.only:
        getattr(cases, name)()
    results = cases.done
    print(HEAD)
    for each in results:
        print(each.row())
    return 0 if all(each.held for each in results) else 1


if __name__ == "__main__":
    sys.exit(main())
