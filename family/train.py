"""Training one student: on the teacher's soft targets, or, as a control, on labels alone."""

from __future__ import annotations

import contextlib
import gc
import io
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from family.errors import mistake
from family.host_lock import train_in_turn
from family.losses import loss_of, supervised
from family.modules import Rescaled
from family.run_folder import write_beside
from family.text.on_policy import choose_own, write_own
from family.types import SoftBatch, Split, Store, Task, Trained, Training

CHECKPOINT_SECONDS = 5.0
WARM_UP = 0.1  # share of the steps
WEIGHT_DECAY = 1e-2
LOOKS, LOOK_ROWS, LOOK_SHARE = 20, 512, 0.02  # at val within a training, of so many rows; of its compute at most
BLOCK_BYTES = 4_000_000  # inputs are replayed for many steps at once, as far as this goes (and caches do)
BLOCK_STEPS = 64


def pick_device(name: str) -> str:
    """`auto` takes CUDA or MPS where there is one. Raises Mistakes where the named one is not there."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return next((device for device in ("cuda", "mps") if there[device]), "cpu")
    if name not in there:
        raise mistake("device", f"must be auto, cpu, cuda or mps. Got '{name}'.")
    if not there[name]:
        here = ", ".join(device for device, has in there.items() if has)
        raise mistake("device", f"'{name}' is not on this machine. Here: {here}.")
    return name


@dataclass(frozen=True)
class Plan:
    """Which row of which split at which view every step sees: arrays (steps, batch)."""

    transfer: np.ndarray  # bool: the row is of the transfer pool
    rows: np.ndarray
    views: np.ndarray
    own: np.ndarray  # (steps,) bool: the student writes the text of this step


SUPERVISED = ("labels", "answers")  # losses for which the teacher's distributions are not asked


def plan_batches(task: Task, training: Training) -> Plan:
    """Rows without replacement within an epoch, views at random; all from the seed.

    Drawn from train and transfer together; for labels alone, from the rows of train that have a label; for a teacher's
    answers, from transfer, which holds them.
    """
    train_rows = np.arange(task.rows("train"))
    transfer_rows = np.arange(task.rows("transfer"))
    if training.loss == "labels":
        train_rows = train_rows[has_label(task.lessons("train")).numpy() > 0]
        transfer_rows = transfer_rows[:0]
    elif training.loss == "answers":
        train_rows = train_rows[:0]
    rows = np.concatenate([train_rows, transfer_rows])
    if len(rows) == 0:
        raise mistake("data.label", "no row of train has a label, so nothing can be trained on labels alone.")
    rng = np.random.default_rng([training.seed, 77])
    size = min(training.batch, len(rows))
    need = training.steps * size
    epochs = math.ceil(need / len(rows))
    order = np.concatenate([rng.permutation(len(rows)) for _ in range(epochs)])[:need]
    order = order.reshape(training.steps, size)
    views = rng.integers(0, min(training.views, task.views), order.shape)
    share = 0.0 if training.loss in SUPERVISED else training.on_policy
    return Plan(order >= len(train_rows), rows[order], views, choose_own(training.steps, share, training.seed))


def train(
    module: nn.Module,
    task: Task,
    store: Store,
    training: Training,
    device: str = "cpu",
    on_step: Callable[[int], None] | None = None,
    checkpoint: Path | None = None,
) -> Trained:
    """Train `module` in place; the same seed gives bit-identical weights on the CPU, also after a resume.

    AdamW with a linear warm-up and a cosine to 0. Loss per row: the soft loss, mixed with the supervised loss
    on rows with labels by `label_weight`; labels alone where `training.loss` is "labels". A share `on_policy` of the
    steps is on text that the student writes. With `patience` it may
    end early (see Patience). `on_step` is told the number of steps done. `val_score` is NaN where it diverged.
    """
    start = time.monotonic()
    with one_thread(), own_generator(device), short_collections():
        plan = plan_batches(task, training)
        module.to(device).train()
        weights = [p for p in module.parameters() if p.requires_grad]
        rate = training.learning_rate
        optimiser = torch.optim.AdamW(weights, lr=rate, weight_decay=WEIGHT_DECAY, fused=True)
        patience = Patience(task, training)
        kept = Checkpoint(checkpoint, identify(task, store, training), patience)
        done = first = kept.load(module, optimiser)
        for step, batch in enumerate(draw_batches(task, store, training, plan, first, device), first):
            if patience.over:
                break
            if plan.own[step]:
                batch = on_own_text(module, store, training, step, batch)
            take_step(module, optimiser, task, training, step, batch, device)
            done = step + 1
            patience.look(module, done)
            kept.save_sometimes(module, optimiser, done)
            if on_step:
                on_step(done)
        patience.give_back(module.to("cpu")).eval()
        score = score_split(task, predict(module, task, "val"), "val")
    return Trained(module, score, done, time.monotonic() - start, patience.looks)


def take_step(
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    task: Task,
    training: Training,
    step: int,
    batch: Batch,
    device: str,
) -> None:
    """One step on one batch: everything but the drawing of it."""
    set_rate(optimiser, training, step)
    seed_device(device, training.seed * 1_000_003 + step)  # dropout: the same after a resume
    loss = compute_loss(module, task, training, batch)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


def seed_device(device: str, seed: int) -> None:
    """Seed the generator that the device draws from; `torch.manual_seed` seeds all and takes 0.1 ms."""
    if device == "cuda":
        torch.cuda.manual_seed(seed)
    elif device == "mps":
        torch.mps.manual_seed(seed)
    torch.default_generator.manual_seed(seed)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Small students are fastest on one thread, and sums come in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def short_collections() -> Iterator[None]:
    """Python's garbage collector leaves alone what is there already: going over it took a sixth of a tiny step."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextlib.contextmanager
