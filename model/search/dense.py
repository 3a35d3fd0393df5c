"""The dense leg: query and product text into one space, trained here, with no outside weights.

A term's vector is its own embedding plus the mean of its hashed character n-grams, so unknown and
misspelt words have one too. A text is the weighted sum of its terms, normalised; a query and a
product weigh terms differently. Shapes: T terms of a table, B texts, L terms a text, D width.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from model.search.catalogue import Catalogue, Floats, Query

PAD = -1


class DenseConfig(BaseModel):
    """Of the encoder and its training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(default=64, ge=8, le=1024)
    buckets: int = Field(default=1 << 14, ge=64, description="of hashed character n-grams")
    batch: int = Field(default=1024, ge=2)
    title_epochs: int = Field(default=3, ge=0, description="over title -> part of the title")
    judged_epochs: int = Field(default=8, ge=0, description="over query -> judged product")
    lr: float = Field(default=5e-3, gt=0)
    temperature: float = Field(default=0.07, gt=0)


def grams(term: str, buckets: int) -> list[int]:
    """Buckets of the term's 3- to 5-grams, its ends marked."""
    marked = f"<{term}>"
    found = {marked[i : i + n] for n in (3, 4, 5) for i in range(len(marked) - n + 1)}
    # crc32, because `hash` differs from run to run
    return sorted(zlib.crc32(gram.encode()) % buckets for gram in found)


class Encoder(nn.Module):
    """Term tables and the weights of terms on either side."""

    def __init__(self, terms: int, config: DenseConfig, idf: Tensor) -> None:
        super().__init__()
        self.config = config
        scale = 1 / math.sqrt(config.width)
        self.own = nn.Parameter(torch.randn(terms, config.width) * scale)
        self.gram = nn.Parameter(torch.randn(config.buckets, config.width) * scale)
        start = (idf / idf.mean()).clamp(0.1, 3.0).log()
        self.query_weight = nn.Parameter(start.clone())
        self.title_weight = nn.Parameter(start.clone())
        self.project = nn.Parameter(torch.eye(config.width))

    def table(self, own: Tensor, flat: Tensor, starts: Tensor) -> Tensor:
        """Vectors of terms: own numbers (T,) with `PAD` for unknown ones, their grams -> (T, D)."""
        mean = F.embedding_bag(flat, self.gram, starts, mode="mean")
        known = (own >= 0).unsqueeze(1)
        return mean + self.own[own.clamp(min=0)] * known

    def text(self, table: Tensor, local: Tensor, own: Tensor, query: bool) -> Tensor:
        """Texts: places in the table and own numbers, both (B, L) with `PAD` -> (B, D), unit."""
        weights = self.query_weight if query else self.title_weight
        weight = torch.where(own >= 0, weights[own.clamp(min=0)], weights.mean()).exp()
        weight = weight * (local >= 0)
        summed = (table[local.clamp(min=0)] * weight.unsqueeze(2)).sum(1)
        return F.normalize(summed @ self.project if query else summed, dim=1)


