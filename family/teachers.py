"""Teachers: anything that answers a batch with logits, probabilities or values, made to speak alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit, log_softmax, logsumexp

from family.doors import is_reference
from family.errors import Mistake, Mistakes, mistake
from family.run_folder import content_id
from family.suggest import nearest
from family.tasks.text_task import TextTask
from family.teacher_kinds import TEACHERS, Asked, TeacherOptions
from family.text.string_teachers import STRING_TEACHERS
from family.types import VALUES, Kind, Split, Task, Teacher
from reports import Interval, score_interval

KINDS = "a .onnx file, a .pt2 program, stored outputs (.npz, .parquet), path/file.py:function, or a list of these"
LEAST = 1e-7  # the least probability a logarithm is taken of
PROBE = 64  # rows looked at before any work


@dataclass(frozen=True, eq=False)
class OneTeacher:
    """A teacher that speaks in logits (log-probabilities) or values, in the data's class order."""

    asked: Asked
    fingerprint: str
    notes: tuple[str, ...]
    link: str  # "": as given; "log", "logit": of its probabilities
    order: np.ndarray | None

    @property
    def views(self) -> int | None:
        return self.asked.views

    @property
    def cost(self) -> Mapping[str, Any]:
        return self.asked.cost

    @property
    def embed(self) -> Callable[[Sequence[str]], np.ndarray] | None:
        """Vectors (n, k) of strings, where it reads those."""
        return self.asked.embed

    def outputs(self, split: Split, rows: np.ndarray, view: int) -> np.ndarray:
        """(rows, outputs) float32. Raises Mistakes for values that are not finite."""
        said = np.asarray(self.asked.ask(split, rows, view), np.float32).reshape(len(rows), -1)
        strange = int((~np.isfinite(said)).any(1).sum())
        if strange:
            raise mistake("teacher", f"gives NaN or infinite values for {strange} of {len(rows)} {split} rows.")
        if self.link:
            said = unlink(said, self.link)
        return said if self.order is None else said[:, self.order]


def unlink(said: np.ndarray, link: str) -> np.ndarray:
    """Logits of probabilities: their logarithm (classes), or log p - log(1 - p) (labels)."""
    p = np.clip(said.astype(np.float64), LEAST, 1.0 if link == "log" else 1 - LEAST)
    return np.asarray(np.log(p) if link == "log" else np.log(p) - np.log1p(-p), np.float32)


@dataclass(frozen=True, eq=False)
class Ensemble:
    """The average of several teachers' distributions (of values, for a regression)."""

    members: tuple[Teacher, ...]
    kind: Kind

    @property
    def fingerprint(self) -> str:
        return content_id([m.fingerprint for m in self.members])

    @property
    def views(self) -> int | None:
        return min((m.views for m in self.members if m.views is not None), default=None)

    @property
    def cost(self) -> Mapping[str, Any]:
        """Sums, of what is known of every member."""
        keys = set.intersection(*(set(m.cost) for m in self.members))
        return {key: sum(m.cost[key] for m in self.members) for key in sorted(keys)}

    @property
    def notes(self) -> tuple[str, ...]:
        said = dict.fromkeys(note for member in self.members for note in member.notes)
        return (f"teacher: an ensemble of {len(self.members)}, its distributions averaged", *said)

    def outputs(self, split: Split, rows: np.ndarray, view: int) -> np.ndarray:
        """(rows, outputs) float32: logarithm (multi-label: log odds) of the mean distribution; or the mean value."""
        said = np.stack([m.outputs(split, rows, view) for m in self.members]).astype(np.float64)
        if self.kind in VALUES:
            return np.asarray(said.mean(0), np.float32)
        if self.kind == "multilabel":
            return unlink(expit(said).mean(0), "logit")
        mean = logsumexp(log_softmax(said, axis=2), axis=0) - np.log(len(said))
        return np.asarray(mean, np.float32)


def open_teacher(options: Sequence[TeacherOptions], task: Task, folder: Path, cache: Path) -> Teacher:
    """The teacher, or an ensemble of several. Raises Mistakes with all that does not fit."""
    if len(options) == 1:
        return open_one(options[0], task, folder, cache)
    members, found = [], []
    for place, one in enumerate(options):
        try:
            members.append(open_one(one, task, folder, cache))
        except Mistakes as several:
            found += [Mistake(m.where.replace("teacher", f"teacher[{place}]", 1), m.message) for m in several.mistakes]
    if found:
        raise Mistakes(found)
    if not members:
        raise mistake("teacher", f"must be {KINDS}. Got an empty list.")
    return Ensemble(tuple(members), task.kind)


def open_one(options: TeacherOptions, task: Task, folder: Path, cache: Path) -> Teacher:
    """Open it and look at what it says of a few validation rows."""
    asked = open_asked(options, task, folder, cache)
    rows = np.arange(min(PROBE, task.rows("val")))
    said = np.asarray(asked.ask("val", rows, 0), np.float32).reshape(len(rows), -1)
    check_outputs(said, task)
    link, notes = find_link(said, task.kind, options.gives)
    order = class_order(options, asked.names, task, folder)
    told = [options.output, options.preprocess, link, None if order is None else order.tolist()]
    return OneTeacher(asked, content_id(asked.fingerprint, told), (*asked.notes, *notes), link, order)


