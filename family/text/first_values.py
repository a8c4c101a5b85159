"""What a student's token embeddings begin from: the teacher's vectors of the tokens, by principal components.

Tulkens and van Dongen 2024 (Model2Vec): every token is embedded alone, components are kept in order, and frequent
tokens count less. Components nest, so that a narrower student has the first columns of a wider one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from family.modules import Rescaled
from family.run_folder import write_beside
from family.text.readers import START
from family.text.tokenizer import Tokenizer

SIF = 1e-4  # of smooth inverse frequency: a / (a + p), Arora et al. 2017
MOST = 512  # components


def list_words(tokenizer: Tokenizer) -> list[str]:
    """What each id says; "" where that is no whole character or only space."""
    words = []
    for i in range(tokenizer.size):
        said = tokenizer.decode([i]).strip()
        words.append("" if "\ufffd" in said else said)
    return words


def make_table(embed: Callable[[Sequence[str]], np.ndarray], tokenizer: Tokenizer) -> np.ndarray:
    """(ids, components) float32, columns by falling variance, scaled to a deviation of `START` together. Ids that say
    nothing have 0."""
    words = list_words(tokenizer)
    known = np.flatnonzero([bool(word) for word in words])
    vectors = np.asarray(embed([words[i] for i in known]), np.float64)
    vectors -= vectors.mean(0)
    _, _, axes = np.linalg.svd(vectors, full_matrices=False)
    parts = vectors @ axes[:MOST].T
    share = 1 / (np.arange(len(words)) + 2)  # after Zipf: ids come in the order of merges, frequent ones first
    weight = SIF / (SIF + share[known] / share.sum())
    parts *= weight[:, None]
    table = np.zeros((len(words), parts.shape[1]), np.float32)
    table[known] = parts / max(float(parts.std()), 1e-12) * START
    return table


def read_table(place: Path, embed: Callable[[Sequence[str]], np.ndarray], tokenizer: Tokenizer) -> np.ndarray:
    """`make_table`, made once and kept at `place`."""
    if not place.exists():
        table = make_table(embed, tokenizer)

        def save(beside: Path) -> None:
            with beside.open("wb") as handle:
                np.save(handle, table)

        write_beside(place, save)
    return np.asarray(np.load(place))


def begin_from_table(module: nn.Module, table: np.ndarray) -> None:
    """Put the table's first rows and columns into the module's token embeddings, as far as both go; padding's stay."""
    inner = module.module if isinstance(module, Rescaled) else module
    weight = inner.get_parameter("embedding.weight")
    rows, columns = (min(a, b) for a, b in zip(weight.shape, table.shape, strict=True))
    with torch.no_grad():
        weight[1:rows, :columns] = torch.from_numpy(table[1:rows, :columns])
