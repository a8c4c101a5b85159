"""A front as torch reads it, in training; a test holds it equal to the graph of `export.preprocess`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from export.front import Front, ImageFront, PlainFront, SeriesFront, StepFront, TableFront, TextFront


def apply_front(front: Front, raw: Mapping[str, np.ndarray]) -> tuple[Tensor, ...]:
    """Raw inputs as the shipped file takes them → body inputs on the CPU, float32 or token ids."""
    match front:
        case ImageFront():
            return (_apply_image(front, _tensor(raw["image"])),)
        case TableFront():
            return (_apply_table(front, raw),)
        case SeriesFront():
            return _apply_series(front, raw)
        case PlainFront():
            return tuple(_tensor(raw[name]).float() for name in front.names)
        case StepFront() | TextFront():
            return (_tensor(raw["input_ids"]),)


def _tensor(array: np.ndarray) -> Tensor:
    array = np.ascontiguousarray(array)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _column(values: tuple[float, ...], *shape: int) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(shape)


def _apply_image(front: ImageFront, image: Tensor) -> Tensor:
    x = image.float()
    if front.layout == "hwc":
        x = x.permute(0, 3, 1, 2)
    elif front.layout == "hw":
        x = x.unsqueeze(1)
    if tuple(x.shape[2:]) != tuple(front.size):
        x = functional.interpolate(x, size=front.size, mode="bilinear", antialias=True, align_corners=False)
    return (x - _column(front.mean, 1, -1, 1, 1)) / _column(front.std, 1, -1, 1, 1)


def _apply_table(front: TableFront, raw: Mapping[str, np.ndarray]) -> Tensor:
    parts = []
    if front.mean:
        numbers = _tensor(raw["numbers"]).float()
        missing = numbers.isnan()
        scaled = (numbers - _column(front.mean, 1, -1)) / _column(front.std, 1, -1)
        parts.append(scaled.masked_fill(missing, 0.0))
        parts.append(missing[:, list(front.flagged)].float())
    if front.sizes:
        codes = _tensor(raw["categories"])
        parts += [
            (codes[:, column : column + 1] == torch.arange(size)).float() for column, size in enumerate(front.sizes)
        ]
    return torch.cat(parts, dim=1)


def _apply_series(front: SeriesFront, raw: Mapping[str, np.ndarray]) -> tuple[Tensor, ...]:
    series = _tensor(raw["series"]).float()
    x = (series - _column(front.mean, 1, -1, 1)) / _column(front.std, 1, -1, 1)
    if not front.masked:
        return (x,)
    counts = torch.arange(front.time) < _tensor(raw["length"])[:, None]
    counts = counts[:, None, :]  # (batch, 1, time)
    return x.masked_fill(~counts, 0.0), counts.float()
