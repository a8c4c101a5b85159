"""Which finalist to train next: whoever could still win a budget, until nobody likely can.

First comes the cheapest of those judged about as good as the best; then whoever has a chance of `ALPHA` to be shown
better than the best of the trained. With a limit on the score the cheapest that reaches it wins. What an untrained
student would score is expected from the judge's estimate, mended by a line through those that are trained (Bayesian
linear regression of their difference from the estimate; Bishop, Pattern Recognition and Machine Learning, 3.3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

ALPHA = 0.2
MOST = 6  # finalists of one budget beside those of others
OFFSET, SLOPE = 0.3, 0.5  # prior deviation of the line: of its height (× the scores' scale), and of its slope
PRIOR = 3.0  # observations that the first guess of the judge's error counts as


@dataclass(frozen=True)
class Runner:
    """A student: what it costs, and its val score as judged, the higher the better."""

    id: str
    cost: float
    judged: float


@dataclass(frozen=True)
class Race:
    """`noise`: a difference of two val scores up to which none is shown better. `spread`: first guess of the standard
    error of the judge. `reach`: the budget's limit on the score. `scale`: about how large scores are; 1 for shares."""

    noise: float
    spread: float
    reach: float | None = None
    scale: float = 1.0


def next_to_train(
    race: Race, runners: Sequence[Runner], scores: Mapping[str, float], known: Sequence[tuple[float, float]]
) -> Runner | None:
    """Whom of `runners`, which keep the budget's limits, to train next; None where the choice is settled.

    `scores`: val scores of the trained, as `judged` is. `known`: (judged, score) that the judge is mended by, of any
    student.
    """
    trained = [r for r in runners if r.id in scores]
    left = [r for r in runners if r.id not in scores]
    if not left or len(trained) >= MOST:
        return None
    mean, error = expect(race, left, known)
    if race.reach is not None:
        return reach_for_less(race.reach, trained, left, scores, norm.sf(race.reach, mean, error))
    begin = first(race, runners)
    if begin.id not in scores:
        return begin
    chances = norm.sf(max(scores[r.id] for r in trained) + race.noise, mean, error)
    likeliest = int(np.lexsort(([r.cost for r in left], -chances))[0])
    return left[likeliest] if chances[likeliest] >= ALPHA else None


def first(race: Race, runners: Sequence[Runner]) -> Runner:
    """The cheapest of those judged about as good as the best."""
    best = max(r.judged for r in runners)
    return min((r for r in runners if r.judged >= best - race.noise / 2), key=lambda r: (r.cost, r.id))


def reach_for_less(
    reach: float, trained: Sequence[Runner], left: Sequence[Runner], scores: Mapping[str, float], chances: np.ndarray
) -> Runner | None:
    """The cheapest that more likely than not reaches the score for less than the trained do, else the likeliest."""
    taken = min((r.cost for r in trained if scores[r.id] >= reach), default=np.inf)
    able = sorted((-p, r.cost, r.id, r) for r, p in zip(left, chances, strict=True) if r.cost < taken)
    likely = [r for p, _, _, r in able if -p >= 0.5]
    if likely:
        return min(likely, key=lambda r: (r.cost, r.id))
    return able[0][-1] if able and (-able[0][0] >= ALPHA or not trained) else None


def expect(race: Race, runners: Sequence[Runner], seen: Sequence[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error of what these would score; `seen`: (judged, score) of trained students."""
    judged = np.array([r.judged for r in runners])
    middle = judged.mean()
    design = np.array([[1.0, x - middle] for x, _ in seen]).reshape(-1, 2)
    off = np.array([score - x for x, score in seen])
    prior = np.diag([(OFFSET * race.scale) ** -2.0, SLOPE**-2.0])
    variance = race.spread**2
    for _ in range(3):  # the line and the error around it by turns
        covariance = np.linalg.inv(prior + design.T @ design / variance)
        line = covariance @ design.T @ off / variance
        variance = (PRIOR * race.spread**2 + np.square(off - design @ line).sum()) / (PRIOR + len(off))
    at = np.stack([np.ones_like(judged), judged - middle], 1)
    return judged + at @ line, np.sqrt(variance + np.einsum("ij,jk,ik->i", at, covariance, at))
