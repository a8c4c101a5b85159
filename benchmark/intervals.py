"""Intervals that hold what changes from one repeat to the next, not only the scatter within one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def find_t(freedom: float, below: float = 0.975) -> float:
    """The point of Student's t below which such a share lies; 0.975: the two-sided 95 % point."""
    from scipy.special import stdtrit  # here: a process that only measures starts in a third of the time

    return float(stdtrit(freedom, below))


def interval_of_repeats(repeats: Sequence[float]) -> tuple[float, float]:
    """Where a further repeat falls in 95 % of cases: mean ± t · s · √(1 + 1/n), at least two repeats.

    Not divided by √n: a machine drifts for longer than the repeats last, so they are not independent draws.
    """
    values = np.asarray(repeats, dtype=float)
    n = len(values)
    half = find_t(n - 1) * float(values.std(ddof=1)) * (1 + 1 / n) ** 0.5
    return float(values.mean()) - half, float(values.mean()) + half


def pooled_spread(groups: ArrayLike) -> tuple[float, int]:
    """Relative standard deviation within groups, pooled, and its degrees of freedom. (groups, repeats)"""
    logs = np.log(np.asarray(groups, dtype=float))
    freedom = logs.shape[0] * (logs.shape[1] - 1)
    within = ((logs - logs.mean(axis=1, keepdims=True)) ** 2).sum()
    return float(np.sqrt(within / freedom)), freedom


def median_error(samples: Sequence[float], segments: int = 4) -> float:
    """The relative standard error of a median of samples taken in time order, from its segments' medians."""
    parts = [np.median(part) for part in np.array_split(np.asarray(samples, dtype=float), segments)]
    return float(np.std(np.log(parts), ddof=1) / segments**0.5)


def join_ratios(ratios: Sequence[float], halves: Sequence[float]) -> tuple[float, float, float]:
    """The geometric mean of ratios with its 95 % interval: Student's t over their logs; of fewer than three ratios
    from their own intervals, `halves` being half the width of each, in logs."""
    logs, n = np.log(np.asarray(ratios, dtype=float)), len(ratios)
    mean = float(logs.mean())
    own = float(np.sqrt(np.square(halves).sum())) / n
    half = find_t(n - 1) * float(logs.std(ddof=1)) / n**0.5 if n > 2 else own
    return float(np.exp(mean)), float(np.exp(mean - half)), float(np.exp(mean + half))