def own_generator(device: str) -> Iterator[None]:
    """Torch's own random numbers inside; the caller's generator is left as it was."""
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device == "cuda" else []):
        yield


def set_rate(optimiser: torch.optim.Optimizer, training: Training, step: int) -> None:
    warm = max(1, round(WARM_UP * training.steps))
    if step < warm:
        share = (step + 1) / warm
    else:
        share = 0.5 * (1 + math.cos(math.pi * (step - warm) / (training.steps - warm)))
    for group in optimiser.param_groups:
        group["lr"] = training.learning_rate * share


@dataclass(frozen=True)
class Batch:
    """Rows of one or many steps. `known (n,)`: 1.0 where the row has a label; else labels are -1 or NaN."""

    inputs: tuple[Tensor, ...]
    soft: SoftBatch
    labels: Tensor
    known: Tensor

    def cut(self, start: int, stop: int) -> Batch:
        return Batch(
            tuple(i[start:stop] for i in self.inputs),
            map_soft(self.soft, lambda value: value[start:stop]),
            self.labels[start:stop],
            self.known[start:stop],
        )


def on_own_text(module: nn.Module, store: Store, training: Training, step: int, batch: Batch) -> Batch:
    """The batch as the student goes on with it, and what the teacher says of that; the data has no labels there."""
    ids, wanted, logits = write_own(module, store, batch.inputs[0], batch.labels, training.seed, step)
    return Batch((ids,), SoftBatch(logits=logits), wanted, torch.zeros_like(batch.known))


