"""A table that is both embedding and head, kept once in the file at every precision.

`Gather` picks rows of the table (vocabulary, width) and, through `Transpose`, `MatMul` multiplies with it. Quantisers
pass over such a head in silence, and folding constants writes the table twice: so it is taken apart before and joined
after.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

TIED_PREFIX = "tied/"
TABLE, HEAD = f"{TIED_PREFIX}table", f"{TIED_PREFIX}head"
BLOCK = 32  # weights that share a scale, in 4 bits
INT8_ACTIVATIONS = 4  # accuracy level of MatMulNBits
MICROSOFT = "com.microsoft"


def untie(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give the head weights of its own, and both nodes names by which `tie_int8` and `tie_int4` find them. In place;
    changes nothing where no table is tied."""
    graph = model.graph
    tables = {tensor.name: tensor for tensor in graph.initializer}
    turned = {node.output[0]: node for node in graph.node if node.op_type == "Transpose" and node.input[0] in tables}
    heads = [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in turned]
    for head in heads:
        transpose = turned[head.input[1]]
        table = transpose.input[0]
        gathers = [node for node in graph.node if node.op_type == "Gather" and node.input[0] == table]
        if len(gathers) != 1 or len(heads) != 1:
            raise ValueError(f"one table may be tied to one head. Got {len(gathers)} tables and {len(heads)} heads")
        values = np.ascontiguousarray(numpy_helper.to_array(tables[table]).T)
        graph.initializer.append(numpy_helper.from_array(values, transpose.output[0]))
        graph.node.remove(transpose)
        gathers[0].name, head.name = TABLE, HEAD
    return model


