"""How a candidate of the search is judged before the finals: trained in full, trained short, or by shared weights.

Optuna asks in every case; an engine answers with a val score, and the finals train in full what a budget could choose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from family.errors import mistake
from family.job import Job
from family.progress import Stage
from family.run_folder import remember
from family.sampling import even_draws
from family.starts import SIZES
from family.students import load_trained, train_candidate, training_id
from family.supernet import (
    FITTED,
    CannotRank,
    Estimate,
    Supernet,
    alone,
    fit_estimate,
    judge_slice,
    shared_weights,
)
from family.train import predict, recalibrate, score_split
from family.types import Training

Params = Mapping[str, Any]
SHORT = 4  # a short run takes a quarter of the steps
ANCHORS = 6  # stand-alone short runs that shared weights must agree with
TRUSTED = 0.8  # their least rank agreement (Spearman)


@dataclass(frozen=True)
class Judge:
    """`score(params)`: the val score that Optuna is told; NaN where it diverged. `facts`: what the report says."""

    name: str
    score: Callable[[Params], float]
    facts: Mapping[str, Any]

    @property
    def exact(self) -> bool:
        """Whether its scores are those of trained students, and no estimates of them."""
        return self.name == "tpe"


def open_judge(job: Job, recipe: Training) -> Judge:
    """The engine that `search.engine` names; `auto` takes shared weights where they can be trusted, else short runs."""
    asked = job.spec.search.engine
    return ENGINES[asked](job, recipe)


def train_in_full(job: Job, recipe: Training) -> Judge:
    return Judge("tpe", lambda params: float(train_candidate(job, params, recipe)["val"]), {})


def train_short(job: Job, recipe: Training) -> Judge:
    """Halving with one rung: everyone trains a quarter of the steps, what a budget could choose all of them."""
    short = replace(alone(recipe), steps=max(20, alone(recipe).steps // SHORT))
    return Judge("halving", partial(score_short, job, short), {"short_steps": short.steps})


def score_short(job: Job, short: Training, params: Params) -> float:
    """Val score of a short run, on fresh batch-norm statistics; kept."""
    train_candidate(job, params, short)
    module = load_trained(job, params, short)
    task = job.task.seen_by(params)
    recalibrate(module, task)
    return score_split(task, predict(module, task, "val"), "val")


def share_weights_or_fail(job: Job, recipe: Training) -> Judge:
    """As asked for by name. Raises Mistakes where weights cannot be shared."""
    try:
        return share_weights(job, recipe)
    except CannotRank as problem:
        raise mistake("search.engine", f"supernet cannot rank here: {problem}. Say auto or halving.") from problem


def share_weights(job: Job, recipe: Training) -> Judge:
    """Raises CannotRank where the space does not nest, or slices tell nothing."""
    job.watch(Stage("training shared weights to rank candidates by"))
    supernet = shared_weights(job, recipe)
    estimate = fit_estimate(job, supernet, even_draws(job, FITTED))
    return Judge(
        "supernet",
        partial(estimate_score, job, supernet, estimate),
        {"supernet_steps": alone(recipe).steps, "supernet_macs": supernet.macs},
    )


def to_calibrate(job: Job, judge: Judge) -> list[Params]:
    """Students whose scores tell how far estimates are off; none where there are no estimates."""
    return [] if judge.exact else [size(job.space) for size in SIZES.values()]


def calibrate(job: Job, recipe: Training, judge: Judge) -> list[tuple[float, float]]:
    """(estimate, val score) of the smallest and the middle student, trained for it where they are not yet; nothing of
    an exact judge, and of one that diverged."""
    students = to_calibrate(job, judge)
    if not students:
        return []
    job.watch(Stage("how far estimates are off, on a small and a middle student"))
    pairs = [(float(judge.score(p)), float(train_candidate(job, p, recipe)["val"])) for p in students]
    return [pair for pair in pairs if np.isfinite(pair).all()]


def estimate_score(job: Job, supernet: Supernet, estimate: Estimate, params: Params) -> float:
    """NaN for a student that is no slice, or whose slice gives no finite outputs."""
    try:
        score, loss = judge_slice(job, supernet, params)
    except CannotRank:
        return math.nan
    return estimate.score(loss) if math.isfinite(score) and math.isfinite(loss) else math.nan


def choose_engine(job: Job, recipe: Training) -> Judge:
    """Shared weights, unless the space does not nest or stand-alone runs disagree: then short runs. Says which."""
    halving = train_short(job, recipe)
    try:
        shared = share_weights(job, recipe)
    except CannotRank as problem:
        job.show(f"search: short runs rank the candidates, for weights cannot be shared: {problem}")
        return halving
    agreement = measure_agreement(job, recipe, shared, halving)
    facts = {**shared.facts, "agreement": agreement, "anchors": ANCHORS}
    said = f"rank agreement of shared weights with {ANCHORS} short runs {agreement:.2f}"
    if not agreement >= TRUSTED:  # NaN where runs diverged, or there are too few students to compare
        job.show(f"search: short runs rank the candidates; {said}, not {TRUSTED} or more")
        return replace(halving, facts={**halving.facts, "agreement": agreement})
    job.show(f"search: shared weights rank the candidates; {said}")
    return replace(shared, facts=facts)


def measure_agreement(job: Job, recipe: Training, shared: Judge, halving: Judge) -> float:
    """Spearman's rank correlation of both judges over `ANCHORS` students, even in log cost; NaN where the space has
    fewer. It tells a broken ranker; that larger students score better it would call agreement too."""
    anchors = even_draws(job, ANCHORS)

    def work() -> float:
        if len(anchors) < ANCHORS:
            return math.nan
        found = np.array([(shared.score(params), halving.score(params)) for params in anchors])
        constant = np.ptp(found, axis=0).min() == 0
        return math.nan if constant or not np.isfinite(found).all() else float(spearmanr(*found.T).statistic)

    inputs = [job.student_id, training_id(job, recipe), dict(shared.facts), dict(halving.facts)]
    return float(remember(job.folder / "supernet" / "agreement.json", inputs, work))


ENGINES: dict[str, Callable[[Job, Training], Judge]] = {
    "tpe": train_in_full,
    "halving": train_short,
    "supernet": share_weights_or_fail,
    "auto": choose_engine,
}
