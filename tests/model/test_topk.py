"""The k best of each row, ties to the lower item."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.topk import best_of

# few different scores, so that most rows have ties at the last place
rows = st.lists(
    st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0, float("-inf")]), min_size=7, max_size=7),
    min_size=1,
    max_size=4,
)


@settings(deadline=None)
@given(rows, st.integers(1, 9))
def test_best_first_ties_to_the_lower_item_and_nothing_out_of_reach(
    scores: list[list[float]], k: int
) -> None:
    expected = [
        [
            (place, score)
            for place, score in sorted(enumerate(row), key=lambda pair: (-pair[1], pair[0]))[:k]
            if score != float("-inf")
        ]
        for row in scores
    ]
    assert best_of(torch.tensor(scores), k) == expected


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(300, 3000), st.integers(1, 12), st.integers(2, 4000))
def test_a_long_row_has_the_same_best_as_a_short_one(
    seed: int, items: int, k: int, levels: int
) -> None:
    """Long rows are searched by blocks; few levels of score make ties at every place."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (3, items)).astype(np.float32)
    scores[rng.random((3, items)) < rng.choice([0.0, 0.5, 0.999])] = float("-inf")
    expected = [
        [(int(at), float(row[at])) for at in np.lexsort((np.arange(items), -row))[:k]
         if np.isfinite(row[at])]
        for row in scores
    ]  # fmt: skip
    assert best_of(torch.from_numpy(scores), k) == expected
