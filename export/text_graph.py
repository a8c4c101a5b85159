"""A text student with its tokenizer inside the graph, by onnxruntime-extensions: strings in, outputs out.

It ships beside the plain file only where both gave the same ids and outputs on `hard_texts` and the golden texts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from export.graphs import standard_opset, tidy, write_model
from export.hard_texts import TEXTS
from export.session import RUNTIME_ERRORS, Runner, largest_difference
from export.text_ids import open_tokenizer, to_ids

NAME = "model-with-tokenizer.onnx"
DOMAIN = "ai.onnx.contrib"
INSTALL = "pip install 'student-family[text]'"


class Unequal(ValueError):
    """The tokenizer inside the graph gives other ids than the one that ships."""


def write_with_tokenizer(
    model: Path,
    tokenizer: bytes,
    front: Mapping[str, Any],
    texts: Sequence[str],
    path: Path,
    tolerances: Sequence[float],
) -> dict[str, Any]:
    """Write `path` where it is equal to `model` after `tokenizer` on `texts` and the hard ones: ids the same, and each
    output within its own of `tolerances`. `front`: a text front's data, with `nothing`.

    Returns plain data: `file` and the number of `texts` it was tried on, or the `reason` why there is none.
    """
    if find_spec("onnxruntime_extensions") is None:
        return {"reason": f"onnxruntime-extensions was not there where the student was written: {INSTALL}"}
    # the operator reads a text up to its first NUL, which the manifest's schema says
    tried = [text for text in (*texts, *TEXTS) if "\0" not in text]
    try:
        joined = join_tokenizer(onnx.load(model), tokenizer.decode(), front)
        _compare(joined, model, tokenizer, front, tried, tolerances)
    except (*RUNTIME_ERRORS, Unequal, ValueError) as error:
        return {"reason": " ".join(str(error).split())}
    write_model(joined, path)
    return {"file": path.name, "texts": len(tried)}


def join_tokenizer(model: onnx.ModelProto, tokenizer: str, front: Mapping[str, Any]) -> onnx.ModelProto:
    """`text: string (batch,)` → the model's outputs: at most `length` ids of each text, `nothing` where there are none.

    `tokenizer`: the contents of a tokenizer.json.
    """
    graph = _tokenizer_graph(tokenizer, front)
    asks = helper.make_opsetid(DOMAIN, 1)
    standard = helper.make_opsetid("", standard_opset(model))
    before = helper.make_model(graph, opset_imports=[standard, asks], ir_version=model.ir_version)
    body = onnx.compose.add_prefix(model, "body/", rename_outputs=False)
    (ids,) = (value.name for value in body.graph.input)
    others = {entry.domain for entry in body.opset_import} - {"", "ai.onnx", DOMAIN}
    before.opset_import.extend(entry for entry in body.opset_import if entry.domain in others)
    return tidy(onnx.compose.merge_models(before, body, io_map=[("ids", ids)]))


def _tokenizer_graph(tokenizer: str, front: Mapping[str, Any]) -> onnx.GraphProto:
    """Ragged rows come padded with 0 to the longest, which has no columns where no text has a token: a column of
    padding is put after them, and a row that begins with padding is one without tokens."""
    constants = {"zero": [0], "one": [1], "length": [front["length"]], "pad": [front["pad"]]}
    constants |= {"nothing": [front["nothing"]], "end": [np.iinfo(np.int64).max], "ends": [0, 0, 0, 1]}
    config = json.dumps({"tokenizer_class": "GPT2Tokenizer", "add_bos_token": False, "add_eos_token": False})
    told = {"domain": DOMAIN, "tokenizer_vocab": tokenizer, "tokenizer_config": config}
    nodes = [
        helper.make_node("HfJsonTokenizer", ["text"], ["found"], **told),
        helper.make_node("Pad", ["found", "ends", "pad-value"], ["padded"]),
        helper.make_node("Slice", ["padded", "zero", "length", "one"], ["cut"]),
        helper.make_node("Slice", ["cut", "zero", "one", "one"], ["first"]),
        helper.make_node("Slice", ["cut", "one", "end", "one"], ["rest"]),
        helper.make_node("Equal", ["first", "pad"], ["empty"]),
        helper.make_node("Where", ["empty", "nothing", "first"], ["begun"]),
        helper.make_node("Concat", ["begun", "rest"], ["ids"], axis=1),
    ]
    weights = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()]
    weights.append(numpy_helper.from_array(np.array(front["pad"], np.int64), "pad-value"))
    text = helper.make_tensor_value_info("text", TensorProto.STRING, ["batch"])
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "length"])
    return helper.make_graph(nodes, "tokenizer", [text], [ids], weights)


def _compare(
    joined: onnx.ModelProto,
    model: Path,
    tokenizer: bytes,
    front: Mapping[str, Any],
    texts: Sequence[str],
    tolerances: Sequence[float],
) -> None:
    """Ids of each text alone, and outputs of all of them as one batch. Raises Unequal."""
    opened, runner = open_tokenizer(tokenizer), Runner(model)
    graph = helper.make_model(
        _tokenizer_graph(tokenizer.decode(), front),
        opset_imports=joined.opset_import,
        ir_version=joined.ir_version,
    )
    alone, together = _open(graph), _open(joined)
    for text in texts:
        wanted, (found,) = to_ids(opened, [text], front), alone.run(None, {"text": np.array([text], object)})
        while found.shape[1] > wanted.shape[1] and (found[:, -1] == front["pad"]).all():
            found = found[:, :-1]
        if not np.array_equal(found, wanted):
            raise Unequal(f"onnxruntime-extensions gives other ids than tokenizer.json for {text[:40]!r}")
    outputs = together.run(None, {"text": np.array(texts, object)})
    plain = runner.all_outputs({"input_ids": to_ids(opened, texts, front)})
    for found, wanted, tolerance in zip(outputs, plain, tolerances, strict=True):
        off = largest_difference(found, wanted)
        if not off <= tolerance:
            raise Unequal(f"with its tokenizer inside, an output is off by {off:.3g}, above {tolerance:.3g}")


def _open(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    from onnxruntime_extensions import get_library_path

    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(get_library_path())
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what it cannot open is told by its exception
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
