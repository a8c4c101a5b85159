"""Draws that are even in cost: uniformly drawn widths would spend nearly everything on the largest students."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from family import spaces
from family.job import Job
from family.run_folder import content_id, remember

Params = Mapping[str, Any]

POOL = 256  # random draws from which those even in log cost are picked


def even_draws(job: Job, count: int) -> list[Params]:
    """At most `count` students from the smallest to the largest, evenly spaced in the log of their cost."""
    pool = draw_pool(job)
    costs = np.log([cost for _, cost in pool])
    picked: list[int] = []
    for wish in np.linspace(costs.min(), costs.max(), min(count, len(pool))):
        left = [i for i in range(len(pool)) if i not in picked]
        picked.append(min(left, key=lambda i: abs(costs[i] - wish)))
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
    inputs = job.task.inputs("val", np.arange(1), 0)
    return spaces.count_macs(module, inputs) + spaces.count_parameters(module) + 1.0
