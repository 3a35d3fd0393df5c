"""The bento beside the service that one writes first (FastAPI + torch), on the same weights.

    python -m benchmarks.serve [--model DIR | --items 12101] [--limit-ms 50] [--rounds 3]
    python -m benchmarks.serve --overload 300      # the bento alone at twice its capacity
    python -m benchmarks.serve --kills 300         # at a quarter of it, a worker killed every 30 s

Two workers of one torch thread each, one run, peers in turn, so that a busy machine slows both.
`saturated`: full answers a second with --callers requests always under way. `CPU ms`: what the
service's processes spent on each, which other programs of a busy machine hardly change. `within`:
the highest open-loop rate, in steps of a quarter (each tried twice), at which 99 % get a full
answer and their p99 stays within --limit-ms. `alone`: median time of one request at a time, beside
a BentoML endpoint that calls the same model in place, and beside one that does nothing. Only
answers of the best tier count. Without --model the weights are random (as fast as trained ones) and
stay in out/bench for the next call. From 100,000 items the model holds an index for approximate
retrieval, as training writes it, over vectors in clusters; `--items 1000000` needs about 4 GiB, and
minutes to build the index, once. The peer scans the whole.
Writes out/bench/serve-<items>.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch

from benchmarks.load import Outcome, bodies_of, closed_loop, open_loop, quantile
from benchmarks.retrieval import cluster
from model.checkpoint import Fusion, load_model, save_model
from model.links import Links
from model.net import NetConfig, Recommender
from model.retrieval import APPROXIMATE_ITEMS, FILE, ItemIndex, recall
from model.scoring import encode
from model.settings import TrainConfig
from model.sizes import SIZES

ROOT = Path(__file__).resolve().parent.parent
WORKERS = 2
LINKS = 256  # per item, as training keeps them
STEP = 1.25
TRIES = 2  # at a rate: something else on the machine may have spoilt the first
EVERY = 30.0  # seconds between two kills
ENOUGH = 0.99  # full answers among all requests, to count as served
NO_DEADLINE_MS = 10_000
WANTED = 3.0  # times the peer's throughput


class Peer(NamedTuple):
    name: str
    url: str
    pid: int


def make_model(out: Path, items: int) -> None:
    """A model folder with random weights of size `base` (`small` with an index, if large)."""
    large = items >= APPROXIMATE_ITEMS
    size = SIZES["small" if large else "base"]
    torch.manual_seed(1)
    net = Recommender(
        NetConfig(items=items, width=size.width, layers=size.layers, heads=size.heads, ffn=size.ffn)
    )
    # a large catalogue's links would take gigabytes; both services do without there
    links = None if large else Links(torch.randint(items, (items, LINKS)), torch.rand(items, LINKS))
    metrics = {"validation_ndcg@10": 0.0}
    with tempfile.TemporaryDirectory(prefix="hr-bench-") as folder:
        extra: list[Path] = []
        if large:
            cluster(net.item.weight)
            index = ItemIndex.build(net.keys())
            extra.append(Path(folder) / FILE)
            index.save(extra[0])
            drawn = np.random.default_rng(1).integers(0, items, (100, 10))
            metrics["retrieval_recall@100"] = recall(net.keys(), encode(net, list(drawn)), index)
        save_model(
            out, net, items=[f"i{n}" for n in range(items)], users=1,
            popularity=torch.arange(items, 0, -1), links=links,
            fusion=Fusion(weight=0.0 if large else 1.0), train=TrainConfig(), size="random",
            data_fingerprint="none", metrics=metrics, extra=extra,
        )  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(name: str, command: list[str], port: int, env: dict[str, str]) -> Iterator[Peer]:
    """A service in its own process group, ready; ended with all of its processes."""
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "BENTOML_DO_NOT_TRACK": "True", **env},
        )  # fmt: skip
        try:
            until = time.monotonic() + 600
            while not answers(url):
                if process.poll() is not None or time.monotonic() > until:
                    log.seek(0)
                    raise SystemExit(f"benchmarks.serve: {name} did not start:\n{log.read()!r}")
                time.sleep(0.5)
            yield Peer(name, url, process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def cpu_seconds(peer: Peer) -> float:
    """CPU time that the processes of a service have used so far."""
    spent = 0.0
    main = psutil.Process(peer.pid)
    for process in (main, *main.children(recursive=True)):
        times = process.cpu_times()
        spent += times.user + times.system
    return spent


def answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/readyz", timeout=10) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def bento(stack: ExitStack, model: Path, work: Path, deadline_ms: float) -> Peer:
    port = free_port()
    command = [sys.executable, "-m", "bentoml", "serve", "bento.service:Recommender"]
    env = {
        "RECOMMENDER__MODEL_DIR": str(model), "RECOMMENDER__STORE": "off",
        "RECOMMENDER__STATE_DIR": str(work / "state"), "RECOMMENDER__WORKERS": str(WORKERS),
        "RECOMMENDER__TORCH_THREADS": "1", "RECOMMENDER__LOG_LEVEL": "warning",
        "RECOMMENDER__DEADLINE_MS": str(deadline_ms), "BENTOML_HOME": str(work / "bentoml"),
    }  # fmt: skip
    return stack.enter_context(
        running("bento", [*command, "--host", "127.0.0.1", "--port", str(port)], port, env)
    )


def plain(stack: ExitStack, model: Path) -> Peer:
    port = free_port()
    command = [
        "local/uv.sh", "run", "--frozen", "--with", "fastapi>=0.115", "python", "-m", "uvicorn",
        "benchmarks.peers.fastapi_recommender:app", "--workers", str(WORKERS), "--port", str(port),
        "--no-access-log", "--log-level", "warning",
        "--timeout-worker-healthcheck", "600",  # slow to import on a busy machine is not dead
    ]  # fmt: skip
    return stack.enter_context(
        running("FastAPI + torch", command, port, {"PEER_MODEL": str(model)})
    )


def bare(stack: ExitStack, work: Path, name: str, service: str, model: Path) -> Peer:
    port = free_port()
    command = [
        sys.executable, "-m", "bentoml", "serve", f"benchmarks.peers.bare_bento:{service}",
        "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    env = {"BENTOML_HOME": str(work / service), "PEER_MODEL": str(model)}
    return stack.enter_context(running(name, command, port, env))


def within(peer: Peer, bodies: list[bytes], limit_ms: float, seconds: float, start: float) -> float:
    """Highest rate of full answers whose p99 is within the limit; 0 if none is."""
    best, rate, failed = 0.0, start, 0
    while failed < TRIES:
        got = open_loop(peer.url, bodies, rate, seconds)
        if got.share < ENOUGH or quantile(got.full, 0.99) > limit_ms:
            failed += 1
        else:
            best, rate, failed = got.rate, rate * STEP, 0
    return best


def compare(words: argparse.Namespace, model: Path, items: list[str], work: Path) -> dict[str, Any]:
    found: dict[str, dict[str, list[float]]] = {}

    def note(peer: Peer, what: str, value: float) -> None:
        found.setdefault(what, {}).setdefault(peer.name, []).append(value)
        print(f"  {what:<28} {peer.name:<16} {value:10.2f}", file=sys.stderr, flush=True)

    patient = bodies_of(items, deadline_ms=NO_DEADLINE_MS)
    hurried = bodies_of(items, deadline_ms=max(5, round(words.limit_ms)))
    single = bodies_of(items, deadline_ms=None)
    with ExitStack() as stack:
        ours, theirs, alone, least = (
            bento(stack, model, work, words.deadline_ms),
            plain(stack, model),
            bare(stack, work, "bare, same model", "Model", model),
            bare(stack, work, "bare, empty", "Bare", model),
        )
        both = (ours, theirs)
        for peer in (*both, alone, least):  # what is paid once
            closed_loop(peer.url, patient if peer is ours else single, 4, words.seconds / 2)
        for number in range(words.rounds):
            print(f"round {number + 1} of {words.rounds}", file=sys.stderr, flush=True)
            saturated: dict[str, Outcome] = {}
            for peer in both:
                before = cpu_seconds(peer)
                got = closed_loop(peer.url, patient, words.callers, words.seconds)
                used = cpu_seconds(peer) - before
                if got.wrong:
                    raise SystemExit(f"benchmarks.serve: {peer.name} failed: {dict(got.wrong)}")
                saturated[peer.name] = got
                note(peer, "saturated /s", got.rate)
                note(peer, "saturated p99 ms", quantile(got.full, 0.99))
                note(peer, "CPU ms a full answer", 1000 * used / max(1, len(got.full)))
            for peer in both:
                start = max(5.0, 0.2 * saturated[peer.name].rate)
                rate = within(peer, hurried, words.limit_ms, words.seconds, start)
                note(peer, f"within {words.limit_ms:g} ms /s", rate)
            for other, what in ((alone, "alone, median ms"), (least, "alone, ms, to nothing")):
                for peer in (ours, other):
                    body = patient if peer is ours else single
                    got = closed_loop(peer.url, body, 1, words.seconds / 2)
                    note(peer, what, quantile(got.full, 0.5))
    return {"found": found, "ratios": table(found, ours.name)}


def table(found: dict[str, dict[str, list[float]]], ours: str) -> dict[str, float]:
    """Print medians, and the median of each round's ratio; returns those ratios."""
    ratios: dict[str, float] = {}
    print(f"\n{'median of the rounds':<26} {'bento':>10} {'beside':>10}  {'peer':<16} {'ratio':>7}")
    for what, by_peer in found.items():
        name = next(peer for peer in by_peer if peer != ours)
        pairs = list(zip(by_peer[ours], by_peer[name], strict=True))
        # a machine that grows busy slows both of a round: its ratio stands where figures fall
        each = [a / b if b else float("inf") for a, b in pairs if a or b]
        ratios[what] = statistics.median(each) if each else float("nan")
        mine, other = (statistics.median(side) for side in zip(*pairs, strict=True))
        print(f"{what:<26} {mine:>10.2f} {other:>10.2f}  {name:<16} {ratios[what]:>7.2f}")
    print(f"\nwanted: {WANTED:g} x the throughput, 1.30 x the bare endpoint's time with the model")
    return ratios


