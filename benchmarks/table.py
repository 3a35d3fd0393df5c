"""One table of what the measurements found: `python -m benchmarks.table`, also at the end of all.

Reads the JSON files that the measurements left in out/bench and writes out/bench/table.md. A ratio
is ours over the peer's of the same run; `aim` says on which side of what it should be. What was not
measured is not in the table.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OUT = Path("out/bench")
WARM_SECONDS = 90.0
MEMORY_BYTES = 2.5 * 2**30


@dataclass(frozen=True)
class Row:
    """One figure. `least`: the aim is a lower bound, otherwise an upper one."""

    what: str
    ours: float
    peer: str
    theirs: float | None
    aim: float | None = None
    least: bool = False

    @property
    def ratio(self) -> float | None:
        return self.ours / self.theirs if self.theirs else None

    @property
    def judged(self) -> float | None:
        """What the aim is about: the ratio where there is a peer."""
        return self.ours if self.theirs is None else self.ratio

    def cells(self) -> list[str]:
        aim, held = "-", "-"
        if self.aim is not None and self.judged is not None:
            aim = f"{'>=' if self.least else '<='} {self.aim:g}"
            kept = self.judged >= self.aim if self.least else self.judged <= self.aim
            held = "yes" if kept else "no"
        ratio = "-" if self.ratio is None else f"{self.ratio:.3g}"
        theirs = "-" if self.theirs is None else f"{self.theirs:.4g}"
        return [self.what, f"{self.ours:.4g}", self.peer, theirs, ratio, aim, held]


def stand(found: dict[str, Any], _: str) -> Iterator[Row]:
    seconds = {name: statistics.median(each) for name, each in found["seconds"].items()}
    for name, took in seconds.items():
        if name == "again":
            yield Row("stand up again, s", took, "", None, WARM_SECONDS)
        elif name != "first":
            yield Row(f"stand, {name}, s", took, "first up", seconds["first"])
    yield Row(
        "stand at rest, GiB", sum(found["memory"].values()) / 2**30, "", None,
        MEMORY_BYTES / 2**30,
    )  # fmt: skip


def update(found: dict[str, Any], _: str) -> Iterator[Row]:
    middle = {name: statistics.median(each) for name, each in found["seconds"].items()}
    what = f"no-change up of {found['resources']} resources, s"
    yield Row(what, middle["local stack"], "bare engine", middle["bare engine"])


def policies(found: dict[str, Any], _: str) -> Iterator[Row]:
    if "files" in found:
        one = found["files"]["median"]
        yield Row("policies over manifests, s", one["policies"], "checkov", one["checkov"], 0.1)
    if "engine" in found:
        one = found["engine"]["median"]
        yield Row("preview with the pack, s", one["with"], "without", one["without"], 1.05)
        yield Row("preview with the pack, s", one["with"], "an empty pack", one["empty"])


def serve(found: dict[str, Any], name: str) -> Iterator[Row]:
    items = name.rpartition("-")[2]
    for what, ratio in found["ratios"].items():
        # the median of each round's ratio: a round's two sides saw the same machine
        if what.endswith("/s"):
            yield Row(f"serving {items} items, {what}", ratio, "FastAPI + torch", 1, 3, least=True)
        elif what == "alone, median ms":
            yield Row(f"serving {items} items, {what}", ratio, "bare endpoint", 1, 1.3)


def overload(found: dict[str, Any], name: str) -> Iterator[Row]:
    what = f"{name.rpartition('-')[2]} items, twice the capacity"
    yield Row(f"{what}: failed answers", found["failed"], "", None, 0)
    yield Row(f"{what}: answered p99, ms", found["accepted p99 ms"], "", None, 50)
    yield Row(f"{what}: refused p99, ms", found["refused p99 ms"], "", None, 100)
    yield Row(f"{what}: normal again, s", found["normal again s"] or float("inf"), "", None, 30)


def killed(found: dict[str, Any], name: str) -> Iterator[Row]:
    what = f"{name.rpartition('-')[2]} items, {found['kills']} workers killed"
    yield Row(f"{what}: not answered, %", found["not answered, %"], "", None, 0.1)


def model(found: dict[str, Any], name: str) -> Iterator[Row]:
    if name == "model-speed":
        yield from model_speed(found)
        return
    mean = {
        metric: statistics.mean(run["report"]["metrics"][metric]["mean"] for run in found["ours"])
        for metric in ("hr@10", "ndcg@10")
    }
    for peer, published in found["published"].items():
        for (metric, ours), theirs in zip(mean.items(), published, strict=True):
            yield Row(f"{found['set']}, {metric}", ours, peer, theirs, 1, least=True)
    if found["peers"]:
        theirs = statistics.mean(r["report"]["metrics"]["ndcg@10"]["mean"] for r in found["peers"])
        what = f"{found['set']}, ndcg@10, same run"
        yield Row(what, mean["ndcg@10"], found["peer"], theirs, 1.05, least=True)


def model_speed(found: dict[str, Any]) -> Iterator[Row]:
    for part, ratio in found["ratios"].items():
        yield Row(f"training, {part}", ratio, found["peer"], 1, found["aim"], least=True)


def search(found: dict[str, Any], _: str) -> Iterator[Row]:
    for metric in ("ndcg@10", "judged_ndcg@10"):
        rows = found["figures"]
        if metric in rows.get("whole", {}) and metric in rows.get("bm25", {}):
            yield Row(
                f"search, {metric}", rows["whole"][metric], "BM25", rows["bm25"][metric], 1.15,
                least=True,
            )  # fmt: skip


def history(found: dict[str, Any], _: str) -> Iterator[Row]:
    with_, without = (found["figures"][which]["ndcg@10"] for which in ("history", "query"))
    yield Row(f"{found['label']}, search with a history, NDCG@10", with_, "without", without)


def cold(found: dict[str, Any], _: str) -> Iterator[Row]:
    among = "among held-out items"
    ours, words = (
        found["figures"][f"{which}, {among}"]["hr@10"] for which in ("ours", "words alone")
    )
    yield Row(f"{found['set']}, items without events, HR@10", ours, "words alone", words)


def understand(found: list[dict[str, Any]], _: str) -> Iterator[Row]:
    for one in found:
        ours = one["figures"]["ours"]["micro"]
        for peer in ("TF-IDF", "majority"):
            what = f"{one['set']}, {one['label']}, micro F1"
            yield Row(what, ours, peer, one["figures"][peer]["micro"], 1, least=True)


def retrieval(found: list[dict[str, Any]], _: str) -> Iterator[Row]:
    for one in found:
        what, size = f"retrieval, {one['items']} items", "ms, batch 64"
        yield Row(f"{what}, {size}", one[f"approximate {size}"], "exact", one[f"exact {size}"])
        recall = next(value for key, value in one.items() if key.startswith("recall@"))
        yield Row(f"{what}, recall", recall, "exact", 1)


def data(found: list[dict[str, Any]], _: str) -> Iterator[Row]:
    first = found[0]
    for one in found[1:]:
        what = f"cleaning {one['events']:,} events"
        yield Row(f"{what}, s", one["wall_s"], f"{first['events']:,}", first["wall_s"])
        yield Row(f"{what}, peak GB", one["peak_bytes"] / 1e9, f"{first['events']:,}",
                  first["peak_bytes"] / 1e9)  # fmt: skip


def link(found: dict[str, Any], _: str) -> Iterator[Row]:
    for one in found["results"]:
        what = f"link, {one['name']}, {one['measure']}, worst s"
        yield Row(what, one["worst"], "", None, one["target"])


def served(found: dict[str, Any], _: str) -> Iterator[Row]:
    same = found["same"] + found["swapped"]
    what = "served as offline, users"
    yield Row(what, same, "offline", found["users"], 1, least=True)


def failover(found: list[dict[str, Any]], _: str) -> Iterator[Row]:
    for one in found:
        yield Row(f"{one['fault']} lost, failed of {one['requests']}", one["failed"], "", None)
        yield Row(f"{one['fault']} lost, errors for s", one["errors_s"], "", None, one["target_s"])


def queues(found: list[dict[str, Any]], _: str) -> Iterator[Row]:
    for one in found:
        jobs = f"{one['jobs']} queued jobs"
        yield Row(f"{jobs}, admitted a second", one["per_second"], "", None)
        for name, most in one["limits"].items():
            yield Row(f"{jobs}, most GPUs at once, {name}", one["peak"][name], "quota", most, 1)


READERS: dict[str, Callable[[Any, str], Iterator[Row]]] = {
    "stand": stand, "update": update, "policies": policies, "serve-overload-*": overload,
    "serve-kills-*": killed, "serve-[0-9]*": serve, "model-*": model, "search": search,
    "search_history": history, "cold": cold, "understand": understand, "retrieval": retrieval,
    "data": data, "link": link, "served": served, "failover": failover, "queues": queues,
}  # fmt: skip
HEAD = ["measured", "ours", "peer", "the peer's", "ratio", "aim", "held"]


def rows(folder: Path) -> list[Row]:
    """Every row that the files of a folder give."""
    made: list[Row] = []
    for pattern, read in READERS.items():
        for file in sorted(folder.glob(f"{pattern}.json")):
            made += read(json.loads(file.read_text(encoding="utf-8")), file.stem)
    return made


def markdown(found: list[Row]) -> str:
    lines = [HEAD, ["---"] * len(HEAD), *(row.cells() for row in found)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main() -> None:
    text = markdown(rows(OUT))
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "table.md").write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
