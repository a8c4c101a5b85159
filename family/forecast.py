"""The dry run: what fits which budget, and how long the whole would take; trains nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from family import spaces, tune
from family.candidates import measure_untrained, open_benches, over_limits
from family.job import Job, cost_limits
from family.progress import Stage

SIZES = {"smallest": spaces.smallest, "middle": spaces.middle, "largest": spaces.largest}
SHORT_RUNS = 12  # trainings' worth of learning rate and bake-off,
LENGTH_RUNS = 12  # and of the trials of lengths, where none is given


def forecast(job: Job) -> dict[str, Any]:
    """The smallest, middle and largest student measured: `{students: {size: {params, budgets: {name: {status, over}}}},
    forecast: {minutes, trainings, steps, step_ms}}`. over: 0.4 is 40 % above the limit that is broken most."""
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
    return {"students": students, "forecast": forecast_time(job, seconds, step)}


def fit_budgets(job: Job, costs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Per budget whether some precision keeps its cost limits, and if not by how much the nearest breaks them."""
    fits: dict[str, dict[str, Any]] = {}
    for name, budget in job.spec.budgets.items():
        if budget.target not in costs:
            fits[name] = {"status": "skipped"}
            continue
        over = min(over_limits(figures, cost_limits(budget)) for figures in costs[budget.target].values())
        fits[name] = {"status": "fits"} if over <= 0 else {"status": "over", "over": over}
    return fits


def seconds_per_step(job: Job, params: dict[str, Any]) -> float:
    """Forward and backward of a batch of 64 on the middle student; no optimizer step is taken."""
    module = spaces.build_student(job.space, params, job.task, job.spec.seed).train()
    rows = np.arange(min(64, job.task.rows("train")))
    inputs = job.task.inputs("train", rows, 0)
    start, count = time.monotonic(), 5
    for _ in range(count):
        module(*inputs).square().mean().backward()
    return (time.monotonic() - start) / count


def forecast_time(job: Job, measuring: float, step: float) -> dict[str, Any]:
    """Minutes of the whole run, the search within its own minutes; `measuring`: seconds a candidate, `step`: a step."""
    trials, seeds = job.spec.search.trials, job.spec.distill.control_seeds
    steps = job.spec.distill.steps
    tuning = SHORT_RUNS if isinstance(steps, int) else SHORT_RUNS + LENGTH_RUNS
    if not isinstance(steps, int):
        middle = spaces.build_student(job.space, spaces.middle(job.space), job.task, job.spec.seed)
        steps = tune.auto_steps(middle, job.task)
    rest = tuning + 2 * seeds * len(job.spec.budgets)
    search = (trials * (steps * step + 2 * measuring)) / 60
    minutes = min(search, job.spec.search.minutes or search) + rest * steps * step / 60
    return {"minutes": round(minutes, 1), "trainings": trials + rest, "steps": steps, "step_ms": 1000 * step}


def say_forecast(told: Mapping[str, Any]) -> str:
    """The same in words; a budget that not even the smallest student fits is warned of."""
    lines = []
    for size, student in told["students"].items():
        fits = ", ".join(say_fit(name, fit) for name, fit in student["budgets"].items())
        lines.append(f"{size} student ({spaces.describe_params(student['params'])}): {fits}")
    budgets = [student["budgets"] for student in told["students"].values()]
    for name in budgets[0]:
        if all(each[name]["status"] == "over" for each in budgets):
            least = min(each[name]["over"] for each in budgets)
            lines.append(f"warning: none of these fits {name}; the nearest is over by {say_share(least)}")
    time_ = told["forecast"]
    lines.append(
        f"forecast: about {max(1, round(time_['minutes']))} minutes "
        f"({time_['trainings']} trainings of {time_['steps']} steps at {time_['step_ms']:.1f} ms)"
    )
    return "\n".join(lines)


def say_fit(name: str, fit: Mapping[str, Any]) -> str:
    return f"{name} over by {say_share(fit['over'])}" if fit["status"] == "over" else f"{name} {fit['status']}"


def say_share(over: float) -> str:
    """40 %, and beyond ten times the limit how many times it."""
    return f"{over:.0%}" if over < 9 else f"{over + 1:.0f} times the limit"
