"""A whole training run: choose on held-out items, fuse the links, fit again on everything.

1. *choose*: train without each user's last item and stop early on it;
2. *fuse*: learn item links from the same data and pick their weight on the same items;
3. *final*: train a fresh network with all items for as many epochs as were best.

Stages leave their state in the work folder `OUT.partial`, so a killed run goes on; the model
folder appears whole at the end. Only items of the given file are ever used: what an evaluator
holds out beyond it is never seen.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from model.checkpoint import Fusion, Manifest, save_model
from model.cold import fill_cold_items
from model.corpus import Corpus
from model.data.files import DataError
from model.links import Links, learn_links
from model.loop import Best, Fit, use
from model.metrics import mask_seen, rank_of, summary
from model.net import NetConfig, Recommender
from model.retrieval import APPROXIMATE_ITEMS, FILE, ItemIndex, widen
from model.runlog import RunLog, Silence
from model.scoring import chunks, encode, network_scores, ranks
from model.settings import TrainConfig
from model.state import load_state, save_state, whole_weights
from model.workers import Workers

Say = Callable[[str], None]
DECAYS = (0.1, 0.25, 0.5, 1.0)
WEIGHTS = (0.0, 1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0)
RECALL_USERS = 200  # histories that the recall of approximate retrieval is measured on
EPOCHS_WITHOUT_VALIDATION = 20  # when nobody has three events, nothing can be held out


class Choice(BaseModel):
    """What stages 1 and 2 decided."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int
    fusion: Fusion
    metrics: dict[str, float]


@dataclass(frozen=True)
class Run:
    """One run's inputs; equal runs share the work folder, others do not."""

    corpus: Corpus
    net: NetConfig
    train: TrainConfig
    size: str
    out: Path
    workers: Workers
    say: Say
    products: list[dict[str, Any]]
    rows: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])  # item descriptions

    @property
    def work(self) -> Path:
        return self.out.with_name(self.out.name + ".partial")

    @property
    def identity(self) -> str:
        """What must be equal for a state to be continued."""
        told = f"{self.net.model_dump_json()}{self.train.model_dump_json()}"
        return hashlib.sha256((told + self.corpus.fingerprint).encode()).hexdigest()


@dataclass(frozen=True)
class Held:
    """Validation: histories of a sample of users, and the item that each took next."""

    histories: list[NDArray[np.int64]]
    targets: NDArray[np.int64]

    @staticmethod
    def of(reduced: Corpus, last: NDArray[np.int64], count: int, seed: int) -> Held:
        usable = np.flatnonzero((last >= 0) & (reduced.lengths > 0))
        # a user who repeats an item cannot be judged where seen items are removed
        fresh = [u for u in usable if last[u] not in reduced.sequence(int(u))]
        rng = np.random.default_rng([seed, 77])
        if len(fresh) > count:
            fresh = sorted(rng.choice(np.array(fresh), count, replace=False).tolist())
        return Held([reduced.sequence(int(u)) for u in fresh], last[np.array(fresh, np.int64)])


def open_work(run: Run) -> None:
    """Make the work folder, or continue in it if the same run left it."""
    note = run.work / "run.json"
    if note.exists():
        found = json.loads(note.read_text(encoding="utf-8")).get("identity")
        if found == run.identity:
            run.say(f"continuing the unfinished run in {run.work}")
            return
        run.say(f"{run.work} is of other data or settings; starting afresh")
        shutil.rmtree(run.work)
    run.work.mkdir(parents=True, exist_ok=True)
    part = run.work / ".run.json.part"
    part.write_text(json.dumps({"identity": run.identity}), encoding="utf-8")
    part.replace(note)


def train_model(run: Run) -> Manifest | None:
    """All stages; the manifest of the finished model on the first worker, `None` on others."""
    started = time.monotonic()
    if run.workers.first:
        open_work(run)
    run.workers.barrier()
    chosen_file = run.work / "choice.json"
    if chosen_file.exists():
        choice, weights = Choice.model_validate_json(chosen_file.read_bytes()), {}
    else:
        choice, weights = _choose(run)
        if run.workers.first:
            part = run.work / ".choice.json.part"
            part.write_text(choice.model_dump_json(), encoding="utf-8")
            part.replace(chosen_file)
        run.workers.barrier()
    if run.train.refit or not weights:
        fit = _fit(run, "final", run.corpus, epochs=choice.epochs, held=None)
        weights = whole_weights(fit.weights())
    if not run.workers.first:
        return None
    net = use(_network(run), weights)
    told, files = _finish(run, net)
    links = learn_links(run.corpus, run.train.link_l2) if choice.fusion.weight > 0 else None
    seconds = {"seconds": round(time.monotonic() - started, 1)}
    manifest = save_model(
        run.out,
        net,
        items=run.corpus.items,
        users=len(run.corpus),
        popularity=torch.from_numpy(run.corpus.popularity()),
        links=links,
        fusion=choice.fusion,
        train=run.train,
        size=run.size,
        data_fingerprint=run.corpus.fingerprint,
        metrics=choice.metrics | told | seconds,
        products=run.products,
        extra=[run.work / "metrics.jsonl", *files],
    )
    shutil.rmtree(run.work, ignore_errors=True)
    return manifest


