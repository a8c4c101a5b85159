"""A distillation step of this package ÷ the same step in a bare torch loop, in interleaved blocks.

`python -P tests/perf/step_ratio.py`, under four minutes. Ours goes through the task's views, the soft-target
store and `family.train`'s step. The bare loop comes in two kinds. "shifts" moves each row of a batch by whole
pixels, as ours does, by one vectorised index into images padded beforehand, and draws its views at random: the
same work. "holds" has every view of every row as tensors in memory and only looks them up: a floor that spends
the memory which replayed views save. Both: same rows, same model, same `kd` + labels loss, same fused AdamW and
rate, same garbage collector (frozen, as in training). Times are the process's own (one thread), so that
neighbours on the machine count less.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from benchmark import host
from family import spaces
from family.soft_targets import SoftTargets, open_store
from family.tasks import DataOptions, DataTask, open_task
from family.tasks.augment import margins_of
from family.train import WEIGHT_DECAY, block_steps, draw_batches, one_thread, plan_batches, short_collections, take_step
from family.types import Task, Training

BLOCKS, VIEWS = 9, 4
ENOUGH, SECONDS = 2, 12.0  # after so many seconds a line ends with the pairs it has, if they are enough
Step = Callable[[int], None]
Look = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (rows, views) → inputs


@dataclass(frozen=True)
class DrawnTeacher:
    """Random logits: what they say does not change what a step costs."""

    outputs_wide: int
    fingerprint: str = "drawn"
    views: int | None = None

    def outputs(self, split: str, rows: np.ndarray, view: int) -> np.ndarray:
        rng = np.random.default_rng([len(split), view, int(rows[0])])
        return rng.normal(0, 3, (len(rows), self.outputs_wide)).astype(np.float32)


def write_pictures(folder: Path) -> DataOptions:
    """2,000 pictures of 3 × 32 × 32 in ten classes, half of them without labels kept."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2000, 32, 32, 3), dtype=np.uint8)
    np.savez(folder / "pictures.npz", images=images, label=np.arange(2000) % 10)
    return DataOptions("pictures.npz", folder, views=VIEWS, augment="auto", keep_labels=600)


def make_optimiser(module: torch.nn.Module, training: Training) -> torch.optim.Optimizer:
    return torch.optim.AdamW(module.parameters(), lr=training.learning_rate, weight_decay=WEIGHT_DECAY, fused=True)


def our_step(task: Task, store: SoftTargets, training: Training, module: torch.nn.Module) -> Step:
    plan = plan_batches(task, training)
    optimiser = make_optimiser(module, training)
    batches = draw_batches(task, store, training, plan, 0, "cpu")

    def step(number: int) -> None:
        take_step(module, optimiser, task, training, number, next(batches), "cpu")

    return step


def holds(task: Task, store: SoftTargets) -> Look:
    """Looks up views that lie in memory: (views, rows, …) of train + transfer."""
    parts = [s for s in ("train", "transfer") if task.rows(s)]
    inputs = torch.stack(
        [torch.cat([task.inputs(s, np.arange(task.rows(s)), v)[0] for s in parts]) for v in range(store.views)]
    )
    return lambda row, view: inputs[view, row]


def shifts(task: Task, store: SoftTargets) -> Look:
    """Moves images that lie in memory, padded: a window of each, drawn anew."""
    assert isinstance(task, DataTask)
    size, margin = task.front.size, max(margins_of(task.augment, task.front.size))
    clean = torch.cat([task.inputs(s, np.arange(task.rows(s)), 0)[0] for s in ("train", "transfer") if task.rows(s)])
    padded = F.pad(clean, (margin,) * 4, mode="replicate")
    windows = padded.unfold(2, size[0], 1).unfold(3, size[1], 1)  # (rows, channels, 2 margins + 1, …, height, width)

    def look(row: torch.Tensor, view: torch.Tensor) -> torch.Tensor:
        down, right = torch.randint(2 * margin + 1, (2, len(row)))
        return windows[row, :, down, right]

    return look


