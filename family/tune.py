"""Short runs before the search: the learning rate first, then the bake-off of losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from family.losses import loss_of
from family.train import predict, recalibrate, score_split
from family.types import Store, Task, Training
from reports import difference

TrainOnce = Callable[[Training], nn.Module]  # a student of one size, trained as asked; known ones are not trained again
Table = list[dict[str, Any]]

FEWEST, MOST = 300, 3000  # steps
PASSES, BATCH = 20, 64
WORK = 4e12  # multiply-accumulates of one training, forward and backward: about five minutes on one core
WITHOUT_TEMPERATURE = ("labels", "mse", "answers")


def auto_steps(rows: int, cost: int) -> int:
    """About 20 passes over `rows` in batches of 64, within 300 to 3,000 steps, and fewer (300 at least) where a student
    of `cost` multiply-accumulates a row would take more than minutes."""
    return int(np.clip(min(PASSES * rows / BATCH, affordable_steps(cost)), FEWEST, MOST))


def affordable_steps(cost: int) -> float:
    """Steps that take `WORK`."""
    return WORK / (3 * BATCH * max(cost, 1))


def lengths_to_try(usual: int, shares: Sequence[float], cost: int, middle: int) -> list[int]:
    """Steps, rising: `shares` of the usual; those above it only as far as a student of `cost` multiply-accumulates a
    row takes no more than `WORK` for them, nor the `middle` one for what lies between them and the usual."""
    most = min(affordable_steps(cost), affordable_steps(middle) ** 2 / usual)
    return sorted({round(usual * share) for share in shares if share <= 1 or usual * share <= most})


def find_length(train: TrainOnce, task: Task, base: Training, lengths: Sequence[int]) -> tuple[int, Table]:
    """The steps of `lengths` that are best on val for one student, the more where level, and every try.

    Fewer than the usual `base.steps` only where shown better, paired by rows. No interval guards against more: on a few
    hundred rows none would show that a control needs them (docs/performance.md, "Length"). Those at which it diverges
    are out, unless all are. The table: steps, val, `gain`, `gain_low`, `gain_high` over the fewest steps (None where
    either diverged), `won`. Raises ValueError where `lengths` is empty.
    """
    if not lengths:
        raise ValueError("There must be one length or more to try. Got none.")
    tried = {steps: predict(train(replace(base, steps=steps)), task, "val") for steps in sorted(set(lengths))}
    scores = {steps: score_split(task, outputs, "val") for steps, outputs in tried.items()}
    won = best_length(task, scores, list(scores))
    if won < base.steps and (enough := [steps for steps in scores if steps >= base.steps]):
        usual = best_length(task, scores, enough)
        gain = compare(task, tried[won], tried[usual])["gain_low"]
        won = usual if gain is not None and gain <= 0 else won
    fewest = tried[min(tried)]
    rows = [{"steps": n, "val": scores[n], **compare(task, o, fewest), "won": n == won} for n, o in tried.items()]
    return won, rows


def best_length(task: Task, scores: Mapping[int, float], among: Sequence[int]) -> int:
    return max(among, key=lambda steps: (goodness(task, scores[steps]), steps))


def stretch_between(base: Training, steps: tuple[int, int], costs: tuple[int, int]) -> Training:
    """`base` whose steps go in log cost from those of the small student to those of the large; `costs`: their
    multiply-accumulates. `base.steps` stay, for whichever cost they are right. Where the two do not differ in cost or
    steps, the more steps are taken for all."""
    (small, large), (low, high) = steps, costs
    if not 0 < low < high or small == large:
        return replace(base, steps=max(steps))
    stretch = math.log(small / large) / math.log(high / low)
    return replace(base, stretch=stretch, macs=high * (large / base.steps) ** (1 / stretch))


def find_learning_rate(
    students: Sequence[tuple[TrainOnce, Task]],
    base: Training,
    grid: Sequence[float],
    steps: int,
) -> tuple[float, Table]:
    """The rate with the best mean score over `students` (a small and a large one, each with the task as it meets it),
    and every try.

    A rate at which some student diverges is out, unless all are. Raises ValueError where `grid` is empty.
    """
    if not grid:
        raise ValueError("The grid of learning rates must hold one or more. Got none.")
    tries: Table = []
    for training in with_rates(base, grid, steps):
        for size, (train, task) in zip(("small", "large"), students, strict=False):
            row = {"learning_rate": training.learning_rate, "student": size, "steps": steps}
            tries.append(row | {"val": short_run(train, task, training)})
    means = {rate: float(np.mean([t["val"] for t in tries if t["learning_rate"] == rate])) for rate in grid}
    return max(grid, key=lambda rate: goodness(students[0][1], means[rate])), tries


def with_rates(base: Training, grid: Sequence[float], steps: int) -> list[Training]:
    return [replace(base, learning_rate=rate, steps=steps) for rate in grid]


def goodness(task: Task, score: float) -> float:
    """The higher the better; a training that diverged is worst."""
    return float("-inf") if np.isnan(score) else score if task.score.higher_is_better else -score


def short_run(train: TrainOnce, task: Task, training: Training) -> float:
    """The val score after a short training, batch-norm statistics recalibrated."""
    module = train(training)
    recalibrate(module, task)
    return score_split(task, predict(module, task, "val"), "val")


def bake_off(
    train: TrainOnce,
    task: Task,
    store: Store,
    base: Training,
    losses: Sequence[str],
    control: Training,
    temperatures: Sequence[float] = (),
) -> tuple[Training, Table]:
    """Every loss on one student, `labels` with the control's own learning rate among them.

    The best on val wins, unless its paired difference from the default (the first) includes 0. Then the
    winner is tried at `temperatures`, and moves from `base.temperature` by the same rule. Losses that need
    what `store` lacks are left out. The table: loss, learning_rate, temperature, val, steps, `won`,
    and `gain`, `gain_low`, `gain_high` over the default (None where either diverged).
    """
    ways = ways_to_try(task, store, base, losses, control)
    tried: dict[Training, Try] = {}
    chosen = contest(train, task, ways, tried)
    if chosen.loss not in WITHOUT_TEMPERATURE:
        known = [t for t in temperatures if "all" in store.has or t in store.temperatures]
        chosen = contest(train, task, [chosen, *(replace(chosen, temperature=t) for t in known)], tried)
    return chosen, [one.row | {"won": way == chosen} for way, one in tried.items()]


def ways_to_try(task: Task, store: Store, base: Training, losses: Sequence[str], control: Training) -> list[Training]:
    """Of a bake-off: a way for each loss that needs no more than `store` has."""
    ways = [control if name == "labels" else replace(base, loss=name) for name in losses]
    return [way for way in ways if loss_of(way.loss, task.kind).needs <= store.has]


@dataclass
class Try:
    """One way of training tried: its row of the table, and its outputs (rows, outputs) on val."""

    row: dict[str, Any]
    outputs: np.ndarray


def contest(train: TrainOnce, task: Task, ways: Sequence[Training], tried: dict[Training, Try]) -> Training:
    """Train the same student in every way that is not in `tried` yet, and say which won; the first is the
    default, and the differences written down are from it."""
    for way in ways:
        if way not in tried:
            tried[way] = try_way(train, task, way)
            tried[way].row.update(compare(task, tried[way].outputs, tried[ways[0]].outputs))
    best = max(ways, key=lambda way: goodness(task, tried[way].row["val"]))
    gain = compare(task, tried[best].outputs, tried[ways[0]].outputs)["gain_low"]
    diverged = np.isnan(tried[ways[0]].row["val"])
    return best if diverged or (gain is not None and gain > 0) else ways[0]


def try_way(train: TrainOnce, task: Task, way: Training) -> Try:
    outputs = predict(train(way), task, "val")
    row = {"loss": way.loss, "learning_rate": way.learning_rate, "temperature": way.temperature}
    return Try(row | {"val": score_split(task, outputs, "val"), "steps": way.steps}, outputs)


def compare(task: Task, ours: np.ndarray, default: np.ndarray) -> dict[str, float | None]:
    """How much better than the default on val, paired by rows, in the score's own units."""
    if not (np.isfinite(ours).all() and np.isfinite(default).all()):
        return dict.fromkeys(("gain", "gain_low", "gain_high"))
    found = difference(task.score, task.labels("val"), [ours], [default], task.groups("val"))
    return {"gain": found.value, "gain_low": found.low, "gain_high": found.high}