def compute_loss(module: nn.Module, task: Task, training: Training, batch: Batch) -> Tensor:
    """The mean loss of one batch; regression is learnt in standardised units."""
    labels, soft = batch.labels, batch.soft
    if isinstance(module, Rescaled):
        outputs = module.module(*batch.inputs)
        labels = (labels - module.mean) / module.std
        if soft.logits is not None:
            soft = SoftBatch(logits=(soft.logits - module.mean) / module.std)
    else:
        outputs = module(*batch.inputs)
    if training.loss in SUPERVISED:
        return supervised(task.kind)(outputs, labels).mean()
    taught = loss_of(training.loss, task.kind).fn(outputs, soft, training.temperature, labels)
    if training.label_weight == 0:
        return taught.mean()
    hard = supervised(task.kind)(outputs, labels)
    return torch.lerp(taught, hard, training.label_weight * batch.known).mean()


def draw_batches(task: Task, store: Store, training: Training, plan: Plan, first: int, device: str) -> Iterator[Batch]:
    """The batches of steps `first` and on. Rows of many steps are gathered at once, which costs least.

    Blocks start at the same steps after a resume as without one, so that every bit is the same. A batch is good
    until the next one is drawn: blocks are written over each other. None is drawn while this host measures finalists.
    """
    steps, size = plan.rows.shape
    length = block_steps(task, size)
    room: Room = {}
    with train_in_turn() as wait:
        for start in range(first - first % length, steps, length):
            block = gather(task, store, training, plan, slice(start, start + length), device, room)
            for step in range(max(first, start), min(start + length, steps)):
                wait()
                yield block.cut((step - start) * size, (step - start + 1) * size)


