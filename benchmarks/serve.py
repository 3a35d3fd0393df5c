"""The bento beside the service that one writes first (FastAPI + torch), on the same weights.

    python -m benchmarks.serve [--model DIR | --items 12101] [--limit-ms 50] [--rounds 3]
    python -m benchmarks.serve --overload 300 --apart    # the bento alone at twice its capacity
    python -m benchmarks.serve --kills 300         # at a quarter of it, a worker killed every 30 s

Two workers of one torch thread each, one run, peers in turn, so that a busy machine slows both.
`saturated`: full answers a second with --callers requests always under way. `CPU ms`: what the
service's processes spent on each, which other programs of a busy machine hardly change. `within`:
the highest open-loop rate, in steps of a quarter (each tried twice), at which 99 % get a full
answer and their p99 stays within --limit-ms. `alone`: median time of one request at a time, beside
a BentoML endpoint that calls the same model in place, and beside one that does nothing. Only
answers of the best tier count. Without --model the weights are random (as fast as trained ones) and
stay in out/bench for the next call. From 100,000 items the model holds an index for approximate
retrieval, as training writes it, over vectors in clusters; `--items 1000000` needs about 4 GiB. The
peer scans the whole.
Writes out/bench/serve-<items>.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from benchmarks.faults import ENOUGH, NO_DEADLINE_MS, STEP, kills, overload
from benchmarks.load import Outcome, bodies_of, closed_loop, open_loop, quantile
from benchmarks.retrieval import cluster, drawn
from benchmarks.services import Peer, bare, bento, cpu_seconds, plain
from model.checkpoint import Fusion, load_model, save_model
from model.links import Links
from model.net import NetConfig, Recommender
from model.retrieval import APPROXIMATE_ITEMS, FILE, ItemIndex, widen
from model.scoring import encode
from model.settings import TrainConfig
from model.sizes import SIZES

LINKS = 256  # per item, as training keeps them
TRIES = 2  # at a rate: something else on the machine may have spoilt the first
WANTED = 3.0  # times the peer's throughput


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
            metrics |= widen(net.keys(), encode(net, drawn(items, seed=1)), index)
        save_model(
            out, net, items=[f"i{n}" for n in range(items)], users=1,
            popularity=torch.arange(items, 0, -1), links=links,
            fusion=Fusion(weight=0.0 if large else 1.0), train=TrainConfig(), size="random",
            data_fingerprint="none", metrics=metrics, extra=extra,
        )  # fmt: skip


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
    parser.add_argument(
        "--apart", action="store_true",
        help="with --overload: half of the cores for the service, a worker each; half for callers",
    )  # fmt: skip
    only.add_argument("--kills", type=float, metavar="SECONDS", help="only the killed workers")
    parser.add_argument("--load", type=float, default=0.25, help="with --kills, of the capacity")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    words = parser.parse_args()
    if words.apart and words.overload is None:
        parser.error("--apart goes with --overload")
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
