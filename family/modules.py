"""The built-in students as torch modules. Widths nest: a narrower student's weights are leading slices."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import Tensor, nn


class Rescaled(nn.Module):
    """outputs = module(...) * std + mean: a regression student that speaks in the labels' units."""

    mean: Tensor
    std: Tensor

    def __init__(self, module: nn.Module, mean: np.ndarray, std: np.ndarray):
        super().__init__()
        self.module = module
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.as_tensor(std, dtype=torch.float32))

    def forward(self, *inputs: Tensor) -> Tensor:
        given: Tensor = self.module(*inputs)
        return given * self.std + self.mean


class MlpStudent(nn.Module):
    """All inputs joined, `size` numbers → depth × (Linear, BatchNorm, ReLU) of `width` → outputs."""

    def __init__(self, size: int, width: int, depth: int, outputs: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(size if i == 0 else width, width) for i in range(depth))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(depth))
        self.head = nn.Linear(width, outputs)

    def forward(self, *inputs: Tensor) -> Tensor:
        x = torch.cat([i.flatten(1) for i in inputs], 1) if len(inputs) > 1 else inputs[0].flatten(1)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = torch.relu(norm(layer(x)))
        out: Tensor = self.head(x)
        return out


class Separable(nn.Module):
    """Depthwise 3 × 3, then pointwise, each with BatchNorm; residual where shapes allow."""

    def __init__(self, a: int, b: int, stride: int):
        super().__init__()
        self.depthwise = nn.Conv2d(a, a, 3, stride, 1, groups=a, bias=False)
        self.norm1 = nn.BatchNorm2d(a)
        self.pointwise = nn.Conv2d(a, b, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(b)
        self.residual = stride == 1 and a == b

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm1(self.depthwise(x)))
        y = self.norm2(self.pointwise(y))
        return torch.relu(x + y) if self.residual else torch.relu(y)


class ConvStudent(nn.Module):
    """Stem, then stages of `depth` separable blocks; each stage halves the side and doubles the width.

    x: (batch, channels, height, width); `side` is the shorter one. Sides from 24 up are halved by the
    stem, and one to three stages bring what is left to about 4. Names and shapes nest in width and in depth.
    """

    def __init__(self, channels: int, side: int, width: int, depth: int, outputs: int):
        super().__init__()
        stride = 1 if side < 24 else 2
        self.stem = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        count = max(1, min(3, round(math.log2(side / stride / 4))))
        self.stages = nn.ModuleList(stage(width * 2**i, width * 2 ** (i + 1), depth) for i in range(count))
        self.head = nn.Linear(width * 2**count, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        for blocks in self.stages:
            x = blocks(x)
        out: Tensor = self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))
        return out


def stage(before: int, after: int, depth: int) -> nn.Sequential:
    return nn.Sequential(Separable(before, after, 2), *(Separable(after, after, 1) for _ in range(depth - 1)))


class Attention(nn.Module):
    """Softmax attention by explicit products. x: (batch, time, width); drop: (batch, 1, 1, time), 0 or -1e4.

    Queries, keys and values of all heads are interleaved, heads within channels, so that leading slices of a
    wide student's weights are a narrower one's, for the same number of heads.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, drop: Tensor | None) -> Tensor:
        parts = self.qkv(x).unflatten(2, (self.size, self.heads, 3))
        q, k, v = parts.permute(4, 0, 3, 1, 2).unbind(0)  # each (batch, heads, time, size)
        weights = (q * self.size**-0.5) @ k.transpose(2, 3)
        if drop is not None:
            weights = weights + drop
        mixed = (weights.softmax(3) @ v).permute(0, 2, 3, 1)  # (batch, time, size, heads)
        out: Tensor = self.out(mixed.flatten(2))
        return out


class Layer(nn.Module):
    """Pre-norm attention, then a feed-forward of `feed` times the width. x: (batch, time, width)."""

    def __init__(self, width: int, heads: int, feed: int = 2):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, feed * width), nn.Linear(feed * width, width)

    def forward(self, x: Tensor, drop: Tensor | None) -> Tensor:
        x = x + self.attention(self.norm1(x), drop)
        out: Tensor = x + self.down(torch.relu(self.up(self.norm2(x))))
        return out


class EncoderStudent(nn.Module):
    """Convolutional patches over time, pre-norm encoder layers, masked mean.

    x: (batch, channels, time); mask: (batch, 1, time), 1 where a step counts, padding at the end. A patch is
    as many steps as make at most `TOKENS` of them; it counts where its first step does.
    """

    TOKENS = 64

    def __init__(self, channels: int, time: int, width: int, depth: int, heads: int, outputs: int):
        super().__init__()
        self.patch = -(-time // self.TOKENS)
        self.stem = nn.Conv1d(channels, width, 2 * self.patch + 3, self.patch, self.patch + 1)
        self.position = nn.Parameter(torch.randn(1, -(-time // self.patch), width) * 0.02)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = torch.relu(self.stem(x)).transpose(1, 2) + self.position
        drop = None
        if mask is not None:
            mask = mask[:, :, :: self.patch]  # (batch, 1, tokens)
            drop = (mask.unsqueeze(1) - 1) * 1e4
        for layer in self.layers:
            x = layer(x, drop)
        x = self.norm(x).transpose(1, 2)
        mean = x.mean(2) if mask is None else (x * mask).sum(2) / mask.sum(2).clamp(min=1)
        out: Tensor = self.head(mean)
        return out


def hash_weights(module: nn.Module) -> str:
    """Stands for every weight and buffer, bit by bit."""
    total = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return str(total.hexdigest()[:16])
