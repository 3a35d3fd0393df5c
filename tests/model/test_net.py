"""The network: causality, packing, losses; a tiny model must learn eight users by heart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from model.batches import Plan, windows
from model.corpus import build
from model.fit import use
from model.loop import Fit
from model.loss import NegativeSampler, full_softmax_loss, sampled_softmax_loss
from model.metrics import MISSED, bootstrap, gains, mask_seen, rank_of
from model.net import NetConfig, Recommender
from model.packing import pack
from model.runlog import Silence
from model.scoring import encode, ranks
from model.settings import TrainConfig
from model.workers import Workers

ITEMS = 30


def network(**changes: object) -> Recommender:
    torch.manual_seed(3)
    fields = {"items": ITEMS, "width": 16, "layers": 2, "heads": 2, "max_length": 12, "dropout": 0}
    return Recommender(NetConfig.model_validate(fields | changes)).eval()


def sequences(*lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    return [rng.integers(0, ITEMS, n) for n in lengths]


def test_a_state_does_not_see_what_comes_after_it() -> None:
    net, (whole,) = network(), sequences(9)
    changed = whole.copy()
    changed[6:] = (changed[6:] + 1) % ITEMS
    first, _ = net(pack([whole], 12))
    second, _ = net(pack([changed], 12))
    torch.testing.assert_close(first[:6], second[:6])
    assert not torch.allclose(first[6:], second[6:])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=9))
def test_packed_sequences_give_what_each_gives_alone(lengths: list[int]) -> None:
    net, given_ = network(), sequences(*lengths)
    together = encode(net, given_)
    alone = torch.cat([encode(net, [one]) for one in given_])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=9), st.integers(1, 3))
def test_the_last_states_alone_are_those_among_all(lengths: list[int], layers: int) -> None:
    net = network(layers=layers)
    batch = pack(sequences(*lengths), 12)
    rows = net.rows(batch.items)
    every, last = net.encode(batch, rows)[batch.ends], net.encode(batch, rows, last=True)
    torch.testing.assert_close(last, every, rtol=1e-4, atol=1e-5)


def test_a_sequence_longer_than_the_network_is_refused_by_pack() -> None:
    with pytest.raises(ValueError, match="1 to 12 events"):
        pack(sequences(13), 12)


def test_every_event_but_a_users_first_is_a_target_exactly_once() -> None:
    corpus = build([("a", [str(n) for n in range(23)]), ("b", ["1", "2"]), ("c", ["4"])])
    targets = [e for s, end in windows(corpus, 5) for e in range(s + 1, end)]
    starts = set(corpus.starts[:-1].tolist())
    assert sorted(targets) == [n for n in range(len(corpus.events)) if n not in starts]


def test_targets_are_the_next_items() -> None:
    corpus = build([("a", ["5", "6", "7"]), ("b", ["8", "9"])])
    plan = Plan(corpus, 5, 2, 0)
    batch = plan.get(np.arange(2), 0)
    assert batch is not None
    names = [corpus.items[i] for i in batch.inputs.items.tolist()]
    nexts = [corpus.items[i] for i in batch.targets.tolist()]
    assert list(zip(names, nexts, strict=True)) == [("8", "9"), ("5", "6"), ("6", "7")]


def test_sampled_softmax_over_every_item_is_the_full_softmax() -> None:
    torch.manual_seed(0)
    states, keys = torch.randn(6, 4), torch.randn(9, 4)
    targets = torch.tensor([0, 1, 2, 3, 4, 8])
    everything = torch.arange(9)
    sampled = sampled_softmax_loss(states, keys[targets], targets, keys, everything, torch.zeros(9))
    torch.testing.assert_close(sampled, full_softmax_loss(states, keys, targets))


def test_log_q_makes_the_sampled_sum_an_estimate_of_the_whole_sum() -> None:
    torch.manual_seed(0)
    scores = torch.randn(50)
    sampler = NegativeSampler(torch.arange(50) ** 2, 20_000)
    drawn, log_expected = sampler.draw()
    estimate = torch.logsumexp(scores[drawn] - log_expected, 0)
    torch.testing.assert_close(estimate, torch.logsumexp(scores, 0), rtol=0.02, atol=0.02)


def test_rows_of_some_items_equal_those_of_the_table() -> None:
    rows = [{"item_id": str(n), "attributes": [n % 3, n % 5][: n % 3]} for n in range(ITEMS)]
    corpus = build([("u", ["1", "2"])], rows)
    assert corpus.features is not None
    net = Recommender(
        NetConfig(
            items=ITEMS, width=8, layers=1, heads=1, attribute_values=corpus.features.count,
            attribute_links=len(corpus.features.values),
        ),
        corpus.features,
    )  # fmt: skip
    some = torch.tensor([7, 0, 29, 7, 3])
    torch.testing.assert_close(net.rows(some), net.table()[some])


def test_metrics_by_hand() -> None:
    scores = torch.tensor([[0.9, 0.5, 0.5, 0.1], [0.4, 0.3, 0.2, 0.1]])
    mask_seen(scores, [np.array([0]), np.array([3])])
    # row 0: item 0 is seen, items 1 and 2 tie and the lower goes first; row 1: the target is seen
    found = rank_of(scores, np.array([2, 3]))
    assert found.tolist() == [1, MISSED]
    result = gains(found)
    assert result["hr@10"].tolist() == [1.0, 0.0]
    assert result["ndcg@10"].tolist() == [pytest.approx(1 / np.log2(3)), 0.0]
    assert result["mrr"].tolist() == [0.5, 0.0]


def test_a_bootstrap_interval_holds_the_mean_and_narrows_with_users() -> None:
    few, many = (np.random.default_rng(1).random(n) for n in (50, 5000))
    for values in (few, many):
        low, high = bootstrap(values)
        assert low < values.mean() < high
    assert np.ptp(bootstrap(many)) < np.ptp(bootstrap(few)) / 4


def test_a_tiny_model_learns_eight_users_by_heart() -> None:
    rng = np.random.default_rng(0)
    users = [(f"u{n}", [str(i) for i in rng.permutation(40)[:7]]) for n in range(8)]
    corpus = build([*users, ("all", [str(i) for i in range(40)])])
    config = NetConfig(items=40, width=32, layers=1, heads=1, max_length=40, dropout=0)
    train = TrainConfig(batch=9, lr=5e-3, warmup=5, ema=0)
    fit = Fit(Recommender(config), corpus, train, Workers("cpu"), epochs=120)
    fit.run(Silence(), lambda: None)
    histories = [corpus.sequence(n)[:-1] for n in range(8)]
    nexts = np.array([corpus.sequence(n)[-1] for n in range(8)])
    assert ranks(fit.net.eval(), histories, nexts).tolist() == [0] * 8


def test_a_loss_that_is_not_finite_stops_and_names_the_step() -> None:
    corpus = build([("a", ["1", "2", "3"]), ("b", ["2", "3"])])
    net = Recommender(NetConfig(items=3, width=4, layers=1, heads=1, dropout=0))
    fit = Fit(net, corpus, TrainConfig(batch=2), Workers("cpu"), epochs=9)
    fit.run(Silence(), lambda: None, stop_after=2)
    with torch.no_grad():
        net.item.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="at step 2"):
        fit.run(Silence(), lambda: None)


def test_weights_put_into_a_network_are_the_ones_it_uses() -> None:
    first, second = network(), network(layers=2)
    weights = {n: torch.full_like(p, 0.5) for n, p in first.named_parameters()}
    use(second, weights)
    assert all(bool((p == 0.5).all()) for p in second.parameters())
    assert F.cosine_similarity(second.table()[:1], torch.ones(1, 16)).item() == pytest.approx(1)
