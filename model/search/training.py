"""Train a search index: count the catalogue, learn the encoder, learn the reranker.

The reranker learns from scores that the encoder gives to queries it has not seen: the judged
queries are split by a hash of their text, and each part is scored by an encoder tuned on the
others. The encoder that is kept has seen all of them.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from model.search import catalogue as shelves
from model.search import dense, ranker
from model.search.catalogue import Catalogue, Floats, Lexical, Query
from model.search.dense import DenseIndex, Encoder
from model.search.features import Features, Found
from model.search.index import SearchConfig
from model.search.legs import Legs, best, fuse
from model.search.metrics import measure, summary
from model.search.tables import Entry, Judgements

FOLDS = 3
HARD = (5, 60)  # lexical ranks between which unjudged finds serve as the encoder's negatives
WEIGHTS = (0.0, 0.25, 0.5, 1.0)  # of the dense leg, tried on unseen queries
TITLES_WEIGHT = 0.2  # of a dense leg that has learnt from titles alone
TOP, BELOW = 40, 30  # candidates of a query that the reranker learns from: first ones, and others

Watch = Callable[[str, int, int], None]  # what is done, steps done, steps in all


@dataclass(frozen=True)
class Trained:
    """Everything that an index folder holds."""

    catalogue: Catalogue
    dense: DenseIndex
    ranker: str | None
    config: SearchConfig  # as given, with the weight that was chosen on unseen queries
    metrics: dict[str, float]


def fold_of(query: str, folds: int) -> int:
    """The part that a query belongs to, by its text alone."""
    return int.from_bytes(hashlib.sha256(query.encode()).digest()[:8], "big") % folds


def fingerprint(entries: Sequence[Entry], judgements: Judgements | None) -> str:
    """SHA-256 over products and judgements: equal data gives an equal fingerprint."""
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(f"{entry.id}\t{entry.title}\t{entry.body}\n".encode())
    if judgements is not None:
        for text, gains in zip(judgements.queries, judgements.gains, strict=True):
            digest.update(f"{text}\t{sorted(gains.items())}\n".encode())
    return digest.hexdigest()


def train(
    entries: Sequence[Entry],
    judgements: Judgements | None,
    config: SearchConfig,
    watch: Watch,
    threads: int = 0,
) -> Trained:
    """Train everything that the given data allows."""
    entries = list(entries)
    catalogue = shelves.build(entries, lambda done, total: watch("reading titles", done, total))
    lexical = Lexical(catalogue)
    base = dense.train(
        catalogue, lexical.idf, config.dense, config.seed,
        lambda done, total, _: watch("encoder, titles", done, total),
    )  # fmt: skip
    if judgements is None:
        plain = config.model_copy(update={"dense_weight": TITLES_WEIGHT})
        return Trained(catalogue, DenseIndex.of(base, catalogue), None, plain, {})
    lesson = _Lesson(catalogue, lexical, base, judgements, config, watch)
    parts = [lesson.part(number) for number in range(FOLDS)]
    weight, metrics = _fusion([query for part in parts for query in part])

    def boosted(queries: Sequence[_Seen], told: str) -> str:
        return ranker.fit(
            np.concatenate([query.features[query.taught] for query in queries]),
            np.concatenate([query.grades[query.taught] for query in queries]),
            [len(query.taught) for query in queries],
            config.seed, lambda done, total: watch(told, done, total), threads=threads,
        )  # fmt: skip

    text = None
    held = parts[-1]
    learnt = _taught([query for part in parts[:-1] for query in part])
    if held and learnt:
        trial = ranker.Ranker(boosted(learnt, "reranker, to be checked"))
        reached = summary([query.reranked(trial) for query in held])
        metrics |= {f"reranked_{name}": value for name, value in reached.items()}
        fused = summary([query.fused(weight) for query in held])
        # few judgements can teach it worse than nothing: then the fused order stays
        if reached["ndcg@10"] > fused["ndcg@10"]:
            text = boosted(_taught([query for part in parts for query in part]), "reranker")
    everything = np.arange(len(judgements.queries))
    last = DenseIndex.of(lesson.tuned(everything, "encoder, all queries"), catalogue)
    chosen = config if text is not None else config.model_copy(update={"dense_weight": weight})
    return Trained(catalogue, last, text, chosen, metrics)


@dataclass(frozen=True)
class _Seen:
    """A judged query as an encoder that has not learnt from it sees it."""

    found: Found
    gains: dict[int, float]
    highest: float
    features: Floats  # (C, F)
    grades: NDArray[np.int32]  # (C,)
    taught: NDArray[np.int64]  # the candidates to learn from

    def ordered(self, scores: Floats) -> dict[str, float]:
        """Metrics of the candidates in the order of some scores."""
        order = np.argsort(-scores, kind="stable")
        return measure(self.found.items[order].tolist(), self.gains, self.highest)

    def fused(self, weight: float) -> dict[str, float]:
        """Metrics of both legs fused with this weight of the dense one."""
        return self.ordered(fuse(self.found.lexical_rank, self.found.dense_rank, weight))

    def reranked(self, by: ranker.Ranker) -> dict[str, float]:
        """Metrics after the reranker."""
        return self.ordered(by.scores(self.features))


def _taught(queries: Sequence[_Seen]) -> list[_Seen]:
    """The queries that teach something: those with a relevant candidate."""
    return [query for query in queries if query.grades[query.taught].any()]


def _fusion(queries: Sequence[_Seen]) -> tuple[float, dict[str, float]]:
    """The weight of the dense leg with the best NDCG@10, and the metrics of legs and fusion."""
    if not queries:
        return 0.0, {}
    tried = {weight: summary([query.fused(weight) for query in queries]) for weight in WEIGHTS}
    weight = max(WEIGHTS, key=lambda one: tried[one]["ndcg@10"])
    metrics = {f"fused_{name}": value for name, value in tried[weight].items()}
    legs = {
        "lexical": [
            query.ordered(-query.found.lexical_rank.astype(np.float32)) for query in queries
        ],
        "dense": [query.ordered(-query.found.dense_rank.astype(np.float32)) for query in queries],
    }
    for leg, rows in legs.items():
        metrics |= {f"{leg}_{name}": value for name, value in summary(rows).items()}
    return weight, metrics


class _Lesson:
    """The judged queries, analysed once, and the passes over them."""

    def __init__(
        self, catalogue: Catalogue, lexical: Lexical, base: Encoder, judgements: Judgements,
        config: SearchConfig, watch: Watch,
    ) -> None:  # fmt: skip
        self.catalogue, self.lexical, self.base = catalogue, lexical, base
        self.config, self.watch = config, watch
        self.texts, self.gains = judgements.queries, judgements.gains
        self.highest = max((max(g.values()) for g in self.gains if g), default=1.0) or 1.0
        self.queries: list[Query] = []
        self.negatives: list[NDArray[np.int32]] = []
        for at, text in enumerate(self.texts):
            query = catalogue.query(text)
            found = best(lexical.scores(query), HARD[1])[HARD[0] :]
            unjudged = [item for item in found.tolist() if item not in self.gains[at]]
            self.queries.append(query)
            self.negatives.append(np.array(unjudged, np.int32))
            watch("reading queries", at + 1, len(self.texts))

    def tuned(self, members: NDArray[np.int64], told: str) -> Encoder:
        """A copy of the base encoder, tuned on some of the queries."""
        encoder = copy.deepcopy(self.base)
        dense.tune(
            encoder, self.catalogue,
            [self.queries[i] for i in members],
            [self.gains[i] for i in members],
            [self.negatives[i] for i in members],
            self.config.seed,
            lambda done, total, _: self.watch(told, done, total),
        )  # fmt: skip
        return encoder

    def part(self, number: int) -> list[_Seen]:
        """The queries of one part, seen by an encoder tuned on the other parts."""
        parts = np.array([fold_of(text, FOLDS) for text in self.texts])
        rng = np.random.default_rng([self.config.seed, number])
        told = f"part {number + 1} of {FOLDS}"
        encoder = self.tuned(np.flatnonzero(parts != number), f"encoder, {told}")
        index = DenseIndex.of(encoder, self.catalogue)
        legs = Legs(self.catalogue, self.lexical, index)
        maker = Features(self.catalogue, self.lexical, index)
        members = np.flatnonzero(parts == number)
        seen: list[_Seen] = []
        for done, at in enumerate(members):
            self.watch(f"features, {told}", done + 1, len(members))
            judged = self.gains[at]
            if not any(judged.values()):
                continue
            found = legs.find(self.queries[at], self.config.dense_weight)
            gains = np.array([judged.get(int(item), 0.0) for item in found.items])
            seen.append(
                _Seen(
                    found, judged, self.highest, maker.of(self.queries[at], found),
                    ranker.labels(gains, self.highest), _sample(found, judged, rng),
                )
            )  # fmt: skip
        return seen


def _sample(found: Found, judged: dict[int, float], rng: np.random.Generator) -> NDArray[np.int64]:
    """Candidates to learn from: the judged ones, the first ones, some of the others."""
    count = len(found.items)
    known = np.flatnonzero(np.isin(found.items, list(judged)))
    below = rng.permutation(np.arange(min(TOP, count), count))[:BELOW]
    return np.union1d(np.union1d(known, np.arange(min(TOP, count))), below)


def seeded(seed: int, threads: int | None) -> None:
    """Fix what torch draws, and how many threads it uses."""
    torch.manual_seed(seed)
    if threads:
        torch.set_num_threads(threads)