def open_asked(options: TeacherOptions, task: Task, folder: Path, cache: Path) -> Asked:
    """The teacher as it speaks; of texts one that reads strings."""
    if not isinstance(task, TextTask):
        return TEACHERS[kind_of(options.path)](options, task, folder, cache)
    kind = "folder" if (folder / options.path).is_dir() else Path(options.path).suffix.lower()
    kind = kind if kind in STRING_TEACHERS else kind_of(options.path)
    if kind == ".pt2":
        raise mistake("teacher", f"{options.path} cannot read strings; put it behind path/file.py:function for texts.")
    return {**TEACHERS, **STRING_TEACHERS}[kind](options, task, folder, cache)


def kind_of(path: str) -> str:
    """The entry of TEACHERS that opens `path`."""
    if path in TEACHERS and not path.startswith("."):
        return path
    if is_reference(path):
        return "factory"
    suffix = Path(path).suffix.lower()
    if suffix in TEACHERS:
        return suffix
    raise mistake("teacher", f"must be {KINDS}. Got '{path}'.")


def check_outputs(said: np.ndarray, task: Task) -> None:
    """Width and values of (rows, k), before any work."""
    wanted = int(task.body.outputs[0].shape[1])
    if said.shape[1] != wanted:
        raise mistake(
            "teacher",
            f"gives {said.shape[1]} outputs a row; the data has {wanted} {names_of(task)}. "
            "Look at teacher.output, and at whether both know the same classes.",
        )
    if not np.isfinite(said).all():
        raise mistake("teacher", "gives NaN or infinite values on validation inputs.")


def names_of(task: Task) -> str:
    if task.classes is None:
        return "values"
    return f"classes ({', '.join(task.classes[:6])}{', …' if len(task.classes) > 6 else ''})"


def find_link(said: np.ndarray, kind: Kind, gives: str) -> tuple[str, tuple[str, ...]]:
    """How to make logits of (rows, k): "", "log" or "logit", and what was guessed.

    Probabilities taken for logits are the silent fault to catch: they train, badly.
    """
    if kind in VALUES:
        return "", ()
    alike = bool((said >= -1e-6).all() and (said <= 1 + 1e-6).all())
    if kind == "classification":
        alike = alike and bool(np.allclose(said.sum(1), 1, atol=1e-2))
    sums = " and sums to 1" if kind == "classification" else ""
    if gives == "logits" and alike:
        raise mistake("teacher.gives", f"says logits, but every row lies within 0..1{sums}: these are probabilities.")
    if gives == "probabilities" and not alike:
        raise mistake(
            "teacher.gives",
            f"says probabilities, but outputs range from {said.min():.3g} to {said.max():.3g} and rows sum "
            f"to {said.sum(1).min():.3g} to {said.sum(1).max():.3g}.",
        )
    link = {"classification": "log", "multilabel": "logit"}[kind] if alike else ""
    if gives != "auto":
        return link, ()
    what = f"probabilities (every row lies within 0..1{sums})" if alike else "logits"
    return link, (f"teacher: gives {what}, guessed from its values",)


def class_order(options: TeacherOptions, own: Sequence[str], task: Task, folder: Path) -> np.ndarray | None:
    """Positions of the data's classes among the teacher's outputs; None where nothing names those. `own`: what it calls
    them itself."""
    if options.classes is None:
        same = task.classes is not None and sorted(own) == sorted(task.classes)
        return np.array([list(own).index(name) for name in task.classes or ()]) if same else None
    if task.classes is None:
        raise mistake("teacher.classes", "is for classes; the labels of this data are numbers.")
    names = read_names(options.classes, folder)
    missing = [name for name in task.classes if name not in names]
    if missing or len(names) != len(task.classes):
        said = options.classes if isinstance(options.classes, str) else "the list"
        raise mistake("teacher.classes", other_names(said, names, task.classes, missing))
    return np.array([names.index(name) for name in task.classes])


def read_names(given: str | Sequence[str], folder: Path) -> list[str]:
    """Names as given, or from a file of one a line."""
    if not isinstance(given, str):
        return list(given)
    path = folder / given
    if not path.is_file():
        raise mistake("teacher.classes", f"names {given}, which is not there (looked for {path}).")
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def other_names(source: str, names: list[str], classes: tuple[str, ...], missing: list[str]) -> str:
    """What differs between the names of `source`, a file or the list, and the data's classes."""
    there = "list" if source == "the list" else "file"
    said = f"{source} {'has' if there == 'list' else 'lists'} {len(names)} classes, the data has {len(classes)}."
    hints = [f"'{name}'{say_nearest(name, names, there)}" for name in missing[:5]]
    if hints:
        said += f" Not in the {there}: {', '.join(hints)}{', …' if len(missing) > 5 else ''}."
    extra = [name for name in dict.fromkeys(names) if name not in classes]
    if extra:
        said += f" Not in the data: {', '.join(extra[:5])}{', …' if len(extra) > 5 else ''}."
    twice = sorted({name for name in names if names.count(name) > 1})
    return said + (f" Twice in the {there}: {', '.join(twice[:5])}." if twice else "")


