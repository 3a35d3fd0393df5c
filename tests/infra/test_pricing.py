"""The price table and the arithmetic of a bill."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.pricing import (
    CENT,
    Estimate,
    Guardrail,
    Line,
    OnPremise,
    PriceTable,
    PriceTableError,
    Unpriced,
    cents,
    prices,
    read_table,
    split,
)

money = st.decimals(min_value=0, max_value=10**6, places=4)
SERVER = OnPremise(
    capex_usd=Decimal(250_000), power_kw=Decimal(8), usd_per_kwh=Decimal("0.2"),
    rack_usd_month=Decimal(800), gpus=8, gpu="H100", vcpus=192, memory_gib=2048,
)  # fmt: skip


def line(usd: Decimal, **fields: object) -> Line:
    values: dict[str, object] = {
        "resource": "r", "component": "c", "team": "t", "sku": "s", "quantity": Decimal(1),
        "unit": "month", "usd": usd, "ceiling": usd, "basis": "list", **fields,
    }  # fmt: skip
    return Line(**values)  # type: ignore[arg-type]


def test_every_row_says_where_and_when_it_was_read():
    rows = list(prices())
    assert len(rows) > 80
    for row in rows:
        assert row.source.startswith(("https://", "us-east-1 row x ")), row
        assert date(2025, 1, 1) < row.date <= date.today(), row


def test_a_regional_row_is_never_cheaper_than_half_or_dearer_than_twice_the_first_region():
    for row in prices():
        if row.region not in {"us-east-1", "global"}:
            ratio = row.usd / prices().get(row.sku, "us-east-1").usd
            assert Decimal("0.5") < ratio < 2, f"{row}: a slip of the decimal point?"


def test_what_has_no_row_is_unpriced_and_never_free():
    with pytest.raises(Unpriced, match=r"ec2.z9.mega has no price in eu-central-1.*prices.csv"):
        prices().get("ec2.z9.mega", "eu-central-1")
    with pytest.raises(Unpriced, match="it is priced in eu-central-1, us-east-1"):
        prices().get("ec2.g6.xlarge", "mars-north-1")


def test_a_global_price_answers_for_every_region():
    assert prices().get("route53.zone", "eu-central-1").usd == Decimal("0.5")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("x,us-east-1,hour,one,list,2026-01-01,0,,https://x", "prices.csv:2"),
        ("x,us-east-1,hour,0,list,2026-01-01,0,,https://x", "above 0"),
        ("x,us-east-1,hour,1,guess,2026-01-01,0,,https://x", "one of list"),
        ("x,us-east-1,hour,1,list,2026-01-01,8,,https://x", "both or neither"),
        ("x,us-east-1,hour,1,list,yesterday,0,,https://x", "prices.csv:2"),
        ("x,us-east-1,hour,1,list,2026-01-01,0,,a\nx,us-east-1,hour,2,list,2026-01-01,0,,a",
         "two prices"),
    ],
)  # fmt: skip
def test_a_bad_table_names_its_line(tmp_path: Path, row: str, says: str):
    file = tmp_path / "prices.csv"
    file.write_text("sku,region,unit,usd,basis,date,gpus,gpu,source\n" + row + "\n")
    with pytest.raises(PriceTableError, match=says):
        read_table(file)


def test_a_gpu_hour_of_an_own_server_pays_for_capital_interest_support_power_and_rack():
    # 250000/48 + 125000*.05/12 + 250000*.05/12 + 8*1.4*730*.2 + 800, by hand
    assert cents(SERVER.usd_month) == Decimal("9206.03")
    # of that 85 % over 8 GPUs, 730 hours, 70 % of them busy
    assert cents(SERVER.gpu_hour) == Decimal("1.91")


def test_an_own_servers_parts_sold_at_its_utilisation_pay_for_the_whole_server():
    hours = 730 * SERVER.utilisation
    sold = hours * (
        SERVER.gpu_hour * SERVER.gpus
        + SERVER.vcpu_hour * SERVER.vcpus
        + SERVER.gib_hour * SERVER.memory_gib
    )
    assert abs(sold - SERVER.usd_month) < Decimal("0.0001")


@pytest.mark.parametrize(
    ("field", "value"), [("utilisation", 0), ("pue", "0.9"), ("capex_usd", 0), ("gpus", 0)]
)
def test_a_server_that_cannot_be_is_refused(field: str, value: object):
    fields = {name: getattr(SERVER, name) for name in OnPremise.__slots__}
    changed = value if field == "gpus" else Decimal(str(value))
    with pytest.raises(ValueError, match=field):
        OnPremise(**{**fields, field: changed})


@given(
    amount=st.decimals(min_value=-(10**7), max_value=10**7, places=2),
    weights=st.lists(money, min_size=1, max_size=20),
)
def test_parts_add_up_to_the_amount_to_the_cent(amount: Decimal, weights: list[Decimal]):
    parts = split(amount, weights)
    assert sum(parts) == amount
    assert all(part == part.quantize(CENT) for part in parts)


@given(st.lists(st.tuples(money, st.sampled_from(["", "H100", "L4"]), money), max_size=30))
def test_gpu_hours_by_kind_sum_to_the_bill(bill: list[tuple[Decimal, str, Decimal]]):
    estimate = Estimate(tuple(line(usd, gpu=kind, gpu_hours=hours) for usd, kind, hours in bill))
    rates = estimate.gpu_rates()
    if not rates:
        assert not any(kind and hours for _, kind, hours in bill)
        return
    assert sum(rate.usd for rate in rates) == estimate.total
    assert sum(rate.hours for rate in rates) == sum(hours for _, kind, hours in bill if kind)


@given(st.lists(st.tuples(money, st.sampled_from("abc")), min_size=1, max_size=30))
def test_teams_and_components_sum_to_the_bill(bill: list[tuple[Decimal, str]]):
    estimate = Estimate(tuple(line(usd, team=team) for usd, team in bill))
    assert sum(estimate.by(lambda one: one.team).values()) == estimate.total


RAIL = Guardrail(total_usd=Decimal(100), rise_usd=Decimal(20), rise_percent=Decimal(10))


@pytest.mark.parametrize(
    ("total", "accepted", "says"),
    [
        (100, 95, []),
        (101, 95, ["over the budget of 100.00"]),
        (90, 60, ["rises by 30.00 USD", "rises by 50.0 %"]),
        (11, 10, []),
        ("11.01", 10, ["rises by 10.1 %"]),
        (5, 0, ["from nothing"]),
        (50, 90, []),
        (50, None, ["no estimate was accepted yet"]),
    ],
)
def test_a_guardrail_breaks_past_its_limit_and_not_at_it(
    total: object, accepted: object, says: list[str]
):
    before = None if accepted is None else Decimal(str(accepted))
    broken = RAIL.broken(Decimal(str(total)), Decimal(0), before)
    assert len(broken) == len(says), broken
    assert all(expected in found for expected, found in zip(says, broken, strict=True))


def test_a_ceiling_is_judged_on_limits_not_on_expected_use():
    rail = Guardrail(ceiling_usd=Decimal(1000))
    assert rail.broken(Decimal(10), Decimal(1000), None) == []
    assert "can reach 1000.01" in rail.broken(Decimal(10), Decimal("1000.01"), None)[0]


def test_old_rows_are_found_by_date():
    assert isinstance(prices(), PriceTable)
    assert len(prices().older_than(date(2026, 6, 1))) > 20
    assert prices().older_than(date(2020, 1, 1)) == []