def overload(
    words: argparse.Namespace, model: Path, items: list[str], work: Path
) -> dict[str, Any]:
    """Twice the measured capacity: what is refused, and how soon it is over.

    Over is when a rate is answered in time again that was before, half of the capacity or less.
    """
    bodies = bodies_of(items, deadline_ms=max(5, round(words.limit_ms)))
    with ExitStack() as stack:
        peer = bento(stack, model, work, words.deadline_ms)
        patient = bodies_of(items, deadline_ms=NO_DEADLINE_MS)
        closed_loop(peer.url, patient, 4, words.seconds / 2)
        capacity = closed_loop(peer.url, patient, words.callers, words.seconds).rate

        def calm(rate: float) -> bool:
            got = open_loop(peer.url, bodies, rate, 2)
            return got.share >= ENOUGH and quantile(got.full, 0.99) <= words.limit_ms

        usual = capacity / 2
        while not calm(usual):
            usual /= STEP
        print(
            f"capacity {capacity:.0f} /s; {words.overload:g} s at twice that, then {usual:.0f} /s",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        heavy = open_loop(peer.url, bodies, 2 * capacity, words.overload)
        began = time.monotonic()
        while not (normal := calm(usual)) and time.monotonic() - began < 60:
            pass
        recovered = time.monotonic() - began
    accepted = [*heavy.full, *heavy.lower]
    result = {
        "capacity": capacity,
        "usual": usual,
        "sent": heavy.sent,
        "full": len(heavy.full),
        "lower tier": len(heavy.lower),
        "refused": len(heavy.refused),
        "failed": sum(heavy.wrong.values()),
        "sent late by s": heavy.behind,
        "accepted p99 ms": quantile(accepted, 0.99),
        "refused p99 ms": quantile(heavy.refused, 0.99),
        "normal again s": recovered if normal else None,
    }
    for name, value in result.items():
        print(f"{name:<20} {'never' if value is None else round(value, 1):>12}")
    print(f"failures: {dict(heavy.wrong)}")
    return result


def kills(words: argparse.Namespace, model: Path, items: list[str], work: Path) -> dict[str, Any]:
    """--load of the measured capacity while a worker is killed every `EVERY` seconds.

    Nothing is sent twice: what a worker had under way when it died counts as failed. While one is
    away the other has all of the load, on cores that also start the new one.
    """
    bodies = bodies_of(items, deadline_ms=NO_DEADLINE_MS)
    killed: list[int] = []
    over = threading.Event()
    with ExitStack() as stack:
        peer = bento(stack, model, work, words.deadline_ms)
        closed_loop(peer.url, bodies, 4, words.seconds / 2)
        capacity = closed_loop(peer.url, bodies, words.callers, words.seconds).rate

        def kill() -> None:
            while not over.wait(EVERY):
                if len(there := workers_of(peer)) == WORKERS:
                    there[0].kill()
                    killed.append(there[0].pid)

        print(f"capacity {capacity:.0f} /s; {words.load:g} of it", file=sys.stderr, flush=True)
        killer = threading.Thread(target=kill)
        killer.start()
        got = open_loop(peer.url, bodies, words.load * capacity, words.kills)
        over.set()
        killer.join()
    failed = sum(got.wrong.values())
    result = {
        "capacity": capacity,
        "load": words.load,
        "kills": len(killed),
        "sent": got.sent,
        "refused": len(got.refused),
        "failed": failed,
        "not answered, %": 100 * (failed + len(got.refused)) / max(1, got.sent),
        "p99 ms": quantile([*got.full, *got.lower], 0.99),
    }
    for name, value in result.items():
        print(f"{name:<20} {round(value, 4):>12}")
    print(f"failures: {dict(got.wrong)}; wanted: at most 0.1 %")
    return result


def workers_of(peer: Peer) -> list[psutil.Process]:
    """The bento's worker processes, oldest first."""
    found: list[psutil.Process] = []
    for child in psutil.Process(peer.pid).children(recursive=True):
        with suppress(psutil.Error):  # ended while it was looked at
            if any("worker" in word and "service" in word for word in child.cmdline()):
                found.append(child)
    return sorted(found, key=lambda one: one.create_time())


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=Path, help="a trained model folder; else random weights")
    parser.add_argument("--items", type=int, default=12_101, help="catalogue of random weights")
    parser.add_argument("--limit-ms", type=float, default=50, help="of the p99")
    parser.add_argument(
        "--deadline-ms", type=float, default=50, help="the bento's setting; more on a busy machine"
    )
    parser.add_argument("--callers", type=int, default=48, help="requests under way, saturated")
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--overload", type=float, metavar="SECONDS", help="only the overload test")
    only.add_argument("--kills", type=float, metavar="SECONDS", help="only the killed workers")
    parser.add_argument("--load", type=float, default=0.25, help="with --kills, of the capacity")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    words = parser.parse_args()
    # ended early, it ends the services that it started
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="hr-bench-") as folder:
        work = Path(folder)
        model: Path = words.model or words.out / f"serve-model-{words.items}"
        if words.model is None and not model.exists():
            print(f"making a model of {words.items} items", file=sys.stderr, flush=True)
            make_model(model, words.items)
        loaded = load_model(model)
        items = loaded.items
        kind, measure = "serve", compare
        if words.overload is not None:
            kind, measure = "serve-overload", overload
        elif words.kills is not None:
            kind, measure = "serve-kills", kills
        result = measure(words, model, items, work)
    words.out.mkdir(parents=True, exist_ok=True)
    machine = {"cores": os.cpu_count(), "kernel": platform.release(), "load": os.getloadavg()}
    (words.out / f"{kind}-{len(items)}.json").write_text(
        json.dumps(
            {"machine": machine, "items": len(items), "metrics": loaded.manifest.metrics, **result},
            indent=1,
        ),
        encoding="utf-8",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
