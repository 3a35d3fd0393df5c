"""Search metrics by hand."""

from __future__ import annotations

from math import log2

import numpy as np
import pytest

from model.search.catalogue import build
from model.search.legs import best, fuse
from model.search.metrics import measure, ndcg, summary
from model.search.tables import Entry


def test_ndcg_is_linear_in_gain_and_counts_unjudged_as_nothing() -> None:
    gains = {1: 2.0, 2: 1.0, 3: 0.0}
    ideal = 2.0 + 1.0 / log2(3)
    assert ndcg([9, 1, 2], gains) == pytest.approx((2.0 / log2(3) + 1.0 / 2) / ideal)
    assert ndcg([1, 2], gains) == pytest.approx(1.0)
    assert ndcg([9, 8], gains) == 0.0
    assert ndcg([3], {3: 0.0}) == 0.0


def test_ndcg_looks_at_the_first_k_only() -> None:
    assert ndcg([5, 6, 1], {1: 1.0}, k=2) == 0.0


def test_judged_ndcg_leaves_unjudged_products_out_and_recall_counts_relevant_ones() -> None:
    row = measure([9, 1, 8, 2], {1: 1.0, 2: 2.0, 3: 1.34, 4: 0.33}, highest=2.0)
    whole = 2.0 + 1.34 / log2(3) + 1.0 / 2 + 0.33 / log2(5)
    assert row["judged_ndcg@10"] == pytest.approx((1.0 + 2.0 / log2(3)) / whole)
    assert row["recall@100"] == pytest.approx(1 / 2), "2 is found, 3 is not; 1 and 4 are too weak"
    assert row["mrr"] == pytest.approx(1 / 4)


def test_a_query_without_a_relevant_product_does_not_count_for_recall() -> None:
    rows = [measure([1], {1: 0.5}, 2.0), measure([1], {1: 2.0}, 2.0)]
    assert summary(rows)["recall@100"] == 1.0


def test_the_best_scores_come_first_and_ties_go_to_the_lower_place() -> None:
    assert best(np.array([1, 3, 2, 3, 2], np.float32), 3).tolist() == [1, 3, 2]
    assert best(np.array([0, 0, 0, 0], np.float32), 2).tolist() == [0, 1]
    assert best(np.zeros(0, np.float32), 5).tolist() == []


def test_a_weight_of_nothing_leaves_the_lexical_order() -> None:
    first = np.array([0, 1, 2], np.int32)
    assert (np.argsort(-fuse(first, first[::-1].copy(), 0.0)) == first).all()


def test_titles_are_numbered_in_order_and_cut_behind_the_last_place() -> None:
    catalogue = build([Entry("a", "Red Fan"), Entry("b", " ".join(f"w{i}q" for i in range(99)))])
    assert catalogue.places[0, :3].tolist() == [0, 1, -1]
    assert (catalogue.places[1] >= 0).all()
