"""The dry run: what fits which budget, and how long the whole would take; trains nothing."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from family import spaces, tune
from family.candidates import measure_untrained, open_benches
from family.job import Job, limits_of


def forecast(job: Job) -> str:
    """Measure the smallest, middle and largest student and say which budgets each could keep."""
    sizes = {"smallest": spaces.smallest, "middle": spaces.middle, "largest": spaces.largest}
    lines, seconds = [], 0.0
    with open_benches(job) as benches:
        for size, pick in sizes.items():
            params = pick(job.space)
            found = measure_untrained(job, params, benches)
            seconds += (found["export_s"] + found["measure_s"]) / len(sizes)
            lines.append(f"{size} student ({spaces.describe_params(params)}): {fitted(job, found['costs'])}")
    step = seconds_per_step(job, spaces.middle(job.space))
    lines.append(duration(job, seconds, step))
    return "\n".join(lines)


def fitted(job: Job, costs: dict[str, Any]) -> str:
    said = []
    for name, budget in job.spec.budgets.items():
        if budget.target not in costs:
            said.append(f"{name} skipped")
            continue
        limits = {q: v for q, v in limits_of(budget).items() if q != "score"}
        over = min(
            max((f[q]["value"] / v - 1 for q, v in limits.items()), default=0.0) for f in costs[budget.target].values()
        )
        said.append(f"{name} fits" if over <= 0 else f"{name} over by {over:.0%}")
    return ", ".join(said)


def seconds_per_step(job: Job, params: dict[str, Any]) -> float:
    """Forward and backward of a batch of 64 on the middle student; no optimizer step is taken."""
    module = spaces.build_student(job.space, params, job.task, job.spec.seed).train()
    rows = np.arange(min(64, job.task.rows("train")))
    inputs = job.task.inputs("train", rows, 0)
    start, count = time.monotonic(), 5
    for _ in range(count):
        module(*inputs).square().mean().backward()
    return (time.monotonic() - start) / count


def duration(job: Job, measuring: float, step: float) -> str:
    trials, seeds = job.spec.search.trials, job.spec.distill.control_seeds
    middle = spaces.build_student(job.space, spaces.middle(job.space), job.task, job.spec.seed)
    steps = job.spec.distill.steps
    steps = steps if isinstance(steps, int) else tune.auto_steps(middle, job.task)
    trainings = trials + 12 + 2 * seeds * len(job.spec.budgets)
    minutes = (trainings * steps * step + 2 * trials * measuring) / 60
    return f"forecast: about {minutes:.0f} minutes ({trainings} trainings of {steps} steps at {1000 * step:.1f} ms)"
