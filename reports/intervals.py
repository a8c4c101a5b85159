"""How sure we are: 95 % intervals of a score, and of the paired difference between two sets of students."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, t

from reports.scores import Score

DRAWS = 1000


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Ours against theirs, positive where ours is better, whichever way the score runs.

    `low`, `high`: 95 %. `p`: two-sided. `detectable`: the smallest true difference that a test of this
    standard error would find at p < 0.05 with 80 % power, before any correction for several tests.
    `seeds`: paired seeds; with 1 it speaks of these two models alone, not of how they were made.
    """

    value: float
    low: float
    high: float
    p: float
    detectable: float
    seeds: int


def score_interval(
    score: Score, truth: np.ndarray, outputs: np.ndarray, groups: np.ndarray | None = None, seed: int = 0
) -> Interval:
    """Shares of rows (0/1 terms): Wilson (1927), with groups over the effective number of rows. Others: a
    bootstrap of rows or whole groups, widened for few of them (Hesterberg 2015, section 5.1); its ends are NaN where
    there is one alone."""
    truth, outputs = np.asarray(truth), np.asarray(outputs)
    _check(truth, [outputs], groups)
    value = score.fn(truth, outputs)
    if score.per_row is not None:
        terms = score.per_row(truth, outputs)
        if np.isin(terms, (0.0, 1.0)).all():
            return _bound_share(terms, groups)
    clusters = _clusters(groups, len(truth))
    if len(clusters) < 2:
        return Interval(value, float("nan"), float("nan"))
    draws = _bootstrap(lambda rows: score.fn(truth[rows], outputs[rows]), clusters, seed)
    if not len(draws):
        return Interval(value, float("nan"), float("nan"))
    low, high = np.quantile(draws, [0.025, 0.975])
    count = max(len(clusters), 2)
    widen = t.ppf(0.975, count - 1) / norm.ppf(0.975) * np.sqrt(count / (count - 1))
    return Interval(value, float(value - widen * (value - low)), float(value + widen * (high - value)))


def difference(
    score: Score,
    truth: np.ndarray,
    ours: Sequence[np.ndarray],
    theirs: Sequence[np.ndarray],
    groups: np.ndarray | None = None,
) -> Difference:
    """Mean over paired seeds: `ours[s]`, `theirs[s]` are outputs (rows, k) of seed s on the same rows.

    SE² = rows (or groups) part + variance over seeds / seeds. Both parts hold the chance that belongs to a
    row and a seed together, so the sum errs on the wide side. Interval and p use Student's t; its degrees of
    freedom are 1 / Σ share / df over the parts, stricter than Welch-Satterthwaite's 1 / Σ share² / df, which
    rejects a true null in up to 8 % of cases with 3 seeds; with 2 seeds their share counts with its fourth
    root, found by simulation. With one seed only rows count. Raises ValueError where the seeds do not pair or
    the rows do not match.
    """
    truth = np.asarray(truth)
    if not ours or len(ours) != len(theirs):
        raise ValueError(f"Seeds must pair, one or more on each side. Got {len(ours)} and {len(theirs)}.")
    ours, theirs = [np.asarray(o) for o in ours], [np.asarray(o) for o in theirs]
    _check(truth, [*ours, *theirs], groups)
    sign, seeds = (1.0 if score.higher_is_better else -1.0), len(ours)
    gains = np.array([sign * (score.fn(truth, a) - score.fn(truth, b)) for a, b in zip(ours, theirs, strict=True)])
    clusters = _clusters(groups, len(truth))
    rows_part = _vary_rows(score, truth, ours, theirs, clusters)
    seeds_part = float(gains.var(ddof=1)) / seeds if seeds > 1 else 0.0
    return _conclude(float(gains.mean()), rows_part, max(len(clusters) - 1, 1), seeds_part, seeds)


def _conclude(value: float, rows_part: float, rows_df: int, seeds_part: float, seeds: int) -> Difference:
    error = float(np.sqrt(rows_part + seeds_part))
    if not np.isfinite(error):
        return Difference(value, float("nan"), float("nan"), 1.0, float("nan"), seeds)
    if error == 0:
        return Difference(value, value, value, float(value == 0), 0.0, seeds)
    share = (seeds_part / error**2) ** (0.25 if seeds == 2 else 1.0)
    df = 1 / ((1 - share) / rows_df + (share / (seeds - 1) if seeds > 1 else 0.0))
    half = float(t.ppf(0.975, df)) * error
    p = float(2 * t.sf(abs(value) / error, df))
    return Difference(value, value - half, value + half, p, half + float(t.ppf(0.8, df)) * error, seeds)


