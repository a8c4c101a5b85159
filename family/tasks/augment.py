"""Augmented views, replayed from (seed, view, row): nothing is stored but the rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
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
    away = (view > 0).astype(float)
    height, width = x.shape[2:]
    down = np.rint(draw(seed, view, row, 0) * augment.shift * grid[0] * away)
    right = np.rint(draw(seed, view, row, 1) * augment.shift * grid[1] * away)
    down, right = (
        np.rint(n * s / g).astype(np.int64) for n, s, g in zip((down, right), x.shape[2:], grid, strict=True)
    )
    flipped = (draw(seed, view, row, 2) > 0) & (view > 0)
    ys = np.clip(np.arange(height)[None] - down[:, None], 0, height - 1)
    xs = np.clip(np.arange(width)[None] - right[:, None], 0, width - 1)
    if augment.flip == "vertical":
        ys = np.where(flipped[:, None], ys[:, ::-1], ys)
    if augment.flip == "horizontal":
        xs = np.where(flipped[:, None], xs[:, ::-1], xs)
    flat = torch.from_numpy(np.ascontiguousarray((ys[:, :, None] * width + xs[:, None, :]).reshape(len(x), 1, -1)))
    moved: Tensor = x.flatten(2).gather(2, flat.expand(-1, x.shape[1], -1)).unflatten(2, (height, width))
    return moved


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
