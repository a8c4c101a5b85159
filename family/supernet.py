"""A ranker that trains one set of weights for the whole space: any student's are leading slices of the largest's.

Each step draws one student evenly in log cost, and the smallest beside it; both are taught the same batch from the
stored soft targets, and their gradients are added into the slices they were cut from. A student is then ranked by
its slice alone, with batch-norm statistics of its own (the largest's are useless to it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from family import spaces
from family.job import Job
from family.run_folder import content_id, remember
from family.sampling import even_draws
from family.text.first_values import begin_from_table
from family.train import (
    WEIGHT_DECAY,
    Batch,
    Checkpoint,
    Plan,
    compute_loss,
    draw_batches,
    identify,
    load_student,
    loss_on_val,
    one_thread,
    own_generator,
    plan_batches,
    predict,
    recalibrate,
    save_student,
    score_split,
    seed_device,
    set_rate,
    short_collections,
)
from family.types import Dim, Task, Training

Params = Mapping[str, Any]
POOL = 64  # students that are drawn from, evenly in log cost
CORNERS = 64  # of the space, that are looked at
FITTED = 16  # of them give the line from loss to score
BATCHES = 4  # that batch-norm statistics of a slice are taken over
LEAST = 1e-9  # the least loss a logarithm is taken of


class CannotRank(ValueError):
    """Shared weights are of no use here: students that do not nest, or slices that tell nothing."""


@dataclass(frozen=True)
class Supernet:
    """The trained largest student, and what training it took in multiply-accumulates × rows, forward."""

    largest: nn.Module
    macs: float

    def slice_into(self, module: nn.Module) -> nn.Module:
        """Copy the leading slices that `module` has the shapes of into it."""
        copy_slices(dict(self.largest.named_parameters()), module)
        return module


def check_nesting(job: Job, pool: Sequence[Params]) -> None:
    """Raises CannotRank, naming the first parameter of a corner of the space or of `pool` that the largest student
    lacks, or has with another number of dimensions or a smaller one."""
    if not job.space.nests:
        raise CannotRank(f"students of {job.space.name} are no slices of one another")
    largest = shapes(build(job, spaces.largest(job.space)))
    for params in (*corners(job.space.dims), *pool):
        for name, shape in shapes(build(job, params)).items():
            big = largest.get(name)
            if not holds(big, shape):
                said = spaces.describe_params(params)
                raise CannotRank(f"{name} of {said} has shape {shape}, the largest student's {big}")


def holds(big: tuple[int, ...] | None, small: tuple[int, ...]) -> bool:
    return big is not None and len(big) == len(small) and all(a <= b for a, b in zip(small, big, strict=True))


def corners(dims: Mapping[str, Dim]) -> list[dict[str, Any]]:
    """Every choice with the ends of every range, the first `CORNERS` of them."""
    ends = {name: dim.choices or (spaces.at(dim, 0.0), spaces.at(dim, 1.0)) for name, dim in dims.items()}
    return [dict(zip(ends, values, strict=True)) for values in islice(product(*ends.values()), CORNERS)]


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.named_parameters()}


def build(job: Job, params: Params) -> nn.Module:
    return spaces.build_student(job.space, params, job.task, job.spec.seed)


def copy_slices(big: Mapping[str, nn.Parameter], module: nn.Module) -> None:
    """Raises CannotRank for a module that is no part of `big`."""
    with torch.no_grad():
        for name, value in module.named_parameters():
            if name not in big or not holds(tuple(big[name].shape), tuple(value.shape)):
                raise CannotRank(f"{name} with shape {tuple(value.shape)} is no leading slice of the largest student's")
            value.copy_(big[name][leading(value)])


def add_gradients(module: nn.Module, big: Mapping[str, nn.Parameter]) -> None:
    """Add what the module's weights were told into the slices of `big` that they came from."""
    for name, value in module.named_parameters():
        if value.grad is not None:
            into = big[name].grad
            assert into is not None
            into[leading(value)] += value.grad


def leading(value: torch.Tensor) -> tuple[slice, ...]:
    return tuple(slice(0, n) for n in value.shape)


def begin_from_teacher(job: Job, module: nn.Module, training: Training) -> None:
    """What a taught student takes of its teacher before the first step; a control takes nothing."""
    if training.loss != "labels" and job.first_values is not None:
        begin_from_table(module, job.first_values)


def shared_weights(job: Job, training: Training) -> Supernet:
    """Those that a student trained by `training` starts from, or would be ranked by where it inherits nothing:
    of its seed, over students even in log cost. Raises CannotRank."""
    return train_supernet(job, alone(training), even_draws(job, POOL))


def alone(training: Training) -> Training:
    """The usual steps, for a student of any size, from start values of its own: as shared weights are trained."""
    return replace(training.unscaled, steps=training.inherits or training.steps, inherits=0, patience=0, on_policy=0.0)


