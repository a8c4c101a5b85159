"""Augmented views, replayed from (seed, view, row): nothing is stored but the rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from family.doors import is_reference
from family.errors import mistake
from family.tasks.user_functions import Change, open_user_augment


@dataclass(frozen=True)
class Augment:
    """shift: largest translation as a share of the side.

    flip: "", "horizontal", "vertical". scale: of amplitudes.
    Or a user's: `function` names it, `code` stands for its files, `change` is it.
    """

    shift: float = 0.0
    flip: str = ""
    scale: float = 0.0
    function: str = ""
    code: str = ""
    change: Change | None = field(default=None, repr=False, compare=False)

    @property
    def changes(self) -> bool:
        return bool(self.shift or self.flip or self.scale or self.change)

    def describe(self) -> dict[str, Any]:
        if self.function:
            return {"function": self.function, "code": self.code}
        return {"shift": self.shift, "flip": self.flip, "scale": self.scale}


def read_augment(asked: Any, kind: str, side: int, folder: Path = Path()) -> Augment:
    """`auto` is conservative: images are shifted by up to an eighth, series scaled by up to a tenth.

    `side`: the student's shorter side in pixels, which a shift must stay below. Raises Mistakes.
    """
    check_augment(asked, kind, folder)
    if is_reference(asked):
        change, code = open_user_augment(asked, folder)
        return Augment(function=asked, code=code, change=change)
    if asked in (None, "none"):
        return Augment()
    if asked == "auto":
        return {"images": Augment(shift=1 / 8), "series": Augment(scale=0.1)}.get(kind, Augment())
    shift = float(asked.get("shift", 0))
    if shift >= side:
        raise mistake("data.augment.shift", f"must be below the students' side of {side} px. Got {shift:g}.")
    return Augment(shift / side, asked.get("flip", ""), float(asked.get("scale", 0)))


def check_augment(asked: Any, kind: str, folder: Path = Path()) -> None:
    """Raises Mistakes for what is no augmentation, or none for this kind of data."""
    if asked in (None, "none", "auto"):
        return
    if is_reference(asked):
        if kind not in ("images", "series"):
            raise mistake("data.augment", f"{asked} cannot be applied to {kind}, which has one view; images have more.")
        open_user_augment(asked, folder)
        return
    if not isinstance(asked, Mapping):
        raise mistake(
            "data.augment",
            f"must be auto, none, a mapping of shift, flip, scale, or path/file.py:function. Got {asked!r}.",
        )
    unknown = set(asked) - {"shift", "flip", "scale"}
    if unknown:
        raise mistake("data.augment", f"knows shift, flip and scale. Got {', '.join(sorted(unknown))}.")
    fits = {"images": ("shift", "flip"), "series": ("scale",)}.get(kind, ())
    useless = [name for name in asked if asked[name] and name not in fits]
    if useless:
        raise mistake(
            "data.augment",
            f"{', '.join(useless)} cannot be applied to {kind}. Possible: {', '.join(fits) or 'none'}.",
        )
    if asked.get("flip", "") not in ("", "horizontal", "vertical"):
        raise mistake("data.augment.flip", f"must be horizontal or vertical. Got {asked['flip']!r}.")
    for name in ("shift", "scale"):
        value = asked.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise mistake(f"data.augment.{name}", f"must be a number of at least 0. Got {value!r}.")


def draw(seed: int, view: np.ndarray, row: np.ndarray, which: int) -> np.ndarray:
    """A uniform number in [-1, 1) per (seed, view, row, which)."""
    return np.asarray(mix(seed, view, row, which).astype(np.float64) / 2.0**63 - 1.0)


def mix(seed: int, view: np.ndarray, row: np.ndarray, which: int) -> np.ndarray:
    """A number uint64 per (seed, view, row, which), by the splitmix64 mix."""
    with np.errstate(over="ignore"):
        mixed = (
            np.uint64(seed * 1_000_003 + which)
            + view.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
            + row.astype(np.uint64) * np.uint64(0xD1B54A32D192ED03)
        )
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))


def view_images(
    x: Tensor, augment: Augment, seed: int, row: np.ndarray, view: np.ndarray, grid: tuple[int, int]
) -> Tensor:
    """Translate and flip x (n, c, h, w), border pixels repeated; view 0 stays as it is.

    Shifts are whole pixels of `grid` (the student's height and width) carried over to x's own size, so that
    a teacher of another size sees the student's shift.
    """
    shifts = draw_shifts(augment, seed, row, view, grid)
    down, right = (np.rint(n * s / g).astype(np.int64) for n, s, g in zip(shifts, x.shape[2:], grid, strict=True))
    margins = int(np.abs(down).max(initial=0)), int(np.abs(right).max(initial=0))
    moved = cut_windows(pad_edges(x.numpy(), margins), np.arange(len(x)), margins, down, right)
    return torch.from_numpy(flip(moved, augment, seed, row, view))


def view_padded(
    padded: np.ndarray, augment: Augment, seed: int, row: np.ndarray, view: np.ndarray, grid: tuple[int, int]
) -> Tensor:
    """As `view_images` of the rows (n,) of `padded` (rows, c, h + 2 margins, w + 2 margins), which were padded once
    by `margins_of`: a shift is then no more than another place to cut."""
    down, right = (n.astype(np.int64) for n in draw_shifts(augment, seed, row, view, grid))
    moved = cut_windows(padded, row, margins_of(augment, grid), down, right)
    return torch.from_numpy(flip(moved, augment, seed, row, view))


def margins_of(augment: Augment, grid: tuple[int, int]) -> tuple[int, int]:
    """The greatest shift down and to the right, in pixels of `grid`."""
    return round(augment.shift * grid[0]), round(augment.shift * grid[1])


def draw_shifts(
    augment: Augment, seed: int, row: np.ndarray, view: np.ndarray, grid: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Whole pixels of `grid` down and to the right, (n,) each; 0 in view 0."""
    away = (view > 0).astype(float)
    down, right = (np.rint(draw(seed, view, row, i) * augment.shift * grid[i] * away) for i in (0, 1))
    return down, right


def pad_edges(x: np.ndarray, margins: tuple[int, int]) -> np.ndarray:
    """x (n, c, h, w) with its border pixels repeated outwards."""
    return np.pad(x, ((0, 0), (0, 0), (margins[0],) * 2, (margins[1],) * 2), mode="edge")


def cut_windows(
    padded: np.ndarray, rows: np.ndarray, margins: tuple[int, int], down: np.ndarray, right: np.ndarray
) -> np.ndarray:
    """(n, c, h, w): of each of `rows` what lies within the margins once it has moved."""
    height, width = (side - 2 * margin for side, margin in zip(padded.shape[2:], margins, strict=True))
    windows = sliding_window_view(padded, (height, width), axis=(2, 3))
    return np.asarray(windows[rows, :, margins[0] - down, margins[1] - right])


def flip(x: np.ndarray, augment: Augment, seed: int, row: np.ndarray, view: np.ndarray) -> np.ndarray:
    """Half the rows of views above 0 mirrored, in place."""
    if augment.flip:
        flipped = np.flatnonzero((draw(seed, view, row, 2) > 0) & (view > 0))
        x[flipped] = x[flipped][:, :, ::-1] if augment.flip == "vertical" else x[flipped][..., ::-1]
    return x


def view_series(x: Tensor, augment: Augment, seed: int, row: np.ndarray, view: np.ndarray) -> Tensor:
    """Scale the amplitudes of x (n, channels, time); view 0 stays as it is."""
    factor = 1 + augment.scale * draw(seed, view, row, 3) * (view > 0)
    return x * torch.from_numpy(factor.astype(np.float32))[:, None, None]


def view_by_function(
    x: Tensor, augment: Augment, seed: int, row: np.ndarray, view: np.ndarray, lengths: np.ndarray | None = None
) -> Tensor:
    """x (n, …) with each row of a view above 0 changed by the user's function, by a generator of its own; a
    series shows it only its `lengths` (n,) first steps."""
    assert augment.change is not None
    seeds, changed, generator = mix(seed, view, row, 4), x.clone(), torch.Generator()
    for i in np.flatnonzero(view > 0):
        generator.manual_seed(int(seeds[i]))
        end = x.shape[-1] if lengths is None else int(lengths[i])
        changed[i, ..., :end] = augment.change(x[i, ..., :end], generator)
    return changed
