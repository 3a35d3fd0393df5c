"""A small trained tagger: product text to labels (brand, category, genre, tag), many or one each.

Words, pairs of words and letter n-grams are hashed into a table of vectors whose mean is the text
(Joulin et al. 2017, "Bag of Tricks for Efficient Text Classification"; letter n-grams as in
Bojanowski et al. 2017), followed by one linear layer. `Tagger.embed` gives that mean for any text,
labelled or not. A label that the text names gets more (`model/understand/named.py`). Shapes: B
texts, N features of all of them, L labels, D width.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self, cast

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.data.files import DataError, write_text
from model.understand import named

FORMAT = 2
TUNED = 4096  # texts that are enough to choose a few numbers on


@dataclass(frozen=True, kw_only=True)
class TaggerConfig:
    """`several`: a text may carry more than one label."""

    several: bool
    buckets: int = 1 << 18
    width: int = 32
    epochs: int = 15
    batch: int = 32
    lr: float = 2e-2
    dropout: float = 0.3
    rare: int = 1  # labels with fewer texts are not learned
    seed: int = 0


def features(text: str, buckets: int) -> list[int]:
    """Hashed words, where the first one is marked, pairs, and letter n-grams of 3 to 5."""
    words = named.WORD.findall(text.lower())[:200]
    names = [f"w {word}" for word in words]
    names += [f"p {one} {two}" for one, two in pairwise(words)]
    if words:
        names += [f"f {words[0]}", f"f {' '.join(words[:2])}"]
    for word in words:
        padded = f"<{word}>"
        names += [
            f"c {padded[at : at + n]}" for n in (3, 4, 5) for at in range(len(padded) - n + 1)
        ]
    return [zlib.crc32(name.encode()) % buckets for name in names]


class _Net(nn.Module):
    def __init__(self, config: TaggerConfig, labels: int) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(config.buckets, config.width, mode="mean", sparse=True)
        self.drop = nn.Dropout(config.dropout)
        self.out = nn.Linear(config.width, labels)
        nn.init.normal_(self.table.weight, std=0.1)

    def forward(self, flat: Tensor, offsets: Tensor) -> Tensor:
        """flat (N,), offsets (B,) -> logits (B, L)."""
        return self.out(self.drop(self.table(flat, offsets)))


class Tagger:
    """Labels for texts. Make one with `train` or `load`."""

    def __init__(
        self,
        config: TaggerConfig,
        labels: list[str],
        net: _Net,
        cut: float,
        weights: named.Weights,
    ) -> None:
        self.config = config
        self.labels = labels
        self.cut = cut  # probability from which one of several labels is given
        self.weights = weights  # of a label that is named at the start, in the head, later
        self._names = named.Names(labels)
        self._net = net.eval()

    @classmethod
    def train(
        cls,
        texts: Sequence[str],
        labels: Sequence[Iterable[str]],
        config: TaggerConfig,
        say: Callable[[str], None] = lambda _text: None,
    ) -> Self:
        """Learn from texts with their labels; cut and weights are chosen on a tenth held out.

        Raises `DataError` when there is nothing to learn.
        """
        told = [list(dict.fromkeys(given)) for given in labels]
        count: dict[str, int] = {}
        for given in told:
            for label in given:
                count[label] = count.get(label, 0) + 1
        names = sorted(label for label, n in count.items() if n >= config.rare)
        if len(names) < 2:
            raise DataError(f"{len(names)} labels to learn; give products with at least two")
        index = {name: place for place, name in enumerate(names)}
        bags = [features(text, config.buckets) for text in texts]
        targets = [[index[label] for label in given if label in index] for given in told]
        use = [at for at, found in enumerate(targets) if found and bags[at]]
        # one text in ten, by its content: the same ones in whatever order they come
        held = {at for at in use if zlib.crc32(texts[at].encode(), 1) % 10 == 0}
        torch.manual_seed(config.seed)
        net = _Net(config, len(names))
        _fit(net, config, bags, targets, [at for at in use if at not in held], say)
        made = cls(config, names, net, 0.5, (0.0,) * named.PLACES)
        if held:
            some = sorted(held)[:TUNED]
            made._tune([texts[at] for at in some], [targets[at] for at in some])
        # then on all of it: the held-out tenth has done its work
        torch.manual_seed(config.seed)
        net = _Net(config, len(names))
        _fit(net, config, bags, targets, use, say)
        return cls(config, names, net, made.cut, made.weights)

    def _tune(self, texts: list[str], targets: list[list[int]]) -> None:
        """Choose weights and cut for texts that the network has not learned."""
        truth = torch.zeros(len(texts), len(self.labels), dtype=torch.bool)
        for row, places in enumerate(targets):
            truth[row, places] = True

        def f1(scores: Tensor, cut: float) -> float:
            given = scores >= cut
            hit = float((given & truth).sum())
            return 2 * hit / max(1.0, float(given.sum() + truth.sum()))

        cuts = [step / 20 for step in range(2, 16)]

        def quality(logits: Tensor) -> float:
            if self.config.several:
                return max(f1(logits.sigmoid(), cut) for cut in cuts)
            best = logits.argmax(1, keepdim=True)
            return float(truth.gather(1, best).float().mean())

        logits = self._logits(texts)
        self.weights = named.choose(self._names, logits, texts, quality)
        if self.config.several:
            scores = self._names.add(logits, texts, self.weights).sigmoid()
            self.cut = max(cuts, key=lambda cut: f1(scores, cut))

    @torch.no_grad()
    def _logits(self, texts: Sequence[str]) -> Tensor:
        """What the network says, (B, L)."""
        return self._net(*_flat([features(text, self.config.buckets) for text in texts]))

    def _scores(self, texts: Sequence[str]) -> Tensor:
        """Probabilities (B, L)."""
        parts: list[Tensor] = []
        for at in range(0, len(texts), 1024):
            some = texts[at : at + 1024]
            logits = self._names.add(self._logits(some), some, self.weights)
            parts.append(logits.sigmoid() if self.config.several else logits.softmax(-1))
        return torch.cat(parts) if parts else torch.zeros(0, len(self.labels))

    def predict(self, texts: Sequence[str]) -> list[list[str]]:
        """Labels of each text, likeliest first; one each unless several are allowed."""
        scores = self._scores(texts)
        found: list[list[str]] = []
        for row in scores:
            order = row.argsort(descending=True).tolist()
            if self.config.several:
                order = [at for at in order if row[at] >= self.cut] or order[:1]
            else:
                order = order[:1]
            found.append([self.labels[at] for at in order])
        return found

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> Tensor:
        """Vectors (B, D) in which products of like labels lie close."""
        return self._net.table(*_flat([features(text, self.config.buckets) for text in texts]))

    def save(self, folder: Path) -> None:
        """Write weights (safetensors) and a manifest; the manifest comes last."""
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / ".tagger.part"
        save_file(self._net.state_dict(), part)
        part.replace(folder / "tagger.safetensors")
        with write_text(folder / "tagger.json") as stream:
            told = {
                "format": FORMAT, "config": asdict(self.config), "labels": self.labels,
                "cut": self.cut, "weights": self.weights,
            }  # fmt: skip
            stream.write(json.dumps(told) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Raises `DataError` when `folder` holds no tagger of this format."""
        try:
            told = json.loads((folder / "tagger.json").read_text(encoding="utf-8"))
            if told["format"] != FORMAT:
                raise DataError(f"{folder} holds a tagger of format {told['format']}, not {FORMAT}")
            config = TaggerConfig(**told["config"])
            labels = cast("list[str]", told["labels"])
            net = _Net(config, len(labels))
            net.load_state_dict(load_file(folder / "tagger.safetensors"))
            weights = tuple(float(one) for one in told["weights"])
            if len(weights) != named.PLACES:
                raise DataError(f"{folder} holds {len(weights)} weights, not {named.PLACES}")
            return cls(config, labels, net, float(told["cut"]), weights)
        except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"{folder} holds no usable tagger: {error}") from error