def train_supernet(job: Job, training: Training, pool: Sequence[Params]) -> Supernet:
    """Train the shared weights by `training` on students drawn from `pool` (evenly in log cost); kept, and resumed
    where it stopped. Raises CannotRank."""
    folder = job.folder / "supernet" / content_id(job.student_id, training.identity, list(map(dict, pool)))
    largest = build(job, spaces.largest(job.space))
    begin_from_teacher(job, largest, training)

    def work() -> dict[str, float]:  # what counts is what was done: `family.spent` reads it
        check_nesting(job, pool)
        macs = run_steps(job, largest, training, pool, folder / "checkpoint")
        save_student(largest, folder / "largest.safetensors")
        (folder / "checkpoint").unlink(missing_ok=True)
        return {"macs": macs, "seed": training.seed}

    done = remember(folder / "done.json", [training.identity, job.task.fingerprint, job.teacher.fingerprint], work)
    load_student(largest, folder / "largest.safetensors")
    return Supernet(largest.eval(), done["macs"])


def run_steps(job: Job, largest: nn.Module, training: Training, pool: Sequence[Params], checkpoint: Path) -> float:
    """All steps; the multiply-accumulates × rows, forward, that they took."""
    task = job.task.seen_by(spaces.largest(job.space))
    store, device = job.soft_targets(), job.device
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    every_params = (spaces.smallest(job.space), *pool)
    tasks = [job.task.seen_by(params) for params in every_params]
    students = [build(job, params) for params in every_params]
    costs = [spaces.cost_of(student, own) for student, own in zip(students, tasks, strict=True)]
    students = [student.to(device).train() for student in students]
    drawn = np.random.default_rng([training.seed, 78]).integers(1, len(students), training.steps)
    with one_thread(), own_generator(device), short_collections():
        plan = plan_batches(task, training)
        largest.to(device).train()
        every = dict(largest.named_parameters())
        big = {name: value for name, value in every.items() if value.requires_grad}
        optimiser = torch.optim.AdamW(big.values(), lr=training.learning_rate, weight_decay=WEIGHT_DECAY, fused=True)
        kept = Checkpoint(checkpoint, identify(task, store, training))
        first = kept.load(largest, optimiser)
        for value in big.values():
            value.grad = torch.zeros_like(value)
        for step, batch in enumerate(draw_batches(task, store, training, plan, first, device), first):
            set_rate(optimiser, training, step)
            seed_device(device, training.seed * 1_000_003 + step)
            optimiser.zero_grad(set_to_none=False)
            for i in (0, drawn[step]):
                student = students[i]
                copy_slices(every, student)
                student.zero_grad(set_to_none=True)
                own = batch if tasks[i] is task else read_by(tasks[i], batch, plan, step, device)
                compute_loss(student, task, training, own).backward()
                add_gradients(student, big)
            optimiser.step()
            kept.save_sometimes(largest, optimiser, step + 1)
        largest.to("cpu").eval()
    return float(training.batch * (training.steps * costs[0] + sum(costs[i] for i in drawn)))


def read_by(task: Task, batch: Batch, plan: Plan, step: int, device: str) -> Batch:
    """The batch of this step with the inputs that a student of another vocabulary or length has."""
    pool, rows, views = (part[step] for part in (plan.transfer, plan.rows, plan.views))
    parts = [task.inputs("train", rows[~pool], views[~pool])] if not pool.all() else []
    parts += [task.inputs("transfer", rows[pool], views[pool])] if pool.any() else []
    order = torch.from_numpy(np.argsort(np.concatenate([np.flatnonzero(~pool), np.flatnonzero(pool)])))
    inputs = tuple(torch.cat(several)[order].to(device) for several in zip(*parts, strict=True))
    return replace(batch, inputs=inputs)


def judge_slice(job: Job, supernet: Supernet, params: Params) -> tuple[float, float]:
    """Val score and mean supervised loss of the student's slice, on batch-norm statistics of its own."""
    module = supernet.slice_into(build(job, params)).eval()
    task = job.task.seen_by(params)
    recalibrate(module, task, BATCHES)
    outputs = predict(module, task, "val")
    return score_split(task, outputs, "val"), loss_on_val(task, outputs, np.arange(len(outputs)))


@dataclass(frozen=True)
class Estimate:
    """A val score from a slice's loss: `intercept + slope · log loss`, fitted over students even in log cost.

    The loss ranks far better than the score itself, which on a few hundred rows knows only a few dozen values.
    """

    intercept: float
    slope: float
    most: float  # 1 for scores that are shares, else inf

    def score(self, loss: float) -> float:
        return min(self.most, self.intercept + self.slope * float(np.log(max(loss, LEAST))))


def fit_estimate(job: Job, supernet: Supernet, pool: Sequence[Params]) -> Estimate:
    """Least squares over the slices of `pool`; those whose outputs are not finite are left out.

    Raises CannotRank where the losses are all one, or a lower loss does not go with a better score.
    """
    judged = [judge_slice(job, supernet, params) for params in pool]
    known = np.array([(score, np.log(max(loss, LEAST))) for score, loss in judged if np.isfinite([score, loss]).all()])
    if len(known) < 2 or np.ptp(known[:, 1]) == 0:
        raise CannotRank(f"of {len(pool)} slices {len(known)} give finite outputs, and their losses do not differ")
    slope, intercept = np.polyfit(known[:, 1], known[:, 0], 1)
    if (slope < 0) != job.task.score.higher_is_better:
        raise CannotRank(f"a lower loss of the slices does not go with a better {job.task.score.name}")
    share = job.task.score.higher_is_better and known[:, 0].min() >= 0 and known[:, 0].max() <= 1
    return Estimate(float(intercept), float(slope), 1.0 if share else np.inf)
