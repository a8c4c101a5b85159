"""The recipe: the learning rate first, then which loss; the control's learning rate from the same grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from family import spaces, tune
from family.job import Job
from family.losses import check_loss, losses_for
from family.progress import Stage
from family.run_folder import remember
from family.students import load_trained, train_candidate
from family.types import Training

GRID = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
TEMPERATURES = (2.0, 8.0)  # tried beside the default of 4 for the loss that won
SHORT = 3  # short runs take a third of the steps


@dataclass(frozen=True)
class Recipe:
    """How students are trained, how controls are, and what was tried to find that out."""

    student: Training
    control: Training
    bakeoff: list[dict[str, Any]]
    learning_rates: dict[str, list[dict[str, Any]]]


def find_recipe(job: Job) -> Recipe:
    """Find the learning rates and the loss, once per teacher, data, space and settings."""
    asked = job.spec.distill.model_dump(exclude={"control_seeds"})  # of no concern here
    inputs = [job.student_id, job.task.fingerprint, job.task.score.name, job.teacher.fingerprint, asked, job.spec.seed]
    kept = remember(job.folder / "recipe.json", inputs, lambda: bake(job))
    return Recipe(Training(**kept["student"]), Training(**kept["control"]), kept["bakeoff"], kept["learning_rates"])


def bake(job: Job) -> dict[str, Any]:
    asked, store = job.spec.distill, job.soft_targets()
    middle = spaces.build_student(job.space, spaces.middle(job.space), job.task, job.spec.seed)
    base = Training(
        loss=first_loss(job),
        learning_rate=0.0,
        steps=asked.steps if isinstance(asked.steps, int) else tune.auto_steps(middle, job.task),
        seed=job.spec.seed,
        temperature=asked.temperature if asked.temperature != "auto" else 4.0,
        views=store.views,
    )
    check_loss(base.loss, job.task.kind, store.has, base.temperature, store.temperatures)
    student_rate, student_tries = learning_rate(job, base)
    control_rate, control_tries = learning_rate(job, replace(base, loss="labels"))
    student = replace(base, learning_rate=student_rate)
    control = replace(base, loss="labels", learning_rate=control_rate)
    table: list[dict[str, Any]] = []
    if asked.loss == "auto":
        job.watch(Stage("bake-off: which loss, on a middle student"))
        temperatures = TEMPERATURES if asked.temperature == "auto" else ()
        student, table = tune.bake_off(
            trainer(job, spaces.middle(job.space)),
            job.task,
            store,
            student,
            losses_for(job.task.kind),
            control,
            temperatures,
        )
        winner = next(row for row in table if row["loss"] == student.loss)
        job.show(f"bake-off: {student.loss} (val {winner['val']:.4f})")
    return {
        "student": asdict(student),
        "control": asdict(control),
        "bakeoff": table,
        "learning_rates": {"student": student_tries, "control": control_tries},
    }


def first_loss(job: Job) -> str:
    return job.spec.distill.loss if job.spec.distill.loss != "auto" else losses_for(job.task.kind)[0]


def learning_rate(job: Job, base: Training) -> tuple[float, list[dict[str, Any]]]:
    """Given, or found by short runs on a small and a large student."""
    given = job.spec.distill.learning_rate
    if given != "auto":
        return float(given), []
    job.watch(Stage(f"learning rate for {base.loss}, short runs on a small and a large student"))
    small, large = (trainer(job, size(job.space)) for size in (spaces.smallest, spaces.largest))
    steps = max(20, base.steps // SHORT)
    rate, tries = tune.find_learning_rate([small, large], job.task, base, GRID, steps)
    job.show(f"learning rate for {base.loss}: {rate:g} ({len(tries)} short runs)")
    return rate, tries


def trainer(job: Job, params: Mapping[str, Any]) -> tune.TrainOnce:
    """Every short run is kept like any other training, so that an interrupted recipe goes on where it was."""

    def train(training: Training) -> nn.Module:
        train_candidate(job, params, training)
        return load_trained(job, params, training)

    return train