class GramTable:
    """The grams of a vocabulary, counted once; texts as batches of term numbers."""

    def __init__(self, vocabulary: Sequence[str], buckets: int) -> None:
        rows = [grams(term, buckets) for term in vocabulary]
        self.starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
        self.flat = np.array([g for row in rows for g in row] or [0], np.int64)

    def of(self, numbers: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Flat grams and starts of the given terms, as `embedding_bag` reads them."""
        lengths = self.starts[numbers + 1] - self.starts[numbers]
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64)
        at = np.arange(int(lengths.sum())) - np.repeat(starts, lengths)
        return torch.from_numpy(self.flat[np.repeat(self.starts[numbers], lengths) + at]), (
            torch.from_numpy(starts)
        )


def _encode(encoder: Encoder, table: GramTable, texts: NDArray[np.int64], query: bool) -> Tensor:
    unique, local = np.unique(texts, return_inverse=True)
    local = local.reshape(texts.shape)
    if unique[0] == PAD:
        unique, local = unique[1:], local - 1
    if len(unique) == 0:
        return torch.zeros(len(texts), encoder.config.width)
    own = torch.from_numpy(unique)
    vectors = encoder.table(own, *table.of(unique))
    return encoder.text(vectors, torch.from_numpy(local), torch.from_numpy(texts), query)


def padded(rows: Sequence[Sequence[int]], width: int) -> NDArray[np.int64]:
    """Rows of known term numbers as one (B, width) array with `PAD`."""
    out = np.full((len(rows), width), PAD, np.int64)
    for place, row in enumerate(rows):
        kept = [i for i in row if i >= 0][:width]
        out[place, : len(kept)] = kept
    return out


def parts(titles: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """For each title a made-up query: some of its terms, in order (B, L)."""
    length = (titles >= 0).sum(1)
    order = rng.random(titles.shape)
    order[titles < 0] = 2.0
    keep = np.minimum(length, rng.integers(1, 6, len(titles)))
    ranks = order.argsort(1).argsort(1)
    return np.where(ranks < keep[:, None], titles, PAD)


def train(
    catalogue: Catalogue,
    idf: Floats,
    config: DenseConfig,
    seed: int,
    step: Callable[[int, int, float], None],
) -> Encoder:
    """Learn from titles alone: which part belongs to which title."""
    torch.manual_seed(seed)
    encoder = Encoder(len(catalogue.vocabulary), config, torch.from_numpy(idf))
    rng = np.random.default_rng(seed)
    titles = catalogue.places.astype(np.int64)

    def batches() -> Iterator[tuple[NDArray[Any], ...]]:
        for _ in range(config.title_epochs):
            for rows in _shuffled(len(titles), config.batch, rng):
                text = titles[rows]
                yield parts(text, rng), text, rows, rows, np.ones(len(rows), np.float32)

    total = config.title_epochs * math.ceil(len(titles) / config.batch)
    _learn(encoder, GramTable(catalogue.vocabulary, config.buckets), batches(), total, step)
    return encoder


def tune(
    encoder: Encoder,
    catalogue: Catalogue,
    queries: Sequence[Query],
    gains: Sequence[dict[int, float]],
    negatives: Sequence[NDArray[np.int64]],
    seed: int,
    step: Callable[[int, int, float], None],
) -> None:
    """Learn, in place, from judged pairs; `negatives` are unjudged finds of the lexical leg."""
    config = encoder.config
    rng = np.random.default_rng(seed)
    pairs = [
        (at, item, gain)
        for at, judged in enumerate(gains)
        for item, gain in judged.items()
        if gain > 0 and (queries[at].ids >= 0).any()
    ]
    if len(pairs) < 2:
        return
    of = np.array([pair[0] for pair in pairs])
    item = np.array([pair[1] for pair in pairs])
    gain = np.array([pair[2] for pair in pairs], np.float32)
    gain /= gain.mean()
    asked = padded([query.ids.tolist() for query in queries], 16)
    titles = catalogue.places.astype(np.int64)

    def batches() -> Iterator[tuple[NDArray[Any], ...]]:
        for _ in range(config.judged_epochs):
            for rows in _shuffled(len(pairs), config.batch, rng):
                wrong = np.array(
                    [rng.choice(negatives[q]) if len(negatives[q]) else -1 for q in of[rows]]
                )
                wrong = wrong[wrong >= 0]
                shown = np.concatenate([item[rows], wrong])
                yield asked[of[rows]], titles[shown], of[rows], shown, gain[rows]

    total = config.judged_epochs * math.ceil(len(pairs) / config.batch)
    judged = [set(one) for one in gains]
    table = GramTable(catalogue.vocabulary, config.buckets)
    _learn(encoder, table, batches(), total, step, judged)


def _shuffled(count: int, batch: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    order = rng.permutation(count)
    for start in range(0, count, batch):
        yield order[start : start + batch]


def _learn(
    encoder: Encoder,
    table: GramTable,
    batches: Iterator[tuple[NDArray[Any], ...]],
    total: int,
    step: Callable[[int, int, float], None],
    judged: Sequence[set[int]] | None = None,
) -> None:
    """Contrast each query with the other products of its batch; known good ones do not count."""
    config = encoder.config
    optimiser = torch.optim.Adam(encoder.parameters(), lr=config.lr, betas=(0.9, 0.98))
    for number, (asked, titles, of, shown, gain) in enumerate(batches):
        # linear fall to zero: short trainings end better than at a constant rate
        optimiser.param_groups[0]["lr"] = config.lr * (1 - number / total)
        left = _encode(encoder, table, asked, query=True)
        right = _encode(encoder, table, titles, query=False)
        logits = left @ right.T / config.temperature
        same = torch.from_numpy(_good(of, shown, judged))
        logits = logits.masked_fill(same, float("-inf"))
        target = torch.arange(len(of))
        loss = F.cross_entropy(logits, target, reduction="none") @ torch.from_numpy(gain)
        loss = loss / float(gain.sum())
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the encoder's loss is {loss.item()} at step {number}")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        step(number + 1, total, float(loss.detach()))


def _good(
    of: NDArray[np.int64], shown: NDArray[np.int64], judged: Sequence[set[int]] | None
) -> NDArray[np.bool_]:
    """(B, shown) pairs that are good too, the diagonal aside: they are no negatives."""
    if judged is None:
        same = of[:, None] == shown[None, :]
    else:
        members = {int(q): np.isin(shown, list(judged[int(q)])) for q in np.unique(of)}
        same = np.stack([members[int(q)] for q in of])
    at = np.arange(len(of))
    same[at, at] = False
    return same


class DenseIndex:
    """Vectors ready for search: one a term, one a product."""

    def __init__(
        self, terms: Floats, products: Floats, weights: Floats, gram: Floats, project: Floats
    ) -> None:
        self.terms, self.products, self.weights = terms, products, weights
        self.gram, self.project = gram, project

    @classmethod
    @torch.inference_mode()
    def of(cls, encoder: Encoder, catalogue: Catalogue) -> DenseIndex:
        """Encode the vocabulary and every product."""
        table = GramTable(catalogue.vocabulary, encoder.config.buckets)
        numbers = np.arange(len(catalogue.vocabulary))
        terms = encoder.table(torch.from_numpy(numbers), *table.of(numbers))
        places = torch.from_numpy(catalogue.places.astype(np.int64))
        products = [
            encoder.text(terms, places[at : at + 4096], places[at : at + 4096], query=False)
            for at in range(0, len(places), 4096)
        ]
        return cls(
            terms.numpy(), torch.cat(products).numpy(),
            encoder.query_weight.exp().numpy(), encoder.gram.numpy(), encoder.project.numpy(),
        )  # fmt: skip

    def term_vectors(self, query: Query) -> Floats:
        """(M, D) unit vectors of the query's terms; unknown ones from their n-grams."""
        out = np.zeros((len(query.ids), self.terms.shape[1]), np.float32)
        for at, (number, text) in enumerate(zip(query.ids, query.terms, strict=True)):
            out[at] = (
                self.terms[number]
                if number >= 0
                else self.gram[grams(text, len(self.gram))].mean(0)
            )
        return out

    def vector(self, query: Query) -> Floats:
        """(D,) of length 1, or zeros for an empty query."""
        if len(query.ids) == 0:
            return np.zeros(self.terms.shape[1], np.float32)
        mean = self.weights.mean()
        weight = np.array([self.weights[i] if i >= 0 else mean for i in query.ids], np.float32)
        summed = (weight @ self.term_vectors(query)) @ self.project
        return (summed / max(float(np.linalg.norm(summed)), 1e-9)).astype(np.float32)
