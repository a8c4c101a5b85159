"""A front as an ONNX graph, and joining it to a student's body: the file then takes raw inputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.front import Front, ImageFront, PlainFront, SeriesFront, StepFront, TableFront, TextFront
from export.graphs import FRONT_PREFIX as PREFIX
from export.graphs import describe, read_specs, standard_opset, tidy, value_info, write_model
from export.signatures import body_signature, raw_signature
from export.stored_weights import read_storage
from export.types import Artifact


def front_graph(front: Front, opset: int = 18) -> onnx.ModelProto:
    """The front as a graph from `raw_signature(front)` to `front/` + each of the body's input names.

    Raises ValueError for an opset below 18 where an image is resized: Resize has no antialias before; and for steps,
    which a decoder's own graph takes.
    """
    if isinstance(front, StepFront):
        raise ValueError(  # noqa: TRY004 - of the right type, without a graph
            "a decoder's graph takes tokens and their past itself; there is no front to it"
        )
    build = _Build()
    raw = raw_signature(front)
    outputs = [
        value_info(type(spec)(PREFIX + spec.name, spec.dtype, spec.shape))
        for spec in body_signature(front, 1, "unused").inputs
    ]
    match front:
        case ImageFront():
            _add_image(build, front, opset)
        case TableFront():
            _add_table(build, front)
        case SeriesFront():
            _add_series(build, front)
        case PlainFront():
            for name in front.names:
                build.add("Identity", [name], PREFIX + name)
        case TextFront():
            build.add("Identity", ["input_ids"], PREFIX + "input_ids")
    graph = helper.make_graph(build.nodes, "front", [value_info(s) for s in raw], outputs, build.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def merge_front(body_path: Path, front: Front, path: Path) -> Artifact:
    """Join the front before the body at `body_path`, whose inputs must be what the front gives.

    The body may be of any precision; the front stays in float32. Raises ValueError where they do not fit.
    """
    body = onnx.load(body_path)
    _check_joins(body, front, body_path)
    if isinstance(front, PlainFront | StepFront | TextFront):
        merged = body  # nothing is done to the inputs, so nothing is added
    else:
        merged = _join(front_graph(front, standard_opset(body)), body)
    onnx.checker.check_model(merged, full_check=True)
    write_model(merged, path)
    return describe(path, _read_precision(body))


def _check_joins(body: onnx.ModelProto, front: Front, body_path: Path) -> None:
    found = read_specs(body.graph.input)
    wanted = raw_signature(front) if isinstance(front, StepFront) else body_signature(front, 1, "unused").inputs
    if found != wanted:
        raise ValueError(f"{body_path.name} must take {_words(wanted)} to follow its front. Got {_words(found)}")
    clash = {spec.name for spec in raw_signature(front)} & {value.name for value in body.graph.output}
    if clash:
        raise ValueError(f"{body_path.name} must not name an output like an input. Got {', '.join(clash)}")


def _read_precision(body: onnx.ModelProto) -> str:
    operators = {node.op_type for node in body.graph.node}
    if "MatMulNBits" in operators:
        return "int4"
    if operators & {"DynamicQuantizeLinear", "DynamicQuantizeMatMul"}:
        return "int8-dynamic"
    if "QuantizeLinear" in operators:
        return "int8"
    return read_storage(body)


def _words(specs: tuple) -> str:
    return ", ".join(f"{spec.name}: {spec.dtype} {spec.shape}" for spec in specs)


def _join(front: onnx.ModelProto, body: onnx.ModelProto) -> onnx.ModelProto:
    body = onnx.compose.add_prefix(body, "body/", rename_outputs=False)
    front.ir_version = body.ir_version
    for entry in body.opset_import:
        if entry.domain not in ("", "ai.onnx"):
            front.opset_import.append(entry)
    io_map = [(PREFIX + value.name.removeprefix("body/"), value.name) for value in body.graph.input]
    merged = onnx.compose.merge_models(front, body, io_map=io_map)
    return tidy(merged)


@dataclass
class _Build:
    """Nodes and constants of a graph in the making; all its names start with `front/`."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, name: str, array: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(array, PREFIX + name))
        return PREFIX + name

    def floats(self, name: str, values: tuple[float, ...], *shape: int) -> str:
        return self.constant(name, np.array(values, np.float32).reshape(shape))

    def add(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        name = f"{PREFIX}{operator}-{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=name, **attributes))
        return output


def _add_image(build: _Build, front: ImageFront, opset: int) -> None:
    x = "image"
    if front.dtype != "float32":
        x = build.add("Cast", [x], "front/float", to=TensorProto.FLOAT)
    if front.layout == "hwc":
        x = build.add("Transpose", [x], "front/chw", perm=[0, 3, 1, 2])
    elif front.layout == "hw":
        x = build.add("Unsqueeze", [x, build.constant("channel-axis", np.array([1]))], "front/chw")
    sides = tuple(side for axis, side in zip(front.layout, front.raw, strict=True) if axis != "c")
    if sides != tuple(front.size):
        x = _add_resize(build, x, front.size, opset)
    x = build.add("Sub", [x, build.floats("mean", front.mean, 1, -1, 1, 1)], "front/centred")
    build.add("Div", [x, build.floats("std", front.std, 1, -1, 1, 1)], "front/x")


def _add_resize(build: _Build, x: str, size: tuple[int, int], opset: int) -> str:
    """As torch's `interpolate(mode="bilinear", antialias=True)`; borders by `exclude_outside`."""
    if opset < 18:
        raise ValueError(f"resizing with antialias needs opset 18 or above. Got {opset}")
    batch_channels = build.add("Shape", [x], "front/batch-channels", start=0, end=2)
    sizes = build.add(
        "Concat", [batch_channels, build.constant("size", np.array(size, np.int64))], "front/sizes", axis=0
    )
    return build.add(
        "Resize",
        [x, "", "", sizes],
        "front/resized",
        mode="linear",
        antialias=1,
        exclude_outside=1,
        coordinate_transformation_mode="half_pixel",
    )


def _add_table(build: _Build, front: TableFront) -> None:
    parts = []
    if front.mean:
        missing = build.add("IsNaN", ["numbers"], "front/missing")
        centred = build.add("Sub", ["numbers", build.floats("mean", front.mean, 1, -1)], "front/centred")
        scaled = build.add("Div", [centred, build.floats("std", front.std, 1, -1)], "front/scaled")
        zero = build.floats("zero", (0.0,))
        parts.append(build.add("Where", [missing, zero, scaled], "front/numbers"))
    if front.flagged:
        flags = build.add("Cast", [missing], "front/all-flags", to=TensorProto.FLOAT)
        columns = build.constant("flagged", np.array(front.flagged, np.int64))
        parts.append(build.add("Gather", [flags, columns], "front/flags", axis=1))
    if front.sizes:
        parts.append(_add_one_hot(build, front.sizes))
    build.add("Concat", parts, "front/x", axis=1)


def _add_one_hot(build: _Build, sizes: tuple[int, ...]) -> str:
    """Every category column once per code, compared with that code: OneHot would wrap negative codes."""
    columns = build.constant("column-of-code", np.repeat(np.arange(len(sizes)), sizes))
    codes = build.constant("codes", np.concatenate([np.arange(size) for size in sizes])[None])
    spread = build.add("Gather", ["categories", columns], "front/spread", axis=1)
    equal = build.add("Equal", [spread, codes], "front/equal")
    return build.add("Cast", [equal], "front/one-hot", to=TensorProto.FLOAT)


def _add_series(build: _Build, front: SeriesFront) -> None:
    centred = build.add("Sub", ["series", build.floats("mean", front.mean, 1, -1, 1)], "front/centred")
    std = build.floats("std", front.std, 1, -1, 1)
    if not front.masked:
        build.add("Div", [centred, std], "front/x")
        return
    scaled = build.add("Div", [centred, std], "front/scaled")
    positions = build.constant("positions", np.arange(front.time)[None, None])
    ends = build.add(
        "Unsqueeze", ["length", build.constant("length-axes", np.array([1, 2]))], "front/ends"
    )  # (batch, 1, 1)
    counts = build.add("Less", [positions, ends], "front/counts")
    build.add("Where", [counts, scaled, build.floats("zero", (0.0,))], "front/x")
    build.add("Cast", [counts], "front/mask", to=TensorProto.FLOAT)
