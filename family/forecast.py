"""The dry run: what fits which budget, and how long the whole would take; trains nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from family import recipe, spaces
from family.candidates import measure_untrained, open_benches, over_limits
from family.engines import ANCHORS, SHORT
from family.job import Job, cost_limits
from family.losses import losses_for
from family.progress import Stage
from family.sampling import even_draws
from family.starts import SHARING
from family.supernet import POOL, CannotRank, check_nesting
from family.untold import why_untold

SIZES = {"smallest": spaces.smallest, "middle": spaces.middle, "largest": spaces.largest}
FINALISTS = 2  # trained in full for a budget, about, where the search has not done so
LENGTH_RUNS = 3  # full trainings' worth of the trials of lengths, where none is given
SHARED = 1.5  # of shared weights: two students a step, one of them the smallest


def forecast(job: Job) -> dict[str, Any]:
    """The smallest, middle and largest student measured: `{students: {size: {params, budgets: {name: {status, over or
    why}}}}, forecast: {minutes, trainings, steps, step_ms}}`. over: 0.4 is 40 % above the limit that is broken most."""
    students: dict[str, Any] = {}
    seconds = 0.0
    with open_benches(job) as benches:
        for size, pick in SIZES.items():
            job.watch(Stage("measuring the smallest, middle and largest student", len(students), len(SIZES)))
            params = pick(job.space)
            found = measure_untrained(job, params, benches)
            seconds += (found["export_s"] + found["measure_s"]) / len(SIZES)
            students[size] = {"params": params, "budgets": fit_budgets(job, found["costs"])}
    step = seconds_per_step(job, spaces.middle(job.space))
    return {"students": students, "forecast": forecast_time(job, likely_engine(job), seconds, step)}


def likely_engine(job: Job) -> str:
    """What will judge the candidates: `auto` takes shared weights where the space nests, unless they rank badly, which
    only training tells."""
    engine = job.spec.search.engine
    if engine != "auto":
        return engine
    try:
        check_nesting(job, even_draws(job, POOL))
    except CannotRank:
        return "halving"
    return "auto"


def fit_budgets(job: Job, costs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Per budget whether some precision keeps its cost limits, and if not by how much the nearest breaks them; where
    the target tells a limited cost of no precision, why."""
    fits: dict[str, dict[str, Any]] = {}
    for name, budget in job.spec.budgets.items():
        if budget.target not in costs:
            fits[name] = {"status": "skipped"}
            continue
        limits, files = cost_limits(budget), list(costs[budget.target].values())
        reasons = [why_untold(figures, limits) for figures in files]
        told = [over_limits(figures, limits) for figures, why in zip(files, reasons, strict=True) if why is None]
        if not told:
            fits[name] = {"status": "untold", "why": reasons[0]}
            continue
        fits[name] = {"status": "fits"} if min(told) <= 0 else {"status": "over", "over": min(told)}
    return fits


def seconds_per_step(job: Job, params: dict[str, Any]) -> float:
    """Forward and backward of a batch of 64 on the middle student; no optimizer step is taken."""
    module = spaces.build_student(job.space, params, job.task, job.spec.seed).train()
    rows = np.arange(min(64, job.task.rows("train")))
    inputs = job.task.seen_by(params).inputs("train", rows, 0)
    start, count = time.monotonic(), 5
    for _ in range(count):
        module(*inputs).square().mean().backward()
    return (time.monotonic() - start) / count


@dataclass(frozen=True)
class Work:
    """What an engine trains, in full trainings: to get ready, for each candidate, and for the finals."""

    ready: float
    each: float
    finals: float


def work_of(engine: str, trials: int, budgets: int) -> Work:
    """`auto` is shared weights with their check; a step of theirs takes two students, one of them the smallest."""
    finals = float(min(trials, FINALISTS * budgets))
    return {
        "tpe": Work(0.0, 1.0, 0.0),
        "halving": Work(0.0, 1 / SHORT, finals),
        "supernet": Work(SHARED, 0.0, finals),
        "auto": Work(SHARED + ANCHORS / SHORT, 0.0, finals),
    }[engine]


