"""Draws that are even in cost: uniformly drawn widths would spend nearly everything on the largest students."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from family import spaces
from family.job import Job
from family.run_folder import content_id, remember

Params = Mapping[str, Any]

POOL = 256  # random draws from which those even in log cost are picked


def even_draws(job: Job, count: int) -> list[Params]:
    """At most `count` students from the smallest to the largest, evenly spaced in the log of their cost."""
    return pick_even(draw_pool(job), count)


def start_draws(job: Job, count: int, may_fit: Callable[[Params], bool], measured: Sequence[Params]) -> list[Params]:
    """As `even_draws`, of those that may keep some budget; of all where none may. What is `measured` already is taken
    where it lies as near."""
    pool = draw_pool(job)
    within = [(params, cost) for params, cost in pool if may_fit(params)]
    return pick_even(within or pool, count, measured)


def pick_even(pool: Sequence[tuple[Params, float]], count: int, preferred: Sequence[Params] = ()) -> list[Params]:
    """At most `count` of the pool, each the nearest that is left to one of as many steps in log cost; within half a
    step, the nearest of the `preferred`."""
    costs = np.log([cost for _, cost in pool])
    wishes = np.linspace(costs.min(), costs.max(), min(count, len(pool)))
    half = float(np.ptp(costs)) / max(1, 2 * (len(wishes) - 1))
    known = [any(params == one for one in preferred) for params, _ in pool]
    picked: list[int] = []
    for wish in wishes:
        away = abs(costs - wish)
        left = [i for i in range(len(pool)) if i not in picked]
        picked.append(min(left, key=lambda i: (not (known[i] and away[i] <= half), away[i])))
    return [pool[i][0] for i in picked]


def draw_pool(job: Job) -> list[tuple[Params, float]]:
    """The smallest, the largest and `POOL` random students, each once, with their costs; drawn once a run."""

    def work() -> list[tuple[Params, float]]:
        rng = np.random.default_rng(job.spec.seed)
        pool = [spaces.smallest(job.space), spaces.largest(job.space)]
        pool += [spaces.sample(job.space, rng) for _ in range(POOL)]
        distinct = {content_id(dict(params)): dict(params) for params in pool}.values()
        return [(params, cost_proxy(job, params)) for params in distinct]

    return [(params, cost) for params, cost in remember(job.folder / "sampling.json", [job.student_id], work)]


def cost_proxy(job: Job, params: Params) -> float:
    """Multiply-accumulates of a row, and parameters: what training and shipping grow with."""
    module = spaces.build_student(job.space, params, job.task, job.spec.seed)
    inputs = job.task.seen_by(params).inputs("val", np.arange(1), 0)
    return spaces.count_macs(module, inputs) + spaces.count_parameters(module) + 1.0
