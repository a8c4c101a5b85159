"""Text that the student writes while it learns, for the teacher to score (GKD, Agarwal et al. 2023, arXiv 2306.13649).

A share of the batches begins with the first tokens of their rows and goes on as the student draws; the loss is the
same, over what was drawn, with what the teacher thinks of that text.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from family.text.decoder import DecoderStudent
from family.text.token_targets import LiveTargets
from family.types import Store

DRAW = 79  # sets these random numbers apart from a training's others


def choose_own(steps: int, share: float, seed: int) -> np.ndarray:
    """(steps,) bool: which batches the student writes."""
    return np.random.default_rng([seed, DRAW]).random(steps) < share


def write_own(
    module: nn.Module, store: Store, ids: Tensor, labels: Tensor, seed: int, step: int
) -> tuple[Tensor, Tensor, Tensor]:
    """ids, labels (n, length) of the batch → ids, labels and the teacher's logits (n, length, V) of the student's text,
    on the device of `ids`. Labels are -1 within what was given, and of rows whose text ends there.

    Random numbers come from seed and step alone, so a resumed training writes the same.
    """
    assert isinstance(store, LiveTargets)
    assert isinstance(module, DecoderStudent)
    rng = np.random.default_rng([seed, DRAW, step])
    length = ids.shape[1]
    given = int(rng.integers(1, max(2, length // 2)))
    points = torch.from_numpy(rng.random((length + 1 - given, len(ids)), np.float32)).to(ids.device)
    module.eval()
    with torch.no_grad():
        whole = continue_text(module, ids[:, :given], points)
    module.train()
    wanted = whole[:, 1:].clone()
    wanted[:, : given - 1] = -1
    wanted[labels[:, given - 1] < 0] = -1
    own = whole[:, :-1].contiguous()
    logits = store.say(own.cpu()).logits
    assert logits is not None
    return own, wanted, logits.to(ids.device)


def continue_text(module: DecoderStudent, ids: Tensor, points: Tensor) -> Tensor:
    """ids (n, given) and what the module draws after them: (n, given + len(points)). `points`: (tokens, n) in 0..1, of
    each row's cumulated probabilities."""
    cache, told = None, ids
    for point in points:
        logits, cache = module.step(told, cache)
        below = logits[:, -1].double().softmax(1).cumsum(1)
        told = torch.searchsorted(below, point[:, None] * below[:, -1:], right=True).clamp_max(below.shape[1] - 1)
        ids = torch.cat([ids, told], 1)
    return ids


__all__ = ["choose_own", "continue_text", "write_own"]
