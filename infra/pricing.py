"""What things cost: a dated price table and the arithmetic on it. No engine, no network.

Money is USD as `Decimal`; a month has 730 hours. `prices.csv` holds one row per thing, region and
unit, with the day it was read and how far it can be trusted:

- `list`: read in a price list of that day;
- `derived`: another region's list price times the usual ratio of the two;
- `recalled`: the public list price as known, not read again on that day.

Whatever has no row is `Unpriced`: an error, never zero.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal, InvalidOperation
from functools import cache
from pathlib import Path

HOURS_PER_MONTH = Decimal(730)
CENT = Decimal("0.01")
GLOBAL = "global"  # the region of services that have none
BASES = ("list", "derived", "recalled")
TABLE = Path(__file__).with_name("prices.csv")


class Unpriced(LookupError):  # noqa: N818 - read as a verdict: "this is unpriced"
    """No price is known; the text says of what and what to do."""


class PriceTableError(ValueError):
    """The price table cannot be read; the text names the line."""


@dataclass(frozen=True, slots=True)
class Price:
    """One row: `usd` for one `unit` of `sku` in `region`."""

    sku: str
    region: str
    unit: str
    usd: Decimal
    basis: str
    date: date
    source: str
    gpus: int = 0
    """GPUs of one instance; 0 for everything that is not an instance with GPUs."""
    gpu: str = ""

    @property
    def usd_month(self) -> Decimal:
        """What one of it costs when it runs all month. Only for units of time."""
        if self.unit == "hour":
            return self.usd * HOURS_PER_MONTH
        if self.unit == "month":
            return self.usd
        raise ValueError(f"{self.sku} is sold by the {self.unit}; give a quantity")


class PriceTable:
    """Prices by thing and region."""

    def __init__(self, prices: Iterable[Price]) -> None:
        self._prices: dict[tuple[str, str], Price] = {}
        for price in prices:
            key = (price.sku, price.region)
            if key in self._prices:
                raise PriceTableError(f"{price.sku} in {price.region} has two prices; keep one")
            self._prices[key] = price

    def __iter__(self) -> Iterator[Price]:
        return iter(self._prices.values())

    def get(self, sku: str, region: str) -> Price:
        """The price of `sku` in `region`. Raises `Unpriced`."""
        found = self._prices.get((sku, region)) or self._prices.get((sku, GLOBAL))
        if found is None:
            where = sorted(place for name, place in self._prices if name == sku)
            known = f"it is priced in {', '.join(where)}" if where else "nor has any other region"
            raise Unpriced(
                f"{sku} has no price in {region or 'an unnamed region'}, {known}; "
                "add a row to infra/prices.csv"
            )
        return found

    def older_than(self, day: date) -> list[Price]:
        """Rows read before `day`."""
        return [price for price in self._prices.values() if price.date < day]


def read_table(path: Path = TABLE) -> PriceTable:
    """The table in a CSV file. Raises `PriceTableError`."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream)
        return PriceTable([_price(row, rows.line_num, path) for row in rows])


def _price(row: Mapping[str, str], line: int, path: Path) -> Price:
    try:
        price = Price(
            sku=row["sku"],
            region=row["region"],
            unit=row["unit"],
            usd=Decimal(row["usd"]),
            basis=row["basis"],
            date=date.fromisoformat(row["date"]),
            source=row["source"],
            gpus=int(row["gpus"]),
            gpu=row["gpu"],
        )
    except (KeyError, TypeError, ValueError, InvalidOperation) as error:
        raise PriceTableError(f"{path.name}:{line}: {error!r}; see the header line") from None
    if (
        price.basis not in BASES
        or not price.source
        or price.usd <= 0
        or bool(price.gpu) != bool(price.gpus)
    ):
        raise PriceTableError(
            f"{path.name}:{line}: {price.sku}: give a price above 0, one of {', '.join(BASES)}, "
            "a source, and both or neither of gpus and gpu"
        )
    return price


@cache
def prices() -> PriceTable:
    """The table of this repository."""
    return read_table()


