"""What shoppers notice when parts of the stand are lost: `make demo-failover` (root, stack up).

    pulumi stack output -s local --json | python -m benchmarks.failover [--seconds 15] [--only ...]

A load of recommendations goes through the entrance (`infra/entrance.py`, a real HAProxy on a port
of 127.0.0.1) while a node, a tunnel, the whole link, the cloud site and the private site vanish and
come back: a cut site's packets are dropped, nothing says goodbye. While the link is away, half of
the load goes to each site: both must serve without the other (`--only link --seconds 600`).
`errors` is the time from the cut to the last failed request; `back` from the repair to the first
answer of the site that was cut, or over the link. Exit 0 when every target held, 1 when one was
missed, 2 for wrong use. Writes out/bench/failover.json.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from infra.entrance import SITES, SiteDoor, configuration
from local import layout
from local.paths import Folders, state
from local.proc import run
from local.waiting import wait_for

OUT = Path("out/bench/failover.json")
BODY = json.dumps({"user_id": "a-shopper", "k": 5})
PATIENCE = 10.0  # seconds that a shopper waits
# seconds with errors; 0 means no failed request at all
TARGETS = {"link": 0.0, "cloud": 0.0, "private": 10.0}
KUBELET = 10250


class DemoError(Exception):
    """The demo cannot run; one line."""


@dataclass
class Seen:
    """Answers of one phase: (moment, seconds, site or None when it failed)."""

    answers: list[tuple[float, float, str | None]] = field(
        default_factory=list[tuple[float, float, str | None]]
    )

    def failed_after(self, moment: float) -> list[float]:
        return [at for at, _, site in self.answers if site is None and at >= moment]


@dataclass
class Shoppers:
    """Threads that ask one after the other through the entrance."""

    port: int
    seen: Seen = field(default_factory=Seen)
    stopped: bool = False
    threads: list[threading.Thread] = field(default_factory=list[threading.Thread])

    def start(self, many: int) -> None:
        self.threads = [threading.Thread(target=self._shop, daemon=True) for _ in range(many)]
        for one in self.threads:
            one.start()

    def stop(self) -> None:
        self.stopped = True
        for one in self.threads:
            one.join(PATIENCE + 1)

    def _shop(self) -> None:
        while not self.stopped:
            began = time.monotonic()
            site = ask(self.port)
            self.seen.answers.append((began, time.monotonic() - began, site))
            time.sleep(0.05)


def ask(port: int, trust: ssl.SSLContext | None = None) -> str | None:
    """The site that answered, or None for an error that a shopper would see."""
    connection = (
        http.client.HTTPSConnection("localhost", port, timeout=PATIENCE, context=trust)
        if trust
        else http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    )
    try:
        connection.request("POST", "/recommend", BODY, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        return answer.getheader("X-Site") if answer.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


@dataclass(frozen=True)
class Fault:
    name: str
    cut: Callable[[], None]
    repair: Callable[[], None]
    site: str | None
    """Whose return is measured."""
    returned: Callable[[], bool] | None = None
    """Where no shopper notices it: whether it is back."""
    cloud_share: int = 0
    """Percent of the load that goes to the cloud from the start."""


def drop(netns: str, *devices: str, on: bool) -> None:
    """Packets through these devices vanish, in both directions."""
    for device in devices:
        for chain, way in (("INPUT", "-i"), ("FORWARD", "-i"), ("FORWARD", "-o"), ("OUTPUT", "-o")):
            run(
                ["iptables", "-w", "-I" if on else "-D", chain, way, device, "-j", "DROP"],
                netns=netns,
            )


def faults(endpoints: dict[str, Any]) -> dict[str, Fault]:
    node = endpoints["sites"]["private"]["nodes"][-1]

    def stand(*words: str) -> None:
        subprocess.run([sys.executable, "-m", "local", *words], check=True, capture_output=True)

    def site(name: str) -> Fault:
        netns = endpoints["sites"][name]["netns"]
        return Fault(
            name,
            lambda: drop(netns, "host0", "tolink", on=True),
            lambda: drop(netns, "host0", "tolink", on=False),
            name,
        )

    def ends(on: bool) -> None:
        for endpoint in ("hr-endpoint1", "hr-endpoint2"):
            drop(endpoint, "wan", on=on)

    return {
        "node": Fault("node", lambda: stand("kill-node", node), lambda: stand("up"), None),
        "tunnel": Fault(
            "tunnel",
            lambda: drop("hr-endpoint1", "wan", on=True),
            lambda: drop("hr-endpoint1", "wan", on=False),
            None,
        ),
        "link": Fault(
            "link", lambda: ends(True), lambda: ends(False), None,
            returned=lambda: crosses(endpoints), cloud_share=50,
        ),
        "cloud": site("cloud"),
        "private": site("private"),
    }  # fmt: skip


def crosses(endpoints: dict[str, Any]) -> bool:
    """Whether the cloud's first node reaches a private node over the link."""
    private, cloud = (endpoints["sites"][one] for one in ("private", "cloud"))
    target = str(IPv4Network(private["node_cidr"])[11])
    code = f"import socket; socket.create_connection(({target!r}, {KUBELET}), 1)"
    done = subprocess.run(
        ["nsenter", f"--net=/run/netns/hr-{cloud['nodes'][0]}", sys.executable, "-c", code],
        capture_output=True, check=False,
    )  # fmt: skip
    return done.returncode == 0


