"""Teachers: anything that answers a batch with logits, probabilities or values."""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import torch
from scipy.special import expit

from family.doors import load
from family.errors import mistake
from family.run_folder import content_id
from family.types import Split, Task, Teacher
from reports import SCORES, Interval, score_interval

KINDS = (
    "a .onnx file, a .pt2 program, stored outputs (.npz, .parquet), path/file.py:function, or a list of these"
)
LEAST = 1e-12  # the least probability a logarithm is taken of


@dataclass(frozen=True)
class TeacherOptions:
    """One entry of `teacher`; `classes` names a file with the order of its outputs, a name a line."""

    path: str
    output: str | None = None
    gives: str = "auto"
    preprocess: Mapping[str, Any] | None = None
    classes: str | None = None
    licence: str | None = None
    origin: str | None = None


@dataclass(frozen=True, eq=False)
class Asked:
    """A teacher as found: `ask(split, rows, view) -> (rows, k)` as it speaks, before logarithms and order."""

    ask: Callable[[Split, np.ndarray, int], np.ndarray]
    fingerprint: str
    views: int | None = None
    cost: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class OneTeacher:
    """A teacher that speaks in logits (log-probabilities) or values, in the data's class order."""

    asked: Asked
    fingerprint: str
    views: int | None
    cost: Mapping[str, Any]
    notes: tuple[str, ...]
    logarithm: bool
    order: np.ndarray | None

    def outputs(self, split: Split, rows: np.ndarray, view: int) -> np.ndarray:
        """(rows, outputs) float32. Raises Mistakes for NaN."""
        said = np.asarray(self.asked.ask(split, rows, view), np.float32)
        said = said.reshape(len(rows), -1)
        if np.isnan(said).any():
            raise mistake(
                "teacher", f"gives NaN for {int(np.isnan(said).any(1).sum())} of {len(rows)} {split} rows."
            )
        if self.logarithm:
            said = np.log(np.maximum(said, LEAST))
        return said if self.order is None else said[:, self.order]


