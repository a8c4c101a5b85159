"""Scores by name: plain functions of (truth, outputs), so that intervals can resample them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Score:
    """`fn(truth, outputs)`: truth (rows,) int or (rows, k) float; outputs (rows, k): logits, or values.

    `per_row`, where the score is a mean over rows, gives the terms of that mean: (rows,).
    """

    name: str
    higher_is_better: bool
    fn: Callable[[np.ndarray, np.ndarray], float]
    per_row: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