@dataclass(frozen=True, slots=True, kw_only=True)
class OnPremise:
    """One server model of the private site, as the books see it.

    `power_kw` is drawn from the wall at usual load; `pue` is total power over server power.
    """

    capex_usd: Decimal
    years: Decimal = Decimal(4)
    interest: Decimal = Decimal("0.05")
    """Yearly cost of the money that is tied up, on the average book value."""
    power_kw: Decimal
    pue: Decimal = Decimal("1.4")
    usd_per_kwh: Decimal
    rack_usd_month: Decimal
    support_share: Decimal = Decimal("0.05")
    """Yearly maintenance as a share of capex."""
    gpus: int
    gpu: str
    vcpus: int
    memory_gib: int
    utilisation: Decimal = Decimal("0.7")
    """Hours sold over hours owned: idle hours are paid by the busy ones."""

    def __post_init__(self) -> None:
        for name in ("capex_usd", "years", "power_kw", "vcpus", "memory_gib"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; give more than 0")
        if not 0 < self.utilisation <= 1:
            raise ValueError(f"utilisation is {self.utilisation}; give a share above 0, up to 1")
        if self.pue < 1:
            raise ValueError(f"pue is {self.pue}; total power is at least the servers', 1 or more")
        if (self.gpus > 0) != bool(self.gpu) or self.gpus < 0:
            raise ValueError(f"gpus is {self.gpus} and gpu {self.gpu!r}; give both or neither")

    @property
    def usd_month(self) -> Decimal:
        """What one server costs a month, used or not."""
        straight_line = self.capex_usd / (self.years * 12)
        interest = self.capex_usd / 2 * self.interest / 12  # half is paid back on average
        support = self.capex_usd * self.support_share / 12
        power = self.power_kw * self.pue * HOURS_PER_MONTH * self.usd_per_kwh
        return straight_line + interest + support + power + self.rack_usd_month

    # A server without GPUs is paid by its CPUs and memory alone; one with them mostly by them.
    _GPU_SHARE = Decimal("0.85")

    @property
    def gpu_hour(self) -> Decimal:
        """USD of one GPU for one busy hour. Raises `Unpriced` for a server without."""
        if not self.gpus:
            raise Unpriced("this server has no GPU; price it by CPU and memory")
        return self._sold_hour * self._GPU_SHARE / self.gpus

    @property
    def vcpu_hour(self) -> Decimal:
        """USD of one vCPU for one busy hour: half of what the GPUs leave."""
        return self._sold_hour * self._rest / 2 / self.vcpus

    @property
    def gib_hour(self) -> Decimal:
        """USD of one GiB of memory for one busy hour: the other half."""
        return self._sold_hour * self._rest / 2 / self.memory_gib

    @property
    def _sold_hour(self) -> Decimal:
        return self.usd_month / HOURS_PER_MONTH / self.utilisation

    @property
    def _rest(self) -> Decimal:
        return 1 - self._GPU_SHARE if self.gpus else Decimal(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One position of a monthly bill. `ceiling` is what it can reach when all limits are used."""

    resource: str
    component: str
    team: str
    sku: str
    quantity: Decimal
    unit: str
    usd: Decimal
    ceiling: Decimal
    basis: str
    gpu: str = ""
    gpu_hours: Decimal = Decimal(0)
    note: str = ""


@dataclass(frozen=True, slots=True)
class GpuRate:
    """One kind's part of the whole bill; the parts of all kinds add up to it, to the cent."""

    kind: str
    hours: Decimal
    direct: Decimal
    shared: Decimal

    @property
    def usd(self) -> Decimal:
        return self.direct + self.shared

    @property
    def usd_per_hour(self) -> Decimal:
        """The full price of one GPU-hour: machine, and its share of everything around it."""
        return self.usd / self.hours


@dataclass(frozen=True, slots=True)
class Estimate:
    """A month's bill."""

    lines: tuple[Line, ...]

    @property
    def total(self) -> Decimal:
        """To the cent."""
        return cents(sum((line.usd for line in self.lines), Decimal(0)))

    @property
    def ceiling(self) -> Decimal:
        """With every burst limit used all month."""
        return cents(sum((line.ceiling for line in self.lines), Decimal(0)))

    def by(self, key: Callable[[Line], str]) -> dict[str, Decimal]:
        """Parts of the total that add up to it, largest first."""
        sums: dict[str, Decimal] = {}
        for line in self.lines:
            sums[key(line)] = sums.get(key(line), Decimal(0)) + line.usd
        parts = dict(zip(sums, split(self.total, list(sums.values())), strict=True))
        return dict(sorted(parts.items(), key=lambda part: (-part[1], part[0])))

    def gpu_rates(self) -> list[GpuRate]:
        """The whole bill as GPU-hours by kind; empty when nothing uses a GPU.

        What is no GPU's own cost is shared by hours: a cheap GPU needs the same network and
        control plane for an hour as a dear one.
        """
        hours: dict[str, Decimal] = {}
        direct: dict[str, Decimal] = {}
        for line in self.lines:
            if line.gpu and line.gpu_hours > 0:
                hours[line.gpu] = hours.get(line.gpu, Decimal(0)) + line.gpu_hours
                direct[line.gpu] = direct.get(line.gpu, Decimal(0)) + line.usd
        if not hours:
            return []
        own = {kind: cents(usd) for kind, usd in direct.items()}
        rest = split(self.total - sum(own.values(), Decimal(0)), list(hours.values()))
        return [
            GpuRate(kind, hours[kind], own[kind], shared)
            for kind, shared in zip(hours, rest, strict=True)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Guardrail:
    """Limits of a month's bill; None where there is none."""

    total_usd: Decimal | None = None
    ceiling_usd: Decimal | None = None
    rise_usd: Decimal | None = None
    rise_percent: Decimal | None = None

    def broken(self, total: Decimal, ceiling: Decimal, accepted: Decimal | None) -> list[str]:
        """Why this bill needs a person's yes; `accepted` is the last one that got it."""
        found: list[str] = []
        if self.total_usd is not None and total > self.total_usd:
            found.append(f"{total:.2f} USD a month is over the budget of {self.total_usd:.2f}")
        if self.ceiling_usd is not None and ceiling > self.ceiling_usd:
            found.append(
                f"with every limit used it can reach {ceiling:.2f} USD a month, "
                f"over the ceiling of {self.ceiling_usd:.2f}"
            )
        if accepted is None:
            if self.rise_usd is not None or self.rise_percent is not None:
                found.append("no estimate was accepted yet, so its rise cannot be judged")
            return found
        rise = total - accepted
        if self.rise_usd is not None and rise > self.rise_usd:
            found.append(
                f"it rises by {rise:.2f} USD from {accepted:.2f}, over {self.rise_usd:.2f}"
            )
        # Compared without a division, so that a rise from nothing is infinite, not an error.
        if self.rise_percent is not None and rise * 100 > self.rise_percent * accepted:
            by = f"{rise * 100 / accepted:.1f} %" if accepted else f"{rise:.2f} USD from nothing"
            found.append(f"it rises by {by}, over {self.rise_percent} %")
        return found


def cents(usd: Decimal) -> Decimal:
    """To the cent, halves away from zero."""
    return usd.quantize(CENT, rounding=ROUND_HALF_UP)


def split(amount: Decimal, weights: Sequence[Decimal]) -> list[Decimal]:
    """`amount` (whole cents) in parts by weight that add up to it exactly.

    The cents that rounding leaves go to the largest remainders. All weights zero: equal parts.
    """
    if not weights:
        return []
    whole = sum(weights, Decimal(0))
    shares = [weight / whole if whole else Decimal(1) / len(weights) for weight in weights]
    exact = [amount * share for share in shares]
    parts = [part.quantize(CENT, rounding=ROUND_DOWN) for part in exact]
    left = int((amount - sum(parts, Decimal(0))) / CENT)
    order = sorted(range(len(parts)), key=lambda i: abs(exact[i] - parts[i]), reverse=True)
    for position in range(abs(left)):
        parts[order[position % len(order)]] += CENT if left > 0 else -CENT
    return parts
