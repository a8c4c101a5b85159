"""Training one student: on the teacher's soft targets, or, as a control, on labels alone."""

from __future__ import annotations

import contextlib
import io
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from family.errors import mistake
from family.losses import loss_of, supervised
from family.modules import Rescaled
from family.soft_targets import SoftTargets
from family.types import SoftBatch, Split, Task, Trained, Training

CHECKPOINT_SECONDS = 5.0
WARM_UP = 0.1  # share of the steps


def pick_device(name: str) -> str:
    """`auto` takes CUDA or MPS where there is one. Raises Mistakes where the named one is not there."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return next((device for device in ("cuda", "mps") if there[device]), "cpu")
    if not there[name]:
        raise mistake(
            "device",
            f"'{name}' is not on this machine. Here: {', '.join(d for d, has in there.items() if has)}.",
        )
    return name


@dataclass(frozen=True)
class Plan:
    """Which row of which split at which view every step sees: arrays (steps, batch)."""

    transfer: np.ndarray  # bool: the row is of the transfer pool
    rows: np.ndarray
    views: np.ndarray


def plan_batches(task: Task, training: Training, with_transfer: bool) -> Plan:
    """Rows without replacement within an epoch over train (+ transfer), views at random; all from the seed."""
    labelled, pool = task.rows("train"), task.rows("transfer") if with_transfer else 0
    rng = np.random.default_rng([training.seed, 77])
    size = min(training.batch, labelled + pool)
    need = training.steps * size
    epochs = math.ceil(need / (labelled + pool))
    order = np.concatenate([rng.permutation(labelled + pool) for _ in range(epochs)])[:need].reshape(
        training.steps, size
    )
    views = rng.integers(0, min(training.views, task.views), order.shape)
    transfer = order >= labelled
    return Plan(transfer, np.where(transfer, order - labelled, order), views)


def train(
    module: nn.Module,
    task: Task,
    store: SoftTargets,
    training: Training,
    device: str = "cpu",
    checkpoint: Path | None = None,
) -> Trained:
    """Train `module` in place; the same seed gives bit-identical weights on the CPU, also after a resume.

    AdamW with a linear warm-up and a cosine to 0. Loss per row: the soft loss, mixed with the supervised loss
    on rows with labels by `label_weight`; labels alone where `training.loss` is "labels".
    """
    start = time.monotonic()
    with one_thread(), torch.random.fork_rng(devices=[]):
        plan = plan_batches(task, training, with_transfer=training.loss != "labels")
        module.to(device).train()
        optimiser = torch.optim.AdamW(
            module.parameters(), lr=training.learning_rate, weight_decay=1e-2, fused=True
        )
        first = load_checkpoint(checkpoint, module, optimiser)
        written = time.monotonic()
        for step in range(first, training.steps):
            set_rate(optimiser, training, step)
            torch.manual_seed(
                training.seed * 1_000_003 + step
            )  # a student's dropout, the same after a resume
            loss = step_loss(module, task, store, training, plan, step, device)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            if checkpoint and time.monotonic() - written > CHECKPOINT_SECONDS:
                save_checkpoint(checkpoint, module, optimiser, step + 1)
                written = time.monotonic()
        module.to("cpu").eval()
        score = task.score.fn(task.labels("val"), predict(module, task, "val"))
    return Trained(module, float(score), training.steps, time.monotonic() - start)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Small students are fastest on one thread, and sums come in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def set_rate(optimiser: torch.optim.Optimizer, training: Training, step: int) -> None:
    warm = max(1, round(WARM_UP * training.steps))
    share = (
        (step + 1) / warm
        if step < warm
        else 0.5 * (1 + math.cos(math.pi * (step - warm) / (training.steps - warm)))
    )
    for group in optimiser.param_groups:
        group["lr"] = training.learning_rate * share


def step_loss(
    module: nn.Module, task: Task, store: SoftTargets, training: Training, plan: Plan, step: int, device: str
) -> Tensor:
    """The mean loss of one batch."""
    pool, rows, views = plan.transfer[step], plan.rows[step], plan.views[step]
    inputs, soft, labels = gather(task, store, training, pool, rows, views)
    outputs = module(*(i.to(device) for i in inputs))
    labels = labels.to(device)
    body, target = standardise(module, task, outputs, labels)
    hard = supervised(task.kind)(body, target)
    if training.loss == "labels":
        return hard.mean()
    known = has_label(labels)
    soft = standardise_soft(module, soft_to(soft, device))
    taught = loss_of(training.loss, task.kind).fn(body, soft, training.temperature, labels)
    weight = training.label_weight * known
    return ((1 - weight) * taught + weight * hard).mean()


def gather(
    task: Task, store: SoftTargets, training: Training, pool: np.ndarray, rows: np.ndarray, views: np.ndarray
) -> tuple[tuple[Tensor, ...], SoftBatch, Tensor]:
    """Inputs, soft targets and labels of one batch, train rows first."""
    parts: list[tuple[Split, np.ndarray, np.ndarray]] = []
    for split, here in (("train", ~pool), ("transfer", pool)):
        if here.any():
            parts.append((split, rows[here], views[here]))  # type: ignore[arg-type]
    inputs = [task.inputs(split, r, v) for split, r, v in parts]
    joined = tuple(torch.cat(tensors) for tensors in zip(*inputs, strict=True))
    labels = torch.cat([labels_of(task, split, r) for split, r, _ in parts])
    if training.loss == "labels":
        return joined, SoftBatch(), labels
    softs = [store.batch(split, r, v) for split, r, v in parts]
    return joined, join_soft(softs), labels


def labels_of(task: Task, split: Split, rows: np.ndarray) -> Tensor:
    """Labels of rows; -1 or NaN where there are none."""
    if split != "transfer":
        return torch.from_numpy(task.labels(split)[rows])
    if task.kind == "classification":
        return torch.full((len(rows),), -1, dtype=torch.int64)
    return torch.full((len(rows), int(task.body.outputs[0].shape[1])), float("nan"))


def has_label(labels: Tensor) -> Tensor:
    return (labels >= 0).float() if labels.ndim == 1 else (~labels.isnan()).any(1).float()


FIELDS = ("logits", "ids", "top", "mean", "std", "rest")


def join_soft(softs: list[SoftBatch]) -> SoftBatch:
    if len(softs) == 1:
        return softs[0]
    fields = {
        f: torch.cat([getattr(s, f) for s in softs]) for f in FIELDS if getattr(softs[0], f) is not None
    }
    return SoftBatch(**fields, temperatures=softs[0].temperatures)


def soft_to(soft: SoftBatch, device: str) -> SoftBatch:
    if device == "cpu":
        return soft
    fields = {f: getattr(soft, f).to(device) for f in FIELDS if getattr(soft, f) is not None}
    return SoftBatch(**fields, temperatures=soft.temperatures)


def standardise(module: nn.Module, task: Task, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Regression is learnt in standardised units; everything else as it is."""
    if not isinstance(module, Rescaled):
        return outputs, labels
    return (outputs - module.mean) / module.std, (labels - module.mean) / module.std


