"""A search index as a folder, and the one class that answers queries from it.

    manifest.json       what it is: settings, data fingerprint, metrics, a SHA-256 per file
    catalogue.json      product ids, vocabulary, words with their counts
    index.safetensors   term places of the products, vectors of the dense leg
    ranker.txt          the reranker's trees as text, if there were judgements to learn from

Nothing in it is code; a wrong hash or a file that does not fit raises `CheckpointError`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, NamedTuple, Self

import numpy as np
from lightgbm.basic import LightGBMError
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from model.checkpoint import PRODUCTS
from model.folder import (
    CheckpointError,
    FileRecord,
    check_files,
    read_checked,
    records,
    replace_folder,
    version,
    write_manifest,
)
from model.search.catalogue import Catalogue, Floats, Lexical, Query
from model.search.dense import DenseConfig, DenseIndex
from model.search.features import Features, Found
from model.search.legs import Legs
from model.search.ranker import Ranker

CATALOGUE, TENSORS, RANKER = "catalogue.json", "index.safetensors", "ranker.txt"
PRIOR_TOP = 20  # candidates whose spread scales the mixed-in preference


class SearchConfig(BaseModel):
    """How the legs are joined, and how the encoder was trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = Field(default=0, ge=0)
    dense_weight: float = Field(default=0.5, ge=0, description="of the dense leg when fused")
    history_weight: float = Field(
        default=0.5, ge=0, description="of the user's recent events, in spreads of the scores"
    )
    dense: DenseConfig = DenseConfig()


class SearchManifest(BaseModel):
    """The first file to read. `metrics` are of queries that the legs did not learn from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    kind: Literal["search-index"] = "search-index"
    version: str
    created: datetime
    products: int = Field(ge=1)
    judged_queries: int = Field(ge=0)
    data_fingerprint: str
    config: SearchConfig
    metrics: dict[str, float]
    files: dict[str, FileRecord]


class Hit(NamedTuple):
    """One product of an answer; higher is better."""

    item: str
    score: float


class SearchIndex:
    """Answers queries. Build it with `load`; not locked: call it from one thread at a time."""

    def __init__(
        self, catalogue: Catalogue, dense: DenseIndex, ranker: Ranker | None, config: SearchConfig
    ) -> None:
        self.catalogue, self.ranker, self.config = catalogue, ranker, config
        self.legs = Legs(catalogue, Lexical(catalogue), dense)
        self.features = Features(catalogue, self.legs.lexical, dense)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Check and read an index folder; raises `CheckpointError`."""
        folder = Path(path)
        manifest = verify(folder)
        try:
            told = json.loads((folder / CATALOGUE).read_text(encoding="utf-8"))
            t = load_file(folder / TENSORS)
            catalogue = Catalogue(
                told["ids"], told["vocabulary"], told["words"],
                t["places"], t["sizes"], t["heads"],
            )  # fmt: skip
            dense = DenseIndex(t["terms"], t["products"], t["weights"], t["gram"], t["project"])
            ranker = None
            if RANKER in manifest.files:
                ranker = Ranker((folder / RANKER).read_text(encoding="utf-8"))
        except (
            SafetensorError, ValueError, KeyError, TypeError, LightGBMError,
        ) as error:  # fmt: skip
            raise CheckpointError(f"{folder} cannot be read: {error}; train it again") from error
        if not len(catalogue) == len(catalogue.places) == len(dense.products) == manifest.products:
            raise CheckpointError(f"{folder} does not hold {manifest.products} products; train it")
        return cls(catalogue, dense, ranker, manifest.config)

    def search(
        self,
        queries: Sequence[str],
        k: int = 10,
        *,
        prior: Sequence[Floats | None] | None = None,
        allowed: Sequence[NDArray[np.bool_] | None] | None = None,
    ) -> list[list[Hit]]:
        """The k best products of each query, best first, ties to the earlier product.

        `prior[b]` (V,) is what is known of the user's taste, any scale, NaN where nothing is;
        `allowed[b]` (V,) says which products may be shown. A query without a single letter or
        digit has no answer.
        """
        if k < 1:
            raise ValueError(f"k is {k}; give at least 1")
        answers: list[list[Hit]] = []
        for at, text in enumerate(queries):
            items, scores = self.rank(text, k, allowed[at] if allowed is not None else None)
            taste = prior[at] if prior is not None else None
            if taste is not None and len(items):
                scores = scores + self.config.history_weight * _scaled(taste[items], scores)
            order = np.lexsort((items, -scores))[:k]
            ids = self.catalogue.ids
            answers.append([Hit(ids[items[i]], float(scores[i])) for i in order])
        return answers

    def rank(
        self, text: str, k: int, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.int32], Floats]:
        """Candidates of one query with their final scores, not sorted."""
        query = self.catalogue.query(text)
        if len(query.ids) == 0:
            return np.zeros(0, np.int32), np.zeros(0, np.float32)
        reachable = len(self.catalogue) if allowed is None else int(allowed.sum())
        depth = None
        while True:
            found = self.legs.find(query, self.config.dense_weight, depth)
            shown = np.ones(len(found.items), bool) if allowed is None else allowed[found.items]
            if shown.sum() >= min(k, reachable) or len(found.items) >= len(self.catalogue):
                return found.items[shown], self.judge(query, found)[shown]
            # too few finds may be shown: look further down both legs
            depth = 4 * max(len(found.items), 100)

    def judge(self, query: Query, found: Found) -> Floats:
        """Final scores of a query's candidates, (C,)."""
        if self.ranker is None or len(found.items) == 0:
            return found.fused
        return self.ranker.scores(self.features.of(query, found))


