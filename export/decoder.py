"""A decoder as an ONNX graph, built node by node from plain data: quick enough for every candidate of a search.

One graph takes in a prompt (a past of no positions) and goes on from it, token by token. The head is the embedding's
table, turned, which the file holds once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.front import StepFront
from export.graphs import describe, tidy, value_info, write_model
from export.signatures import past_names, raw_signature
from export.types import Artifact, TensorSpec

MASKED = -1e9


@dataclass(frozen=True)
class DecoderBlocks:
    """A decoder with RMSNorm, rotary positions (halves rotated) and a gated feed-forward, as plain data.

    weights, float32: `embedding` (vocabulary, width), `speed` (head / 2,): radians that a position turns by, `norm`
    (width,), and of layer i `<i>.norm1`, `<i>.norm2` (width,), `<i>.qkv` (width, 3 × width: queries, keys, values, each
    head by head), `<i>.out` (width, width), `<i>.gate`, `<i>.up` (width, feed), `<i>.down` (feed, width).
    """

    front: StepFront
    vocabulary: int
    epsilon: float
    weights: Mapping[str, np.ndarray]


def write_decoder(blocks: DecoderBlocks, path: Path, opset: int = 18) -> Artifact:
    """The same blocks give the same bytes."""
    write_model(decoder_graph(blocks, opset), path)
    return describe(path, "fp32")


def decoder_graph(blocks: DecoderBlocks, opset: int = 18) -> onnx.ModelProto:
    """From `raw_signature(blocks.front)` to `logits` (batch, length, vocabulary) and `present.<i>.key`, `.value`, which
    the next step takes as its past."""
    front, build = blocks.front, _Build(blocks)
    build.node("Gather", ["embedding", "input_ids"], "x0")
    _add_angles(build)
    _add_mask(build)
    x = "x0"
    for i in range(front.layers):
        x = _add_layer(build, i, x)
    build.node("Transpose", ["embedding"], "head", perm=[1, 0])
    build.node("MatMul", [_add_norm(build, x, "norm"), "head"], "logits")
    logits = TensorSpec("logits", "float32", ("batch", "length", blocks.vocabulary))
    kept = ("batch", front.heads, "total", front.head)
    presents = [TensorSpec(present_name(name), "float32", kept) for name in past_names(front.layers)]
    inputs, outputs = raw_signature(front), (logits, *presents)
    graph = helper.make_graph(
        build.nodes, "decoder", [value_info(s) for s in inputs], [value_info(s) for s in outputs], build.weights
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    return tidy(model)


def present_name(past: str) -> str:
    """The output that the next step takes as this past."""
    return past.replace("past_key_values", "present")


class _Build:
    """Nodes and constants, put down as they come."""

    def __init__(self, blocks: DecoderBlocks):
        self.blocks, self.nodes = blocks, list[onnx.NodeProto]()
        self.weights: list[TensorProto] = []
        self.named: set[str] = set()
        self.weight("embedding", blocks.weights["embedding"])

    def node(self, kind: str, inputs: list[str], output: str | list[str], **attributes: Any) -> str:
        outputs = [output] if isinstance(output, str) else output
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=outputs[0], **attributes))
        return outputs[0]

    def weight(self, name: str, values: np.ndarray) -> str:
        if name not in self.named:
            self.named.add(name)
            self.weights.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def ints(self, *values: int) -> str:
        return self.weight(f"ints{values}", np.array(values, np.int64))

    def number(self, value: float) -> str:
        return self.weight(f"number {value!r}", np.array(value, np.float32))


def _add_angles(build: _Build) -> None:
    """`cosine` and `sine` (batch, 1, length, head) of every position's angles, which both halves share; the sine
    of the first half with its sign changed."""
    build.node("Cast", ["position_ids"], "positions/float", to=TensorProto.FLOAT)
    build.node("Unsqueeze", ["positions/float", build.ints(1, 3)], "positions/column")
    build.node("Mul", ["positions/column", build.weight("speed", build.blocks.weights["speed"])], "angle")
    build.node("Cos", ["angle"], "cosine/half")
    build.node("Sin", ["angle"], "sine/half")
    build.node("Neg", ["sine/half"], "-sine/half")
    build.node("Concat", ["cosine/half", "cosine/half"], "cosine", axis=3)
    build.node("Concat", ["-sine/half", "sine/half"], "sine", axis=3)


def _add_mask(build: _Build) -> None:
    """`mask` (length, total): 0 where a position may be seen, else far below."""
    one = build.weight("one", np.array(1, np.int64))
    zero = build.weight("zero", np.array(0, np.int64))
    build.node("Shape", ["input_ids"], "length[]", start=1, end=2)
    build.node("Shape", [past_names(1)[0]], "past[]", start=2, end=3)
    build.node("Squeeze", ["length[]"], "length/value")
    build.node("Squeeze", ["past[]"], "past/value")
    build.node("Add", ["past/value", "length/value"], "total/value")
    build.node("Range", ["past/value", "total/value", one], "queries")
    build.node("Range", [zero, "total/value", one], "keys")
    build.node("Unsqueeze", ["queries", build.ints(1)], "queries/column")
    build.node("GreaterOrEqual", ["queries/column", "keys"], "seen")
    build.node("Where", ["seen", build.number(0.0), build.number(MASKED)], "mask")


def _add_norm(build: _Build, x: str, name: str) -> str:
    """x / sqrt(mean x² + epsilon) × weight. arXiv 1910.07467, equation 4. Spelt so that onnxruntime fuses it."""
    here = f"{x}/{name}"
    build.node("Pow", [x, build.number(2.0)], f"{here}/squares")
    build.node("ReduceMean", [f"{here}/squares", build.ints(-1)], f"{here}/mean", keepdims=1)
    build.node("Add", [f"{here}/mean", build.number(build.blocks.epsilon)], f"{here}/above")
    build.node("Sqrt", [f"{here}/above"], f"{here}/root")
    build.node("Div", [x, f"{here}/root"], f"{here}/even")
    return build.node("Mul", [f"{here}/even", build.weight(name, build.blocks.weights[name])], here)


def _add_layer(build: _Build, i: int, x: str) -> str:
    front = build.blocks.front

    def linear(given: str, name: str) -> str:
        return build.node(
            "MatMul", [given, build.weight(f"{i}.{name}", build.blocks.weights[f"{i}.{name}"])], f"{i}/{name}"
        )

    joined = linear(_add_norm(build, x, f"{i}.norm1"), "qkv")
    build.node("Reshape", [joined, build.ints(0, 0, 3 * front.heads, front.head)], f"{i}/split")
    build.node("Transpose", [f"{i}/split"], f"{i}/by head", perm=[0, 2, 1, 3])
    build.node("Split", [f"{i}/by head", build.ints(2 * front.heads, front.heads)], [f"{i}/qk", f"{i}/v"], axis=1)
    turned = _add_turn(build, f"{i}/qk")
    build.node("Split", [turned, build.ints(front.heads, front.heads)], [f"{i}/q", f"{i}/k"], axis=1)
    kept = {}
    for what, short in (("key", "k"), ("value", "v")):
        past = f"past_key_values.{i}.{what}"
        kept[short] = build.node("Concat", [past, f"{i}/{short}"], present_name(past), axis=2)
    build.node("Mul", [f"{i}/q", build.number(front.head**-0.5)], f"{i}/q scaled")
    build.node("Transpose", [kept["k"]], f"{i}/k turned", perm=[0, 1, 3, 2])
    build.node("MatMul", [f"{i}/q scaled", f"{i}/k turned"], f"{i}/scores")
    build.node("Add", [f"{i}/scores", "mask"], f"{i}/masked")
    build.node("Softmax", [f"{i}/masked"], f"{i}/shares", axis=-1)
    build.node("MatMul", [f"{i}/shares", kept["v"]], f"{i}/mixed")
    build.node("Transpose", [f"{i}/mixed"], f"{i}/by position", perm=[0, 2, 1, 3])
    build.node("Reshape", [f"{i}/by position", build.ints(0, 0, front.heads * front.head)], f"{i}/heads")
    x = build.node("Add", [x, linear(f"{i}/heads", "out")], f"{i}/attended")
    y = _add_norm(build, x, f"{i}.norm2")
    gate = linear(y, "gate")
    build.node("Sigmoid", [gate], f"{i}/open")
    build.node("Mul", [gate, f"{i}/open"], f"{i}/silu")
    build.node("Mul", [f"{i}/silu", linear(y, "up")], f"{i}/gated")
    return build.node("Add", [x, linear(f"{i}/gated", "down")], f"x{i + 1}")


def _add_turn(build: _Build, x: str) -> str:
    """x (batch, heads, length, head) turned by its positions: x cos + (b, a) (-sin, sin), a and b its halves."""
    half = build.blocks.front.head // 2
    build.node("Split", [x, build.ints(half, half)], [f"{x}/a", f"{x}/b"], axis=3)
    build.node("Concat", [f"{x}/b", f"{x}/a"], f"{x}/swapped", axis=3)
    build.node("Mul", [x, "cosine"], f"{x}/cosine")
    build.node("Mul", [f"{x}/swapped", "sine"], f"{x}/sine")
    return build.node("Add", [f"{x}/cosine", f"{x}/sine"], f"{x}/turned")