def _vary_rows(
    score: Score,
    truth: np.ndarray,
    ours: Sequence[np.ndarray],
    theirs: Sequence[np.ndarray],
    clusters: list[np.ndarray],
) -> float:
    """Variance of the seeds' mean difference by drawing other rows (or groups).

    NaN with a single one. Where the score is a mean of terms, one cluster as large as the largest is added:
    without it few changed rows reject too often (the reason of Agresti and Min's added half counts, 2005).
    """
    pairs = list(zip(ours, theirs, strict=True))
    if len(clusters) < 2:
        return float("nan")
    if score.per_row is None:
        draws = _bootstrap(
            lambda r: float(np.mean([score.fn(truth[r], a[r]) - score.fn(truth[r], b[r]) for a, b in pairs])),
            clusters,
            seed=0,
            draws=400,
        )
        return float(draws.var(ddof=1)) * len(clusters) / (len(clusters) - 1) if len(draws) > 1 else float("nan")
    terms = np.array([score.per_row(truth, a) - score.per_row(truth, b) for a, b in pairs]).mean(axis=0)
    largest = float(np.abs(_sum_clusters(terms, clusters)).max())
    if largest == 0:
        largest = float(max(np.abs(score.per_row(truth, a)).max() for a in ours))
    return (_spread(terms, clusters) * len(terms) ** 2 + largest**2) / len(terms) ** 2


def _spread(terms: np.ndarray, clusters: list[np.ndarray]) -> float:
    """Variance of the mean of terms (rows,) that belong together in clusters."""
    sums = _sum_clusters(terms - terms.mean(), clusters)
    count = len(clusters)
    return float((sums**2).sum()) * count / max(count - 1, 1) / len(terms) ** 2


def _sum_clusters(terms: np.ndarray, clusters: list[np.ndarray]) -> np.ndarray:
    if len(clusters) == len(terms):
        return terms
    return np.array([terms[rows].sum() for rows in clusters])


def _bound_share(terms: np.ndarray, groups: np.ndarray | None) -> Interval:
    """Wilson's interval of a share; with groups its rows are the effective ones, and its quantile is t's."""
    share, count, z = float(terms.mean()), float(len(terms)), float(norm.ppf(0.975))
    if groups is not None:
        clusters = _clusters(groups, len(terms))
        spread = _spread(terms, clusters)
        effective = share * (1 - share) / spread if spread > 0 else float(len(clusters))
        count = max(min(count, effective), 1.0)
        z = float(t.ppf(0.975, max(len(clusters) - 1, 1)))
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Interval(share, float(max(middle - half, 0.0)), float(min(middle + half, 1.0)))


def _clusters(groups: np.ndarray | None, rows: int) -> list[np.ndarray]:
    """Row numbers of each group; each row on its own where there are none."""
    if groups is None:
        return list(np.arange(rows)[:, None])
    _, number = np.unique(np.asarray(groups), return_inverse=True)
    return np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])


def _bootstrap(
    fn: Callable[[np.ndarray], float], clusters: list[np.ndarray], seed: int, draws: int = DRAWS
) -> np.ndarray:
    """Values (≤ draws,) of `fn(rows)` over redrawn clusters; undefined values are left out."""
    random, count = np.random.default_rng(seed), len(clusters)
    single = all(len(rows) == 1 for rows in clusters)
    flat = np.concatenate(clusters)
    values = np.empty(draws)
    for draw in range(draws):
        picks = random.integers(0, count, count)
        values[draw] = fn(flat[picks] if single else np.concatenate([clusters[p] for p in picks]))
    return values[np.isfinite(values)]


def _check(truth: np.ndarray, outputs: Sequence[np.ndarray], groups: np.ndarray | None) -> None:
    if len(truth) == 0:
        raise ValueError("A score needs at least one row. Got none.")
    for array in outputs:
        if len(array) != len(truth):
            raise ValueError(f"Outputs must have the rows of truth ({len(truth)}). Got {len(array)}.")
    if groups is not None and len(groups) != len(truth):
        raise ValueError(f"Groups must have the rows of truth ({len(truth)}). Got {len(groups)}.")


def holm(p: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values, in the order given."""
    order = np.argsort(np.asarray(p, dtype=float), kind="stable")
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, where in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * float(p[where])))
        adjusted[where] = largest
    return adjusted


def verdict(difference: Difference, adjusted_p: float, labels_chosen: bool = False) -> str:
    """What may be said of distillation against labels alone. `labels_chosen`: labels won the bake-off, so
    student and control are the same and there is nothing to compare."""
    if labels_chosen:
        return "labels alone chosen"
    if not adjusted_p < 0.05:
        return "no difference shown"
    return "distillation helped" if difference.value > 0 else "labels alone were better"