@dataclass(frozen=True, eq=False)
class Ensemble:
    """The average of several teachers' distributions (of values, for a regression)."""

    members: tuple[Teacher, ...]
    kind: str

    @property
    def fingerprint(self) -> str:
        return content_id([m.fingerprint for m in self.members])

    @property
    def views(self) -> int | None:
        limits = [m.views for m in self.members if m.views is not None]
        return min(limits, default=None)

    @property
    def cost(self) -> Mapping[str, Any]:
        keys = set.intersection(*(set(m.cost) for m in self.members))
        return {
            key: sum(m.cost[key] for m in self.members) for key in keys if key in ("parameters", "size_kb")
        }

    @property
    def notes(self) -> tuple[str, ...]:
        return (f"teacher: an ensemble of {len(self.members)}", *(n for m in self.members for n in m.notes))

    def outputs(self, split: Split, rows: np.ndarray, view: int) -> np.ndarray:
        said = np.stack([m.outputs(split, rows, view) for m in self.members])
        if self.kind == "regression":
            return np.asarray(said.mean(0), np.float32)
        if self.kind == "multilabel":
            mean = np.clip(expit(said).mean(0), LEAST, 1 - 1e-7)
            return np.asarray(np.log(mean / (1 - mean)), np.float32)
        return np.asarray(np.log(np.maximum(softmax(said).mean(0), LEAST)), np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(raised / raised.sum(-1, keepdims=True))


def open_teacher(options: Sequence[TeacherOptions], task: Task, folder: Path, cache: Path) -> Teacher:
    """The teacher, or an ensemble of several. Raises Mistakes with what does not fit, naming both sides."""
    members = tuple(open_one(one, task, folder, cache) for one in options)
    return members[0] if len(members) == 1 else Ensemble(members, task.kind)


def open_one(options: TeacherOptions, task: Task, folder: Path, cache: Path) -> Teacher:
    asked = TEACHERS[kind_of(options.path)](options, task, folder, cache)
    rows = np.arange(min(32, task.rows("val")))
    said = np.asarray(asked.ask("val", rows, 0), np.float32).reshape(len(rows), -1)
    check_shape(said, task, options)
    logarithm, notes = speaks(said, task, options)
    order = class_order(options, task, folder)
    key = content_id(
        asked.fingerprint,
        options.output,
        options.gives,
        options.preprocess,
        None if order is None else order.tolist(),
    )
    return OneTeacher(asked, key, asked.views, asked.cost, (*asked.notes, *notes), logarithm, order)


def kind_of(path: str) -> str:
    if path == "digits":
        return "digits"
    if ".py:" in path:
        return "factory"
    suffix = Path(path).suffix
    if suffix in TEACHERS:
        return suffix
    raise mistake("teacher", f"must be {KINDS}. Got '{path}'.")


def check_shape(said: np.ndarray, task: Task, options: TeacherOptions) -> None:
    wanted = int(task.body.outputs[0].shape[1])
    if said.shape[1] != wanted:
        has = (
            f"{len(task.classes)} classes ({', '.join(task.classes[:6])}{', …' if len(task.classes) > 6 else ''})"
            if task.classes
            else f"{wanted} values"
        )
        raise mistake(
            "teacher",
            f"gives {said.shape[1]} outputs a row; the data has {has}. Is `teacher.output` the right one?",
        )
    if not np.isfinite(said).all():
        raise mistake("teacher", "gives NaN or infinite values on validation inputs.")


def speaks(said: np.ndarray, task: Task, options: TeacherOptions) -> tuple[bool, tuple[str, ...]]:
    """Whether to take logarithms. Probabilities taken for logits are the silent fault to catch."""
    if task.kind == "regression":
        return False, ()
    inside = bool((said >= -1e-6).all() and (said <= 1 + 1e-6).all())
    sums = bool(np.allclose(said.sum(1), 1, atol=1e-3))
    alike = inside and (sums or task.kind == "multilabel")
    if options.gives == "logits" and alike and sums:
        raise mistake(
            "teacher.gives",
            "says logits, but every row lies within 0..1 and sums to 1: these are probabilities.",
        )
    if options.gives == "probabilities" and not alike:
        low, high = float(said.min()), float(said.max())
        raise mistake(
            "teacher.gives",
            f"says probabilities, but outputs range from {low:.3g} to {high:.3g} and rows sum to {said.sum(1).mean():.3g}.",
        )
    if task.kind == "multilabel":
        if alike:
            raise mistake(
                "teacher.gives", "a multi-label teacher must give logits; these look like probabilities."
            )
        return False, ()
    if options.gives != "auto":
        return options.gives == "probabilities", ()
    return alike, (
        f"teacher: gives {'probabilities (rows sum to 1)' if alike else 'logits'}, guessed from its values",
    )


def class_order(options: TeacherOptions, task: Task, folder: Path) -> np.ndarray | None:
    """Positions of the data's classes among the teacher's outputs."""
    if options.classes is None or task.classes is None:
        return None
    path = folder / options.classes
    if not path.is_file():
        raise mistake("teacher.classes", f"names {options.classes}, which is not there.")
    names = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    missing = sorted(set(task.classes) - set(names))
    if missing or len(names) != len(task.classes):
        raise mistake(
            "teacher.classes",
            f"lists {', '.join(names)}; the data has {', '.join(task.classes)}. Missing: {', '.join(missing) or 'none'}.",
        )
    return np.array([names.index(c) for c in task.classes])


def file_of(options: TeacherOptions, folder: Path) -> Path:
    path = (folder / options.path).resolve()
    if not path.is_file():
        raise mistake("teacher", f"names {options.path}, which is not there (looked for {path}).")
    return path


def file_key(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def open_factory(options: TeacherOptions, task: Task, folder: Path, cache: Path) -> Asked:
    make = load(options.path, folder, "teacher")
    try:
        module = make()
    except Exception as problem:  # whatever a user's function raises is the user's to mend
        text = f"{options.path} failed: {type(problem).__name__}: {first_line(problem)}"
        raise mistake("teacher", text) from problem
    if not isinstance(module, torch.nn.Module):
        raise mistake(
            "teacher", f"{options.path} must return a torch.nn.Module. Got {type(module).__name__}."
        )
    return ask_module(module.eval(), options, task, content_id(options.path, hash_weights(module)))


def hash_weights(module: torch.nn.Module) -> str:
    state = module.state_dict().values()
    return hashlib.sha256(b"".join(v.cpu().contiguous().numpy().tobytes() for v in state)).hexdigest()[:16]


def open_program(options: TeacherOptions, task: Task, folder: Path, cache: Path) -> Asked:
    path = file_of(options, folder)
    try:
        module = torch.export.load(path).module()
    except (RuntimeError, ValueError, OSError, KeyError, zipfile.BadZipFile) as problem:
        raise mistake("teacher", f"{options.path} is no .pt2 program: {first_line(problem)}") from problem
    return ask_module(module, options, task, file_key(path))


def ask_module(module: torch.nn.Module, options: TeacherOptions, task: Task, key: str) -> Asked:
    def ask(split: Split, rows: np.ndarray, view: int) -> np.ndarray:
        inputs = [torch.from_numpy(a) for a in task.teacher_inputs(split, rows, view, options.preprocess)]
        try:
            with torch.no_grad():
                said = module(*inputs)
        except (RuntimeError, TypeError, ValueError, AssertionError) as problem:
            shapes = ", ".join(f"{tuple(i.shape)} {i.dtype}" for i in inputs)
            raise mistake(
                "teacher", f"fails on the data's inputs ({shapes}): {first_line(problem)}"
            ) from problem
        return np.asarray(pick_output(said, options).numpy())

    parameters = sum(p.numel() for p in module.parameters())
    return Asked(ask, key, cost={"parameters": parameters, "size_kb": 4 * parameters / 1000})


def pick_output(said: Any, options: TeacherOptions) -> torch.Tensor:
    """The tensor that `teacher.output` names: a key of a mapping, a position in a tuple, or the first."""
    there = (
        said
        if isinstance(said, Mapping)
        else dict(enumerate(said))
        if isinstance(said, tuple | list)
        else {0: said}
    )
    named = {str(key): value for key, value in there.items() if isinstance(value, torch.Tensor)}
    if not named:
        raise mistake("teacher", f"{options.path} gives no tensor. Got {type(said).__name__}.")
    if options.output is None:
        return next(iter(named.values()))
    if options.output not in named:
        raise mistake(
            "teacher.output", f"'{options.output}' is no output of {options.path}. It has {', '.join(named)}."
        )
    return named[options.output]


def first_line(problem: BaseException) -> str:
    return str(problem).strip().splitlines()[0] if str(problem).strip() else type(problem).__name__


def open_onnx(options: TeacherOptions, task: Task, folder: Path, cache: Path) -> Asked:
    path = file_of(options, folder)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    except Exception as problem:  # onnxruntime raises classes of its own, without a common base
        raise mistake("teacher", f"{options.path} is no ONNX model: {first_line(problem)}") from problem
    names = [o.name for o in session.get_outputs()]
    if options.output is not None and options.output not in names:
        raise mistake(
            "teacher.output", f"'{options.output}' is no output of {options.path}. It has {', '.join(names)}."
        )
    notes = (
        ()
        if options.output or len(names) == 1
        else (f"teacher: of the outputs {', '.join(names)} the first is taken",)
    )
    output = options.output or names[0]
    fixed = session.get_inputs()[0].shape[0]

    def ask(split: Split, rows: np.ndarray, view: int) -> np.ndarray:
        arrays = task.teacher_inputs(split, rows, view, options.preprocess)
        check_onnx_inputs(session, arrays, options.path)
        return run_onnx(session, arrays, output, fixed if isinstance(fixed, int) else None)

    size = path.stat().st_size / 1000
    return Asked(
        ask, file_key(path), cost={"size_kb": size, "parameters": round(size * 1000 / 4)}, notes=notes
    )


def check_onnx_inputs(session: Any, arrays: Sequence[np.ndarray], path: str) -> None:
    wanted = session.get_inputs()
    ours = ", ".join(f"{a.shape[1:]} {a.dtype}" for a in arrays)
    theirs = ", ".join(f"{i.name} {tuple(i.shape[1:])} {i.type}" for i in wanted)
    same = len(wanted) == len(arrays) and all(
        len(i.shape) == a.ndim
        and all(not isinstance(w, int) or w == g for w, g in zip(i.shape[1:], a.shape[1:], strict=True))
        for i, a in zip(wanted, arrays, strict=False)
    )
    if not same:
        raise mistake(
            "teacher.preprocess",
            f"gives {ours}; {path} takes {theirs}. Set size, layout and channels so that they agree.",
        )


def run_onnx(session: Any, arrays: Sequence[np.ndarray], output: str, fixed: int | None) -> np.ndarray:
    """Run in the file's own batch size where it has one, padding the last batch."""
    types = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16,
             "tensor(uint8)": np.uint8, "tensor(int64)": np.int64}  # fmt: skip
    names = [(i.name, types.get(i.type, np.float32)) for i in session.get_inputs()]
    rows = len(arrays[0])
    size = fixed or rows
    parts = []
    for start in range(0, rows, size):
        batch = [a[start : start + size] for a in arrays]
        short = size - len(batch[0])
        batch = [np.concatenate([b, np.repeat(b[-1:], short, 0)]) if short else b for b in batch]
        said = session.run(
            [output], {name: b.astype(kind) for (name, kind), b in zip(names, batch, strict=True)}
        )[0]
        parts.append(np.asarray(said).reshape(size, -1)[: size - short])
    return np.concatenate(parts)


def open_stored(options: TeacherOptions, task: Task, folder: Path, cache: Path) -> Asked:
    """`outputs` (rows, k) in the data's own order. One clean view, so students see no augmentation."""
    path = file_of(options, folder)
    try:
        table = read_stored(path, options.output or "outputs")
    except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile) as problem:
        raise mistake(
            "teacher",
            f"{options.path} holds no stored outputs '{options.output or 'outputs'}': {first_line(problem)}",
        ) from problem
    splits: tuple[Split, ...] = ("train", "transfer", "val", "test")
    needed = 1 + max(int(task.row_ids(split).max(initial=0)) for split in splits)
    if len(table) < needed:
        raise mistake(
            "teacher", f"{options.path} holds outputs for {len(table)} rows; the data has {needed}."
        )
    notes = ("teacher: stored outputs, one clean view; students see no augmentation",)
    return Asked(
        lambda split, rows, _: table[task.row_ids(split)[rows]], file_key(path), views=1, notes=notes
    )


