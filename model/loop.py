"""One fit: epochs of next-item training with early stopping, exact resume and several workers.

Everything random in a step follows from (seed, step): the run that goes on after `kill -9` draws
what the uninterrupted one would have drawn, so their losses are equal (bit by bit on one machine
with the same threads; to rounding when the number of workers changed, dropout aside).

Units: a step is one optimiser update over `batch` windows of all workers together.
Raises `FloatingPointError` when the loss stops being finite, naming the step.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from model.batches import Batch, Plan
from model.corpus import Corpus, Ints
from model.loss import NegativeSampler, full_softmax_loss, sampled_softmax_loss
from model.net import Recommender
from model.packing import Packed
from model.settings import TrainConfig
from model.workers import Workers


class Objective(nn.Module):
    """Network and loss in one forward, the unit that DDP and FSDP2 wrap."""

    def __init__(self, net: Recommender, config: TrainConfig) -> None:
        super().__init__()
        self.net = net
        self.smoothing = config.smoothing

    def forward(
        self, inputs: Packed, targets: Tensor, negatives: Tensor | None, log_expected: Tensor | None
    ) -> Tensor:
        """Mean loss over this worker's targets, a scalar."""
        net = self.net
        if negatives is None or log_expected is None:
            states, table = net(inputs)
            return full_softmax_loss(states, net.as_keys(table), targets, self.smoothing)
        n = len(inputs.items)
        rows = net.rows(torch.cat([inputs.items, targets, negatives]))
        states = net.encode(inputs, rows[:n])
        keys = net.as_keys(rows[n:])
        return sampled_softmax_loss(states, keys[:n], targets, keys[n:], negatives, log_expected)


@dataclass
class Best:
    """The evaluation that early stopping would return to."""

    epoch: int = 0  # epochs trained when it was taken
    ndcg: float = -1.0
    metrics: dict[str, float] = field(default_factory=dict[str, float])


@dataclass
class Place:
    """Where a fit stands; saved with the tensors."""

    epoch: int = 0
    step: int = 0  # within the epoch
    total: int = 0  # over all epochs
    since_best: int = 0
    best: Best = field(default_factory=Best)
    finished: bool = False


class Watcher(Protocol):
    """What a fit tells while it runs."""

    def step(self, place: Place, loss: float, targets: int) -> None: ...
    def evaluated(self, place: Place, metrics: dict[str, float]) -> None: ...


