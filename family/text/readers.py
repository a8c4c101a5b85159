"""Students that read a whole text in tokens, as torch modules, and their spaces: `static` and, over tokens, `encoder`.

Vocabularies, widths, depths and lengths nest: a smaller student's weights are leading slices of a larger one's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from export import Signature
from family.errors import mistake
from family.modules import Layer
from family.text.tokenizer import LEAST, PAD
from family.types import Dim, StudentSpace

MASKED = 1e9  # so far below every score of attention that int8 leaves the way to its softmax in float
LARGEST = 1_000_000  # ids, of any tokenizer
START = 0.1  # deviation of token embeddings before training


class StaticStudent(nn.Module):
    """Token embeddings, their mean over the text, hidden layers, outputs (Tulkens and van Dongen 2024, Model2Vec).

    ids: (batch, length) int64, padded with `PAD` at the end → (batch, outputs). One layer of `width` a depth above 0.
    """

    def __init__(self, vocabulary: int, width: int, depth: int, outputs: int):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=START)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, outputs)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norm(mean_of(self.embedding(ids), ids))
        for layer in self.layers:
            x = torch.relu(layer(x))
        out: Tensor = self.head(x)
        return out


class TokenEncoder(nn.Module):
    """Embeddings of tokens and places, pre-norm encoder layers, the mean over the text, outputs.

    ids: (batch, length at most) int64, padded with `PAD` at the end → (batch, outputs).
    """

    def __init__(self, vocabulary: int, length: int, width: int, depth: int, heads: int, feed: int, outputs: int):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        nn.init.normal_(self.embedding.weight, std=START)
        self.position = nn.Parameter(torch.randn(1, length, width) * 0.02)
        self.layers = nn.ModuleList(Layer(width, heads, feed) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids) + self.position[:, : ids.shape[1]]
        drop = ((ids != PAD)[:, None, None].to(x.dtype) - 1) * MASKED  # (batch, 1, 1, length)
        for layer in self.layers:
            x = layer(x, drop)
        out: Tensor = self.head(mean_of(self.norm(x), ids))
        return out


def mean_of(x: Tensor, ids: Tensor) -> Tensor:
    """The mean (batch, width) of x (batch, length, width) over tokens that are no padding."""
    mask = (ids != PAD)[:, None].to(x.dtype)  # (batch, 1, length)
    return (mask @ x).squeeze(1) / mask.sum(2).clamp(min=1)


def static() -> StudentSpace:
    """`length`: tokens of a text that are read; it costs no weights. `vocabulary` and `width` make the size."""
    dims = {
        "width": Dim(8, 512, log=True),
        "depth": Dim(0, 2),
        "vocabulary": Dim(LEAST, LARGEST, log=True),
        "length": Dim(16, 4096),
    }

    def build(params: Mapping[str, Any], signature: Signature) -> nn.Module:
        check_reads(signature, "static")
        outputs = int(signature.outputs[0].shape[-1])
        return StaticStudent(int(params["vocabulary"]), int(params["width"]), int(params["depth"]), outputs)

    return StudentSpace("static", dims, build, ("fp32", "int8", "int8-weights"))


def token_encoder() -> StudentSpace:
    """The space `encoder` of students that read tokens."""
    dims = {
        "width": Dim(16, 256, log=True),
        "depth": Dim(1, 6),
        "heads": Dim(choices=(1, 2, 4)),
        "feed": Dim(choices=(1, 2, 4)),
        "vocabulary": Dim(LEAST, LARGEST, log=True),
        "length": Dim(16, 4096),
    }

    def build(params: Mapping[str, Any], signature: Signature) -> nn.Module:
        check_reads(signature, "encoder")
        heads = int(params["heads"])
        width = max(heads, round(int(params["width"]) / heads) * heads)
        sides = (int(params["vocabulary"]), int(params["length"]), width, int(params["depth"]))
        return TokenEncoder(*sides, heads, int(params["feed"]), int(signature.outputs[0].shape[-1]))

    return StudentSpace("encoder", dims, build, ("fp32", "int8", "int8-dynamic"))


def check_reads(signature: Signature, name: str) -> None:
    if signature.inputs[0].name != "input_ids":
        raise mistake("students.space", f"{name} is for task: text. Got inputs {signature.inputs[0].name}.")