def read_stored(path: Path, name: str) -> np.ndarray:
    if path.suffix == ".npz":
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as archive:
            return np.asarray(archive[name], np.float32)
    frame = pd.read_parquet(path)
    if name in frame:
        return np.stack([np.asarray(v, np.float32) for v in frame[name]])
    return frame.select_dtypes("number").to_numpy(np.float32)


def open_digits(options: TeacherOptions, task: Task, folder: Path, cache: Path) -> Asked:
    """The built-in teacher of the built-in data: trained by the first run with all labels of train, then kept."""
    from family.builtin_teacher import digits_teacher

    if task.classes != tuple(str(i) for i in range(10)):
        raise mistake("teacher", "'digits' teaches the built-in data 'digits' alone.")
    teacher = digits_teacher(task, cache)
    asked = ask_module(teacher, replace(options, preprocess=None), task, f"digits-{hash_weights(teacher)}")
    return replace(
        asked,
        notes=(
            "teacher: built in, trained with all labels of train; students keep those of data.keep_labels",
        ),
    )


TEACHERS: dict[str, Callable[[TeacherOptions, Task, Path, Path], Asked]] = {
    "factory": open_factory,
    ".pt2": open_program,
    ".onnx": open_onnx,
    ".npz": open_stored,
    ".parquet": open_stored,
    "digits": open_digits,
}