def _scaled(taste: Floats, scores: Floats) -> Floats:
    """The taste in spreads of the best scores, 0 on the mean and where nothing is known."""
    known = np.isfinite(taste)
    if known.sum() < 2 or float(taste[known].std()) == 0:
        return np.zeros(len(scores), np.float32)
    centred = np.where(known, (taste - taste[known].mean()) / taste[known].std(), 0.0)
    spread = float(np.sort(scores)[-PRIOR_TOP:].std())
    return (np.clip(centred, -3, 3) * spread).astype(np.float32)


def save(
    out: Path,
    catalogue: Catalogue,
    dense: DenseIndex,
    ranker: str | None,
    config: SearchConfig,
    *,
    data_fingerprint: str,
    judged_queries: int,
    metrics: dict[str, float],
) -> SearchManifest:
    """Write the index folder `out`, whole or not at all."""
    made: list[SearchManifest] = []

    def fill(folder: Path) -> None:
        told = {
            "ids": catalogue.ids, "vocabulary": catalogue.vocabulary, "words": catalogue.words,
        }  # fmt: skip
        (folder / CATALOGUE).write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")
        tensors = {
            "places": catalogue.places, "sizes": catalogue.sizes, "heads": catalogue.heads,
            "terms": dense.terms, "products": dense.products, "weights": dense.weights,
            "gram": dense.gram, "project": dense.project,
        }  # fmt: skip
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, folder / TENSORS)
        if ranker is not None:
            (folder / RANKER).write_text(ranker, encoding="utf-8")
        files = records(folder)
        created = datetime.now(UTC)
        manifest = SearchManifest(
            version=version(created, files[TENSORS]), created=created,
            products=len(catalogue), judged_queries=judged_queries,
            data_fingerprint=data_fingerprint, config=config, metrics=metrics, files=files,
        )  # fmt: skip
        write_manifest(folder, manifest)
        made.append(manifest)

    replace_folder(out, fill)
    return made[0]


def read_manifest(folder: Path) -> SearchManifest:
    """The manifest alone, checked against its schema."""
    return read_checked(folder, SearchManifest, "a search index", "`model.search train --out`")


def verify(folder: Path) -> SearchManifest:
    """The manifest of a folder whose every listed file is present and unchanged."""
    manifest = read_manifest(folder)
    check_files(folder, manifest.files, needed=(CATALOGUE, TENSORS))
    return manifest


def products_of(model: Path) -> Path:
    """The product list of a trained model's folder."""
    path = model / PRODUCTS
    if not path.is_file():
        raise CheckpointError(
            f"{model} holds no {PRODUCTS}; train the model with --items that have titles"
        )
    return path
