"""The decoder student: a small causal transformer over tokens, with a cache of keys and values for generating.

Pre-norm with RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467), rotary positions (Su et al. 2021, arXiv 2104.09864,
halves rotated), a gated feed-forward (Shazeer 2020, arXiv 2002.05202, SwiGLU), the head tied to the embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export import DecoderBlocks, StepFront

EPSILON = 1e-5
ROTARY_BASE = 10_000.0

Cache = tuple[tuple[Tensor, Tensor], ...]  # per layer keys and values, each (batch, heads, past, width / heads)


@dataclass(frozen=True)
class DecoderShape:
    """`context`: positions at most, past ones counted. `width` is a multiple of 2 × `heads`."""

    vocabulary: int
    context: int
    width: int
    depth: int
    heads: int
    feed: int  # width of the feed-forward

    @property
    def head(self) -> int:
        return self.width // self.heads


def shape_of(params: Mapping[str, Any]) -> DecoderShape:
    """Of a student's parameters: `width` is moved to a multiple of 2 × heads, `feed` is in widths."""
    heads = int(params["heads"])
    width = max(1, round(int(params["width"]) / (2 * heads))) * 2 * heads
    feed = max(8, round(width * float(params["feed"]) / 8) * 8)
    return DecoderShape(int(params["vocabulary"]), int(params["context"]), width, int(params["depth"]), heads, feed)


class DecoderLayer(nn.Module):
    """x: (batch, length, width)."""

    def __init__(self, shape: DecoderShape):
        super().__init__()
        self.shape = shape
        self.norm1, self.norm2 = (nn.RMSNorm(shape.width, EPSILON) for _ in range(2))
        self.qkv = nn.Linear(shape.width, 3 * shape.width, bias=False)
        self.out = nn.Linear(shape.width, shape.width, bias=False)
        self.gate = nn.Linear(shape.width, shape.feed, bias=False)
        self.up = nn.Linear(shape.width, shape.feed, bias=False)
        self.down = nn.Linear(shape.feed, shape.width, bias=False)
        for last in (self.out, self.down):
            nn.init.normal_(last.weight, std=(2 * shape.depth * last.in_features) ** -0.5)

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor], past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """`turn`: cosine and sine (length, head) of the positions. Gives x, and keys and values with the past's."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.shape.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, turn), rotate(k, turn)
        if past is not None:
            k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        x = x + self.out(attend(q, k, v).transpose(1, 2).flatten(2))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y)), (k, v)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention; the last query is at the last key. q: (batch, heads, length, head), k and v no shorter."""
    if q.shape[2] == k.shape[2]:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(k.shape[2] - q.shape[2])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    cosine, sine = turn
    a, b = x.chunk(2, 3)
    return x * cosine + torch.cat([-b, a], 3) * sine


def turning_speed(shape: DecoderShape) -> Tensor:
    """Radians that a position turns by, of each pair (head / 2,)."""
    return torch.as_tensor(ROTARY_BASE ** (-torch.arange(0, shape.head, 2) / shape.head))


def turns(shape: DecoderShape) -> tuple[Tensor, Tensor]:
    """Cosine and sine (context, head) of every position."""
    angle = torch.arange(shape.context)[:, None] * turning_speed(shape)
    both = torch.cat([angle, angle], 1)
    return both.cos(), both.sin()


class DecoderStudent(nn.Module):
    """input_ids (batch, length) int64 → logits (batch, length, vocabulary) of the next tokens."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, shape: DecoderShape):
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(DecoderLayer(shape) for _ in range(shape.depth))
        self.norm = nn.RMSNorm(shape.width, EPSILON)
        self.head = nn.Linear(shape.width, shape.vocabulary, bias=False)
        self.head.weight = self.embedding.weight
        cosine, sine = turns(shape)
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)
        nn.init.normal_(self.embedding.weight, std=shape.width**-0.5)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.step(input_ids)[0]

    def step(self, input_ids: Tensor, past: Cache | None = None) -> tuple[Tensor, Cache]:
        """Logits of `input_ids` (batch, length) that follow `past`, and the cache with theirs added. Raises ValueError
        beyond the context."""
        start = past[0][0].shape[2] if past else 0
        stop = start + input_ids.shape[1]
        if stop > self.shape.context:
            raise ValueError(f"{stop} positions are more than the context of {self.shape.context}.")
        x, turn, present = self.embedding(input_ids), (self.cosine[start:stop], self.sine[start:stop]), []
        for i, layer in enumerate(self.layers):
            x, kept = layer(x, turn, past[i] if past else None)
            present.append(kept)
        logits: Tensor = self.head(self.norm(x))
        return logits, tuple(present)


def as_blocks(module: DecoderStudent) -> DecoderBlocks:
    """The module as plain data, which `export` writes as a graph."""
    shape, state = module.shape, {name: value.detach().float() for name, value in module.state_dict().items()}
    whole = {"embedding": state["embedding.weight"], "norm": state["norm.weight"], "speed": turning_speed(shape)}
    for i in range(shape.depth):
        own = {name: state[f"layers.{i}.{name}.weight"] for name in ("norm1", "norm2")}
        own |= {name: state[f"layers.{i}.{name}.weight"].T for name in ("qkv", "out", "gate", "up", "down")}
        whole |= {f"{i}.{name}": value for name, value in own.items()}
    front = StepFront(shape.depth, shape.heads, shape.head, shape.context)
    weights = {name: value.cpu().numpy() for name, value in whole.items()}
    return DecoderBlocks(front, shape.vocabulary, EPSILON, weights)


@torch.no_grad()
def generate(module: DecoderStudent, prompt: Tensor, tokens: int) -> Tensor:
    """The likeliest continuation: prompt (1, length) int64 → (1, tokens), fewer at the end of the context."""
    tokens = min(tokens, module.shape.context - prompt.shape[1] + 1)
    logits, cache = module.step(prompt)
    found = [logits[:, -1:].argmax(2)]
    while len(found) < tokens:
        logits, cache = module.step(found[-1], cache)
        found.append(logits[:, -1:].argmax(2))
    return torch.cat(found, 1)
