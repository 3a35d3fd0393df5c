# ruff: noqa: E501  one case a line reads best
"""A seeded stream of malformed requests, each with the field that the answer must name."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple


class Bad(NamedTuple):
    """One request that must be answered 4xx; `field` begins one of the named fields."""

    path: str
    body: bytes
    field: str
    headers: dict[str, str]


JSON_TYPE = {"content-type": "application/json"}
HOSTILE_IDS = [
    "", " ", "a b", "a\nb", "a\x00b", "\u202eabc", "x" * 201, "'; DROP TABLE users; --", "../../etc",
    "<script>alert(1)</script>", "\" OR 1=1", "${jndi:ldap://x}", "{{7*7}}", "%00", "\u0000", "é",
]  # fmt: skip
HOSTILE_TEXT = ["", "\x00", "a\x1bb", "tab\there", "new\nline", "x" * 257, "\x7f", "\u2028", "\x85"]
WRONG_INT = [0, -1, 501, 10**30, 2.5, "10", True, None, [], {}]
WRONG_LIST = ["i1", 7, {}, True, [1], [None], [["i1"]], [{}], ["bad id"]]
RAW = {
    "not json": b"hello",
    "empty": b"",
    "cut": b'{"k": 1',
    "trailing": b'{"k": 1} x',
    "single quotes": b"{'k': 1}",
    "comment": b'{"k": 1 /* one */}',
    "bare NaN": b"NaN",
    "utf-16": '{"k": 1}'.encode("utf-16"),
    "utf-8 BOM": b'\xef\xbb\xbf{"k": 1}',
    "latin-1": '{"query": "caf\xe9"}'.encode("latin-1"),
    "overlong": b'{"query": "\xc0\xaf"}',
    "lone surrogate": b'{"query": "\\ud800"}',
    "deep arrays": b"[" * 100_000,
    "deep objects": b'{"a":' * 20_000,
    "deep, closed": b'{"history":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    "array": b"[]",
    "string": b'"text"',
    "null": b"null",
    "number": b"1e999",
}


def _event(**changes: Any) -> dict[str, Any]:
    event = {
        "event_id": "event-0001",
        "user_id": "u1",
        "kind": "view",
        "time": datetime.now(UTC).isoformat(),
        "item_id": "KNOWN",
    }
    event.update(changes)
    return {name: value for name, value in event.items() if value is not ...}


def _dump(value: Any) -> bytes:
    return json.dumps(value).encode()


def _with(path: str, changes: dict[str, Any]) -> bytes:
    return _dump(({"query": "lamp"} if path == "/search" else {}) | changes)


def _fields(rng: random.Random, known: str) -> Iterator[Bad]:
    path = rng.choice(["/recommend", "/search"])

    def bad(field: str, value: Any) -> Bad:
        return Bad(path, _with(path, {field: value}), field, JSON_TYPE)

    yield bad("k", rng.choice(WRONG_INT))
    yield bad("deadline_ms", rng.choice([v for v in WRONG_INT if v not in (None, 501)]))
    yield bad("history", rng.choice(WRONG_LIST))
    yield bad("history", [rng.choice(HOSTILE_IDS)])
    yield bad("history", ["i"] * 1001)
    yield bad("exclude", rng.choice([*WRONG_LIST, None]))
    yield bad("exclude", ["i"] * rng.randint(2001, 9000))
    yield bad("user_id", rng.choice([*HOSTILE_IDS, 1, [], {}, True, 1.5]))
    yield bad("details", rng.choice(["yes", 1, 0, None, []]))
    yield bad("filters", rng.choice(["cheap", 1, [], True]))
    yield bad("filters.category", rng.choice(HOSTILE_TEXT))._replace(
        body=_with(path, {"filters": {"category": [rng.choice(HOSTILE_TEXT)]}})
    )
    price = rng.choice(["price_min", "price_max"])
    text = rng.choice(["NaN", "Infinity", "-Infinity", "-1", "1e400", '"5"', "true", "[]"])
    start = b'{"query":"lamp",' if path == "/search" else b"{"
    yield Bad(
        path, start + f'"filters":{{"{price}":{text}}}}}'.encode(), f"filters.{price}", JSON_TYPE
    )
    yield bad("filters", 0)._replace(
        body=_with(path, {"filters": {"price_min": 2, "price_max": 1}})
    )
    surprise = rng.choice(["K", "limit", "__proto__", "user", "constructor", "a" * 5000, "\x00"])
    yield Bad(path, _with(path, {surprise: 1}), surprise[:20], JSON_TYPE)
    yield Bad(
        "/search", _dump({"query": rng.choice([*HOSTILE_TEXT, 1, None, []])}), "query", JSON_TYPE
    )
    yield Bad("/search", b"{}", "query", JSON_TYPE)
    yield Bad(
        "/recommend", _dump({"context_item": f"unknown-{rng.random()}"}), "context_item", JSON_TYPE
    )


def _events(rng: random.Random, known: str) -> Iterator[Bad]:
    def bad(field: str, **changes: Any) -> Bad:
        good = [_event(item_id=known)] * rng.randint(0, 3)
        event = _event(**({"item_id": known} | changes))
        where = f"events[{len(good)}]{field}"
        return Bad("/events", _dump({"events": [*good, event]}), where, JSON_TYPE)

    yield bad(".item_id", item_id=f"unknown-{rng.randint(0, 10**9)}")
    yield bad(".item_id", item_id=rng.choice(HOSTILE_IDS))
    yield bad(".event_id", event_id=rng.choice([*HOSTILE_IDS, "short", 1, None]))
    yield bad(".user_id", user_id=rng.choice([*HOSTILE_IDS, 1, None, {}]))
    yield bad(".kind", kind=rng.choice(["like", "VIEW", "", 1, None]))
    yield bad(
        ".time", time=rng.choice(["yesterday", "2026-01-31T12:00:00", "", None, [], {}, "NaN"])
    )
    yield bad(".time", time=rng.choice(["1970-01-01T00:00:00Z", "2999-01-01T00:00:00Z"]))
    yield bad(".position", position=rng.choice([-1, 10**9, 1.5, "1"]))
    yield bad("", kind="search", item_id=...)
    yield bad("", kind="view", item_id=...)
    yield bad("", query="lamp")
    yield bad("", rating=4.0)
    yield bad(".rating", kind="rating", rating=rng.choice([-1, 6, "5"]))
    yield Bad("/events", b"{}", "events", JSON_TYPE)
    yield Bad("/events", _dump({"events": []}), "events", JSON_TYPE)
    yield Bad("/events", _dump({"events": [_event(item_id=known)] * 501}), "events", JSON_TYPE)


def _raw(rng: random.Random) -> Iterator[Bad]:
    path = rng.choice(["/recommend", "/search", "/events"])
    name = rng.choice([n for n in RAW if n != "deep, closed"])
    yield Bad(path, RAW[name], "body", JSON_TYPE)
    yield Bad("/recommend", RAW["deep, closed"], "", JSON_TYPE)
    yield Bad(path, rng.randbytes(rng.randint(1, 2000)), "body", JSON_TYPE)
    kind = rng.choice(["text/plain", "application/xml", "multipart/form-data; boundary=x", "", "json",
                       "application/vnd.bentoml+pickle"])  # fmt: skip
    yield Bad(path, b"{}", "content-type", {"content-type": kind})
    yield Bad(path, b"{}", "content-type", {"content-type": "application/json; charset=utf-16"})
    coding = rng.choice(["gzip", "br", "zstd", "deflate"])
    yield Bad(
        path, b"\x1f\x8b\x08" * 9, "content-encoding", {**JSON_TYPE, "content-encoding": coding}
    )


def huge(rng: random.Random) -> Bad:
    """A body of about 10 MB; valid JSON, so that only its size is at fault."""
    path = rng.choice(["/recommend", "/search", "/events"])
    return Bad(path, b'{"history":["' + b"x" * 10_000_000 + b'"]}', "body", JSON_TYPE)


def stream(seed: int, count: int, known: str, huge_every: int = 200) -> Iterator[Bad]:
    """`count` malformed requests; `known` is an item that the catalogue has."""
    rng = random.Random(seed)
    made = 0
    while True:
        for bad in [*_fields(rng, known), *_events(rng, known), *_raw(rng)]:
            if made == count:
                return
            made += 1
            yield huge(rng) if made % huge_every == 0 else bad