def block_steps(task: Task, size: int) -> int:
    if task.kind == "tokens":
        return 1  # what a teacher says of every position takes room, and one step takes long enough
    row = sum(one.nbytes for one in task.inputs("train", np.arange(1), 0))
    return int(np.clip(BLOCK_BYTES // (row * size), 1, BLOCK_STEPS))


Room = dict[str, Tensor]  # where blocks are put together: fresh memory would cost more than the copy


def gather(task: Task, store: Store, training: Training, plan: Plan, steps: slice, device: str, room: Room) -> Batch:
    """Everything that the rows of these steps need, one after the other, on the device."""
    pool, rows, views = (a[steps].ravel() for a in (plan.transfer, plan.rows, plan.views))
    parts: list[Batch] = []
    places: list[np.ndarray] = []
    splits: tuple[tuple[Split, np.ndarray], ...] = (("train", ~pool), ("transfer", pool))
    for split, here in splits:
        if here.any():
            taught = training.loss not in SUPERVISED and not plan.own[steps].any()
            soft = store.batch(split, rows[here], views[here]) if taught else SoftBatch()
            labels = task.lessons(split)[rows[here]]
            parts.append(Batch(task.inputs(split, rows[here], views[here]), soft, labels, has_label(labels)))
            places.append(np.flatnonzero(here))
    return join(parts, places, device, room)


def join(parts: list[Batch], places: list[np.ndarray], device: str, room: Room) -> Batch:
    """The parts' rows, each at its place, on the device."""

    def merge(name: str, tensors: list[Tensor]) -> Tensor:
        if len(tensors) == 1:
            return tensors[0].to(device)
        shape = (sum(len(place) for place in places), *tensors[0].shape[1:])
        if name not in room or room[name].shape != shape:
            room[name] = tensors[0].new_empty(shape)
        for place, tensor in zip(places, tensors, strict=True):
            room[name].numpy()[place] = tensor.numpy()  # three times as fast as torch's index_copy_
        return room[name].to(device)

    fields = {f: [getattr(p.soft, f) for p in parts] for f in FIELDS if getattr(parts[0].soft, f) is not None}
    soft = {name: merge(name, values) for name, values in fields.items()}
    inputs = enumerate(zip(*(p.inputs for p in parts), strict=True))
    return Batch(
        tuple(merge(f"input {i}", list(tensors)) for i, tensors in inputs),
        SoftBatch(**soft, temperatures=parts[0].soft.temperatures),
        merge("labels", [p.labels for p in parts]),
        merge("known", [p.known for p in parts]),
    )


FIELDS = ("logits", "ids", "top", "mean", "std", "rest", "draws", "counts")


def map_soft(soft: SoftBatch, change: Callable[[Tensor], Tensor]) -> SoftBatch:
    """The same soft targets with every tensor changed."""
    there = {f: change(value) for f in FIELDS if (value := getattr(soft, f)) is not None}
    return SoftBatch(**there, temperatures=soft.temperatures)


def has_label(labels: Tensor) -> Tensor:
    """(n,) 1.0 where a row has a label, or some of its labels."""
    known = ~labels.isnan() if labels.is_floating_point() else labels >= 0
    return known.reshape(len(labels), -1).any(1).float()


def recalibrate(module: nn.Module, task: Task, batches: int = 8, size: int = 64) -> None:
    """Batch-norm statistics anew, from clean inputs of train and transfer; weights stay.

    Before a short run is judged: its running averages still hold the first steps.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    before = [norm.momentum for norm in norms]
    was = module.training
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
        norm.train()
    with torch.no_grad(), one_thread():
        for inputs in clean_batches(task, batches, size):
            module(*inputs)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    module.train(was)


def clean_batches(task: Task, batches: int, size: int) -> Iterator[tuple[Tensor, ...]]:
    """Clean inputs of rows of train and transfer, drawn once and for all."""
    labelled, pool = task.rows("train"), task.rows("transfer")
    rng = np.random.default_rng(0)
    for _ in range(batches):
        rows = rng.choice(labelled + pool, min(size, labelled + pool), replace=False)
        here = rows < labelled
        parts = [task.inputs("train", rows[here], 0)] if here.any() else []
        parts += [task.inputs("transfer", rows[~here] - labelled, 0)] if not here.all() else []
        yield tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))


def score_split(task: Task, outputs: np.ndarray, split: Split) -> float:
    """The task's score; NaN where some output is not finite."""
    return float(task.score.fn(task.labels(split), outputs)) if np.isfinite(outputs).all() else math.nan


def predict(module: nn.Module, task: Task, split: Split) -> np.ndarray:
    """What is kept of the outputs on the clean view, (rows, k), in eval mode."""
    return predict_rows(module, task, split, np.arange(task.rows(split)))


def predict_rows(module: nn.Module, task: Task, split: Split, rows: np.ndarray) -> np.ndarray:
    """What is kept of the outputs of these rows, (rows, k), on whatever device the module is."""
    module.eval()
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    size, parts = rows_at_once(task), []
    with torch.no_grad(), one_thread():
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            outputs = module(*(i.to(device) for i in task.inputs(split, some, 0)))
            parts.append(task.keep(split, some, outputs.cpu().numpy()))
    return np.concatenate(parts)


def rows_at_once(task: Task) -> int:
    """Rows whose outputs are held together; logits of every position take room."""
    return 8 if task.kind == "tokens" else 256


class Patience:
    """Looks at val now and then, keeps the weights of the best look, and says when it is over.

    A look is better by its score, or by its loss where scores are level. Looks of the warm-up do not count. The last
    step is looked at too. Without patience nothing is looked at, and a training keeps its last weights.
    """

    def __init__(self, task: Task, training: Training):
        self.task, self.training = task, training
        self.rows, self.every = plan_looks(task.rows("val"), training)
        self.best: tuple[float, float] | None = None
        self.weights: dict[str, Tensor] = {}
        self.waited = self.looks = 0

    @property
    def over(self) -> bool:
        return 0 < self.training.patience <= self.waited

    def look(self, module: nn.Module, step: int) -> None:
        """Where a look is due after `step` steps, judge the module; it is left training."""
        warm, last = round(WARM_UP * self.training.steps), step == self.training.steps
        if not self.training.patience or not (last or (step > warm and step % self.every == 0)):
            return
        found = judge_rows(self.task, predict_rows(module, self.task, "val", self.rows), self.rows)
        module.train()
        self.looks += 1
        if self.best is not None and not found > self.best:
            self.waited += 1
            return
        self.best, self.waited = found, 0
        self.weights = {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}

    def give_back(self, module: nn.Module) -> nn.Module:
        """The module with the weights of the best look."""
        if self.best is not None:
            module.load_state_dict(self.weights)
        return module

    def state(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("best", "weights", "waited", "looks")}

    def go_on(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


def plan_looks(rows: int, training: Training) -> tuple[np.ndarray, int]:
    """Which rows of val a look reads, evenly spaced, and the steps between looks: `LOOKS` in a training, fewer where
    they would take more than `LOOK_SHARE` of it (a step costs three times its batch forward)."""
    seen = np.linspace(0, rows - 1, min(rows, LOOK_ROWS)).round().astype(np.int64)
    affordable = len(seen) / (LOOK_SHARE * 3 * training.batch)
    return seen, math.ceil(max(training.steps / LOOKS, affordable, 1))


def judge_rows(task: Task, outputs: np.ndarray, rows: np.ndarray) -> tuple[float, float]:
    """Score and loss of outputs on these rows of val, both the higher the better; the worst there is where some are
    not finite."""
    if not np.isfinite(outputs).all():
        return -math.inf, -math.inf
    score = float(task.score.fn(task.labels("val")[rows], outputs))
    return score if task.score.higher_is_better else -score, -loss_on_val(task, outputs, rows)


def loss_on_val(task: Task, outputs: np.ndarray, rows: np.ndarray) -> float:
    """The mean supervised loss of what was kept for these rows of val; of tokens bits a row."""
    if task.kind == "tokens":
        return float(outputs[:, 0].mean())
    labels = torch.from_numpy(task.labels("val")[rows])
    return supervised(task.kind)(torch.from_numpy(outputs), labels).mean().item()


def identify(task: Task, store: Store, training: Training) -> dict[str, object]:
    """What a checkpoint belongs to."""
    return {"training": training.identity, "task": task.fingerprint, "soft_targets": store.fingerprint}


class Checkpoint:
    """A training's state on disk, written every few seconds: whole or not there. Without a path, nothing."""

    def __init__(self, path: Path | None, belongs_to: dict[str, object], patience: Patience | None = None):
        self.path, self.belongs_to, self.patience = path, belongs_to, patience
        self.written = time.monotonic()

    def load(self, module: nn.Module, optimiser: torch.optim.Optimizer) -> int:
        """The step to go on from; 0 where there is none or it is of another training."""
        if self.path is None or not self.path.exists():
            return 0
        state = torch.load(self.path, weights_only=True, map_location="cpu")
        if state["belongs_to"] != self.belongs_to:
            return 0
        module.load_state_dict(state["module"])
        optimiser.load_state_dict(state["optimiser"])
        if self.patience:
            self.patience.go_on(state["patience"])
        return int(state["step"])

    def save_sometimes(self, module: nn.Module, optimiser: torch.optim.Optimizer, step: int) -> None:
        if self.path is None or time.monotonic() - self.written < CHECKPOINT_SECONDS:
            return
        state = {"module": module.state_dict(), "optimiser": optimiser.state_dict()}
        if self.patience:
            state["patience"] = self.patience.state()
        buffer = io.BytesIO()
        torch.save(state | {"step": step, "belongs_to": self.belongs_to}, buffer)
        write_beside(self.path, lambda beside: beside.write_bytes(buffer.getvalue()))
        self.written = time.monotonic()


def save_student(module: nn.Module, path: Path) -> None:
    """Weights and buffers as safetensors, whole or not there; tied weights are written once per name."""
    state = {name: value.detach().clone().contiguous() for name, value in module.state_dict().items()}
    write_beside(path, lambda beside: save_file(state, str(beside)))


def load_student(module: nn.Module, path: Path) -> None:
    module.load_state_dict(load_file(str(path)))
