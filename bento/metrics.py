"""Prometheus metrics of the service; BentoML's /metrics merges all workers.

Import only inside a worker (after `PROMETHEUS_MULTIPROC_DIR` is set), as prometheus_client picks
its storage at import.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from prometheus_client import Counter, Gauge, Histogram, multiprocess

M = TypeVar("M", Counter, Gauge, Histogram)

LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.25, 0.5, 1, 2.5, 10)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
SCORES = (-20, -10, -5, -2, -1, -0.5, 0, 0.25, 0.5, 0.75, 1, 2, 3, 5, 7, 10, 15, 20, 50)

REQUESTS = Counter(
    "recommender_requests_total", "Answers by endpoint and status.", ["endpoint", "status"]
)
LATENCY_SECONDS = Histogram(
    "recommender_latency_seconds",
    "Time inside the service, by endpoint and tier (tier is empty for errors and events).",
    ["endpoint", "tier"],
    buckets=LATENCY,
)
BATCH_SIZE = Histogram(
    "recommender_batch_size", "Requests per model call.", ["lane"], buckets=SIZES
)
QUEUE_DEPTH = Gauge(
    "recommender_queue_depth", "Requests waiting for the model.", multiprocess_mode="livesum"
)
IN_FLIGHT = Gauge(
    "recommender_in_flight", "Requests inside the service.", multiprocess_mode="livesum"
)
LOOP_LAG = Gauge(
    "recommender_loop_lag_seconds", "Delay of the event loop.", multiprocess_mode="livemax"
)
MODEL_LOADED = Gauge(
    "recommender_model_loaded_timestamp_seconds",
    "When the served version was taken up.",
    multiprocess_mode="livemin",
)
MODEL_CREATED = Gauge(
    "recommender_model_created_timestamp_seconds",
    "When the served version was trained; model age is now minus this.",
    multiprocess_mode="livemin",
)
MODEL_INFO = Gauge(
    "recommender_model_info",
    "Workers serving a version.",
    ["model_version"],
    multiprocess_mode="livesum",
)
SWAPS = Counter("recommender_model_swaps_total", "New versions by outcome.", ["outcome"])
USERS = Counter(
    "recommender_users_total",
    "Requests by what was known of the user; the cold rate is cold / all.",
    ["state"],
)
EMPTY = Counter("recommender_empty_answers_total", "Answers without items.", ["endpoint"])
REFUSED = Counter("recommender_refused_total", "Requests refused early.", ["reason"])
for _reason in ("in_flight", "lag"):
    REFUSED.labels(_reason)  # shown as 0 before the first: an alert needs the series
REBALANCED = Counter(
    "recommender_rebalanced_total", "Connections ended so that another worker takes them."
)
DEGRADED = Counter(
    "recommender_degraded_total", "Requests answered below the best tier.", ["tier", "reason"]
)
TOP_SCORE = Histogram(
    "recommender_top_score",
    "Score of the first item, by tier: its drift shows before clicks do.",
    ["tier"],
    buckets=SCORES,
)
STORE_UP = Gauge(
    "recommender_store_up", "1 while the history store is usable.", multiprocess_mode="livemin"
)
EVENTS = Counter("recommender_events_total", "Events by outcome.", ["outcome"])


@lru_cache(maxsize=1024)
def child(metric: M, *labels: str) -> M:
    """`metric.labels(...)`, remembered: the library's own takes a lock and 30 µs each time."""
    return metric.labels(*labels)


def forget_dead_workers() -> None:
    """Drop the gauges of workers that were killed; they cannot do it themselves."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if folder is None:
        return
    for path in Path(folder).glob("gauge_live*_*.db"):
        found = re.search(r"_(\d+)\.db$", path.name)
        if found and not Path(f"/proc/{found[1]}").exists():
            # prometheus_client ships no types for this function
            multiprocess.mark_process_dead(int(found[1]))  # pyright: ignore[reportUnknownMemberType]
