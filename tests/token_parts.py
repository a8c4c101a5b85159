"""A little text, a teacher of its tokens and a task, for tests of what a teacher says token by token."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from family.tasks import DataOptions, open_task
from family.tasks.lm_task import LmTask
from family.text.causal_teachers import CausalTeacher
from family.text.tokenizer import Tokenizer, train_tokenizer

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "saw",
    "one",
    "more",
    "bird",
    "that",
    "sang",
    "to",
    "it",
    "all",
    "night",
]
PARAMS = {"width": 32, "depth": 1, "heads": 2, "feed": 2, "context": 16}


def write_text(folder, documents=24, words=40) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(documents):
        (folder / f"{i:02}.txt").write_text(" ".join(rng.choice(WORDS, words)) + ".\n")


def make_tokenizer(size: int = 290) -> Tokenizer:
    return train_tokenizer([" ".join(WORDS)] * 3, size)


def open_text(folder, tokenizer: Tokenizer) -> LmTask:
    write_text(folder / "text")
    options = DataOptions("text", folder, task="lm", context=16, tokenizer=tokenizer.data)
    return open_task(options, folder / "cache")


class Bigrams(nn.Module):
    """ids (n, length) → logits of the next by the last one alone, (n, length, size)."""

    def __init__(self, size: int, seed: int = 0):
        super().__init__()
        table = torch.randn(size, size, generator=torch.Generator().manual_seed(seed)) * 2
        self.table = nn.Parameter(table)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table[ids]


def make_teacher(tokenizer: Tokenizer, seed: int = 0) -> CausalTeacher:
    return CausalTeacher(Bigrams(tokenizer.size, seed), tokenizer, tokenizer.size, f"bigrams {seed}")
