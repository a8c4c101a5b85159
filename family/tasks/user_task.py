"""A task of the user's own: `task: path/file.py:function` of (options), which gives a `family.types.Task`.

The whole protocol is gone over on a few rows before any work, so that what does not fit is told at once and not
hours later. What cannot be checked here: that the fingerprint changes with data, split and augmentation; with the
user's code it does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch
from torch import Tensor

from export import Signature, TensorSpec, apply_front, body_signature, raw_signature
from export.front import Front
from family.doors import call, describe_failure, hash_code, is_reference, load_taking
from family.errors import Mistake, Mistakes, mistake
from family.run_folder import content_id
from family.tasks.options import DataOptions
from family.tasks.teaching import labels_as_lessons
from family.types import Kind, Split, Task
from reports import Score

SPLITS: tuple[Split, ...] = get_args(Split)
LEFT_OUT = ("seen_by", "keep", "lessons")  # which a user's task may be without
MEMBERS = tuple(name for name in vars(Task) if not name.startswith("_") and name not in LEFT_OUT)
NEAR = 0.02  # body inputs of large data are kept in half precision


def open_user_task(options: DataOptions) -> Task:
    """Call the user's function and check what it gives. Raises Mistakes with all that does not fit."""
    reference = str(options.task)
    made = call("task", reference, load_taking(reference, options.folder, "task", ("options",)), options)
    path = (options.folder / reference.rpartition(":")[0]).resolve()
    check_task(made, reference, path)
    asked = str(options.score).rpartition(":")[2] if is_reference(options.score) else options.score
    if asked and asked != made.score.name:
        raise mistake("score", f"asks for {asked}; the task of {reference} has the score {made.score.name}.")
    return cast(Task, Coded(made, content_id(made.fingerprint, hash_code(reference, options.folder))))


