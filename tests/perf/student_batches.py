"""Several tiny students at once: one after the other, in processes, on one batch stream, or stacked.

`python -P tests/perf/student_batches.py`, about five minutes. Every way trains the same STUDENTS students of one shape
(weights of their own) for STEPS steps of 64 rows of digits, by the `kd` recipe:

- alone: one training after the other, as the product does it;
- processes: as many processes as there are cores, each with its share of the students, forked warm, so that what
  starting one takes is not counted;
- stream: one process, every batch gathered once and each student stepped on it; a test in the script holds that the
  weights are bit for bit those of training alone;
- stacked: one process, `torch.func.stack_module_state` and `vmap`, one fused optimiser over the stack, so one learning
  rate for all; of all students, and of three of them (as many as there are control seeds).

Ways are run in turn, ROUNDS times. A ratio is the median (least to greatest) over rounds of alone's time ÷ the way's in
the same round, per student: the process's own time (one thread), which neighbours on the machine touch less; for
processes, which the cores are for, wall time. Cores are given by the affinity of the process. How far the stack's
weights are from those of training alone is printed too.
"""

from __future__ import annotations

import copy
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from step_ratio import VIEWS, DrawnTeacher, make_optimiser
from torch import nn

from benchmark import host
from family import spaces
from family.losses import loss_of
from family.soft_targets import SoftTargets, open_store
from family.tasks import DataOptions, open_task
from family.train import (
    draw_batches,
    one_thread,
    plan_batches,
    set_rate,
    short_collections,
    take_step,
)
from family.types import StudentSpace, Task, Training

STUDENTS, STEPS, ROUNDS = 8, 48, 7
SEEDS = 3
Way = Callable[[Task, SoftTargets, Training, Sequence[nn.Module]], None]


def train_alone(task: Task, store: SoftTargets, training: Training, students: Sequence[nn.Module]) -> None:
    for student in students:
        plan = plan_batches(task, training)
        optimiser = make_optimiser(student, training)
        for step, batch in enumerate(draw_batches(task, store, training, plan, 0, "cpu")):
            take_step(student, optimiser, task, training, step, batch, "cpu")


def train_in_processes(task: Task, store: SoftTargets, training: Training, students: Sequence[nn.Module]) -> None:
    """Students are dealt out; torch's single thread survives a fork."""
    cores = len(os.sched_getaffinity(0))
    children = []
    for core in range(cores):
        child = os.fork()
        if not child:
            train_alone(task, store, training, students[core::cores])
            os._exit(0)
        children.append(child)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0


def train_on_one_stream(task: Task, store: SoftTargets, training: Training, students: Sequence[nn.Module]) -> None:
    plan = plan_batches(task, training)
    optimisers = [make_optimiser(student, training) for student in students]
    for step, batch in enumerate(draw_batches(task, store, training, plan, 0, "cpu")):
        for student, optimiser in zip(students, optimisers, strict=True):
            take_step(student, optimiser, task, training, step, batch, "cpu")


