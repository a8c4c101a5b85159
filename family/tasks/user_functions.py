"""What a user writes instead of a name: data, a score, an augmentation. Each is checked before any work.

data.path     `() -> {name: array}`: what an .npz would hold, the labels under `data.label`, `split` if wished.
score         `(truth, outputs) -> float`, as the built-in ones; its attribute `higher_is_better` says which way
              it runs (True where it is not there), `kind` (optional) which labels it is for.
data.augment  `(row, generator) -> row`: one image (channels, height, width), its pixels 0 to 1 where they were
              stored as bytes, or one series (channels, time) in the data's own units; float32, the same shape.
              All chance comes from the torch.Generator that it is given, so that every view can be replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from family.doors import call, hash_code, load_taking
from family.errors import mistake
from family.tasks.options import Source
from family.types import Kind
from reports import SCORES, Score

ROWS_CHECKED = 500
VIEWS_CHECKED = (1, 2)


def read_user_arrays(reference: str, folder: Path, where: str) -> dict[str, Any] | Source:
    """Call the user's function; a list stands for an array, or for series of unequal lengths.

    Raises Mistakes at `where` for what is no mapping of named arrays.
    """
    fn = load_taking(reference, folder, where, ())
    made = call(where, reference, fn)
    if isinstance(made, Source):
        return made
    if not isinstance(made, Mapping) or not made:
        found = "an empty mapping" if isinstance(made, Mapping) else type(made).__name__
        raise mistake(where, f"{reference} must return {{name: array}}, as an .npz would hold. Got {found}.")
    wrong = [f"{name!r} ({describe_value(v)})" for name, v in made.items() if not is_array(name, v)]
    if wrong:
        raise mistake(
            where, f"{reference} must return names with numpy arrays of numbers or text. Got {', '.join(wrong[:5])}."
        )
    return {name: values if isinstance(values, list | tuple) else np.asarray(values) for name, values in made.items()}


def is_array(name: Any, values: Any) -> bool:
    """Whether this could be of an .npz: numbers or text by a name, or a list of such arrays."""
    if not isinstance(name, str):
        return False
    if isinstance(values, list | tuple):
        return all(is_plain(row) for row in values)
    objects = isinstance(values, np.ndarray) and values.dtype.kind == "O"
    if objects and values.ndim == 1:
        return all(isinstance(v, str) or (isinstance(v, np.ndarray) and v.ndim == 2) for v in values)
    return isinstance(values, np.ndarray) and values.dtype.kind in "biufU"


def is_plain(row: Any) -> bool:
    try:
        return np.asarray(row).dtype.kind in "biufU"
    except ValueError:  # of unequal lengths inside
        return False


def describe_value(values: Any) -> str:
    if isinstance(values, np.ndarray):
        return f"array of {values.dtype}"
    return type(values).__name__


def open_user_score(reference: str, folder: Path) -> Score:
    """The user's function as a Score by the function's own name. Raises Mistakes naming `score`."""
    fn = load_taking(reference, folder, "score", ("truth", "outputs"))
    name, higher = reference.rpartition(":")[2], getattr(fn, "higher_is_better", True)
    if name in SCORES:
        raise mistake("score", f"{reference} has the name of a built-in score, {name}; give the function another one.")
    if not isinstance(higher, bool):
        raise mistake("score", f"{reference}.higher_is_better must be True or False. Got {higher!r}.")
    return Score(
        name, higher, lambda truth, outputs: as_number(reference, call("score", reference, fn, truth, outputs))
    )


def as_number(reference: str, given: Any) -> float:
    if np.ndim(given) or isinstance(given, str) or not np.isreal(given):
        found = f"an array of shape {np.shape(given)}" if np.ndim(given) else repr(given)
        raise mistake("score", f"{reference} must return one number for all rows. Got {found}.")
    return float(given)


def read_score_kind(reference: str, folder: Path) -> Kind | None:
    """The labels a user's score says that it is for; None: any."""
    kind = getattr(load_taking(reference, folder, "score", ("truth", "outputs")), "kind", None)
    if kind is not None and kind not in get_args(Kind):
        raise mistake("score", f"{reference}.kind must be {', '.join(get_args(Kind))}. Got {kind!r}.")
    return kind


