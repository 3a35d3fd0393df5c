"""The k best of each row, ties to the lower item."""

from __future__ import annotations

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
