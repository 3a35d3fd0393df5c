"""The reranker: gradient-boosted trees on lambdarank, saved as text that any reader may check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray

from model.search.catalogue import Floats
from model.search.features import NAMES

GRADES = 9  # gains are cut into so many steps; the metric's gain is linear
ROUNDS = 150


def labels(gains: NDArray[np.float64], highest: float) -> NDArray[np.int32]:
    """Gains as whole grades, 0 for what is not relevant or not judged."""
    return np.rint(np.clip(gains / max(highest, 1e-9), 0, 1) * GRADES).astype(np.int32)


def fit(
    features: Floats,
    grades: NDArray[np.int32],
    groups: Sequence[int],
    seed: int,
    step: Callable[[int, int], None],
    rounds: int = ROUNDS,
    threads: int = 0,
) -> str:
    """Train on rows grouped by query; returns the model's text."""
    settings: dict[str, Any] = {
        "objective": "lambdarank",
        "label_gain": [grade / GRADES for grade in range(GRADES + 1)],
        "lambdarank_truncation_level": 20,
        "learning_rate": 0.1,
        "num_leaves": 31,
        "min_data_in_leaf": 50,
        "feature_fraction": 0.6,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "lambda_l2": 5.0,
        "max_bin": 127,
        "seed": seed,
        "deterministic": True,
        "force_col_wise": True,
        "num_threads": threads,
        "verbosity": -1,
    }
    data = lightgbm.Dataset(features, grades, group=list(groups), feature_name=list(NAMES))

    def tell(environment: Any) -> None:
        step(environment.iteration + 1, rounds)

    booster = lightgbm.train(settings, data, num_boost_round=rounds, callbacks=[tell])
    return booster.model_to_string()


class Ranker:
    """A trained reranker."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._booster = lightgbm.Booster(model_str=text)
        if self._booster.num_feature() != len(NAMES):
            raise ValueError(
                f"the ranker reads {self._booster.num_feature()} features, "
                f"this release computes {len(NAMES)}"
            )

    def scores(self, features: Floats) -> Floats:
        """(C, F) -> (C,), higher is better."""
        found = self._booster.predict(features, num_threads=1)
        return np.asarray(found, np.float32)

    def importance(self) -> dict[str, float]:
        """Gain that each feature brought, as a share."""
        gain = self._booster.feature_importance("gain")
        total = max(float(gain.sum()), 1e-9)
        return {name: float(g) / total for name, g in zip(NAMES, gain, strict=True)}
