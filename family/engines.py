"""How a candidate of the search is judged before the finals: trained in full, trained short, or by shared weights.

Optuna asks in every case; an engine answers with a val score, and the finals train in full what a budget could choose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from scipy.stats import spearmanr

from family.job import Job
from family.progress import Stage
from family.run_folder import remember
from family.sampling import even_draws
from family.students import load_trained, train_candidate
from family.supernet import POOL, DoesNotNest, fit_estimate, judge_slice, train_supernet
from family.train import predict, recalibrate, score_split
from family.types import Training

Params = Mapping[str, Any]
SHORT = 4  # a short run takes a quarter of the steps
ANCHORS = 6  # stand-alone short runs that shared weights must agree with
TRUSTED = 0.8  # their least rank agreement (Spearman)


@dataclass(frozen=True)
class Judge:
    """`score(params)`: the val score that Optuna is told; NaN where it diverged. `facts`: what the report says.
    `finalists`: how many of the best under a budget are trained in full for it, as far as the judge can be trusted.
    """

    name: str
    score: Callable[[Params], float]
    facts: Mapping[str, Any]
    finalists: int


def open_judge(job: Job, recipe: Training) -> Judge:
    """The engine that `search.engine` names; `auto` takes shared weights where they can be trusted, else short runs."""
    asked = job.spec.search.engine
    return ENGINES[asked](job, recipe)


def train_in_full(job: Job, recipe: Training) -> Judge:
    return Judge("tpe", lambda params: float(train_candidate(job, params, recipe)["val"]), {}, 4)


def train_short(job: Job, recipe: Training) -> Judge:
    """Halving with one rung: everyone trains a quarter of the steps, what a budget could choose all of them."""
    short = replace(recipe, steps=max(20, recipe.steps // SHORT))
    return Judge("halving", partial(score_short, job, short), {"short_steps": short.steps}, 3)


def score_short(job: Job, short: Training, params: Params) -> float:
    """Val score of a short run, on fresh batch-norm statistics; kept."""
    train_candidate(job, params, short)
    module = load_trained(job, params, short)
    recalibrate(module, job.task)
    return score_split(job.task, predict(module, job.task, "val"), "val")


def share_weights(job: Job, recipe: Training) -> Judge:
    """Raises DoesNotNest where the space does not nest."""
    job.watch(Stage("training shared weights to rank candidates by"))
    pool = even_draws(job, POOL)
    supernet = train_supernet(job, recipe, pool)
    estimate = fit_estimate(job, supernet, pool)
    return Judge(
        "supernet",
        lambda params: estimate.score(judge_slice(job, supernet, params)[1]),
        {"supernet_steps": recipe.steps, "supernet_macs": supernet.macs},
        2,
    )


def choose_engine(job: Job, recipe: Training) -> Judge:
    """Shared weights, unless the space does not nest or stand-alone runs disagree: then short runs. Says which."""
    halving = train_short(job, recipe)
    try:
        shared = share_weights(job, recipe)
    except DoesNotNest as problem:
        job.show(f"search: short runs rank the candidates, for weights cannot be shared: {problem}")
        return halving
    agreement = measure_agreement(job, shared, halving)
    facts = {**shared.facts, "agreement": agreement, "anchors": ANCHORS}
    said = f"rank agreement of shared weights with {ANCHORS} short runs {agreement:.2f}"
    if agreement < TRUSTED:
        job.show(f"search: short runs rank the candidates; {said}, less than {TRUSTED}")
        return replace(halving, facts={**halving.facts, "agreement": agreement})
    job.show(f"search: shared weights rank the candidates; {said}")
    return replace(shared, facts=facts)


def measure_agreement(job: Job, shared: Judge, halving: Judge) -> float:
    """Spearman's rank correlation of both judges over `ANCHORS` students, even in log cost."""

    def work() -> float:
        anchors = even_draws(job, ANCHORS)
        return float(spearmanr([shared.score(p) for p in anchors], [halving.score(p) for p in anchors]).statistic)

    return float(
        remember(job.folder / "supernet" / "agreement.json", [job.student_id, shared.facts, halving.facts], work)
    )


ENGINES: dict[str, Callable[[Job, Training], Judge]] = {
    "tpe": train_in_full,
    "halving": train_short,
    "supernet": share_weights,
    "auto": choose_engine,
}