def say_direction(score: Score, reference: str, folder: Path) -> str:
    fn = load_taking(reference, folder, "score", ("truth", "outputs"))
    said = "it says so" if hasattr(fn, "higher_is_better") else "it has no attribute higher_is_better"
    return f"score: {reference}, {'higher' if score.higher_is_better else 'lower'} is better ({said})"


def check_user_score(score: Score, reference: str, kind: Kind, truth: np.ndarray) -> None:
    """Ask it of perfect and of shuffled answers to `truth`: a finite number, the same one again, also of rows
    drawn anew (or nan), arguments left alone, and better for the perfect ones. Raises Mistakes."""
    rng = np.random.default_rng(0)
    rows = np.unique(np.linspace(0, len(truth) - 1, min(len(truth), ROWS_CHECKED)).astype(int))
    truth, best = truth[rows], answer_perfectly(truth[rows], kind, int(truth.max()) + 1 if truth.ndim == 1 else 0)
    given = truth.copy(), best.copy()
    value = score.fn(*given)
    shapes = f"truth {truth.shape} {truth.dtype} and outputs {best.shape} {best.dtype}"
    if not np.isfinite(value):
        raise mistake("score", f"{reference} must return a finite number. Got {value} for perfect outputs, {shapes}.")
    if not (np.array_equal(given[0], truth) and np.array_equal(given[1], best)):
        raise mistake("score", f"{reference} changes the arrays that it is given; it must leave them as they are.")
    if score.fn(truth, best) != value:
        raise mistake("score", f"{reference} must give the same number for the same rows. Got {value:g} and another.")
    for _ in range(3):  # intervals draw rows with replacement
        drawn = rng.integers(0, len(rows), len(rows))
        score.fn(truth[drawn], best[drawn])
    shuffled = float(np.nanmean([score.fn(truth, best[rng.permutation(len(best))]) for _ in range(5)]))
    if not (value > shuffled if score.higher_is_better else value < shuffled):
        way = "higher" if score.higher_is_better else "lower"
        raise mistake(
            "score",
            f"{reference} says that {way} is better (its attribute higher_is_better, True where it has none), but "
            f"gives perfect outputs {value:g} and shuffled ones {shuffled:g}.",
        )


def answer_perfectly(truth: np.ndarray, kind: Kind, classes: int) -> np.ndarray:
    """Outputs (rows, k) float32 without a mistake: logits, or the values themselves."""
    if kind == "classification":
        return np.where(truth[:, None] == np.arange(max(classes, 2)), 4, -4).astype(np.float32)
    return (truth * 8 - 4).astype(np.float32) if kind == "multilabel" else truth.astype(np.float32)


Change = Callable[[Tensor, torch.Generator], Tensor]


def open_user_augment(reference: str, folder: Path) -> tuple[Change, str]:
    """The user's function, and what stands for its code. Raises Mistakes naming `data.augment`."""
    fn = load_taking(reference, folder, "data.augment", ("row", "generator"))

    def change(row: Tensor, generator: torch.Generator) -> Tensor:
        with torch.no_grad():
            given = call("data.augment", reference, fn, row.clone(), generator)
        wanted = f"a float32 tensor {tuple(row.shape)}, as it is given"
        if not isinstance(given, Tensor):
            raise mistake("data.augment", f"{reference} must return {wanted}. Got {type(given).__name__}.")
        if given.shape != row.shape or given.dtype != row.dtype:
            kind = str(given.dtype).removeprefix("torch.")
            raise mistake("data.augment", f"{reference} must return {wanted}. Got {kind} {tuple(given.shape)}.")
        if not torch.isfinite(given).all():
            raise mistake("data.augment", f"{reference} must return finite values. Got NaN or inf.")
        return given

    return change, hash_code(reference, folder)


def check_user_augment(reference: str, change: Change, rows: Sequence[Tensor]) -> None:
    """Two views of each row, twice, in another order: a view must hang on its generator's seed alone."""
    asked = [(row, view) for row in rows for view in VIEWS_CHECKED]
    draw = lambda row, seed: change(row, torch.Generator().manual_seed(seed))  # noqa: E731
    first = [draw(row, view) for row, view in asked]
    again = [draw(row, view) for row, view in reversed(asked)][::-1]
    if not all(torch.equal(a, b) for a, b in zip(first, again, strict=True)):
        raise mistake(
            "data.augment",
            f"{reference} gives another view each time for the same row and generator; all chance must be drawn "
            "from the generator that it is given, such as torch.rand(1, generator=generator).",
        )
