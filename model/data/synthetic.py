"""A seeded, clearly labelled synthetic shop, so that everything runs with no data at hand.

Nothing in it comes from a real shop. What a model can learn from it, and what the tests rely on:

- users prefer a few product kinds, two brands and a price level, and keep them;
- a session has one intent (a kind, sometimes a brand, colour or size); a search states it, with
  plain synonyms, other units and typing errors; the views that follow match it;
- each item has a few followers (what people look at next), and a purchase leads to a later
  session on the complementary kind (drill -> drill bits);
- popularity falls off by a power law, and item text states kind, brand and attributes.

The same seed and sizes give the same shop, byte for byte.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from model.data.files import write_text
from model.data.schema import Event, EventKind, Product
from model.data.sequences import write_sequences
from model.data.words import BRANDS, COLOURS, KINDS, MATERIALS, Kind

SOURCE = "synthetic"
START_MS = 1_735_689_600_000  # 2025-01-01: fixed, so that a shop never depends on the clock
DAYS = 90
DAY_MS = 86_400_000
FOLLOWERS = 3  # "looked at next" items of each item
P_FOLLOW = 0.45  # a view goes to a follower of the item before it
P_COMPLEMENT = 0.6  # a session after a purchase continues with the complementary kind
P_SEARCH = 0.6  # a session opens with a search
P_TYPO = 0.08  # per query


@dataclass(frozen=True)
class Search:
    """A query of the shop with the items its user went on to view (1) or buy (2)."""

    user: str
    time: int
    query: str
    gains: dict[str, float]


@dataclass(frozen=True)
class Shop:
    """Synthetic events (by user, then time) and products; `label` says so wherever it is shown."""

    seed: int
    events: list[Event]
    products: list[Product]
    searches: list[Search] = field(default_factory=list[Search])
    label: str = "synthetic shop: generated, no real users or products"

    def sequences(self) -> dict[str, list[str]]:
        """Items each user viewed or bought, oldest first, repeats kept only where not adjacent."""
        out: dict[str, list[str]] = defaultdict(list)
        for event in self.events:
            if event.item is not None and out[event.user][-1:] != [event.item]:
                out[event.user].append(event.item)
        return dict(out)


@dataclass(frozen=True)
class _Item:
    index: int
    kind: int
    brand: int
    colour: int
    size: int
    level: float  # price level within its kind, 0 to 1


@dataclass(frozen=True)
class _User:
    kinds: np.ndarray  # (K,) probability of a kind
    brands: tuple[int, int]
    level: float


def make_shop(seed: int = 0, users: int = 2000, items: int = 1000) -> Shop:
    """A shop of `users` users and `items` products; sizes below 1 raise `ValueError`."""
    if users < 1 or items < 1:
        raise ValueError(f"users is {users} and items is {items}; give 1 or more of each")
    rng = np.random.default_rng(np.random.SeedSequence([seed, users, items]))
    shelf = _stock(rng, items)
    products = [_describe(rng, item) for item in shelf]
    walk = _Walk(rng, shelf, products)
    events: list[Event] = []
    searches: list[Search] = []
    for number in range(users):
        for session, search in walk.user(f"u{number:06d}"):
            events += session
            if search is not None:
                searches.append(search)
    return Shop(seed, events, products, searches)


def _stock(rng: np.random.Generator, count: int) -> list[_Item]:
    """Products spread over kinds; every kind gets one before any gets two."""
    kinds = [i % len(KINDS) for i in range(count)]
    return [
        _Item(
            index=i,
            kind=kind,
            brand=int(rng.integers(len(BRANDS))),
            colour=int(rng.integers(len(COLOURS))),
            size=int(rng.integers(len(KINDS[kind].sizes))),
            level=float(rng.random()),
        )
        for i, kind in enumerate(kinds)
    ]


def _describe(rng: np.random.Generator, item: _Item) -> Product:
    kind = KINDS[item.kind]
    brand, colour = BRANDS[item.brand], COLOURS[item.colour]
    material = MATERIALS[int(rng.integers(len(MATERIALS)))]
    size = kind.sizes[item.size]
    low, high = kind.price
    style = ("Pro", "Classic", "Eco", "Compact", "Heavy-Duty")[int(rng.integers(5))]
    title = f"{brand} {style} {size} {colour} {material} {kind.name}"
    text = (
        f"The {brand} {kind.name} in {colour.lower()} {material.lower()} measures {size}. "
        f"Made for {kind.path[-1].lower()}; {kind.use}."
    )
    return Product(
        id=f"p{item.index:06d}",
        title=title,
        text=text,
        brand=brand,
        category=kind.path,
        attributes={"colour": colour, "material": material, "size": size, "kind": kind.name},
        price=round(low + (high - low) * item.level, 2),
        in_stock=bool(rng.random() > 0.03),
        tags=(kind.name.lower(), style.lower()),
    )


class _Walk:
    """Draws users and their events. Holds the shop's fixed structure: shelves and followers."""

    def __init__(
        self, rng: np.random.Generator, shelf: list[_Item], products: list[Product]
    ) -> None:
        self.rng = rng
        self.shelf = shelf
        self.products = products
        self.by_kind: dict[int, list[_Item]] = defaultdict(list)
        for item in shelf:
            self.by_kind[item.kind].append(item)
        self.stocked = np.array(sorted(self.by_kind))
        # a power law over a shuffled order: rank r is drawn in proportion to 1 / r
        self.popularity = 1.0 / rng.permutation(np.arange(1, len(shelf) + 1)).astype(np.float64)
        self.followers = {
            item.index: [
                self.by_kind[item.kind][int(i)].index
                for i in rng.integers(len(self.by_kind[item.kind]), size=FOLLOWERS)
            ]
            for item in shelf
        }

    def user(self, name: str) -> Iterator[tuple[list[Event], Search | None]]:
        """Every session of one user, oldest first: its events, and its search if it had one."""
        rng = self.rng
        taste = rng.dirichlet(np.full(len(self.stocked), 0.15))
        brands = rng.choice(len(BRANDS), size=2, replace=False)
        user = _User(taste, (int(brands[0]), int(brands[1])), float(rng.random()))
        starts = np.sort(rng.integers(DAYS * DAY_MS, size=2 + int(rng.poisson(4))))
        bought: _Item | None = None
        clock = START_MS
        for number, start in enumerate(starts):
            clock = max(clock + 60_000, START_MS + int(start))  # sessions never overlap
            kind = self._intent(user, bought)
            events, search, purchase = self._session(name, f"{name}-{number}", clock, user, kind)
            clock = events[-1].time
            bought = purchase or bought
            yield events, search

    def _intent(self, user: _User, bought: _Item | None) -> int:
        if bought is not None and self.rng.random() < P_COMPLEMENT:
            wanted = KINDS[bought.kind].then
            for index in self.stocked:
                if KINDS[int(index)].name == wanted:
                    return int(index)
        return int(self.rng.choice(self.stocked, p=user.kinds))

    def _session(
        self, name: str, session: str, clock: int, user: _User, kind: int
    ) -> tuple[list[Event], Search | None, _Item | None]:
        """One visit with one intent: maybe a search, then views, maybe a cart and a purchase."""
        rng = self.rng
        common: dict[str, Any] = {"user": name, "session": session, "source": SOURCE}
        items = self.by_kind[kind]
        weight = self.popularity[[item.index for item in items]].copy()
        weight *= [8.0 if item.brand in user.brands else 1.0 for item in items]
        weight *= [np.exp(-3.0 * abs(item.level - user.level)) for item in items]
        events: list[Event] = []
        search: Search | None = None
        if rng.random() < P_SEARCH:
            target = items[int(rng.choice(len(items), p=weight / weight.sum()))]
            query, factor = self._query(target, items)
            weight *= factor
            search = Search(name, clock, query, {})
            events.append(Event(**common, time=clock, kind=EventKind.SEARCH, query=query))
        weight /= weight.sum()
        seen = items[int(rng.choice(len(items), p=weight))]
        steps = [EventKind.VIEW] * (1 + int(rng.poisson(2.5)))
        if rng.random() < 0.45:
            steps += [EventKind.CART] + ([EventKind.PURCHASE] if rng.random() < 0.7 else [])
        for number, step in enumerate(steps):
            clock += int(rng.integers(5_000, 120_000))
            if step is EventKind.VIEW and number:
                seen = self._next(seen, items, weight)
            product = self.products[seen.index].id
            events.append(Event(**common, time=clock, kind=step, item=product))
            if search is not None:
                gain = 2.0 if step is EventKind.PURCHASE else 1.0
                search.gains[product] = max(gain, search.gains.get(product, 0.0))
        return events, search, seen if steps[-1] is EventKind.PURCHASE else None

    def _next(self, seen: _Item, items: list[_Item], weight: np.ndarray) -> _Item:
        """The item looked at after `seen`: one of its followers, or another fit for the intent."""
        if self.rng.random() < P_FOLLOW:
            return self.shelf[self.followers[seen.index][int(self.rng.integers(FOLLOWERS))]]
        return items[int(self.rng.choice(len(items), p=weight))]

    def _query(self, target: _Item, items: list[_Item]) -> tuple[str, np.ndarray]:
        """Words a shopper would type for `target`, and how well each item fits them (n,)."""
        rng = self.rng
        kind = KINDS[target.kind]
        words = [_pick(rng, (kind.name.lower(), *kind.synonyms))]
        factor = np.ones(len(items))
        if rng.random() < 0.35:
            words.insert(0, COLOURS[target.colour].lower())
            factor *= [6.0 if item.colour == target.colour else 1.0 for item in items]
        if rng.random() < 0.3:
            words.insert(0, _retype(rng, kind, target.size))
            factor *= [6.0 if item.size == target.size else 1.0 for item in items]
        if rng.random() < 0.2:
            words.insert(0, BRANDS[target.brand].lower())
            factor *= [10.0 if item.brand == target.brand else 1.0 for item in items]
        text = " ".join(words)
        return (_mistype(rng, text) if rng.random() < P_TYPO else text), factor


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _retype(rng: np.random.Generator, kind: Kind, size: int) -> str:
    """The size as shoppers write it: "10 inch", "10in" or 10" for "10 in."."""
    number, _, unit = kind.sizes[size].partition(" ")
    spellings = {
        "in.": (f"{number} inch", f"{number}in", f'{number}"'),
        "ft.": (f"{number} feet", f"{number}ft", f"{number} foot"),
        "gal.": (f"{number} gallon", f"{number} gal"),
        "volt": (f"{number}v", f"{number} volts"),
        "lb.": (f"{number} pound", f"{number}lbs"),
    }
    return _pick(rng, spellings.get(unit, (kind.sizes[size],)))


