"""Trained students as files: trained once per recipe, exported at every precision, scored as they ship."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from export import Runner, TextFront, apply_front, check_parity, describe
from family import spaces
from family.candidates import CALIBRATION_ROWS, candidate_folder, export_graphs, opset
from family.job import Job
from family.run_folder import content_id, remember, write_beside
from family.supernet import CannotRank, begin_from_teacher, shared_weights
from family.train import load_student, one_thread, rows_at_once, save_student, train
from family.types import Split, Task, Training

FARTHEST = 4.0
TOLERANCE = 1e-3  # largest difference of an fp32 file from torch, as a share of its greatest output


def trained_folder(job: Job, params: Mapping[str, Any], training: Training) -> Path:
    return candidate_folder(job, params) / f"trained-{training_id(job, own_training(job, params, training))}"


def own_training(job: Job, params: Mapping[str, Any], training: Training) -> Training:
    """The training with the steps of this student."""
    if not training.stretch:
        return training
    return scale(training, cost_of(job, params, training.seed))


def cost_of(job: Job, params: Mapping[str, Any], seed: int) -> int:
    """Multiply-accumulates a row."""
    module = spaces.build_student(job.space, params, job.task, seed)
    return spaces.cost_of(module, job.task.seen_by(params))


def scale(training: Training, cost: int) -> Training:
    """The training of a student of `cost` multiply-accumulates: cheap ones take more steps where `stretch` says so,
    within `FARTHEST` times more or fewer."""
    share = (training.macs / max(cost, 1)) ** training.stretch if training.stretch else 1.0
    steps = round(training.steps * min(max(share, 1 / FARTHEST), FARTHEST))
    return replace(training.unscaled, steps=steps)


def training_id(job: Job, training: Training) -> str:
    known = (job.task.fingerprint, job.task.score.name, job.teacher.fingerprint)
    return content_id(training.identity, *known, *job.taught_by)


def train_candidate(job: Job, params: Mapping[str, Any], training: Training) -> dict[str, Any]:
    """Train `params` by `training`, once; `{val, steps, looks, seconds, parameters, macs, seed, inherited}`, weights
    beside. `macs`: multiply-accumulates × rows, forward. Raises CannotRank where it should inherit and the space shares
    no weights."""
    training = own_training(job, params, training)
    folder = trained_folder(job, params, training)

    def work() -> dict[str, Any]:
        module = spaces.build_student(job.space, params, job.task, training.seed)
        inherited = bool(training.inherits)
        begin_from_teacher(job, module, training)
        if inherited:
            module, inherited = begin_from_shared(job, params, training, module)
        checkpoint = folder / "checkpoint"
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        task = job.task.seen_by(params)
        trained = train(module, task, job.soft_targets(), training, device=job.device, checkpoint=checkpoint)
        write_beside(folder / "student.safetensors", lambda beside: save_student(trained.module, beside))
        checkpoint.unlink(missing_ok=True)
        return {
            "val": trained.val_score,
            "steps": trained.steps,
            "looks": trained.looks,
            "seconds": trained.seconds,
            "parameters": spaces.count_parameters(trained.module),
            "macs": spaces.cost_of(trained.module, task) * trained.steps * training.batch,
            "seed": training.seed,
            "inherited": inherited,
        }

    return dict(remember(folder / "done.json", [training_id(job, training), dict(params)], work))


def begin_from_shared(
    job: Job, params: Mapping[str, Any], training: Training, module: nn.Module
) -> tuple[nn.Module, bool]:
    """The module with its slice of the shared weights, and True; a student that is no slice of them, which a check of
    the space's corners may miss, begins from values of its own."""
    shared = shared_weights(job, training)
    try:
        return shared.slice_into(module), True
    except CannotRank as problem:
        job.show(f"warning: {spaces.describe_params(params)} begins from values of its own: {problem}")
        module = spaces.build_student(job.space, params, job.task, training.seed)
        begin_from_teacher(job, module, training)
        return module, False


def load_trained(job: Job, params: Mapping[str, Any], training: Training) -> nn.Module:
    """The trained student in eval mode, on the CPU."""
    module = spaces.build_student(job.space, params, job.task, training.seed)
    load_student(module, trained_folder(job, params, training) / "student.safetensors")
    return module.eval()


