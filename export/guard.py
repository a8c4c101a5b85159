"""A coverage guard in the graph: a second output that says how unlike the data it was taught on an input is.

Where the last linear layer takes features f, the output is min over centres c of |f W + b - c|² (squared Mahalanobis
distances to the centres of the classes: Lee et al. 2018, arXiv 1807.03888, equation 2), scaled so that 1 is the
threshold. Squares are kept: a root would be one more operator, and changes no order.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.graphs import describe, tidy, write_model
from export.session import Runner
from export.types import Artifact

OUTPUT = "unlike"
LINEAR = {"Gemm", "MatMul", "MatMulInteger", "MatMulNBits"}
# What may stand between the last linear layer and the output: values are changed one by one, rows are not mixed.
PASSING = {
    "Add",
    "Cast",
    "Clip",
    "DequantizeLinear",
    "Div",
    "Flatten",
    "Identity",
    "LogSoftmax",
    "Mul",
    "QuantizeLinear",
    "Relu",
    "Reshape",
    "Sigmoid",
    "Softmax",
    "Squeeze",
    "Sub",
    "Tanh",
}


class NoFeatures(ValueError):
    """A graph to which no guard can be added; the message ends the sentence "there is no guard, for …"."""


@dataclass(frozen=True)
class Guard:
    """`whitening` (width, width) and `shift` (width,) take features to where distances are Mahalanobis'; `centres`
    (count, width) are there."""

    whitening: np.ndarray
    shift: np.ndarray
    centres: np.ndarray

    def rescale(self, threshold: float) -> Guard:
        """The same with squared distances in units of `threshold`."""
        scale = threshold**-0.5
        return replace(self, whitening=self.whitening * scale, shift=self.shift * scale, centres=self.centres * scale)


def find_features(model: onnx.ModelProto) -> str:
    """The value that the last linear layer before the first output takes, in float32 also where that layer computes in
    int8. Raises NoFeatures where it cannot be told."""
    graph = model.graph
    made = {name: node for node in graph.node for name in node.output}
    fixed = _find_fixed(graph)
    value = graph.output[0].name
    while (node := made.get(value)) is not None:
        data = [name for name in node.input if name and name not in fixed]
        if node.op_type in LINEAR and data == [node.input[0]]:
            return _before_quantising(data[0], made)
        if node.op_type not in PASSING or len(data) != 1:
            raise NoFeatures(f"its outputs come from {node.op_type}, not from a linear layer")
        value = data[0]
    raise NoFeatures("it has no linear layer")


def _find_fixed(graph: onnx.GraphProto) -> set[str]:
    """Values that are weights, come from weights alone, or are steps in which a layer quantises what it is given."""
    fixed = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "DynamicQuantizeLinear":
            fixed.update(node.output[1:])
        elif all(name in fixed for name in node.input if name):
            fixed.update(node.output)
    return fixed


def _before_quantising(value: str, made: Mapping[str, onnx.NodeProto]) -> str:
    node = made.get(value)
    return node.input[0] if node is not None and node.op_type == "DynamicQuantizeLinear" else value


def read_features(path: Path, batches: Iterable[Mapping[str, np.ndarray]]) -> np.ndarray:
    """(rows, width) float32: what the last linear layer of the file is given. Raises NoFeatures."""
    model = onnx.load(path)
    name = find_features(model)
    model.graph.output.append(helper.make_empty_tensor_value_info(name))
    with tempfile.TemporaryDirectory(prefix="features-") as folder:
        onnx.save(model, Path(folder) / "features.onnx")
        runner = Runner(Path(folder) / "features.onnx")
    features = np.concatenate([runner.all_outputs(batch)[-1] for batch in batches])
    if features.ndim != 2 or features.dtype != np.float32:
        raise NoFeatures(f"its last linear layer takes {features.dtype} of shape {('rows', *features.shape[1:])}")
    return features


def measure_unlikeness(guard: Guard, features: np.ndarray) -> np.ndarray:
    """(rows,): what the guard gives for features (rows, width), in float64."""
    placed = features.astype(np.float64) @ guard.whitening + guard.shift
    nearest = np.full(len(placed), np.inf)
    for centre in guard.centres:
        nearest = np.minimum(nearest, ((placed - centre) ** 2).sum(1))
    return nearest


def add_guard(source: Path, guard: Guard, path: Path, precision: str) -> Artifact:
    """Write the file `source` with a second output `unlike` (batch,), float32 whatever the precision of the rest.

    Requires features of the guard's width; what was there stays as it is. Raises NoFeatures.
    """
    model = onnx.load(source)
    graph, features = model.graph, find_features(model)
    taken = {name for node in graph.node for name in (*node.input, *node.output)} | {v.name for v in graph.input}
    if OUTPUT in taken:
        raise NoFeatures(f"{OUTPUT!r} is already a name in its graph")
    graph.initializer.extend(
        numpy_helper.from_array(value, f"guard/{name}") for name, value in _list_constants(guard).items()
    )
    graph.node.extend(_list_nodes(features))
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch"]))
    onnx.checker.check_model(model)
    write_model(tidy(model), path)
    return describe(path, precision)


def _list_constants(guard: Guard) -> dict[str, np.ndarray]:
    """-|z - c|² is taken apart into -|z|² + 2 z·c - |c|², so that no value is as large as centres times features."""
    count, width = guard.centres.shape
    floats = {
        "whitening": guard.whitening,
        "shift": guard.shift,
        "towards": 2 * guard.centres.T,
        "offsets": -(guard.centres**2).sum(1),
        "minus": -np.ones((width, count)),
        "minus-one": -np.ones(1),
    }
    whole = {"as-picture": np.array([0, 1, count, 1]), "flat": np.array([-1])}
    return {name: value.astype(np.float32) for name, value in floats.items()} | whole


def _list_nodes(features: str) -> list[onnx.NodeProto]:
    """Operators that phones' accelerators take, so that no guard makes a student fall back to the CPU: a least over
    centres is none of them, a greatest over a picture is. Reducing directly would save a few tenths of a µs."""
    nodes = (
        ("Gemm", [features, "guard/whitening", "guard/shift"], "guard/placed"),
        ("Mul", ["guard/placed", "guard/placed"], "guard/squares"),
        ("Gemm", ["guard/placed", "guard/towards", "guard/offsets"], "guard/part"),
        ("Gemm", ["guard/squares", "guard/minus", "guard/part"], "guard/nearness"),
        ("Reshape", ["guard/nearness", "guard/as-picture"], "guard/picture"),
        ("GlobalMaxPool", ["guard/picture"], "guard/nearest"),
        ("Reshape", ["guard/nearest", "guard/flat"], "guard/row"),
        ("Mul", ["guard/row", "guard/minus-one"], OUTPUT),
    )
    return [helper.make_node(operator, inputs, [output]) for operator, inputs, output in nodes]