def say_nearest(name: str, names: list[str], there: str) -> str:
    near = nearest(name, names)
    return f" (the {there} has '{near}')" if near is not None else ""


def check_teacher(teacher: Teacher, task: Task) -> None:
    """A few rows of train and transfer in the first and the last view, as training will ask them."""
    last = min(task.views, teacher.views or task.views) - 1
    for split in ("train", "transfer"):
        rows = np.arange(min(8, task.rows(split)))
        for view in sorted({0, last}) if len(rows) else ():
            said = teacher.outputs(split, rows, view)
            check_outputs(said, task)


def teacher_score(teacher: Teacher, task: Task, outputs: np.ndarray) -> Interval:
    """Its score on val from its clean `outputs` (rows, k). Raises Mistakes near chance, and what to look at."""
    truth = task.labels("val")
    found: Interval = score_interval(task.score, truth, outputs, task.groups("val"))
    if task.kind == "tokens":
        check_against_frequencies(task, found)
        return found
    shuffled, constant = score_shuffled(task, truth, outputs), score_constant(task, truth)
    higher = task.score.higher_is_better
    chance = max(shuffled, constant) if higher else min(shuffled, constant)
    if np.isnan(found.low):  # of one row or group alone
        better = found.value > chance if higher else found.value < chance
    else:
        better = found.low > chance if higher else found.high < chance
    if not better:
        usual = {
            "classification": "the most frequent class",
            "multilabel": "the most frequent answer per label",
        }
        raise mistake(
            "teacher",
            f"scores {found.value:.3f} ({found.low:.3f} to {found.high:.3f}) on val ({task.score.name}), no better "
            f"than always saying {usual.get(task.kind, 'the mean')}, or the same answers shuffled ({chance:.3f}). "
            f"{hints(task.kind, found.high < shuffled if higher else found.low > shuffled)}",
        )
    return found


def check_against_frequencies(task: Task, found: Interval) -> None:
    """Raises Mistakes where a language model is no better than who knows how frequent each token is in train."""
    taught, wanted = (lessons[lessons >= 0].numpy() for lessons in (task.lessons("train"), task.lessons("val")))
    counts = np.bincount(taught, minlength=int(task.body.outputs[0].shape[-1])) + 1.0
    bits = -np.log2(counts / counts.sum())[wanted].sum()
    chance = float(bits / task.labels("val")[:, 0].sum())
    if not (found.value if np.isnan(found.high) else found.high) < chance:
        raise mistake(
            "teacher",
            f"takes {found.value:.3f} bits per byte ({found.low:.3f} to {found.high:.3f}) on val, no better than "
            f"knowing how frequent each token is ({chance:.3f}). Look at whether it was trained on this tokenizer's "
            "ids, and on text like this.",
        )


def score_shuffled(task: Task, truth: np.ndarray, outputs: np.ndarray) -> float:
    """What these outputs score beside other rows' labels, the mean of 20 shuffles. A constant answer alone would
    not do to tell chance: by accuracy, a good teacher of a rare class may lose against it."""
    rng = np.random.default_rng(0)
    return float(np.mean([task.score.fn(truth, outputs[rng.permutation(len(outputs))]) for _ in range(20)]))


def score_constant(task: Task, truth: np.ndarray) -> float:
    return float(task.score.fn(truth, constant_answer(task, len(truth))))


def hints(kind: Kind, below: bool) -> str:
    """Where to look, the likeliest first. `below`: worse than the same answers shuffled, so that it knows the
    inputs and names them wrongly."""
    if kind in VALUES:
        return "Look at teacher.output, teacher.preprocess, and whether it speaks in the labels' own units."
    order = "teacher.classes (the order of its outputs)"
    others = "teacher.preprocess (size, mean, std, layout, channels)"
    last = "teacher.output, and teacher.gives (logits or probabilities)"
    if below:
        return (
            "Shuffled answers would be better: it tells classes apart, but not in the data's order. "
            f"Look at {order} first, then {others}, {last}."
        )
    return f"Look at {others}, {order}, {last}."


def constant_answer(task: Task, rows: int) -> np.ndarray:
    """(rows, outputs): what one says who knows the labels' frequencies in val, and nothing of the inputs."""
    truth = task.labels("val")
    if task.kind in VALUES:
        return np.tile(truth.mean(0), (rows, 1))
    if task.kind == "multilabel":
        return np.tile(np.where(truth.mean(0) > 0.5, 1.0, -1.0), (rows, 1))
    counts = np.bincount(truth, minlength=int(task.body.outputs[0].shape[1]))
    return np.tile(np.log(counts + 1e-3), (rows, 1))


__all__ = [
    "TEACHERS",
    "TeacherOptions",
    "check_teacher",
    "open_teacher",
    "teacher_score",
]