@dataclass
class Result:
    fault: str
    requests: int
    failed: int
    errors_s: float
    """From the cut to the last failed request; 0 when none failed."""
    back_s: float | None
    median_ms: float
    worst_ms: float
    by_site: dict[str, int]
    target_s: float | None

    @property
    def held(self) -> bool:
        if self.target_s is None:
            return True
        if self.fault == "link" and (self.back_s is None or not all(self.by_site.values())):
            return False  # one site served for both, or they never met again
        return self.failed == 0 if self.target_s == 0 else self.errors_s <= self.target_s


def suffer(fault: Fault, port: int, seconds: float, shoppers: int) -> Result:
    load = Shoppers(port)
    load.start(shoppers)
    time.sleep(3)
    cut_at = time.monotonic()
    fault.cut()
    try:
        time.sleep(seconds)
    finally:
        fault.repair()
    repaired = time.monotonic()
    back: float | None = None
    if fault.site is not None and fault.site == "private":
        wait_for(lambda: returned(load.seen, fault.site, repaired) is not None, 60)
        found = returned(load.seen, fault.site, repaired)
        back = round(found - repaired, 2) if found else None
    elif fault.returned is not None:
        if wait_for(fault.returned, 120):
            back = round(time.monotonic() - repaired, 2)
    else:
        time.sleep(3)
    load.stop()
    times = [took * 1000 for _, took, _ in load.seen.answers]
    failures = load.seen.failed_after(0)
    during = load.seen.failed_after(cut_at)
    return Result(
        fault=fault.name,
        requests=len(times),
        failed=len(failures),
        errors_s=round(max(during) - cut_at, 2) if during else 0.0,
        back_s=back,
        median_ms=round(statistics.median(times), 1),
        worst_ms=round(max(times), 1),
        by_site={one: sum(site == one for _, _, site in load.seen.answers) for one in SITES},
        target_s=TARGETS.get(fault.name),
    )


def returned(seen: Seen, site: str | None, since: float) -> float | None:
    return next((at for at, _, who in list(seen.answers) if who == site and at >= since), None)


@dataclass(frozen=True)
class Shown:
    """What an entrance with TLS shows: a certificate for localhost with its key, in one file."""

    file: Path
    trust: ssl.SSLContext
    """That accepts it."""


