"""How students begin: from the shared weights that rank them, or from values of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from family import spaces
from family.job import Job
from family.progress import Stage
from family.students import train_candidate
from family.supernet import CannotRank, check_nesting
from family.tune import goodness
from family.types import Training

SIZES = {"smallest": spaces.smallest, "middle": spaces.middle}
SHARING = ("auto", "supernet")  # engines
Table = list[dict[str, Any]]
Params = Mapping[str, Any]


def choose_start(job: Job, scratch: Training) -> tuple[Training, Table]:
    """Shared weights where students that begin from them are no worse on val than by `scratch`, in the usual steps for
    both (mean of the smallest and the middle student), else `scratch`; and what was tried: inherits, steps, student,
    val. Weights that cannot be shared leave an empty table."""
    if job.spec.search.engine not in SHARING:
        return scratch, []
    job.watch(Stage(f"whether shared weights are the better start for {scratch.loss}, on a small and a middle student"))
    inheriting = inherit(scratch)
    try:
        table = try_start(job, inheriting.unscaled)
    except CannotRank:  # the search says why
        return scratch, []
    table += try_start(job, scratch.unscaled)  # tried before, where losses and lengths were
    if -math.inf < mean_val(job, table, inheriting) >= mean_val(job, table, scratch):
        job.show(f"{scratch.loss}: students begin from shared weights, with which two are no worse on val")
        return inheriting, table
    job.show(f"{scratch.loss}: students begin from values of their own; from shared weights two are worse on val")
    return scratch, table


def inherit(scratch: Training) -> Training:
    return replace(scratch, inherits=scratch.steps)


def starts_to_try(job: Job, scratch: Training) -> list[tuple[Params, Training]]:
    """Every (params, training) that `choose_start` compares."""
    if job.spec.search.engine not in SHARING:
        return []
    try:
        check_nesting(job, ())
    except CannotRank:
        return []
    ways = (inherit(scratch).unscaled, scratch.unscaled)
    return [(size(job.space), way) for way in ways for size in SIZES.values()]


def try_start(job: Job, training: Training) -> Table:
    """A row per size."""
    about = {"inherits": training.inherits, "steps": training.steps}
    return [
        about | {"student": name, "val": train_candidate(job, size(job.space), training)["val"]}
        for name, size in SIZES.items()
    ]


def mean_val(job: Job, table: Table, training: Training) -> float:
    """The higher the better; of a training that diverged the worst there is."""
    found = [goodness(job.task, row["val"]) for row in table if row["inherits"] == training.inherits]
    return float(np.mean(found)) if all(map(math.isfinite, found)) else -math.inf