def check_teacher(teacher: Teacher, task: Task) -> None:
    """One batch of train, as training will ask it: shapes, dtype and finite values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        teacher.outputs("train", np.arange(min(8, task.rows("train"))), 0)


def teacher_score(teacher: Teacher, task: Task, outputs: np.ndarray) -> Interval:
    """Its score on val. Raises Mistakes where it is near chance, saying what to look at."""
    truth = task.labels("val")
    found: Interval = score_interval(task.score, truth, outputs, task.groups("val"))
    if task.kind == "classification":
        refuse_chance(truth, outputs, task.groups("val"))
    return found


def refuse_chance(truth: np.ndarray, outputs: np.ndarray, groups: np.ndarray | None) -> None:
    """Raises Mistakes where the teacher is right no more often than the most frequent class is."""
    found = score_interval(SCORES["accuracy"], truth, outputs, groups)
    usual = np.bincount(truth).max() / len(truth)
    if found.low <= usual:
        raise mistake(
            "teacher",
            f"is right in {found.value:.3f} ({found.low:.3f} to {found.high:.3f}) of the val rows, no better than "
            f"always saying the most frequent class ({usual:.3f}). Look at teacher.classes (order of its outputs), "
            "teacher.preprocess (size, mean, std, layout, channels), teacher.output, and teacher.gives.",
        )
