"""Items without events take a vector from what is written about them."""

from __future__ import annotations

import numpy as np
import torch

from model.cold import fill_cold_items, words
from model.net import NetConfig, Recommender

GROUPS, EACH = 4, 40
ROWS = [
    {
        "item_id": str(n),
        "title": f"{['drill', 'lamp', 'paint', 'chair'][n % GROUPS]} number {n}",
        "brand": f"brand {n % 3}",
    }
    for n in range(GROUPS * EACH)
]
INDEX = {str(row["item_id"]): n for n, row in enumerate(ROWS)}


def network() -> Recommender:
    """Items of one group lie around one point."""
    torch.manual_seed(0)
    net = Recommender(NetConfig(items=len(ROWS), width=16, layers=1, heads=1))
    centres = torch.randn(GROUPS, 16)
    with torch.no_grad():
        net.item.weight.copy_(centres[torch.arange(len(ROWS)) % GROUPS])
        net.item.weight.add_(0.2 * torch.randn(len(ROWS), 16))
    return net


def events(*cold: int) -> np.ndarray:
    counts = np.full(len(ROWS), 5)
    counts[list(cold)] = 0
    return counts


def test_a_cold_item_comes_to_lie_among_items_with_its_words() -> None:
    net, cold = network(), (0, 1, 2, 3, 77)
    with torch.no_grad():
        net.item.weight[list(cold)] = 0.0
    before = net.item.weight.detach().clone()
    told = fill_cold_items(net, ROWS, INDEX, events(*cold))
    assert told is not None
    assert told.items == len(cold)
    assert told.cosine > 0.8
    table = torch.nn.functional.normalize(net.table().detach(), dim=1)
    for item in cold:
        nearest = (table @ table[item]).topk(6).indices.tolist()[1:]
        assert all(n % GROUPS == item % GROUPS for n in nearest)
    warm = [n for n in range(len(ROWS)) if n not in cold]
    assert torch.equal(net.item.weight.detach()[warm], before[warm])


def test_nothing_changes_without_cold_items_or_without_words_for_them() -> None:
    net = network()
    before = net.item.weight.detach().clone()
    assert fill_cold_items(net, ROWS, INDEX, events()) is None
    assert fill_cold_items(net, [r for r in ROWS if r["item_id"] != "5"], INDEX, events(5)) is None
    assert torch.equal(net.item.weight.detach(), before)


def test_the_words_of_a_row_name_where_they_stand() -> None:
    row = {"title": "Red Lamp", "text": "A red one", "brand": "Acme", "category": ["Home", "Light"]}
    found = set(words(row))
    assert {"title=red", "title=lamp", "pair=red lamp", "text=one", "brand=Acme"} <= found
    assert {"category=Home", "category=Light"} <= found
    assert words({"item_id": "1", "title": None}) == []