def _mistype(rng: np.random.Generator, text: str) -> str:
    """Drop, double or swap one letter."""
    if len(text) < 4:
        return text
    at = int(rng.integers(1, len(text) - 1))
    how = int(rng.integers(3))
    if how == 0:
        return text[:at] + text[at + 1 :]
    if how == 1:
        return text[:at] + text[at] + text[at:]
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def write_shop(shop: Shop, out: Path) -> dict[str, int]:
    """Write the shop in the project's formats under `out`; returns rows by file name."""
    counts: dict[str, int] = {}
    for name, rows in (("events.jsonl.gz", shop.events), ("products.jsonl.gz", shop.products)):
        with write_text(out / name) as stream:
            for row in rows:
                stream.write(row.model_dump_json(exclude_none=True) + "\n")
        counts[name] = len(rows)
    sequences = shop.sequences()
    counts["sequences.txt.gz"] = write_sequences(out / "sequences.txt.gz", sequences.items())
    with write_text(out / "products.tsv.gz") as stream:
        stream.write("product_uid\tproduct_title\n")
        stream.writelines(f"{product.id}\t{product.title}\n" for product in shop.products)
    counts["products.tsv.gz"] = len(shop.products)
    with (
        write_text(out / "queries.tsv.gz") as queries,
        write_text(out / "qrels.tsv.gz") as qrels,
    ):
        queries.write("query_id\tquery\n")
        qrels.write("query_id\tproduct_uid\tgain\n")
        for number, search in enumerate(shop.searches):
            queries.write(f"q{number}\t{search.query}\n")
            qrels.writelines(f"q{number}\t{item}\t{gain}\n" for item, gain in search.gains.items())
    counts["queries.tsv.gz"] = len(shop.searches)
    with write_text(out / "manifest.json") as stream:
        label = {"synthetic": True, "label": shop.label, "seed": shop.seed, "rows": counts}
        stream.write(json.dumps(label, indent=2) + "\n")
    return counts