def _finish(run: Run, net: Recommender) -> tuple[dict[str, float], list[Path]]:
    """Vectors of cold items, and the index of a large catalogue: figures and files to add."""
    told: dict[str, float] = {}
    files: list[Path] = []
    popularity = run.corpus.popularity()
    cold = fill_cold_items(net, run.rows, run.corpus.index, popularity, run.train.seed)
    if cold is not None:
        told |= {"cold_items": float(cold.items), "cold_cosine": cold.cosine}
        run.say(f"{cold.items} items without events have a vector from their text")
    if len(run.corpus.items) >= APPROXIMATE_ITEMS:
        run.say(f"indexing {len(run.corpus.items)} items for approximate retrieval")
        keys = net.keys().detach()
        index = ItemIndex.build(keys)
        users = np.flatnonzero(run.corpus.lengths > 0)[:RECALL_USERS]
        states = encode(net, [run.corpus.sequence(int(u)) for u in users])
        told |= widen(keys, states, index)
        files.append(run.work / FILE)
        index.save(files[0])
    return told, files


def _network(run: Run) -> Recommender:
    torch.manual_seed(run.train.seed)
    return Recommender(run.net, run.corpus.features)


def _fit(run: Run, stage: str, corpus: Corpus, *, epochs: int, held: Held | None) -> Fit:
    def judged(net: Recommender) -> dict[str, float]:
        assert held is not None
        return summary(ranks(net, held.histories, held.targets))

    evaluate = judged if held is not None else None
    try:
        fit = Fit(_network(run), corpus, run.train, run.workers, epochs=epochs, evaluate=evaluate)
    except ValueError as error:
        raise DataError(f"{error}; give sequences of two items and more") from error
    if load_state(run.work, stage, fit):
        run.say(f"{stage}: going on after step {fit.place.total}")
    watcher = (
        RunLog(run.work, stage, epochs * fit.plan.steps, resumed_at=fit.place.total)
        if run.workers.first
        else Silence()
    )
    try:
        fit.run(watcher, lambda: save_state(run.work, stage, fit))
    finally:
        watcher.close()
    return fit


def _choose(run: Run) -> tuple[Choice, dict[str, Tensor]]:
    """Stages 1 and 2."""
    reduced, last = run.corpus.without_last()
    held = Held.of(reduced, last, run.train.validation_users, run.train.seed)
    if not len(held.targets) or reduced.lengths.max() < 2:
        run.say("too few events to hold any out: no early stopping, no validation figures")
        epochs = min(run.train.epochs, EPOCHS_WITHOUT_VALIDATION)
        return Choice(epochs=epochs, fusion=Fusion(), metrics={}), {}
    fit = _fit(run, "choose", reduced, epochs=run.train.epochs, held=held)
    weights, best = whole_weights(fit.best_weights), fit.place.best
    choice = run.workers.from_first(lambda: _fuse(run, reduced, held, weights, best))
    return choice, weights


def _fuse(run: Run, reduced: Corpus, held: Held, weights: dict[str, Tensor], best: Best) -> Choice:
    """Pick the weight and decay of the links that rank the held-out items best."""
    alone = {f"validation_network_{name}": value for name, value in best.metrics.items()}
    plain = {f"validation_{name}": value for name, value in best.metrics.items()}
    if not run.train.links:
        return Choice(epochs=best.epoch, fusion=Fusion(), metrics=plain)
    links = learn_links(reduced, run.train.link_l2, say=run.say)
    fusion, metrics = search_fusion(use(_network(run), weights), links, held)
    run.say(
        f"links: weight {fusion.weight:g}, decay {fusion.decay:g}: validation NDCG@10 "
        f"{best.ndcg:.4f} -> {metrics['ndcg@10']:.4f}"
    )
    told = {f"validation_{name}": value for name, value in metrics.items()}
    return Choice(epochs=best.epoch, fusion=fusion, metrics=told | alone)


def search_fusion(net: Recommender, links: Links, held: Held) -> tuple[Fusion, dict[str, float]]:
    """The best of a small grid by NDCG@10, and its metrics."""
    keys = net.keys().detach()
    options = [(w, d) for d in DECAYS for w in WEIGHTS]
    found: dict[tuple[float, float], list[NDArray[np.int64]]] = {o: [] for o in options}
    for rows in chunks(len(held.targets), len(keys)):
        part = [held.histories[k] for k in rows]
        targets = held.targets[rows.start : rows.stop]
        base = mask_seen(network_scores(net, keys, part), part)
        for decay in DECAYS:
            added = links.score(part, decay)
            for weight in WEIGHTS:
                found[weight, decay].append(rank_of(torch.add(base, added, alpha=weight), targets))
    metrics = {option: summary(np.concatenate(parts)) for option, parts in found.items()}
    best = max(options, key=lambda option: metrics[option]["ndcg@10"])
    return Fusion(weight=best[0], decay=best[1]), metrics[best]
