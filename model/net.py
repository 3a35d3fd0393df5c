"""The recommender: a causal transformer over a user's items, gated as in LiGR / eSASRec.

Shapes: N packed events, V items, W width, H heads, T `max_length`. `encode` turns a packed batch
into (N, W) states; the score of item v after event n is `states[n] @ keys[v]`, with keys (V, W)
from `keys()`: the item's own vector plus the mean of its attribute vectors, tied with the input.
Nothing here knows about losses, data files or devices.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from model.corpus import ItemFeatures
from model.packing import Group, Packed


class NetConfig(BaseModel):
    """What shapes the parameters; a checkpoint fits exactly one of these."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    items: int = Field(ge=1, description="catalogue size V")
    attribute_values: int = Field(default=0, ge=0, description="0: ids only")
    attribute_links: int = Field(default=0, ge=0, description="item-value pairs in all")
    width: int = Field(ge=4)
    layers: int = Field(ge=1)
    heads: int = Field(ge=1)
    ffn: float = Field(default=2.0, gt=0, description="hidden width of the SwiGLU over `width`")
    max_length: int = Field(default=50, ge=1)
    dropout: float = Field(default=0.2, ge=0, lt=1)
    item_dropout: float = Field(default=0.0, ge=0, lt=1, description="input events hidden")
    scores: Literal["dot", "cosine"] = "dot"
    temperature: float = Field(default=0.07, gt=0, description="of cosine scores")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class Block(nn.Module):
    """Pre-norm attention and SwiGLU, each added through a sigmoid gate of its own input."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        width, hidden = config.width, int(config.width * config.ffn)
        self.heads = config.heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.gate_attention = nn.Linear(width, width)
        self.norm_ffn = nn.LayerNorm(width)
        self.rise = nn.Linear(width, 2 * hidden)
        self.fall = nn.Linear(hidden, width)
        self.gate_ffn = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, groups: list[Group], ends: Tensor | None = None) -> Tensor:
        """(N, W) -> (N, W); with `ends` (B,) only the last event of each sequence, (B, W).

        The last block of a ranking needs no more: every event gives a key and a value, one asks.
        """
        normed = self.norm_attention(x)
        if ends is None:
            attended = self._attend(self.qkv(normed), groups)
        else:
            attended = self._attend_last(normed, groups, ends)
            x = x.index_select(0, ends)
        x = x + torch.sigmoid(self.gate_attention(x)) * self.dropout(self.mix(attended))
        swish, linear = self.rise(self.norm_ffn(x)).chunk(2, dim=-1)
        ffn = self.fall(self.dropout(F.silu(swish) * linear))
        return x + torch.sigmoid(self.gate_ffn(x)) * self.dropout(ffn)

    def _attend(self, qkv: Tensor, groups: list[Group]) -> Tensor:
        parts: list[Tensor] = []
        for take, real in groups:
            b, t = take.shape
            rows = qkv.index_select(0, take.flatten()).view(b, t, 3, self.heads, -1)
            q, k, v = rows.permute(2, 0, 3, 1, 4)  # each (b, H, t, W / H)
            # one event attends to itself alone: its value is the answer
            out = v if t == 1 else F.scaled_dot_product_attention(q, k, v, is_causal=True)
            parts.append(out.transpose(1, 2).reshape(b * t, -1).index_select(0, real))
        return torch.cat(parts)

    def _attend_last(self, normed: Tensor, groups: list[Group], ends: Tensor) -> Tensor:
        """(N, W) -> (B, W): the last event of each sequence attends to all of its sequence."""
        width = normed.shape[1]
        weight, bias = self.qkv.weight, self.qkv.bias
        queries = F.linear(normed.index_select(0, ends), weight[:width], bias[:width])
        pairs = F.linear(normed, weight[width:], bias[width:])
        lengths = torch.diff(ends, prepend=ends.new_full((1,), -1))
        parts: list[Tensor] = []
        first = 0
        for take, _ in groups:
            b, t = take.shape
            rows = pairs.index_select(0, take.flatten()).view(b, t, 2, self.heads, -1)
            k, v = rows.permute(2, 0, 3, 1, 4)  # each (b, H, t, W / H)
            q = queries[first : first + b].view(b, self.heads, 1, -1)
            mask: Tensor | None = None
            if b > 1:  # a sequence alone has no padding
                span = torch.arange(t, device=take.device)
                mask = (span < lengths[first : first + b, None])[:, None, None]
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            parts.append(out.reshape(b, -1))
            first += b
        return torch.cat(parts)


class Recommender(nn.Module):
    """Item table, positions, blocks. Feature bags are buffers: they belong to the catalogue."""

    features: Tensor
    feature_offsets: Tensor

    def __init__(self, config: NetConfig, features: ItemFeatures | None = None) -> None:
        super().__init__()
        self.config = config
        width = config.width
        spread = 0.02 if config.scores == "dot" else width**-0.5
        self.item = nn.Embedding(config.items, width)
        self.position = nn.Embedding(config.max_length, width)
        self.hidden_item = nn.Parameter(torch.zeros(width))
        nn.init.normal_(self.item.weight, std=spread)
        nn.init.normal_(self.position.weight, std=spread / 2)
        self.attribute: nn.EmbeddingBag | None = None
        if config.attribute_values:
            self.attribute = nn.EmbeddingBag(
                config.attribute_values, width, mode="mean", include_last_offset=True
            )
            nn.init.normal_(self.attribute.weight, std=spread)
            self.register_buffer("features", torch.zeros(config.attribute_links, dtype=torch.long))
            self.register_buffer("feature_offsets", torch.zeros(config.items + 1, dtype=torch.long))
            if features is not None:
                self.features.copy_(torch.from_numpy(features.values))
                self.feature_offsets.copy_(torch.from_numpy(features.offsets))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)

    def table(self) -> Tensor:
        """Input vectors of the whole catalogue, (V, W)."""
        if self.attribute is None:
            return self.item.weight
        return self.item.weight + self.attribute(self.features, self.feature_offsets)

    def rows(self, items: Tensor) -> Tensor:
        """Input vectors of some items only, (n,) -> (n, W): for catalogues of millions."""
        rows = self.item(items)
        if self.attribute is None:
            return rows
        first = self.feature_offsets[items]
        sizes = self.feature_offsets[items + 1] - first
        offsets = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        inside = torch.arange(int(offsets[-1]), device=items.device)
        places = inside - torch.repeat_interleave(offsets[:-1], sizes)
        values = self.features[places + torch.repeat_interleave(first, sizes)]
        return rows + self.attribute(values, offsets)

    def as_keys(self, rows: Tensor) -> Tensor:
        """What states are multiplied with to score items, from their input vectors."""
        return F.normalize(rows, dim=-1) if self.config.scores == "cosine" else rows

    def keys(self) -> Tensor:
        """Keys of the whole catalogue, (V, W)."""
        return self.as_keys(self.table())

    def encode(self, batch: Packed, inputs: Tensor, *, last: bool = False) -> Tensor:
        """States after each event: inputs (N, W) are the events' item vectors -> (N, W).

        With `last` only after the last event of each sequence, (B, W) in the batch's order.
        """
        x = inputs
        if self.training and self.config.item_dropout:
            hide = torch.rand(len(x), 1, device=x.device) < self.config.item_dropout
            x = torch.where(hide, self.hidden_item.to(x.dtype), x)
        x = self.dropout(x + self.position(batch.positions))
        deepest = len(self.blocks) - 1
        for depth, block in enumerate(self.blocks):
            x = block(x, batch.groups, batch.ends if last and depth == deepest else None)
        x = self.norm(x)
        if self.config.scores == "cosine":
            x = F.normalize(x, dim=-1) / self.config.temperature
        return x

    def forward(self, batch: Packed) -> tuple[Tensor, Tensor]:
        """States (N, W) and the whole table (V, W); small catalogues."""
        table = self.table()
        return self.encode(batch, table.index_select(0, batch.items)), table
