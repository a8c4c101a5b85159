"""Short runs before the search: the learning rate first (it matters more than the loss), then the bake-off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from family.losses import loss_of
from family.soft_targets import SoftTargets
from family.train import predict, recalibrate, train
from family.types import Task, Training
from reports import difference

Builder = Callable[[int], nn.Module]


def auto_steps(module: nn.Module, task: Task) -> int:
    """About 20 passes over train and transfer in batches of 64, within 300 to 3,000 steps."""
    rows = task.rows("train") + task.rows("transfer")
    return int(np.clip(20 * rows / 64, 300, 3000))


def find_learning_rate(
    builds: Sequence[Builder],
    task: Task,
    store: SoftTargets,
    base: Training,
    grid: Sequence[float],
    steps: int,
) -> tuple[float, list[dict[str, Any]]]:
    """The rate with the best mean score over `builds` (a small and a large student), and every try."""
    tries = []
    for rate in grid:
        for size, build in enumerate(builds):
            score = short_run(build, task, store, replace(base, learning_rate=rate, steps=steps))
            tries.append(
                {"learning_rate": rate, "student": ("small", "large")[size], "val": score, "steps": steps}
            )
    sign = 1 if task.score.higher_is_better else -1
    mean = {rate: sign * np.mean([t["val"] for t in tries if t["learning_rate"] == rate]) for rate in grid}
    return max(grid, key=lambda rate: mean[rate]), tries


def short_run(build: Builder, task: Task, store: SoftTargets, training: Training) -> float:
    module = train(build(training.seed), task, store, training).module
    recalibrate(module, task)
    return float(task.score.fn(task.labels("val"), predict(module, task, "val")))


def bake_off(
    build: Builder, task: Task, store: SoftTargets, base: Training, losses: Sequence[str], control: Training
) -> tuple[Training, list[dict[str, Any]]]:
    """Every loss on one student, `labels` with the control's own learning rate among them.

    The best on val wins, unless its paired difference from the default (the first) includes 0.
    """
    table, outputs, ways = [], {}, {}
    for name in losses:
        if name != "labels" and not loss_of(name, task.kind).needs <= store.has:
            continue
        ways[name] = control if name == "labels" else replace(base, loss=name)
        trained = train(build(base.seed), task, store, ways[name])
        outputs[name] = predict(trained.module, task, "val")
        row = {"loss": name, "learning_rate": ways[name].learning_rate, "temperature": base.temperature}
        table.append(row | {"val": trained.val_score, "steps": trained.steps, "seconds": trained.seconds})
    sign = 1 if task.score.higher_is_better else -1
    best = max(table, key=lambda row: sign * row["val"])["loss"]
    default = next(iter(ways))
    gain = difference(task.score, task.labels("val"), [outputs[best]], [outputs[default]], task.groups("val"))
    for row in table:
        row["won"] = row["loss"] == (best if gain.low > 0 else default)
    return ways[best if gain.low > 0 else default], table