def standardise_soft(module: nn.Module, soft: SoftBatch) -> SoftBatch:
    if not isinstance(module, Rescaled) or soft.logits is None:
        return soft
    return SoftBatch(logits=(soft.logits - module.mean) / module.std)


def recalibrate(module: nn.Module, task: Task, batches: int = 8, size: int = 64) -> None:
    """Batch-norm statistics anew from training inputs, weights untouched: before a short run is judged."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average
    rng = np.random.default_rng(0)
    was = module.training
    module.train()
    with torch.no_grad():
        for _ in range(batches):
            rows = rng.integers(0, task.rows("train"), min(size, task.rows("train")))
            module(*task.inputs("train", rows, 0))
    for norm in norms:
        norm.momentum = 0.1
    module.train(was)


def predict(module: nn.Module, task: Task, split: Split, size: int = 256) -> np.ndarray:
    """Outputs (rows, outputs) on the clean view, in eval mode."""
    module.eval()
    parts = []
    with torch.no_grad(), one_thread():
        for start in range(0, task.rows(split), size):
            rows = np.arange(start, min(start + size, task.rows(split)))
            parts.append(module(*task.inputs(split, rows, 0)).numpy())
    return np.concatenate(parts)


def save_checkpoint(path: Path, module: nn.Module, optimiser: torch.optim.Optimizer, step: int) -> None:
    """Whole or not there: written beside, then renamed."""
    state = {"module": module.state_dict(), "optimiser": optimiser.state_dict(), "step": step}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(buffer.getvalue())
    part.replace(path)


def load_checkpoint(path: Path | None, module: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """The step to go on from."""
    if path is None or not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    module.load_state_dict(state["module"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])


def save_student(module: nn.Module, path: Path) -> None:
    save_file({name: value.contiguous() for name, value in module.state_dict().items()}, str(path))


def load_student(module: nn.Module, path: Path) -> None:
    module.load_state_dict(load_file(str(path)))
