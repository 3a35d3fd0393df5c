"""The try page in a real browser."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import expect

from tests.bento.browser import page
from tests.bento.shop import shop
from tests.bento.web import on_socket

PRODUCT = shop().products[3]


def test_a_search_and_clicks_change_the_recommendations_and_show_tier_and_latency(
    tmp_path: Path,
) -> None:
    with on_socket(tmp_path, deadline_ms=10_000) as url, page() as tab:
        tab.goto(url)
        offers, found = tab.locator("#offers li"), tab.locator("#found li")
        expect(offers).to_have_count(8)
        expect(tab.locator("#offers-state")).to_contain_text("tier popular")
        cold = offers.all_inner_texts()

        tab.get_by_label("Search products").fill(PRODUCT.title)
        tab.get_by_role("button", name="Search").click()
        expect(found.first).to_contain_text(PRODUCT.title)
        expect(tab.locator("#found-state")).to_contain_text("tier ranker")

        found.first.locator("button").click()
        expect(tab.locator("#seen")).to_have_text(PRODUCT.id)
        expect(tab.locator("#offers-state")).to_contain_text("tier ranker")
        expect(tab.locator("#offers-state")).to_contain_text(" ms, model counts-1")
        after_one = offers.all_inner_texts()
        assert after_one != cold, "a click must change what is offered"

        offers.first.locator("button").click()
        expect(tab.locator("#seen")).to_contain_text(", ")
        expect(offers.first).not_to_have_text(after_one[0])

        tab.get_by_role("button", name="Start over").click()
        expect(tab.locator("#offers-state")).to_contain_text("tier popular")
        assert offers.all_inner_texts() == cold


def test_the_page_shows_a_refusal_and_never_runs_what_was_typed(tmp_path: Path) -> None:
    with on_socket(tmp_path, deadline_ms=10_000) as url, page() as tab:
        tab.goto(url)
        expect(tab.locator("#offers li")).to_have_count(8)
        tab.get_by_label("Search products").fill("<img src=x onerror=alert(1)>")
        tab.get_by_role("button", name="Search").click()
        expect(tab.locator("#found-state")).to_contain_text("nothing matches the query")
        expect(tab.locator("#error")).to_have_text("")
        assert tab.locator("main img").count() == 0
        tab.locator("#query").evaluate("e => e.removeAttribute('maxlength')")
        tab.get_by_label("Search products").fill("x" * 300)
        tab.get_by_role("button", name="Search").click()
        expect(tab.locator("#error")).to_contain_text("query")
