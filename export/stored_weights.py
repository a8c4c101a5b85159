"""Weights stored small and computed with in float32: int8 per channel, or float16.

A runtime gets them back by `Cast`, and `Mul` with the channels' scales, which onnxruntime folds into constants when it
loads the file. `DequantizeLinear` says the same in one node, but onnxruntime keeps that and runs it at every inference.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.graphs import FRONT_PREFIX

NODE_BYTES = 40  # about what a further node and its names take in the file
LARGEST_HALF = 2048.0  # a constant above it is a number to count or to mask with, and float16 has no more room for it
Stored = tuple[list[TensorProto], list[onnx.NodeProto]]
Axes = tuple[int, ...]


def store_int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights in int8 with a scale per output channel: w ≈ q · s, s = max |w| / 127. Changes `model` and returns it.

    Weights are the constants that convolutions, matrix products, recurrent cells and embeddings multiply with or pick
    from; all other constants stay, and so do weights too small to gain.
    """
    axes = _find_weights(model.graph)

    def store(tensor: TensorProto, values: np.ndarray) -> Stored | None:
        if tensor.name not in axes:
            return None
        scale = np.abs(values).max(axis=axes[tensor.name], keepdims=True) / np.float32(127)
        if 3 * values.size <= 4 * scale.size + 2 * NODE_BYTES or not np.isfinite(scale).all():
            return None
        scale[scale == 0] = 1
        small, raw, scales = (f"{tensor.name}/{part}" for part in ("int8", "raw", "scale"))
        constants = [numpy_helper.from_array(np.rint(values / scale).astype(np.int8), small)]
        constants.append(numpy_helper.from_array(scale, scales))
        return constants, [_cast(small, raw), helper.make_node("Mul", [raw, scales], [tensor.name])]

    return _store(model, store)


def store_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Constants in float16, the nearest there is. Changes `model` and returns it.

    Those stay that are too few to gain or hold a finite value beyond `LARGEST_HALF`.
    """

    def store(tensor: TensorProto, values: np.ndarray) -> Stored | None:
        finite = values[np.isfinite(values)]
        if 2 * values.size <= NODE_BYTES or (np.abs(finite) > LARGEST_HALF).any():
            return None
        small = f"{tensor.name}/float16"
        return [numpy_helper.from_array(values.astype(np.float16), small)], [_cast(small, tensor.name)]

    return _store(model, store)


def _store(model: onnx.ModelProto, store: Callable[[TensorProto, np.ndarray], Stored | None]) -> onnx.ModelProto:
    """Replace what `store` replaces of the float32 constants; a front's stay."""
    kept: list[TensorProto] = []
    made: list[onnx.NodeProto] = []
    for tensor in model.graph.initializer:
        ours = tensor.data_type == TensorProto.FLOAT and not tensor.name.startswith(FRONT_PREFIX)
        stored = store(tensor, numpy_helper.to_array(tensor)) if ours else None
        kept += stored[0] if stored else [tensor]
        made += stored[1] if stored else []
    nodes = [*made, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(kept)
    model.graph.node.extend(nodes)
    return model


def _cast(small: str, output: str) -> onnx.NodeProto:
    return helper.make_node("Cast", [small], [output], to=TensorProto.FLOAT)


def _find_weights(graph: onnx.GraphProto) -> dict[str, Axes]:
    """Constant → the axes that one output channel sums over, as its first user has it."""
    ranks = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    found: dict[str, Axes] = {}
    for node in graph.node:
        for name, axes in _weights_of(node, ranks).items():
            found.setdefault(name, axes)
    return found


def _weights_of(node: onnx.NodeProto, ranks: dict[str, int]) -> dict[str, Axes]:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    channel = {  # the axis of output channels, of those inputs that are weights
        "Conv": {1: 0},
        "ConvTranspose": {1: 1},
        "Gemm": {1: 0 if attributes.get("transB") else 1},
        "MatMul": {1: -1},
        "Gather": {0: attributes.get("axis", 0)},
        **{cell: {1: 1, 2: 1} for cell in ("LSTM", "GRU", "RNN")},
    }.get(node.op_type, {})
    weights = {node.input[i]: axis for i, axis in channel.items() if ranks.get(node.input[i], 0) >= 2}
    return {name: tuple(a for a in range(ranks[name]) if a != axis % ranks[name]) for name, axis in weights.items()}


def read_storage(model: onnx.ModelProto) -> str:
    """What the constants of a file that computes in float32 are stored in: the name of that precision."""
    types = {tensor.data_type for tensor in model.graph.initializer}
    if TensorProto.INT8 in types:
        return "int8-weights"
    return "fp16-weights" if TensorProto.FLOAT16 in types else "fp32"