@contextlib.contextmanager
def entrance(
    outputs: dict[str, Any],
    endpoints: dict[str, Any],
    slots: int,
    sites: Sequence[str] = SITES,
    shown: Shown | None = None,
    cloud_share: int = 0,
) -> Generator[int]:
    """A running HAProxy before the sites, each with all its addresses; its port."""
    doors: dict[str, SiteDoor] = {}
    for site in sites:
        found = outputs.get(site) or {}
        if not found.get("addresses"):
            raise DemoError(
                f"the stack serves nothing on site {site}: add it to serving.sites, `pulumi up`"
            )
        host = str(urlsplit(found["url"]).hostname)
        doors[site] = SiteDoor(addresses=tuple(found["addresses"]), host=host, slots=slots)
    program = endpoints["pod_image"]["programs"]["gateway"]
    with tempfile.TemporaryDirectory(prefix="entrance-") as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
        probe.close()
        (Path(folder) / "authority.pem").write_text(outputs["servicesAuthority"], encoding="utf-8")
        config = Path(folder) / "haproxy.cfg"
        config.write_text(
            configuration(
                doors,
                bind=f"127.0.0.1:{port}",
                authority_file=f"{folder}/authority.pem",
                admin_socket=f"{folder}/admin.sock",
                certificate_file=str(shown.file) if shown else None,
                cloud_share=cloud_share,
            ),
            encoding="utf-8",
        )
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [program["path"], "-db", "-f", str(config)], stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "LD_LIBRARY_PATH": str(program["libraries"] or "")},
            )  # fmt: skip
        try:
            trust = shown.trust if shown else None
            if not wait_for(lambda: process.poll() is not None or ask(port, trust) is not None, 30):
                raise DemoError(f"no answer through the entrance: {log.read_text()[-400:]}")
            if process.poll() is not None:
                raise DemoError(f"HAProxy ended: {log.read_text()[-400:]}")
            yield port
        finally:
            process.terminate()
            process.wait(10)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.failover", description=__doc__)
    parser.add_argument("--seconds", type=float, default=15, help="how long each part is away")
    parser.add_argument("--shoppers", type=int, default=4, help="asking at the same time")
    parser.add_argument("--slots", type=int, default=64, help="requests at once before the spill")
    names = ("node", "tunnel", "link", "cloud", "private")
    parser.add_argument("--only", nargs="+", choices=names, default=list(names))
    words = parser.parse_args(argv)
    folders = Folders(state())
    try:
        if os.geteuid() != 0 or layout.read(folders) is None:
            raise DemoError("needs root and a stand that is up: `make up`")
        endpoints = json.loads(folders.endpoints.read_text(encoding="utf-8"))
        outputs = json.load(sys.stdin)
        known = faults(endpoints)
        results: list[Result] = []
        for name in words.only:
            share = known[name].cloud_share
            with entrance(outputs, endpoints, words.slots, cloud_share=share) as port:
                print(f"{name} is cut for {words.seconds:.0f} s", file=sys.stderr, flush=True)
                results.append(suffer(known[name], port, words.seconds, words.shoppers))
    except (DemoError, OSError, ValueError) as error:
        print(f"failover: {error}", file=sys.stderr)
        return 2
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps([asdict(one) for one in results], indent=1) + "\n", encoding="utf-8")
    print("lost      requests  failed  errors s  back s  median ms  worst ms  target  verdict")
    for one in results:
        back = "-" if one.back_s is None else f"{one.back_s:.2f}"
        target = "-" if one.target_s is None else f"{one.target_s:g} s"
        print(
            f"{one.fault:<9} {one.requests:>8} {one.failed:>7} {one.errors_s:>9.2f} {back:>7} "
            f"{one.median_ms:>10.1f} {one.worst_ms:>9.1f} {target:>7}  "
            f"{'held' if one.held else 'MISSED'}"
        )
    return 0 if all(one.held for one in results) else 1


if __name__ == "__main__":
    sys.exit(main())