def forecast_time(job: Job, engine: str, measuring: float, step: float) -> dict[str, Any]:
    """Minutes of the whole run, the search within its own minutes; `measuring`: seconds a candidate, `step`: a step.

    `trainings`: how many full ones all training amounts to; `minutes_at_most`: where `auto` falls back to short runs.
    """
    steps = job.spec.distill.steps
    if not isinstance(steps, int):
        steps = recipe.usual_steps(job)
    trials, budgets = job.spec.search.trials, len(job.spec.budgets)
    seeds = job.spec.distill.control_seeds
    rest = short_runs(job) + 2 * seeds * budgets
    if engine in SHARING:  # for both ways: where students begin, on two of them, and shared weights of each paired seed
        rest += 2 * (2 + SHARED * (1 + seeds))
    work, back = work_of(engine, trials, budgets), work_of("halving", trials, budgets)
    work_at_most = Work(work.ready, back.each, back.finals) if engine == "auto" else work

    def minutes(work: Work) -> float:
        bound = job.spec.search.minutes or float("inf")
        ready = work.ready * steps * step / 60
        candidates = trials * (work.each * steps * step + 2 * measuring) / 60
        search = min(ready + candidates, max(bound, ready + bound / 2))
        return round(search + (work.finals + rest) * steps * step / 60, 1)

    trainings = work.ready + trials * work.each + work.finals + rest
    found = {"engine": engine, "minutes": minutes(work), "minutes_at_most": minutes(work_at_most)}
    return found | {"trainings": round(trainings), "steps": steps, "step_ms": 1000 * step}


def short_runs(job: Job) -> float:
    """Full trainings that learning rate and length (of students and controls, on two sizes) and bake-off amount to."""
    asked = job.spec.distill
    rates = 2 * 2 * len(recipe.GRID) / recipe.SHORT if asked.learning_rate == "auto" else 0.0
    kind = job.task.kind
    rates += LENGTH_RUNS if asked.steps == "auto" else 0
    return rates + (len(losses_for(kind)) + len(recipe.TEMPERATURES) if asked.loss == "auto" else 0)


JUDGES = {
    "tpe": "every candidate trained in full",
    "halving": "candidates judged by short runs",
    "supernet": "candidates judged by shared weights",
    "auto": "candidates judged by shared weights",
}


def say_forecast(told: Mapping[str, Any]) -> str:
    """The same in words; a budget that not even the smallest student fits is warned of."""
    lines = []
    for size, student in told["students"].items():
        fits = ", ".join(say_fit(name, fit) for name, fit in student["budgets"].items())
        lines.append(f"{size} student ({spaces.describe_params(student['params'])}): {fits}")
    budgets = [student["budgets"] for student in told["students"].values()]
    for name in budgets[0]:
        lines += warn_of(name, [each[name] for each in budgets])
    time_ = told["forecast"]
    least, most = (max(1, round(time_[key])) for key in ("minutes", "minutes_at_most"))
    known = f", up to {most} if shared weights do not rank well here" if most > least else ""
    lines.append(
        f"forecast: about {least} minutes{known} (as much as {time_['trainings']} trainings of {time_['steps']} steps "
        f"at {time_['step_ms']:.1f} ms; {JUDGES[time_['engine']]})"
    )
    return "\n".join(lines)


def warn_of(name: str, fits: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of a budget that none of these students fits."""
    if not all(fit["status"] in ("over", "untold") for fit in fits):
        return []
    over = [fit["over"] for fit in fits if fit["status"] == "over"]
    said = [f"the nearest is over by {say_share(min(over))}"] if over else []
    said += [fit["why"] for fit in fits if fit["status"] == "untold"][:1]  # of the smallest
    return [f"warning: none of these fits {name}; {'; '.join(said)}"]


def say_fit(name: str, fit: Mapping[str, Any]) -> str:
    return f"{name} over by {say_share(fit['over'])}" if fit["status"] == "over" else f"{name} {fit['status']}"


def say_share(over: float) -> str:
    """40 %, and beyond ten times the limit how many times it."""
    return f"{over:.0%}" if over < 9 else f"{over + 1:.0f} times the limit"
