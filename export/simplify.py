"""A graph made smaller without changing what it computes."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold constants and batch norms: by onnxruntime's basic level, which keeps to standard operators."""
    fold_batch_norms(model.graph)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory(prefix="simplify-") as folder:
        written = Path(folder) / "simplified.onnx"
        options.optimized_model_filepath = str(written)
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(written)


def fold_batch_norms(graph: onnx.GraphProto) -> None:
    """Fold every BatchNormalization that alone follows a Gemm into it, which no runtime does. In place.

    With s = scale / sqrt(var + epsilon): W' = W s, b' = (b - mean) s + shift.
    """
    weights = {tensor.name: tensor for tensor in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(value.name for value in graph.output)
    made = {name: node for node in graph.node for name in node.output}
    for norm in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        gemm = made.get(norm.input[0])
        if gemm is None or not _can_fold(gemm, norm, weights, uses):
            continue
        weight, bias = _folded(gemm, norm, weights)
        names = [f"{norm.output[0]}/folded-{part}" for part in ("weight", "bias")]
        graph.initializer.extend(
            numpy_helper.from_array(array, name) for array, name in zip((weight, bias), names, strict=True)
        )
        gemm.input[:] = [gemm.input[0], *names]
        gemm.output[0] = norm.output[0]
        graph.node.remove(norm)


def _can_fold(
    gemm: onnx.NodeProto, norm: onnx.NodeProto, weights: dict[str, onnx.TensorProto], uses: Counter[str]
) -> bool:
    constants = [*gemm.input[1:], *norm.input[1:]]
    plain = {"alpha": 1.0, "beta": 1.0, "transA": 0}
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in gemm.attribute}
    return (
        gemm.op_type == "Gemm"
        and len(gemm.input) == 3
        and uses[gemm.output[0]] == 1
        and len(norm.output) == 1
        and all(name in weights for name in constants)
        and all(attributes.get(name, value) == value for name, value in plain.items())
    )


def _folded(
    gemm: onnx.NodeProto, norm: onnx.NodeProto, weights: dict[str, onnx.TensorProto]
) -> tuple[np.ndarray, np.ndarray]:
    def read(name: str) -> np.ndarray:
        return numpy_helper.to_array(weights[name]).astype(np.float64)

    scale, shift, mean, var = (read(name) for name in norm.input[1:])
    epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
    transposed = any(a.name == "transB" and a.i for a in gemm.attribute)
    factor = scale / np.sqrt(var + epsilon)
    weight = read(gemm.input[1]) * (factor[:, None] if transposed else factor[None])
    bias = (read(gemm.input[2]) - mean) * factor + shift
    return weight.astype(np.float32), bias.astype(np.float32)
