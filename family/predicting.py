"""Costs told from a few measured students: what breaks every budget by far is pruned without being made.

Nothing that decides is predicted. A candidate that might keep some budget is exported and measured like before; only
one that every budget refuses even at its predicted best, by a margin taken from the predictor's own errors, is not.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmark import (
    Meter,
    Predictor,
    design_points,
    fit,
    predict,
    predictor_from_dict,
    predictor_to_dict,
)
from family import spaces
from family.candidates import opset, parts_of, violation
from family.deaths import Unmeasurable, try_measuring
from family.features import count_features
from family.job import Job, cost_limits
from family.measurers import others_of
from family.progress import Stage
from family.run_folder import recall, remember
from family.sampling import even_draws
from family.spec_checks import COSTS
from family.untold import told_alone

Params = Mapping[str, Any]
Predictors = Mapping[str, Mapping[str, Mapping[str, Predictor]]]  # by target, precision and quantity

PREDICTED = frozenset(COSTS)
FEWEST = 12  # measured students; a fit to fewer says too little
WIDEST = 0.5  # the margin above which a prediction is of no use


@dataclass(frozen=True)
class CostFilter:
    """`predictors`: those that are of use, fitted on the measured `students`. `said`: how well they predict."""

    predictors: Predictors
    students: Sequence[Params]
    said: Mapping[str, str]

    def judge(self, job: Job, params: Params) -> tuple[float, float]:
        """The violation as predicted, and at best: where that is above 0, no budget will be kept."""
        row = feature_row(job, params)
        return violation(job, self.tell(row, 0.0)), violation(job, self.tell(row, 1.0))

    def may_fit(self, job: Job, params: Params) -> bool:
        return self.judge(job, params)[1] <= 0

    def say(self) -> str:
        errors = "; ".join(f"{what} {error}" for what, error in self.said.items())
        return f"costs are predicted from {len(self.students)} measured students: {errors}"

    def tell(self, row: Mapping[str, float], margins: float) -> dict[str, Any]:
        """Costs as `measure_untrained` gives them, taken `margins` margins below what is predicted."""
        return {
            target: {
                precision: Told({q: {"value": predict(p, row) / (1 + margins * p.margin)} for q, p in own.items()})
                for precision, own in precisions.items()
            }
            for target, precisions in self.predictors.items()
        }


class Told(dict[str, dict[str, float]]):
    """Predicted figures; what cannot be predicted breaks no limit."""

    def __missing__(self, quantity: str) -> dict[str, float]:
        return {"value": 0.0}


def open_filter(job: Job, benches: Mapping[str, Meter]) -> CostFilter | None:
    """Measure some students even in log cost, once a run, and fit; None where so few candidates are asked for that it
    would not pay, or where no cost is limited."""
    students = design(job, list(benches))
    if not students:
        return None
    kept = remember(*predictor_place(job, students, list(benches)), partial(fit_students, job, students, benches))
    return keep_useful(job, kept, students)


def recall_filter(job: Job, targets: Sequence[str]) -> CostFilter | None:
    """What the main command fitted in this run folder, for its workers; None where it did not, or elsewhere."""
    students = design(job, targets)
    kept = recall(*predictor_place(job, students, targets)) if students else None
    return None if kept is None else keep_useful(job, kept, students)


def design(job: Job, targets: Sequence[str]) -> Sequence[Params]:
    """The students that are measured first; none where that would not pay."""
    count = min([job.spec.search.trials // 2, *(design_points(job.targets[name]) for name in targets)])
    if count < FEWEST or not any(cost_limits(budget) for budget in job.spec.budgets.values()):
        return []
    students = even_draws(job, count)
    return students if len(students) >= FEWEST else []


def predictor_place(job: Job, students: Sequence[Params], targets: Sequence[str]) -> tuple[Path, list[Any]]:
    """Where the predictors are kept, and what they depend on."""
    measured = {
        name: [job.targets[name].id, *others_of(job, name), *(part for _, part in parts_of(job, [name]))]
        for name in targets
    }
    drawn = [dict(s) for s in students]
    inputs = [job.student_id, job.precisions, opset(job), *job.fed_by, measured, job.host, drawn]
    return job.folder / "measuring" / "predictors.json", inputs


def fit_students(job: Job, students: Sequence[Params], benches: Mapping[str, Meter]) -> dict[str, Any]:
    """Measure and fit: `{target: {precision: {quantity: predictor as plain data}}}`, nothing where too few can be
    measured."""
    rows, costs = [], []
    for done, params in enumerate(students):
        job.watch(Stage("measuring a few students to predict costs from", done, len(students)))
        with contextlib.suppress(Unmeasurable):  # the search will say so
            costs.append(try_measuring(job, params, benches)["costs"])
            rows.append(feature_row(job, params))
    if len(rows) < FEWEST:
        return {}

    def fit_one(*where: str) -> dict[str, Any]:
        return predictor_to_dict(fit(rows, [read_value(one, where) for one in costs]))

    return {
        target: {
            precision: {
                quantity: fit_one(target, precision, quantity) for quantity in told_of_all(costs, target, precision)
            }
            for precision in precisions
        }
        for target, precisions in costs[0].items()
    }


def told_of_all(costs: Sequence[Mapping[str, Any]], target: str, precision: str) -> set[str]:
    """What can be predicted: known of every student that was measured (a profile reaches only so far)."""
    return set(PREDICTED).intersection(*(told_alone(one[target][precision]) for one in costs))


def read_value(costs: Mapping[str, Any], where: Sequence[str]) -> float:
    target, precision, quantity = where
    return float(costs[target][precision][quantity]["value"])


def keep_useful(job: Job, kept: Mapping[str, Any], students: Sequence[Params]) -> CostFilter:
    """The predictors whose margin is narrow enough, with what is said of them and of the others."""
    predictors: dict[str, dict[str, dict[str, Predictor]]] = {}
    said: dict[str, str] = {}
    for target, precisions in kept.items():
        for precision, figures in precisions.items():
            own = {quantity: predictor_from_dict(figures[quantity]) for quantity in sorted(figures)}
            said |= {f"{quantity} {precision} on {target}": say_error(one) for quantity, one in own.items()}
            useful = {quantity: one for quantity, one in own.items() if one.margin <= WIDEST}
            predictors.setdefault(target, {})[precision] = useful
    return CostFilter(predictors, students, said)


def say_error(predictor: Predictor) -> str:
    said = f"± {100 * predictor.error:.1f} %, margin {100 * predictor.margin:.0f} %"
    return said if predictor.margin <= WIDEST else f"not predicted (± {100 * predictor.error:.0f} %)"


def feature_row(job: Job, params: Params) -> dict[str, float]:
    module = spaces.build_student(job.space, params, job.task, job.spec.seed)
    return count_features(module, job.task.seen_by(params).inputs("val", np.arange(1), 0))
