"""Which sequences a step trains on. Everything follows from (seed, epoch), so any worker, and any
run that goes on after a crash, computes the same plan without asking another.

A long sequence is cut into windows of at most `max_length` targets, each event a target once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.corpus import Corpus, Ints
from model.packing import Packed, pack


class Batch(NamedTuple):
    """Packed inputs and the item after each; `share` weighs this worker's mean in the whole."""

    inputs: Packed
    targets: Tensor  # (N,)
    share: float  # this worker's targets over the mean worker's


def windows(corpus: Corpus, max_length: int) -> list[tuple[int, int]]:
    """Bounds in `corpus.events` of every training window (inputs plus one), 2 events or more."""
    found: list[tuple[int, int]] = []
    for user in range(len(corpus)):
        first, end = int(corpus.starts[user]), int(corpus.starts[user + 1])
        while end - first >= 2:
            start = max(first, end - max_length - 1)
            found.append((start, end))
            # the window's first event is the target of its last input one window earlier
            end = start + 1
    return found


class Plan:
    """The order of windows in each epoch, and a worker's part of every step."""

    def __init__(self, corpus: Corpus, max_length: int, batch: int, seed: int) -> None:
        self.events = corpus.events
        self.windows = windows(corpus, max_length)
        if not self.windows:
            raise ValueError("no user has two events; nothing to learn from")
        self.max_length = max_length
        self.batch = batch
        self.seed = seed

    @property
    def steps(self) -> int:
        """Steps of one epoch."""
        return -(-len(self.windows) // self.batch)

    @property
    def targets(self) -> int:
        """Events learned from in one epoch."""
        return sum(end - start - 1 for start, end in self.windows)

    def order(self, epoch: int) -> Ints:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.windows))

    def get(self, order: Ints, step: int, rank: int = 0, workers: int = 1) -> Batch | None:
        """Worker `rank`'s part of a step; `None` if the step has fewer windows than workers."""
        chosen = order[step * self.batch : (step + 1) * self.batch]
        mine = chosen[rank::workers]
        if len(chosen) < workers:
            return None
        cut = [self.events[start:end] for start, end in (self.windows[k] for k in mine)]
        inputs = pack([c[:-1] for c in cut], self.max_length)
        targets = torch.from_numpy(np.concatenate([cut[k][1:] for k in inputs.order]))
        every = sum(self.windows[k][1] - self.windows[k][0] - 1 for k in chosen)
        return Batch(inputs, targets, len(targets) * workers / every)


def latest(history: NDArray[np.int64], max_length: int) -> Ints:
    """The part of a history that the network reads."""
    return history[-max_length:]