class Coded:
    """A task of the user's, whose fingerprint stands for its code too: a changed file is another task."""

    def __init__(self, task: Task, fingerprint: str):
        self.task, self.fingerprint = task, fingerprint

    def __getattr__(self, name: str) -> Any:
        if name == "task":  # not there yet, as while it is unpickled
            raise AttributeError(name)
        return getattr(self.task, name)

    def seen_by(self, params: Mapping[str, Any]) -> Coded:
        if not hasattr(self.task, "seen_by"):
            return self
        return Coded(self.task.seen_by(params), content_id(self.fingerprint, dict(params)))

    def keep(self, split: Split, rows: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        return self.task.keep(split, rows, outputs) if hasattr(self.task, "keep") else outputs

    def lessons(self, split: Split) -> Tensor:
        if hasattr(self.task, "lessons"):
            return self.task.lessons(split)
        return labels_as_lessons(cast(Task, self), split)


def check_task(task: Any, reference: str, path: Path) -> None:
    """Facts, then rows and labels, then inputs; each is checked where those before it hold."""
    missing = [name for name in MEMBERS if not hasattr(task, name)]
    if missing:
        kind = type(task).__name__
        raise mistake("task", f"{reference} must return a family.types.Task. {kind} lacks {', '.join(missing)}.")
    for check in (check_facts, check_rows, check_inputs):
        wrong = run_check(check, task, reference, path)
        if wrong:
            raise Mistakes(Mistake("task", f"{reference}: its {text}.") for text in wrong)


def run_check(check: Callable[[Any], Iterator[str]], task: Any, reference: str, path: Path) -> list[str]:
    """What is wrong. Raises Mistakes where a member of the user's raises."""
    try:
        return list(check(task))
    except Mistakes:
        raise
    except Exception as problem:  # whatever a user's class raises is the user's to mend
        raise mistake("task", f"{reference} gives a task that fails: {describe_failure(problem, path)}.") from problem


def check_facts(task: Any) -> Iterator[str]:
    if task.kind not in get_args(Kind):
        yield f"kind must be {', '.join(get_args(Kind))}. Got {task.kind!r}"
        return
    yield from check_types(task)
    classes = task.classes
    if (classes is None) != (task.kind == "regression"):
        yield f"classes must be {'None' if classes else 'the names'} for {task.kind}. Got {classes!r}"
    elif classes is not None and not is_names(classes):
        yield f"classes must be a tuple of two or more different names. Got {classes!r}"
    if isinstance(task.front, Front):
        yield from check_signatures(task)
    yield from check_scale(task)
    for name, value in (("preprocessing", task.preprocessing), ("describe()", task.describe())):
        try:
            json.dumps(dict(value))
        except (TypeError, ValueError) as problem:
            yield f"{name} must be a mapping of plain data, as JSON holds it. Got {value!r}: {problem}"


def check_types(task: Any) -> Iterator[str]:
    wanted: dict[str, Any] = {"name": str, "fingerprint": str, "views": int, "ragged": bool, "score": Score}
    for name, kind in (wanted | {"front": Front, "notes": tuple, "warnings": tuple}).items():
        value = getattr(task, name)
        if not isinstance(value, kind) or value == "":
            said = "Front of export" if name == "front" else kind.__name__
            yield f"{name} must be a {said}. Got {type(value).__name__} {value!r}"
    if isinstance(task.views, int) and task.views < 1:
        yield f"views must be at least 1, the clean one. Got {task.views}"


def is_names(classes: Any) -> bool:
    texts = isinstance(classes, tuple) and all(isinstance(name, str) for name in classes)
    return texts and len(set(classes)) == len(classes) >= 2


def check_signatures(task: Any) -> Iterator[str]:
    """Signature and body must be what the front takes and gives, with one output."""
    outputs = task.signature.outputs
    if len(outputs) != 1 or outputs[0].dtype != "float32" or len(outputs[0].shape) != 2:
        yield f"signature must have one output, float32 (batch, outputs). Got {outputs}"
        return
    wide = outputs[0].shape[1]
    if task.classes is not None and wide != len(task.classes):
        yield f"signature has {wide} outputs for {len(task.classes)} classes"
    body = body_signature(task.front, wide, outputs[0].name)
    for name, has, needs in (
        ("signature", task.signature, Signature(raw_signature(task.front), outputs)),
        ("body", task.body, body),
    ):
        if has != needs:
            yield f"{name} must be what its front takes and gives, {describe_signature(needs)}. Got {has}"


def describe_signature(signature: Signature) -> str:
    inputs = ", ".join(f"{spec.name}: {spec.dtype} {spec.shape}" for spec in signature.inputs)
    return f"{inputs} → {', '.join(f'{spec.name}: {spec.dtype} {spec.shape}' for spec in signature.outputs)}"


def check_scale(task: Any) -> Iterator[str]:
    scale = task.target_scale
    if task.kind != "regression":
        if scale is not None:
            yield f"target_scale must be None for {task.kind}. Got {scale!r}"
        return
    wide = task.signature.outputs[0].shape[1:]
    good = isinstance(scale, tuple) and len(scale) == 2 and all(np.shape(part) == wide for part in scale)
    if not good or not np.isfinite(scale).all() or not (np.asarray(scale[1]) > 0).all():
        yield f"target_scale must be mean and deviation (above 0), arrays {wide} each. Got {scale!r}"


def check_rows(task: Any) -> Iterator[str]:
    """Numbers of rows, row ids that no two splits share, labels by kind, groups."""
    ids = {}
    for split in SPLITS:
        count = task.rows(split)
        if not isinstance(count, int | np.integer) or count < (split != "transfer"):
            yield f"rows('{split}') must be {'0 or more' if split == 'transfer' else '1 or more'}. Got {count!r}"
            continue
        ids[split] = np.asarray(task.row_ids(split))
        if ids[split].shape != (count,) or ids[split].dtype.kind not in "iu":
            yield f"row_ids('{split}') must be integers ({count},). Got {describe_array(task.row_ids(split))}"
        if split != "transfer":
            yield from check_labels(task, split, int(count))
        groups = task.groups(split)
        if groups is not None and np.shape(groups) != (count,):
            yield f"groups('{split}') must be None or ({count},). Got {describe_array(groups)}"
    for one, other in combinations(ids, 2):
        shared = np.intersect1d(ids[one], ids[other])
        if len(shared):
            yield f"row_ids of {one} and {other} share {len(shared)} rows, first {shared[:3].tolist()}"


def check_labels(task: Any, split: str, count: int) -> Iterator[str]:
    labels, wide = task.labels(split), task.signature.outputs[0].shape[1]
    one = task.kind == "classification"
    shape, dtype = ((count,), np.int64) if one else ((count, wide), np.float32)
    if not isinstance(labels, np.ndarray) or labels.shape != shape or labels.dtype != dtype:
        wanted = f"{np.dtype(dtype).name} {shape}"
        yield f"labels('{split}') must be {wanted} for {task.kind}. Got {describe_array(labels)}"
    elif not np.isfinite(labels).all():
        yield f"labels('{split}') must be finite. Got NaN or inf"
    elif one and not ((labels >= 0) & (labels < wide)).all():
        yield f"labels('{split}') must be from 0 to {wide - 1}. Got {labels.min()} to {labels.max()}"
    elif task.kind == "multilabel" and not np.isin(labels, (0, 1)).all():
        yield f"labels('{split}') must be 0 or 1. Got {np.unique(labels)[:5].tolist()}"


def check_inputs(task: Any) -> Iterator[str]:
    """A few rows of every split: raw, through the front, equals the body inputs; views are replayed."""
    for split in SPLITS:
        rows = np.unique([0, task.rows(split) // 2, task.rows(split) - 1]) if task.rows(split) else np.arange(0)
        if not len(rows):
            continue
        clean = task.inputs(split, rows, 0)
        wrong = [*check_body(task, split, clean, len(rows))]
        yield from wrong or check_raw(task, split, rows, clean)
        if split in ("train", "transfer") and task.views > 1 and not wrong:
            yield from check_replay(task, split, rows)
        if not task.ragged:
            given = task.teacher_inputs(split, rows, 0, None)
            if not isinstance(given, tuple) or any(len(part) != len(rows) for part in given):
                got = describe_arrays(given)
                yield f"teacher_inputs('{split}', …) must be a tuple of arrays with {len(rows)} rows. Got {got}"


def check_body(task: Any, split: Split, given: Any, count: int) -> Iterator[str]:
    wanted = [(count, *spec.shape[1:]) for spec in task.body.inputs]
    good = isinstance(given, tuple) and all(isinstance(x, Tensor) and x.dtype == torch.float32 for x in given)
    if not good or [tuple(x.shape) for x in given] != wanted:
        names = ", ".join(f"{s.name} {shape}" for s, shape in zip(task.body.inputs, wanted, strict=True))
        got = describe_arrays(given)
        yield f"inputs('{split}', {count} rows, 0) must be float32 tensors, as its body says: {names}. Got {got}"
    elif not all(torch.isfinite(x).all() for x in given):
        yield f"inputs('{split}', {count} rows, 0) must be finite. Got NaN or inf"


def check_raw(task: Any, split: Split, rows: np.ndarray, clean: tuple[Tensor, ...]) -> Iterator[str]:
    for part in np.split(np.arange(len(rows)), len(rows) if task.ragged else 1):
        raw = task.raw(split, rows[part])
        wrong = [text for spec in task.signature.inputs if (text := check_raw_input(raw, spec, split))]
        if wrong:
            yield from wrong
            return
        shown = apply_front(task.front, raw)
        apart = max(float((a - b[part]).abs().max()) for a, b in zip(shown, clean, strict=True))
        if not apart <= NEAR:
            yield (
                f"raw('{split}', …) through its front differs from inputs('{split}', …, 0) by {apart:.3g}: the file "
                "that ships would see something other than what students are taught"
            )
            return


def check_raw_input(raw: Any, spec: TensorSpec, split: str) -> str:
    array = raw.get(spec.name)
    sides = () if array is None else np.shape(array)[1:]
    fits = len(sides) == len(spec.shape) - 1 and all(
        isinstance(wanted, str) or wanted == side for wanted, side in zip(spec.shape[1:], sides, strict=True)
    )
    if isinstance(array, np.ndarray) and fits and array.dtype == spec.dtype:
        return ""
    got = "nothing by this name" if array is None else describe_array(array)
    return f"raw('{split}', …)['{spec.name}'] must be {spec.dtype} {spec.shape}, as its signature says. Got {got}"


def check_replay(task: Any, split: Split, rows: np.ndarray) -> Iterator[str]:
    """View 1 again, alone, and beside other views: the same each time."""
    views = np.arange(len(rows)) % 2
    first, again = task.inputs(split, rows, 1), task.inputs(split, rows, 1)
    alone, mixed = task.inputs(split, rows[-1:], 1), task.inputs(split, rows, views)
    clean = task.inputs(split, rows, 0)
    for part in range(len(first)):
        if not torch.equal(first[part], again[part]):
            yield f"inputs('{split}', rows, 1) differ from call to call; a view must be replayed from (seed, view, row)"
        elif not torch.allclose(first[part][-1:], alone[part], atol=1e-5):
            yield f"inputs('{split}', rows, 1) must depend on (seed, view, row); they change with the rows asked for"
        else:
            wanted = torch.where(
                torch.from_numpy(views > 0).reshape(-1, *[1] * (first[part].ndim - 1)), first[part], clean[part]
            )
            if not torch.allclose(mixed[part], wanted, atol=1e-5):
                yield f"inputs('{split}', rows, view) must take an array of views, one for each row; 0 is clean"


def describe_array(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if hasattr(value, "dtype") else f"{type(value).__name__} {value!r}"


def describe_arrays(given: Any) -> str:
    return ", ".join(map(describe_array, given)) if isinstance(given, tuple) else type(given).__name__
