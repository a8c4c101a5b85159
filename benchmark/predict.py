"""What a model would cost on a target, told from a few that were measured: a filter, never a verdict.

A cost is taken as a sum of terms, each a feature times a weight that is not negative (a layer takes no time back), and
the weights are what makes the squared relative errors least.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmark.intervals import find_t

FLOOR = 0.03  # the least margin: what two timings of one model differ by
SURE = 0.995  # of a further model, one-sided

Row = Mapping[str, float]


@dataclass(frozen=True)
class Predictor:
    """`weights`: of each feature that counts. `errors`: predicted ÷ measured - 1 of each model that was measured, by
    a fit that had not seen it."""

    weights: Mapping[str, float]
    errors: tuple[float, ...]

    @property
    def error(self) -> float:
        """Mean absolute relative error out of sample."""
        return float(np.mean(np.abs(self.errors)))

    @property
    def margin(self) -> float:
        """How far above the truth a prediction may lie: half as much again as the greatest that was too high out of
        sample, or where a further model's lies in 99.5 % of cases if that is more. For these, Student's t over the logs
        of the errors that were too high (those too low may stem from models at the ends, and refuse nothing)."""
        high = np.log1p(np.maximum(self.errors, 0.0))
        n = len(high)
        spread = float(np.sqrt(2 * (high**2).mean()))  # as if the other half were like it
        wide = float(np.expm1(find_t(n - 1, SURE) * spread * (1 + 1 / n) ** 0.5))
        return max(FLOOR, wide, 1.5 * float(np.expm1(high.max())))


def fit(rows: Sequence[Row], values: Sequence[float], groups: Sequence[int] | None = None) -> Predictor:
    """Fit what models with these features (`rows`) cost (`values`, above 0, in any unit).

    A feature that a row lacks is 0 there. `groups`: models that are alike, such as one at several precisions, have one
    number, and are left out together when the errors are found; by default each is alone. Raises ValueError for fewer
    than three groups, values that are not above 0, or features that are negative or no numbers.
    """
    alike = np.arange(len(rows)) if groups is None else np.asarray(groups)
    names = sorted({name for row in rows for name in row})
    features = np.array([[float(row.get(name, 0.0)) for name in names] for row in rows]).reshape(len(rows), len(names))
    costs = np.asarray(values, dtype=float)
    check(len(set(alike.tolist())), features, costs)
    weights = solve(features, costs)
    errors = [leave_out(features, costs, alike, i) for i in range(len(costs))]
    return Predictor({n: float(w) for n, w in zip(names, weights, strict=True) if w > 0}, tuple(errors))


def predict(predictor: Predictor, row: Row) -> float:
    """The cost, in the unit of the values that were fitted."""
    return float(sum(weight * row.get(name, 0.0) for name, weight in predictor.weights.items()))


def leave_out(features: np.ndarray, costs: np.ndarray, groups: np.ndarray, i: int) -> float:
    """The relative error on one model of a fit to those of other groups."""
    others = groups != groups[i]
    return float(features[i] @ solve(features[others], costs[others]) / costs[i] - 1)


def solve(features: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Weights w ≥ 0 with the least Σ (features · w / cost - 1)². features: (models, features)"""
    from scipy.optimize import nnls  # late, as in `find_t`

    relative = features / costs[:, None]
    scale = np.maximum(np.abs(relative).max(axis=0), 1e-300)  # of each column, for the numbers' sake
    weights, _ = nnls(relative / scale, np.ones(len(costs)))
    return np.asarray(weights / scale)


def check(groups: int, features: np.ndarray, costs: np.ndarray) -> None:
    if groups < 3 or len(features) != len(costs):
        raise ValueError(f"a predictor needs at least 3 models, each with a value. Got {groups} and {len(costs)}.")
    if not (np.isfinite(costs).all() and (costs > 0).all()):
        raise ValueError(f"costs must be above 0. Got {costs.min():g} to {costs.max():g}.")
    if not (np.isfinite(features).all() and (features >= 0).all()):
        raise ValueError("features must be numbers of at least 0.")


def predictor_to_dict(predictor: Predictor) -> dict[str, Any]:
    return {"weights": dict(predictor.weights), "errors": list(predictor.errors)}


def predictor_from_dict(kept: Mapping[str, Any]) -> Predictor:
    return Predictor(dict(kept["weights"]), tuple(kept["errors"]))
