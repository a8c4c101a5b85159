"""Preprocessing that ships inside the graph: plain data, read by torch in training and by onnx at export."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageFront:
    """Decoded pixels → `x: float32 (batch, channels, *size)`; resize as in findings: antialias, half-pixel.

    `raw` is the shape of one example as stored: layout "hwc", "chw" or "hw"; None stands for
    a side that varies. Stored grey (one channel, or "hw") is spread over the student's `channels`.
    The value is `(pixel - mean[c]) / std[c]`, mean and std in the units of the raw pixels.
    """

    dtype: str  # "uint8" or "float32"
    layout: str
    raw: tuple[int | None, ...]
    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class TableFront:
    """`numbers: float32 (batch, n)` and `categories: int64 (batch, m)` → `x: float32 (batch, f)`.

    x = standardised numbers (NaN is missing → 0), then a 0/1 flag per column of `flagged`, then a one-hot per
    category column (code outside 0..size-1 → all zeros). An input with no columns is left out of the graph.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    flagged: tuple[int, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class SeriesFront:
    """`series: float32 (batch, channels, time)` (+ `length: int64 (batch,)` where `masked`) → `x` alike.

    x = (series - mean[c]) / std[c]; where masked, positions at or after `length` are 0 and a second output
    `mask: float32 (batch, 1, time)` says which positions count.
    """

    channels: int
    time: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    masked: bool


@dataclass(frozen=True)
class PlainFront:
    """Several named float32 inputs handed on as they are: `shapes[name]` without the batch."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class StepFront:
    """Tokens after those whose keys and values are known → `input_ids: int64 (batch, length)`.

    The file that ships takes `input_ids` and `position_ids` (batch, length) int64 and of every layer
    `past_key_values.<i>.key` and `.value`, float32 (batch, heads, past, head), with past 0 at the start. `context`:
    positions at most, past ones counted.
    """

    layers: int
    heads: int
    head: int
    context: int


@dataclass(frozen=True)
class TextFront:
    """Ids of a whole text → `input_ids: int64 (batch, length)`, at most `length` of them, each row padded with `pad` at
    its end; ids are below `vocabulary`. The tokenizer that makes them lies beside the file."""

    length: int
    vocabulary: int
    pad: int = 0


Front = ImageFront | TableFront | SeriesFront | PlainFront | StepFront | TextFront