def tie_int8(model: onnx.ModelProto) -> onnx.ModelProto:
    """Join what `untie` took apart: rows in int8 with a scale each; the head's activations quantised as they come."""
    pair = _find_pair(model.graph)
    if pair is None:
        return model
    gather, head, table = pair
    quantised, scales = quantise_rows(table)
    weights = [numpy_helper.from_array(quantised, "tied.int8"), numpy_helper.from_array(scales, "tied.scale")]
    weights.append(numpy_helper.from_array(np.array(-1, np.int64), "tied.last"))
    ids, x = gather.input[1], head.input[0]
    rows = [
        helper.make_node("Gather", ["tied.int8", ids], ["tied.rows"], axis=0),
        helper.make_node("Cast", ["tied.rows"], ["tied.rows.float"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["tied.scale", ids], ["tied.scales"], axis=0),
        helper.make_node("Unsqueeze", ["tied.scales", "tied.last"], ["tied.scales.column"]),
        helper.make_node("Mul", ["tied.rows.float", "tied.scales.column"], [gather.output[0]]),
    ]
    scaled = ["tied.x", "tied.x.scale", "tied.x.zero"]
    products = [
        helper.make_node("Transpose", ["tied.int8"], ["tied.turned"], perm=[1, 0]),
        helper.make_node("DynamicQuantizeLinear", [x], scaled),
        helper.make_node("MatMulInteger", ["tied.x", "tied.turned", "tied.x.zero"], ["tied.sums"]),
        helper.make_node("Cast", ["tied.sums"], ["tied.sums.float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["tied.x.scale", "tied.scale"], ["tied.both"]),
        helper.make_node("Mul", ["tied.sums.float", "tied.both"], [head.output[0]]),
    ]
    return _swap(model, pair, rows, products, weights)


def tie_int4(model: onnx.ModelProto) -> onnx.ModelProto:
    """Join what `untie` took apart: rows in 4 bits, a scale for every `BLOCK`, which both operators read."""
    pair = _find_pair(model.graph)
    if pair is None:
        return model
    gather, head, table = pair
    rows, width = table.shape
    packed, scales = quantise_blocks(table)
    blocks = scales.shape[1]
    weights = [numpy_helper.from_array(packed, "tied.int4"), numpy_helper.from_array(scales, "tied.scale")]
    weights.append(numpy_helper.from_array(np.array([rows, blocks, BLOCK // 2], np.int64), "tied.shape"))
    whole = gather.output[0] if blocks * BLOCK == width else "tied.whole"
    picked = helper.make_node(
        "GatherBlockQuantized",
        ["tied.int4", gather.input[1], "tied.scale"],
        [whole],
        domain=MICROSOFT,
        bits=4,
        block_size=BLOCK,
        gather_axis=0,
        quantize_axis=1,
    )
    found = [picked]
    if whole != gather.output[0]:  # the last block is part empty
        ends = {"tied.start": 0, "tied.stop": width, "tied.axis": -1}
        weights += [numpy_helper.from_array(np.array([value], np.int64), name) for name, value in ends.items()]
        found.append(helper.make_node("Slice", [whole, *ends], [gather.output[0]]))
    products = [
        helper.make_node("Reshape", ["tied.int4", "tied.shape"], ["tied.blocks"]),
        helper.make_node(
            "MatMulNBits",
            [head.input[0], "tied.blocks", "tied.scale"],
            [head.output[0]],
            domain=MICROSOFT,
            K=width,
            N=rows,
            bits=4,
            block_size=BLOCK,
            accuracy_level=INT8_ACTIVATIONS,
        ),
    ]
    return _swap(model, pair, found, products, weights)


def quantise_rows(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 (rows, width) and float32 scales (rows,): w ≈ q · s, s = max |w| / 127."""
    scales = np.abs(table).max(axis=1) / np.float32(127)
    scales[scales == 0] = 1
    return np.rint(table / scales[:, None]).astype(np.int8), scales.astype(np.float32)


def quantise_blocks(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (rows, blocks × BLOCK / 2), two weights a byte, the first in its low half, and scales (rows, blocks):
    w ≈ (q - 8) · s, where the weight farthest from 0 in its block is q = 0."""
    rows, width = table.shape
    blocks = -(-width // BLOCK)
    padded = np.zeros((rows, blocks * BLOCK), np.float32)
    padded[:, :width] = table
    grouped = padded.reshape(rows, blocks, BLOCK)
    farthest = np.take_along_axis(grouped, np.abs(grouped).argmax(axis=2, keepdims=True), 2)
    scales = (farthest / np.float32(-8)).astype(np.float32)
    steps = np.where(scales == 0, 1, scales)
    quantised = np.clip(np.rint(grouped / steps) + 8, 0, 15).astype(np.uint8).reshape(rows, -1)
    return quantised[:, ::2] | (quantised[:, 1::2] << 4), scales[..., 0]


Pair = tuple[onnx.NodeProto, onnx.NodeProto, np.ndarray]


def _find_pair(graph: onnx.GraphProto) -> Pair | None:
    """The nodes that `untie` named, and the table (vocabulary, width)."""
    nodes = {node.name: node for node in graph.node if node.name in (TABLE, HEAD)}
    if not nodes:
        return None
    gather, head = nodes[TABLE], nodes[HEAD]
    table = next(tensor for tensor in graph.initializer if tensor.name == gather.input[0])
    return gather, head, numpy_helper.to_array(table)


def _swap(
    model: onnx.ModelProto,
    pair: Pair,
    rows: list[onnx.NodeProto],
    products: list[onnx.NodeProto],
    weights: list[TensorProto],
) -> onnx.ModelProto:
    """Put `rows` in the place of the embedding and `products` in that of the head, whose old weights go."""
    graph, (gather, head, _) = model.graph, pair
    made = {TABLE: rows, HEAD: products}
    nodes = [one for node in graph.node for one in made.get(node.name, [node])]
    kept = [tensor for tensor in graph.initializer if tensor.name not in (gather.input[0], head.input[1])]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*kept, *weights])
    if all(entry.domain != MICROSOFT for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return model
