"""Next-item losses: full softmax for small catalogues, sampled softmax for large ones.

Shapes: n targets, W width, V items, m sampled negatives shared by the whole batch. Targets are the
item after each event; an event without a next item is not in `states` at all, so nothing needs
masking. Both return a scalar mean over the n targets.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def full_softmax_loss(
    states: Tensor, keys: Tensor, targets: Tensor, smoothing: float = 0.0
) -> Tensor:
    """Exact cross-entropy: states (n, W), keys (V, W), targets (n,)."""
    return F.cross_entropy((states @ keys.T).float(), targets, label_smoothing=smoothing)


def sampled_softmax_loss(
    states: Tensor,
    target_keys: Tensor,
    targets: Tensor,
    negative_keys: Tensor,
    negatives: Tensor,
    log_expected: Tensor,
) -> Tensor:
    """Cross-entropy over the target and m shared negatives, corrected by logQ.

    `log_expected` (m,) is the log of how often each negative is expected in the sample
    (m x its probability); subtracting it makes the sum over negatives an unbiased estimate of the
    sum over the catalogue. A negative that happens to be the target is left out for that row.
    """
    positive = (states * target_keys).sum(-1, keepdim=True).float()
    negative = (states @ negative_keys.T).float() - log_expected
    clash = negatives[None, :] == targets[:, None]
    negative = negative.masked_fill(clash, float("-inf"))
    return (torch.logsumexp(torch.cat([positive, negative], dim=1), dim=1) - positive[:, 0]).mean()


class NegativeSampler:
    """Draws item numbers: a share uniformly, the rest by popularity ** `power`."""

    def __init__(self, popularity: Tensor, count: int, uniform: float = 0.5, power: float = 0.75):
        if not count > 0:
            raise ValueError(f"{count} negatives; give at least one")
        by_popularity = popularity.double().clamp(min=0) ** power
        total = by_popularity.sum()
        items = len(popularity)
        even = torch.full_like(by_popularity, 1.0 / items)
        popular = by_popularity / total if total > 0 else even
        self.probability = uniform * even + (1 - uniform) * popular
        self._cumulative = self.probability.cumsum(0)
        self.log_expected = (self.probability * count).log().float()
        self.count = count

    def draw(self, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """(m,) items with replacement and the logs of their expected counts, (m,)."""
        # inverse transform: `multinomial` stops at 2**24 categories
        chance = torch.rand(
            self.count, dtype=torch.double, generator=generator, device=self._cumulative.device
        )
        drawn = torch.searchsorted(self._cumulative, chance * self._cumulative[-1])
        drawn = drawn.clamp(max=len(self._cumulative) - 1)
        return drawn, self.log_expected[drawn]

    def to(self, device: torch.device) -> NegativeSampler:
        """The same sampler with its tables on `device`."""
        self.probability = self.probability.to(device)
        self._cumulative = self._cumulative.to(device)
        self.log_expected = self.log_expected.to(device)
        return self
