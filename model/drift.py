"""How far a new window of events has moved from an old one.

PSI (population stability index) = sum over bins of (p_new - p_old) x ln(p_new / p_old), with the
usual reading: below 0.1 stable, 0.1 to 0.25 watch, above that act. Shares are taken with half an
event added to each bin, so that an empty bin is finite. Every check has a limit for *watch* and
one for *alert*; the report's verdict is the worst of its checks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.corpus import Corpus

STABLE, WATCH, ALERT = "stable", "watch", "alert"
BINS = 10


def psi(before: NDArray[np.int64], after: NDArray[np.int64]) -> float:
    """PSI of two histograms over the same bins."""
    old = (before + 0.5) / (before.sum() + 0.5 * len(before))
    new = (after + 0.5) / (after.sum() + 0.5 * len(after))
    return float(((new - old) * np.log(new / old)).sum())


def drift_report(before: Corpus, after: Corpus) -> dict[str, Any]:
    """Checks of items, their popularity, and the length of histories."""
    items = sorted(set(before.items) | set(after.items))
    old, new = _counts(before, items), _counts(after, items)
    # bins of equal traffic in the old window: a head of few items and a tail of many
    order = np.argsort(-old, kind="stable")
    share = np.cumsum(old[order]) / old.sum()
    bins = np.zeros(len(items), np.int64)
    bins[order] = np.minimum((share * BINS).astype(np.int64), BINS - 1)
    bins[old == 0] = BINS  # what the old window never saw is a bin of its own
    edges = np.unique(np.quantile(before.lengths, np.linspace(0, 1, BINS + 1)[1:-1]))
    checks = [
        _check("PSI of item popularity", psi(_by(bins, old), _by(bins, new)), 0.1, 0.25),
        _check(
            "PSI of history length",
            psi(_histogram(before.lengths, edges), _histogram(after.lengths, edges)),
            0.1,
            0.25,
        ),
        _check("share of events on new items", float(new[old == 0].sum() / new.sum()), 0.1, 0.3),
        _check("Jensen-Shannon distance of items", _jensen_shannon(old, new), 0.5, 0.75),
        _check("change of the most popular 100", _changed(old, new, 100), 0.4, 0.7),
    ]
    verdicts = [check["verdict"] for check in checks]
    worst = ALERT if ALERT in verdicts else WATCH if WATCH in verdicts else STABLE
    return {
        "verdict": worst,
        "events": [len(before.events), len(after.events)],
        "users": [len(before), len(after)],
        "checks": checks,
    }


def _check(what: str, value: float, watch: float, alert: float) -> dict[str, Any]:
    verdict = ALERT if value >= alert else WATCH if value >= watch else STABLE
    return {"what": what, "value": value, "watch": watch, "alert": alert, "verdict": verdict}


def _counts(corpus: Corpus, items: list[str]) -> NDArray[np.int64]:
    index = {item: place for place, item in enumerate(items)}
    places = np.array([index[item] for item in corpus.items], np.int64)
    counts = np.zeros(len(items), np.int64)
    counts[places] = corpus.popularity()
    return counts


def _by(bins: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.bincount(bins, weights=counts, minlength=BINS + 1).astype(np.int64)


def _histogram(values: NDArray[np.int64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)


def _jensen_shannon(old: NDArray[np.int64], new: NDArray[np.int64]) -> float:
    """Square root of the divergence in bits: 0 equal, 1 nothing in common."""
    p, q = old / old.sum(), new / new.sum()
    middle = (p + q) / 2

    def against(x: NDArray[np.float64]) -> float:
        there = x > 0
        return float((x[there] * np.log2(x[there] / middle[there])).sum())

    return float(np.sqrt(max(0.0, (against(p) + against(q)) / 2)))


def _changed(old: NDArray[np.int64], new: NDArray[np.int64], count: int) -> float:
    """Share of the old window's most popular items that are not among the new window's."""
    count = min(count, int((old > 0).sum()))
    top = [set(np.argsort(-counts, kind="stable")[:count].tolist()) for counts in (old, new)]
    return 1.0 - len(top[0] & top[1]) / count