def bare_step(
    task: Task, store: SoftTargets, training: Training, module: torch.nn.Module, make: Callable[..., Look]
) -> Step:
    """Logits (views, rows, k) and labels (rows,) of train + transfer lie in memory; inputs as `make` has them."""
    plan = plan_batches(task, training)
    first, look = task.rows("train"), make(task, store)
    splits = [s for s in ("train", "transfer") if task.rows(s)]
    logits = torch.from_numpy(np.concatenate([store.arrays[s]["logits"] for s in splits], 1)).float()
    labels = torch.full((logits.shape[1],), -1)
    labels[:first] = torch.from_numpy(task.labels("train"))
    rows, views = torch.from_numpy(plan.rows + plan.transfer * first), torch.from_numpy(plan.views)
    optimiser = make_optimiser(module, training)

    def step(number: int) -> None:
        row, view = rows[number], views[number]
        outputs = module(look(row, view))
        known = labels[row]
        t = training.temperature
        theirs = (logits[view, row] / t).log_softmax(1)
        taught = t * t * F.kl_div((outputs / t).log_softmax(1), theirs, reduction="none", log_target=True).sum(1)
        weight = training.label_weight * (known >= 0).float()
        hard = F.cross_entropy(outputs, known, reduction="none", ignore_index=-1)
        loss = ((1 - weight) * taught + weight * hard).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return step


def compare(task: Task, store: SoftTargets, space: spaces.StudentSpace, pick: Callable, batch: int) -> str:
    """One line: ms of all three, and ours ÷ each bare loop: median, least and greatest of neighbouring blocks."""
    steps = block_steps(task, batch)  # rows are gathered for so many steps at once: whole gathers are timed
    training = Training("kd", 1e-3, (BLOCKS + 1) * steps, seed=0, batch=batch, views=store.views)
    build = [spaces.build_student(space, pick(space), task, 0).train() for _ in range(3)]
    ways = [our_step(task, store, training, build[0])]
    ways += [
        bare_step(task, store, training, module, make) for module, make in zip(build[1:], (shifts, holds), strict=True)
    ]
    times: list[list[float]] = []
    begin = time.perf_counter()
    for block in range(BLOCKS + 1):
        if len(times) > ENOUGH and time.perf_counter() - begin > SECONDS:
            break
        took = [0.0] * len(ways)
        for i in np.roll(np.arange(len(ways)), block):
            start = time.process_time()
            for number in range(block * steps, (block + 1) * steps):
                ways[i](number)
            took[i] = (time.process_time() - start) / steps
        times.append(took)
    each = 1e3 * np.array(times[1:])
    ms = "".join(f"{value:9.3f}" for value in np.median(each, 0))
    ratios = each[:, :1] / each[:, 1:]
    said = "".join(f"{np.median(r):8.2f} ({r.min():.2f} to {r.max():.2f})" for r in ratios.T)
    size = f"{space.name} {pick.__name__}"
    return f"{size:16}{spaces.count_parameters(build[0]):10,}{batch:7}{ms}{said}{len(each):7}"


def main() -> None:
    print(f"{host()['cpu']}, torch {torch.__version__}, one thread; up to {BLOCKS} rounds of blocks")
    head = f"{'data':10}{'student':16}{'weights':>10}{'batch':>7}{'ours ms':>9}{'shifts':>9}{'holds':>9}"
    print(f"{head}{'÷ shifts':>23}{'÷ holds':>22}{'rounds':>9}")
    with tempfile.TemporaryDirectory() as name, one_thread(), short_collections():
        folder = Path(name)
        sources = {
            "digits": DataOptions("digits", folder, views=VIEWS, augment="auto"),
            "32 x 32": write_pictures(folder),
        }
        for label, options in sources.items():
            task = open_task(options, folder / "cache")
            store = open_store(DrawnTeacher(10), task, VIEWS, folder / "soft-targets")
            for space in (spaces.conv(), spaces.mlp()):
                for pick in (spaces.smallest, spaces.middle, spaces.largest):
                    batch = 64
                    print(f"{label:10}" + compare(task, store, space, pick, batch), flush=True)


if __name__ == "__main__":
    main()
