"""Weights stored in int8 or float16 and computed with in float32."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_export_students import STUDENTS, ask_torch, build, make_raw

from export import list_operators, merge_front, quantise, run, to_onnx

STORED = ("int8-weights", "fp16-weights")


@pytest.fixture(scope="module", params=STUDENTS)
def student(request, tmp_path_factory):
    """(name, module, front, path of body.onnx)."""
    module, front, signature = build(request.param)
    path = tmp_path_factory.mktemp(request.param) / "body.onnx"
    to_onnx(module, signature, path)
    return request.param, module, front, path


def optimised_operators(path, folder):
    """What onnxruntime runs of a file, as a default session has it."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(list_operators(folder / "optimised.onnx"))


def one_product(weight, operator="Gemm", **attributes):
    """x (batch, inputs) → operator with `weight`."""
    node = helper.make_node(operator, ["x", "w"], ["y"], **attributes)
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", None]) for n in "xy")
    graph = helper.make_graph([node], "g", [x], [y], [numpy_helper.from_array(weight, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize(("precision", "near", "share"), [("int8-weights", 0.03, 0.8), ("fp16-weights", 2e-3, 0.8)])
def test_stored_weights_are_near_smaller_and_folded(student, tmp_path, precision, near, share):
    name, module, front, source = student
    body = quantise(source, tmp_path / "body.onnx", precision, [])
    artifact = merge_front(body.path, front, tmp_path / "model.onnx")
    assert artifact.precision == body.precision == precision
    assert body.size_bytes < share * source.stat().st_size
    raw = make_raw(name, 32)
    wanted = ask_torch(module, front, raw)
    assert 0 < np.abs(run(artifact.path, raw) - wanted).max() < near * np.abs(wanted).max()
    assert optimised_operators(body.path, tmp_path) == optimised_operators(source, tmp_path)
    again = quantise(source, tmp_path / "again.onnx", precision, [])
    assert again.sha256 == body.sha256


@pytest.mark.parametrize("precision", STORED)
def test_a_front_that_is_there_already_keeps_its_constants(student, tmp_path, precision):
    _, _, front, source = student
    merged = merge_front(source, front, tmp_path / "merged.onnx")
    quantise(merged.path, tmp_path / "stored.onnx", precision, [])
    before, after = (
        {t.name: t.SerializeToString() for t in onnx.load(path).graph.initializer if t.name.startswith("front/")}
        for path in (merged.path, tmp_path / "stored.onnx")
    )
    assert before
    assert after == before


@pytest.mark.parametrize("transposed", [0, 1])
def test_int8_has_a_scale_per_output_channel(tmp_path, transposed):
    """Against q · s worked out here; the scales of channels differ by a factor of a thousand."""
    weight = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32) * np.logspace(-2, 1, 6, dtype="f4")
    weight[:, 3] = 0
    onnx.save(one_product(weight.T.copy() if transposed else weight, transB=transposed), tmp_path / "m.onnx")
    quantise(tmp_path / "m.onnx", tmp_path / "q.onnx", "int8-weights", [])
    step = np.abs(weight).max(axis=0) / 127
    rounded = np.round(weight / np.where(step == 0, 1, step)) * step
    np.testing.assert_allclose(run(tmp_path / "q.onnx", {"x": np.eye(40, dtype="f4")}), rounded, rtol=1e-5)
    kept = {t.data_type: t for t in onnx.load(tmp_path / "q.onnx").graph.initializer}
    assert set(kept) == {TensorProto.INT8, TensorProto.FLOAT}
    assert sorted(kept[TensorProto.FLOAT].dims) == [1, 6]


@pytest.mark.parametrize("precision", STORED)
@pytest.mark.parametrize(
    "weight",
    [np.ones((4, 4), np.float32), np.arange(4096, dtype=np.float32)[None].repeat(40, 0)],
    ids=["too few to gain", "numbers beyond float16's whole numbers"],
)
def test_what_stays(tmp_path, precision, weight):
    """Constants of no known use stay in int8; in float16 those that it cannot hold; in both those with nothing to gain."""
    onnx.save(one_product(weight, "Add"), tmp_path / "m.onnx")
    quantise(tmp_path / "m.onnx", tmp_path / "q.onnx", precision, [])
    kept = onnx.load(tmp_path / "q.onnx").graph.initializer
    assert [t.data_type for t in kept] == [TensorProto.FLOAT]
    np.testing.assert_array_equal(numpy_helper.to_array(kept[0]), weight)


def test_masks_of_infinity_survive_float16(tmp_path):
    mask = np.where(np.tri(16, dtype=bool), 0, -np.inf).astype(np.float32)
    onnx.save(one_product(mask, "Add"), tmp_path / "m.onnx")
    quantise(tmp_path / "m.onnx", tmp_path / "h.onnx", "fp16-weights", [])
    assert onnx.load(tmp_path / "h.onnx").graph.initializer[0].data_type == TensorProto.FLOAT16
    np.testing.assert_array_equal(run(tmp_path / "h.onnx", {"x": np.zeros((16, 16), np.float32)}), mask)


def test_recurrent_cells_and_embeddings_are_weights_too(tmp_path):
    text = """<ir_version: 9, opset_import: ["" : 18]>
    g (int64[steps, batch] x) => (float[steps, 1, batch, 24] y) {
        embedded = Gather(table, x)
        y, last = GRU<hidden_size = 24>(embedded, w, r)
    }"""
    model = onnx.parser.parse_model(text)
    random = np.random.default_rng(0)
    for name, shape in {"table": (50, 16), "w": (1, 72, 16), "r": (1, 72, 24)}.items():
        model.graph.initializer.append(numpy_helper.from_array((random.standard_normal(shape) / 4).astype("f4"), name))
    onnx.save(model, tmp_path / "m.onnx")
    small = quantise(tmp_path / "m.onnx", tmp_path / "q.onnx", "int8-weights", [])
    assert sum(t.data_type == TensorProto.INT8 for t in onnx.load(small.path).graph.initializer) == 3
    feeds = {"x": random.integers(0, 50, (5, 2))}
    assert 0 < np.abs(run(small.path, feeds) - run(tmp_path / "m.onnx", feeds)).max() < 0.05