def _flat(bags: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Bags of features as (N,) values and (B,) offsets."""
    sizes = torch.tensor([0, *(len(bag) for bag in bags)])
    flat = torch.tensor([value for bag in bags for value in bag], dtype=torch.long)
    return flat, sizes.cumsum(0)[:-1]


def _fit(
    net: _Net,
    config: TaggerConfig,
    bags: list[list[int]],
    targets: list[list[int]],
    use: list[int],
    say: Callable[[str], None],
) -> None:
    # only the table rows of a batch are touched: a dense step over it would be most of the time
    optimisers = [
        torch.optim.SparseAdam(list(net.table.parameters()), lr=config.lr),
        torch.optim.Adam(net.out.parameters(), lr=config.lr),
    ]
    rng = torch.Generator().manual_seed(config.seed)
    net.train()
    for epoch in range(config.epochs):
        order = torch.randperm(len(use), generator=rng).tolist()
        total = 0.0
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = config.lr * (1 - epoch / config.epochs)
        for at in range(0, len(order), config.batch):
            chosen = [use[place] for place in order[at : at + config.batch]]
            logits = net(*_flat([bags[one] for one in chosen]))
            if config.several:
                truth = torch.zeros_like(logits)
                for row, one in enumerate(chosen):
                    truth[row, targets[one]] = 1.0
                loss = F.binary_cross_entropy_with_logits(logits, truth) * logits.shape[1] / 4
            else:
                loss = F.cross_entropy(logits, torch.tensor([targets[one][0] for one in chosen]))
            for optimiser in optimisers:
                optimiser.zero_grad(set_to_none=True)
            loss.backward()
            for optimiser in optimisers:
                optimiser.step()
            total += loss.item() * len(chosen)
        say(f"epoch {epoch + 1} of {config.epochs}: loss {total / max(1, len(use)):.4f}")
