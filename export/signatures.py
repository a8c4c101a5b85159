"""What a front takes and gives: names, types and shapes, as plain data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from export.front import Front, ImageFront, PlainFront, SeriesFront, StepFront, TableFront, TextFront
from export.types import Signature, TensorSpec

_LAYOUTS = ("hwc", "chw", "hw")


def raw_signature(front: Front) -> tuple[TensorSpec, ...]:
    """The inputs of the file that ships. Image sides that vary are symbolic: "height", "width"."""
    check_front(front)
    match front:
        case ImageFront():
            sides = {"h": "height", "w": "width", "c": "channels"}
            shape = [sides[axis] if side is None else side for axis, side in zip(front.layout, front.raw, strict=True)]
            return (TensorSpec("image", front.dtype, ("batch", *shape)),)
        case TableFront():
            numbers = TensorSpec("numbers", "float32", ("batch", len(front.mean)))
            categories = TensorSpec("categories", "int64", ("batch", len(front.sizes)))
            return tuple(spec for spec in (numbers, categories) if spec.shape[1])
        case SeriesFront():
            series = TensorSpec("series", "float32", ("batch", front.channels, front.time))
            return (series, TensorSpec("length", "int64", ("batch",))) if front.masked else (series,)
        case PlainFront():
            return _plain_specs(front)
        case StepFront():
            ids = (_ids("input_ids"), _ids("position_ids"))
            past: tuple[int | str, ...] = ("batch", front.heads, "past", front.head)
            return ids + tuple(TensorSpec(name, "float32", past) for name in past_names(front.layers))
        case TextFront():
            return (_ids("input_ids"),)


def past_names(layers: int) -> tuple[str, ...]:
    """Inputs of keys and values, layer by layer."""
    return tuple(f"past_key_values.{i}.{what}" for i in range(layers) for what in ("key", "value"))


def body_signature(front: Front, outputs: int, output_name: str) -> Signature:
    """What a student module takes (`x`, and `mask` if masked; a plain front's own names; token ids) and gives: a row's
    outputs, or of steps those of every position."""
    check_front(front)
    match front:
        case ImageFront():
            inputs: tuple[TensorSpec, ...] = (_x(front.channels, *front.size),)
        case TableFront():
            inputs = (_x(len(front.mean) + len(front.flagged) + sum(front.sizes)),)
        case SeriesFront():
            mask = TensorSpec("mask", "float32", ("batch", 1, front.time))
            x = _x(front.channels, front.time)
            inputs = (x, mask) if front.masked else (x,)
        case PlainFront():
            inputs = _plain_specs(front)
        case StepFront():
            return Signature((_ids("input_ids"),), (TensorSpec(output_name, "float32", ("batch", "length", outputs)),))
        case TextFront():
            inputs = (_ids("input_ids"),)
    return Signature(inputs, (TensorSpec(output_name, "float32", ("batch", outputs)),))


def front_data(front: Front) -> dict[str, Any]:
    """The front as a manifest holds it: its fields, and `kind`: image, table, series, plain, step or text."""
    kinds = {
        ImageFront: "image",
        TableFront: "table",
        SeriesFront: "series",
        PlainFront: "plain",
        StepFront: "step",
        TextFront: "text",
    }
    return {"kind": kinds[type(front)], **asdict(front)}


def check_front(front: Front) -> None:
    """Raise ValueError where a front contradicts itself."""
    match front:
        case ImageFront():
            _check_image(front)
            _check_scale(front.mean, front.std, front.channels, "channels")
        case TableFront():
            _check_scale(front.mean, front.std, len(front.mean), "number columns")
            _check_table(front)
        case SeriesFront():
            _check_scale(front.mean, front.std, front.channels, "channels")
        case PlainFront():
            if not front.names or len(front.names) != len(front.shapes):
                raise ValueError(
                    f"a plain front needs one shape per name. Got names {front.names}, shapes {front.shapes}"
                )
            if len(set(front.names)) != len(front.names):
                raise ValueError(f"input names must differ. Got {front.names}")
        case StepFront():
            if min(front.layers, front.heads, front.head, front.context) < 1:
                raise ValueError(f"layers, heads, head and context must be at least 1. Got {front}")
        case TextFront():
            if front.length < 1 or not 0 <= front.pad < front.vocabulary:
                raise ValueError(f"length must be at least 1, and pad within the vocabulary. Got {front}")


def _ids(name: str) -> TensorSpec:
    return TensorSpec(name, "int64", ("batch", "length"))


def _x(*shape: int) -> TensorSpec:
    return TensorSpec("x", "float32", ("batch", *shape))


def _plain_specs(front: PlainFront) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name, "float32", ("batch", *shape)) for name, shape in zip(front.names, front.shapes, strict=True)
    )


def _check_image(front: ImageFront) -> None:
    if front.dtype not in ("uint8", "float32"):
        raise ValueError(f"image dtype must be uint8 or float32. Got {front.dtype!r}")
    if front.layout not in _LAYOUTS or len(front.raw) != len(front.layout):
        raise ValueError(
            f"image layout must be one of {', '.join(_LAYOUTS)} with one side each. "
            f"Got layout {front.layout!r} and raw shape {front.raw}"
        )
    stored = front.raw[front.layout.index("c")] if "c" in front.layout else 1
    if stored not in (1, front.channels):
        raise ValueError(f"stored channels must be 1 or {front.channels} (the student's). Got {stored}")


def _check_table(front: TableFront) -> None:
    if not front.mean and not front.sizes:
        raise ValueError("a table front needs at least one column. Got none")
    if any(not 0 <= column < len(front.mean) for column in front.flagged):
        raise ValueError(f"flagged columns must be within 0..{len(front.mean) - 1}. Got {front.flagged}")
    if any(size < 1 for size in front.sizes):
        raise ValueError(f"category sizes must be at least 1. Got {front.sizes}")


def _check_scale(mean: tuple[float, ...], std: tuple[float, ...], count: int, what: str) -> None:
    if len(mean) != count or len(std) != count:
        raise ValueError(f"mean and std must have one value for each of {count} {what}. Got {mean} and {std}")
    if any(not value > 0 for value in std):
        raise ValueError(f"std must be above 0. Got {std}")