def export_trained(job: Job, params: Mapping[str, Any], training: Training) -> dict[str, dict[str, Any]]:
    """The trained student at every precision: `{precision: {path, size_bytes, sha256, parity, …}}`."""
    training = own_training(job, params, training)
    folder = trained_folder(job, params, training)

    def work() -> dict[str, Any]:
        module = load_trained(job, params, training)
        task = job.task.seen_by(params)
        graphs = export_graphs(job, task, module, folder, CALIBRATION_ROWS)
        return {precision: check_graph(job, task, precision, path, module) for precision, path in graphs.items()}

    inputs = [training_id(job, training), job.precisions, opset(job), *job.fed_by]
    return dict(remember(folder / "artifacts.json", inputs, work))


def why_unfaithful(job: Job, params: Mapping[str, Any], training: Training) -> str | None:
    """Why the files of the trained student are not what was trained, found once; None where they are."""

    def work() -> dict[str, str | None]:
        try:
            export_trained(job, params, training)
        except Unfaithful as problem:
            return {"why": str(problem)}
        return {"why": None}

    inputs = [training_id(job, training), job.precisions, opset(job)]
    why: str | None = remember(trained_folder(job, params, training) / "faithful.json", inputs, work)["why"]
    return why


class Unfaithful(ArithmeticError):
    """An exported file whose outputs are not those of the module it was made from."""


def check_graph(job: Job, task: Task, precision: str, path: Path, module: nn.Module) -> dict[str, Any]:
    """Describe a file that could ship, with its parity against torch: front and module on raw validation rows.

    Raises Unfaithful where fp32 outputs differ by more than TOLERANCE × the greatest of them (1 at least).
    """
    rows = np.arange(min(64, task.rows("val")))
    batches = list(raw_batches(task, "val", rows))
    with torch.no_grad(), one_thread():
        expected = [module(*apply_front(task.front, batch)).numpy() for batch in batches]
    scale = max(1.0, *(float(np.abs(part).max()) for part in expected))
    parity = check_parity(path, batches, expected, TOLERANCE * scale if precision == "fp32" else float("inf"))
    if not parity.kept:
        raise Unfaithful(
            f"the file differs from torch by {parity.largest:.3g}, more than {parity.tolerance:.3g}: {path}"
        )
    artifact = describe(path, precision, parity)
    return {
        "path": str(path.relative_to(job.folder)),
        "size_bytes": artifact.size_bytes,
        "sha256": artifact.sha256,
        "opset": artifact.opset,
        "operators": list(artifact.operators),
        "largest_difference": parity.largest,
        "tolerance": None if precision != "fp32" else parity.tolerance,
    }


def in_batches(task: Task, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Rows whose raw inputs go through a file together; one at a time where raw shapes vary, and so texts: as an app
    asks, for what else is in a batch pads them, and changes how int8-dynamic rounds."""
    size = 1 if task.ragged or isinstance(task.front, TextFront) else rows_at_once(task)
    yield from (rows[start : start + size] for start in range(0, len(rows), size))


def raw_batches(task: Task, split: Split, rows: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """What the shipped file takes, in batches."""
    return (task.raw(split, some) for some in in_batches(task, rows))


def score_file(task: Task, path: Path, split: Split, keep: Path) -> np.ndarray:
    """What is kept of the file's outputs on a split, (rows, k), written beside it."""
    if not keep.exists():
        runner = Runner(path)
        batches = in_batches(task, np.arange(task.rows(split)))
        outputs = [task.keep(split, rows, runner(task.raw(split, rows))) for rows in batches]

        def save(beside: Path) -> None:
            with beside.open("wb") as handle:
                np.save(handle, np.concatenate(outputs))

        write_beside(keep, save)
    return np.asarray(np.load(keep))


def outputs_of(job: Job, params: Mapping[str, Any], training: Training, precision: str, split: Split) -> np.ndarray:
    """What is kept of the shipped file's outputs on a split, (rows, k)."""
    digest = export_trained(job, params, training)[precision]["sha256"]
    path = trained_folder(job, params, training) / precision / "model.onnx"
    return score_file(job.task.seen_by(params), path, split, path.with_name(f"{split}-{digest[:12]}.npy"))