class Fit:
    """Network, optimiser, average and place of one fit; `run` moves it to its end."""

    def __init__(
        self,
        net: Recommender,
        corpus: Corpus,
        config: TrainConfig,
        workers: Workers,
        *,
        epochs: int,
        evaluate: Callable[[Recommender], dict[str, float]] | None = None,
    ) -> None:
        self.config, self.workers, self.epochs, self.evaluate = config, workers, epochs, evaluate
        self.plan = Plan(corpus, net.config.max_length, config.batch, config.seed)
        self.net = net.to(workers.device)
        self.objective = Objective(self.net, config)
        if config.sharded:
            workers.shard(self.objective)
        self.optimiser = torch.optim.AdamW(
            self.net.parameters(),
            lr=config.lr,
            betas=(0.9, 0.98),
            weight_decay=config.weight_decay,
            fused=not config.sharded,
        )
        self.average = (
            {name: p.detach().clone() for name, p in self.net.named_parameters()}
            if config.ema
            else {}
        )
        self.best_weights: dict[str, Tensor] = {}
        self.place = Place()
        self.sampler = (
            NegativeSampler(torch.from_numpy(corpus.popularity()), config.negatives, config.uniform)
            if config.negatives
            else None
        )
        self._forward: Callable[..., Tensor] = self._wrapped()

    def _wrapped(self) -> Callable[..., Tensor]:
        wrapped: nn.Module = self.objective
        if self.config.compile:
            wrapped = cast("nn.Module", torch.compile(wrapped, dynamic=True))
        if self.workers.count > 1 and not self.config.sharded:
            # a batch without a hidden item gives `hidden_item` no gradient on that worker
            wrapped = DistributedDataParallel(wrapped, find_unused_parameters=True)
        return wrapped

    def run(
        self,
        watcher: Watcher,
        save: Callable[[], None],
        stop_after: int | None = None,
    ) -> None:
        """Train to the end (or for `stop_after` more steps), calling `save` as configured."""
        place, config = self.place, self.config
        budget = stop_after
        while place.epoch < self.epochs and not place.finished:
            order = self.plan.order(place.epoch)
            self.net.train()
            while place.step < self.plan.steps:
                if budget is not None and budget <= 0:
                    return
                done = self._step(order)
                place.step += 1
                place.total += 1
                budget = None if budget is None else budget - 1
                if done is not None:
                    watcher.step(place, *done)
                if place.total % config.save_every == 0 and place.step < self.plan.steps:
                    save()
            place.epoch, place.step = place.epoch + 1, 0
            self._end_of_epoch(watcher)
            save()
        place.finished = True

    def _step(self, order: Ints) -> tuple[float, int] | None:
        """One update: the loss before it and the targets of this worker."""
        place, config, workers = self.place, self.config, self.workers
        torch.manual_seed(_mix(config.seed, place.total, workers.rank))
        for group in self.optimiser.param_groups:
            group["lr"] = config.lr * min(1.0, (place.total + 1) / max(1, config.warmup))
        batch = self.plan.get(order, place.step, workers.rank, workers.count)
        if batch is None:  # the last few windows of an epoch, fewer than workers
            return None
        loss = self._loss(batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), config.clip)
        value = workers.mean(loss.detach())
        if not np.isfinite(value):
            raise FloatingPointError(
                f"the loss is {value} at step {place.total} (epoch {place.epoch}); "
                "lower --lr, or look at the data of this step; the last saved state is intact"
            )
        self.optimiser.step()
        self._follow()
        return value, len(batch.targets)

    def _loss(self, batch: Batch) -> Tensor:
        workers = self.workers
        negatives = log_expected = None
        if self.sampler is not None:
            # every worker compares with the same negatives: one draw, by the step alone
            generator = torch.Generator().manual_seed(
                _mix(self.config.seed, self.place.total, 1_000_003)
            )
            negatives, log_expected = self.sampler.draw(generator)
            negatives = negatives.to(workers.device)
            log_expected = log_expected.to(workers.device)
        with self._precision():
            loss = self._forward(
                batch.inputs.to(workers.device),
                batch.targets.to(workers.device),
                negatives,
                log_expected,
            )
        # workers' gradients are averaged; the share makes that the mean over all targets
        return loss * batch.share

    def _precision(self) -> AbstractContextManager[Any]:
        if self.config.precision == "bf16":
            return torch.autocast(self.workers.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def _follow(self) -> None:
        """Move the averaged weights a little; early on they follow closely."""
        if not self.average:
            return
        step = self.place.total
        keep = min(self.config.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            names = list(self.average)
            now = dict(self.net.named_parameters())
            for name in names:
                self.average[name].lerp_(now[name].detach(), 1 - keep)

    def _end_of_epoch(self, watcher: Watcher) -> None:
        place, config = self.place, self.config
        last = place.epoch >= self.epochs
        if self.evaluate is None or (place.epoch % config.evaluate_every and not last):
            return
        # sharded weights are gathered by all workers together, so all of them evaluate
        gathered = self.config.sharded or self.workers.count == 1
        metrics = self._evaluated() if gathered else self.workers.from_first(self._evaluated)
        place.since_best += 1
        if metrics["ndcg@10"] > place.best.ndcg:
            place.best = Best(place.epoch, metrics["ndcg@10"], metrics)
            place.since_best = 0
            self.best_weights = self.weights()
        place.finished = place.since_best >= config.patience
        watcher.evaluated(place, metrics)

    def _evaluated(self) -> dict[str, float]:
        assert self.evaluate is not None
        with self.averaged(), self.workers.whole(self.objective, self.config.sharded):
            return self.evaluate(self.net)

    def weights(self) -> dict[str, Tensor]:
        """A copy of the weights that would be used: the averages, or the weights themselves."""
        source = self.average or dict(self.net.named_parameters())
        return {name: p.detach().clone() for name, p in source.items()}

    def averaged(self) -> AbstractContextManager[None]:
        """Use the averaged weights, in eval mode, inside a `with`."""
        return _Swapped(self.net, self.average)


class _Swapped(AbstractContextManager[None]):
    """Parameters exchanged with `other` on entry, and back on exit."""

    def __init__(self, net: nn.Module, other: dict[str, Tensor]) -> None:
        self.net, self.other = net, other

    def _swap(self) -> None:
        with torch.no_grad():
            for name, parameter in self.net.named_parameters():
                if name in self.other:
                    kept = parameter.detach().clone()
                    parameter.copy_(self.other[name])
                    self.other[name].copy_(kept)

    def __enter__(self) -> None:
        self._swap()
        self.net.eval()

    def __exit__(self, *_: object) -> None:
        self._swap()
        self.net.train()


def use(net: Recommender, weights: dict[str, Tensor]) -> Recommender:
    """Copy weights into a network and put it in eval mode."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.copy_(weights[name])
    return net.eval()


def _mix(*numbers: int) -> int:
    """One well-spread seed from several numbers."""
    return int(np.random.SeedSequence(list(numbers)).generate_state(1, np.uint64)[0] >> 1)
