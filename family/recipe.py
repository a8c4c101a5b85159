"""The recipe: the learning rate and the length first, then which loss; the control's from the same grids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import nn

from family import spaces, tune
from family.helpers import Ahead, train_nothing
from family.job import Job
from family.losses import check_loss, loss_of, losses_for
from family.progress import Stage
from family.run_folder import remember
from family.starts import SHARING, choose_start, starts_to_try
from family.students import cost_of, load_trained, train_candidate
from family.types import Training

OF_TOKENS = {"draws", "soft_targets", "on_policy", "label_weight"}  # settings that a recipe did not know at first
GRID = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
UPPER = GRID[2:]  # tried first; the others only where the least of these is best
SIZES = {"small": spaces.smallest, "large": spaces.largest}
TEMPERATURE = {False: 4.0, True: 1.0}  # of next tokens, where softening lost (docs/language.md)
TEMPERATURES = (2.0, 8.0)  # tried beside the default of 4 for the loss that won
SHORT = 3  # short runs take a third of the steps
LENGTHS = {"small": (1.0, 2.0, 4.0), "large": (1.0,)}  # of the usual steps; large ones gain little and cost most
AUTO_PATIENCE = 0  # docs/performance.md, "Length": patience saves steps at a loss


@dataclass(frozen=True)
class Recipe:
    """How students are trained, how controls are, and what was tried to find that out."""

    student: Training
    control: Training
    bakeoff: list[dict[str, Any]]
    learning_rates: dict[str, list[dict[str, Any]]]
    lengths: dict[str, list[dict[str, Any]]]
    starts: dict[str, list[dict[str, Any]]]


def find_recipe(job: Job, train_ahead: Ahead = train_nothing) -> Recipe:
    """Find the learning rates and the loss, once per teacher, data, space and settings."""
    asked = job.spec.distill.model_dump(exclude={"control_seeds", *OF_TOKENS})  # of no concern here
    inputs = [job.student_id, job.task.fingerprint, job.task.score.name, job.teacher.fingerprint, asked, job.spec.seed]
    inputs.append(job.spec.search.engine in SHARING)
    if later := job.spec.distill.model_dump(include=OF_TOKENS, exclude_defaults=True):
        inputs.append(later)
    kept = remember(job.folder / "recipe.json", inputs, lambda: bake(job, train_ahead))
    return Recipe(**{**kept, "student": Training(**kept["student"]), "control": Training(**kept["control"])})


def bake(job: Job, train_ahead: Ahead = train_nothing) -> dict[str, Any]:
    asked, store = job.spec.distill, job.soft_targets()
    base = Training(
        loss=first_loss(job),
        learning_rate=0.0,
        steps=asked.steps if isinstance(asked.steps, int) else usual_steps(job),
        seed=job.spec.seed,
        temperature=asked.temperature if asked.temperature != "auto" else TEMPERATURE[job.task.kind == "tokens"],
        label_weight=label_weight(job),
        on_policy=asked.on_policy,
        views=store.views,
        patience=asked.patience if asked.patience != "auto" else AUTO_PATIENCE,
    )
    check_loss(base.loss, job.task.kind, store.has, base.temperature, store.temperatures)
    bases = {"student": base, "control": replace(base, loss="labels", on_policy=0.0)}
    ways = find_rates(job, bases, train_ahead)
    rates = {way: tries for way, (_, tries) in ways.items()}
    train_ahead([run for training, _ in ways.values() for run in lengths_to_try(job, training)])
    (student, student_tries), (control, control_tries) = (find_lengths(job, training) for training, _ in ways.values())
    table: list[dict[str, Any]] = []
    if asked.loss == "auto":
        train_ahead(losses_to_try(job, student, control))
        student, table = bake_off(job, student, control)
    train_ahead([run for way in (student, control) for run in starts_to_try(job, way)])
    (student, student_starts), (control, control_starts) = (choose_start(job, way) for way in (student, control))
    return {
        "student": asdict(student),
        "control": asdict(control),
        "bakeoff": table,
        "learning_rates": rates,
        "lengths": {"student": student_tries, "control": control_tries},
        "starts": {"student": student_starts, "control": control_starts},
    }


def label_weight(job: Job) -> float:
    given = job.spec.distill.label_weight
    if given != "auto":
        return given
    return 0.0 if job.task.kind == "tokens" else Training.label_weight


def usual_steps(job: Job) -> int:
    """Those of a middle student where the file gives none."""
    rows = job.task.rows("train") + job.task.rows("transfer")
    return tune.auto_steps(rows, cost_of(job, spaces.middle(job.space), job.spec.seed))


def bake_off(job: Job, student: Training, control: Training) -> tuple[Training, tune.Table]:
    """Which loss on a middle student in the usual steps, labels alone among them: the student's training with it, and
    every try."""
    job.watch(Stage("bake-off: which loss, on a middle student"))
    softer = job.spec.distill.temperature == "auto" and job.task.kind != "tokens"
    temperatures = TEMPERATURES if softer else ()
    chosen, table = tune.bake_off(
        trainer(job, spaces.middle(job.space)),
        job.task.seen_by(spaces.middle(job.space)),
        job.soft_targets(),
        student.unscaled,
        losses_for(job.task.kind),
        control.unscaled,
        temperatures,
    )
    winner = next(row for row in table if row["loss"] == chosen.loss)
    job.show(f"bake-off: {chosen.loss} (val {winner['val']:.4f})")
    longer = control if chosen.loss == "labels" else student
    return replace(chosen, stretch=longer.stretch, macs=longer.macs), table


def losses_to_try(job: Job, student: Training, control: Training) -> list[tuple[Mapping[str, Any], Training]]:
    """What the bake-off begins with."""
    params, losses = spaces.middle(job.space), losses_for(job.task.kind)
    task = job.task.seen_by(params)
    ways = tune.ways_to_try(task, job.soft_targets(), student.unscaled, losses, control.unscaled)
    return [(params, way) for way in ways]


def find_lengths(job: Job, base: Training) -> tuple[Training, tune.Table]:
    """`base` with steps that go from those best for a small student to the usual of a large one, and every try; as it
    is where steps are given."""
    if job.spec.distill.steps != "auto":
        return base, []
    job.watch(Stage(f"length for {base.loss}"))
    found: dict[str, tuple[int, int]] = {}  # size → steps, cost
    tries: tune.Table = []
    for size, pick in SIZES.items():
        params = pick(job.space)
        lengths = lengths_of(job, base, size)
        steps = lengths[0]
        if len(lengths) > 1:
            steps, rows = tune.find_length(trainer(job, params), job.task.seen_by(params), base, lengths)
            tries += [{"student": size} | row for row in rows]
        found[size] = steps, cost_of(job, params, base.seed)
    (small, large), costs = zip(*found.values(), strict=True)
    job.show(f"length for {base.loss}: {small} steps for the smallest student, {large} for the largest")
    return tune.stretch_between(base, (small, large), costs), tries


def lengths_to_try(job: Job, base: Training) -> list[tuple[Mapping[str, Any], Training]]:
    """Every (params, training) that `find_lengths` compares."""
    if job.spec.distill.steps != "auto":
        return []
    lengths = {size: lengths_of(job, base, size) for size in SIZES}
    return [
        (SIZES[size](job.space), replace(base, steps=steps))
        for size, own in lengths.items()
        for steps in own
        if len(own) > 1
    ]


def lengths_of(job: Job, base: Training, size: str) -> list[int]:
    cost, middle = (cost_of(job, pick(job.space), base.seed) for pick in (SIZES[size], spaces.middle))
    return tune.lengths_to_try(base.steps, LENGTHS[size], cost, middle)


def first_loss(job: Job) -> str:
    """As given, or the first that what the teacher says allows."""
    if job.spec.distill.loss != "auto":
        return job.spec.distill.loss
    has = job.soft_targets().has
    return next(name for name in losses_for(job.task.kind) if loss_of(name, job.task.kind).needs <= has)


def find_rates(
    job: Job, bases: Mapping[str, Training], train_ahead: Ahead = train_nothing
) -> dict[str, tuple[Training, tune.Table]]:
    """Each of `bases` with its learning rate, given or the best of one grid, and what was tried: the same for all."""
    given = job.spec.distill.learning_rate
    if given != "auto":
        return {way: (replace(base, learning_rate=float(given)), []) for way, base in bases.items()}
    sizes = [pick(job.space) for pick in SIZES.values()]
    train_ahead([(size, one) for base in bases.values() for one in short_runs(base, UPPER) for size in sizes])
    found = {way: try_rates(job, base, UPPER) for way, base in bases.items()}
    if any(rate == min(UPPER) for rate, _ in found.values()):
        found = {way: try_rates(job, base, GRID) for way, base in bases.items()}  # those of UPPER are there
    for way, (rate, tries) in found.items():
        job.show(f"learning rate for {bases[way].loss}: {rate:g} ({len(tries)} short runs)")
    return {way: (replace(bases[way], learning_rate=rate), tries) for way, (rate, tries) in found.items()}


def try_rates(job: Job, base: Training, grid: Sequence[float]) -> tuple[float, tune.Table]:
    """By short runs on a small and a large student."""
    job.watch(Stage(f"learning rate for {base.loss}, short runs on a small and a large student"))
    sizes = [pick(job.space) for pick in SIZES.values()]
    students = [(trainer(job, params), job.task.seen_by(params)) for params in sizes]
    return tune.find_learning_rate(students, base, grid, short_steps(base))


def short_runs(base: Training, grid: Sequence[float]) -> list[Training]:
    return tune.with_rates(base, grid, short_steps(base))


def short_steps(base: Training) -> int:
    return max(20, base.steps // SHORT)


def trainer(job: Job, params: Mapping[str, Any]) -> tune.TrainOnce:
    """Every short run is kept like any other training, so that an interrupted recipe goes on where it was."""

    def train(training: Training) -> nn.Module:
        train_candidate(job, params, training)
        return load_trained(job, params, training)

    return train