def train_stacked(task: Task, store: SoftTargets, training: Training, students: Sequence[nn.Module]) -> None:
    params, buffers = torch.func.stack_module_state(list(students))
    base = copy.deepcopy(students[0]).to("meta")
    optimiser = torch.optim.AdamW(params.values(), lr=training.learning_rate, weight_decay=1e-2, fused=True)

    def forward(own: dict[str, torch.Tensor], kept: dict[str, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(base, (own, kept), (inputs,))

    every = torch.vmap(forward, in_dims=(0, 0, None), randomness="different")
    teach = loss_of(training.loss, task.kind).fn
    plan = plan_batches(task, training)
    for step, batch in enumerate(draw_batches(task, store, training, plan, 0, "cpu")):
        set_rate(optimiser, training, step)
        outputs = every(params, buffers, batch.inputs[0])  # (students, rows, classes)
        soft, labels = batch.soft, batch.labels
        taught = torch.stack([teach(one, soft, training.temperature, labels) for one in outputs])
        hard = torch.stack([nn.functional.cross_entropy(o, labels.clamp(min=0), reduction="none") for o in outputs])
        loss = torch.lerp(taught, hard, training.label_weight * batch.known).mean(1).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    for place, student in enumerate(students):
        student.load_state_dict({name: value[place].detach() for name, value in {**params, **buffers}.items()})


def train_few_stacked(task: Task, store: SoftTargets, training: Training, students: Sequence[nn.Module]) -> None:
    train_stacked(task, store, training, students[:SEEDS])


WAYS: dict[str, Way] = {
    "alone": train_alone,
    "processes": train_in_processes,
    "stream": train_on_one_stream,
    "stacked": train_stacked,
    "three stacked": train_few_stacked,
}


def build(space: StudentSpace, params: dict, task: Task) -> list[nn.Module]:
    return [spaces.build_student(space, params, task, seed).train() for seed in range(STUDENTS)]


def compare_weights(
    task: Task, store: SoftTargets, training: Training, space: StudentSpace, params: dict, way: Way
) -> float:
    """The largest difference of any weight or statistic from training alone."""
    alone, together = build(space, params, task), build(space, params, task)
    train_alone(task, store, training, alone)
    way(task, store, training, together)
    pairs = [(a.state_dict(), b.state_dict()) for a, b in zip(alone, together, strict=True)]
    return max(float((own[name].double() - other[name]).abs().max()) for own, other in pairs for name in own)


def cpu_seconds() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def time_ways(
    ways: Sequence[str], task: Task, store: SoftTargets, training: Training, space: StudentSpace, params: dict
) -> dict[str, np.ndarray]:
    """`{way: (rounds, 2)}`: wall and CPU seconds per student."""
    found = {name: np.empty((ROUNDS, 2)) for name in ways}
    for round_ in range(ROUNDS):
        for name in np.random.default_rng(round_).permutation(list(ways)):
            students = build(space, params, task)
            wall, cpu = time.monotonic(), cpu_seconds()
            with one_thread(), short_collections():
                WAYS[name](task, store, training, students)
            count = SEEDS if name == "three stacked" else STUDENTS
            found[name][round_] = (time.monotonic() - wall) / count, (cpu_seconds() - cpu) / count
    return found


def say_ratio(found: dict[str, np.ndarray], way: str, clock: int) -> str:
    ratios = found["alone"][:, clock] / found[way][:, clock]
    return f"**{np.median(ratios):.2f}** ({ratios.min():.2f} to {ratios.max():.2f})"


def say_line(name: str, one: dict[str, np.ndarray], two: dict[str, np.ndarray], apart: float) -> str:
    step = 1000 * np.median(one["alone"][:, 1]) / STEPS
    said = [say_ratio(one, way, 1) for way in ("stream", "three stacked", "stacked")]
    said += [say_ratio(found, "processes", 0) for found in (one, two)]
    return f"| {name} | {step:.3f} | {' | '.join(said)} | {apart:.0e} |"


def main() -> None:
    print(host(), f"load {os.getloadavg()[0]:.1f}")
    print(
        "| student | alone, ms a step | stream | 3 stacked | 8 stacked | processes, 1 core | 2 cores | stack is apart |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    everywhere = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as folder:
        task = open_task(DataOptions("digits", Path(folder), views=VIEWS), Path(folder))
        store = open_store(DrawnTeacher(10), task, VIEWS, Path(folder) / "store")  # type: ignore[arg-type]
        training = Training("kd", 1e-3, STEPS, 0, views=VIEWS)
        for space in (spaces.mlp(), spaces.conv()):
            for size, pick in (("smallest", spaces.smallest), ("middle", spaces.middle)):
                given = (task, store, training, space, pick(space))
                with one_thread():
                    assert compare_weights(*given, train_on_one_stream) == 0
                    apart = compare_weights(*given, train_stacked)
                two = time_ways(("alone", "processes"), *given)
                os.sched_setaffinity(0, sorted(everywhere)[-1:])
                one = time_ways(list(WAYS), *given)
                os.sched_setaffinity(0, everywhere)
                print(say_line(f"{space.name} {size}", one, two, apart), flush=True)


if __name__ == "__main__":
    main()
