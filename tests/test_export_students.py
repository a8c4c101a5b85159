"""torch module → file → int8 → joined to its front, and what must hold on the way."""

import logging
import warnings

import numpy as np
import onnx
import pytest
import torch
from int8_sums import SUMS_EXACTLY, needs_exact_sums
from torch import nn

import export
from export import (
    PRECISIONS,
    ImageFront,
    PlainFront,
    SeriesFront,
    Signature,
    TableFront,
    TensorSpec,
    apply_front,
    body_signature,
    check_parity,
    describe,
    make_up_inputs,
    merge_front,
    quantise,
    raw_signature,
    run,
    to_onnx,
)

IMAGES = ImageFront("uint8", "hwc", (None, None, 3), 3, (16, 16), (120.0,) * 3, (60.0,) * 3)
TABLE = TableFront((0.0,) * 6, (1.0,) * 6, (1, 2), (4, 3))
SERIES = SeriesFront(3, 20, (0.0,) * 3, (1.0,) * 3, masked=True)


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.deep = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.point = nn.Conv2d(width, width, 1)

    def forward(self, x):
        return torch.relu(x + self.point(torch.relu(self.norm(self.deep(x)))))


class Pointwise(nn.Linear):
    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class Encoder(nn.Module):
    def __init__(self, width=16, convolve=True):
        super().__init__()
        self.embed = nn.Conv1d(3, width, 1) if convolve else Pointwise(3, width)
        layer = nn.TransformerEncoderLayer(width, 2, 32, batch_first=True, dropout=0.1)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 5)

    def forward(self, x, mask):
        hidden = self.embed(x).transpose(1, 2)
        hidden = self.layers(hidden, src_key_padding_mask=mask[:, 0] < 0.5)
        weights = mask.transpose(1, 2)
        return self.head((hidden * weights).sum(1) / weights.sum(1).clamp(min=1))


def build_cnn():
    blocks = [nn.Conv2d(3, 12, 3, stride=2, padding=1), nn.ReLU(), Residual(12), Residual(12)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5))


def build_mlp():
    return nn.Sequential(nn.Linear(15, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 5))


STUDENTS = {"cnn": (build_cnn, IMAGES), "mlp": (build_mlp, TABLE), "encoder": (Encoder, SERIES)}


def build(name):
    """A student whose batch norms have seen something, its front and its signature."""
    make, front = STUDENTS[name]
    torch.manual_seed(0)
    module = make()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(part.running_var, 0.5, 2.0)
            nn.init.normal_(part.running_mean)
    return module, front, body_signature(front, 5, "logits")


def make_raw(name, rows, seed=0):
    generator = np.random.default_rng(seed)
    if name == "cnn":
        return {"image": generator.integers(0, 256, (rows, 23, 19, 3), dtype=np.uint8)}
    if name == "mlp":
        numbers = generator.standard_normal((rows, 6)).astype(np.float32)
        numbers[generator.random((rows, 6)) < 0.2] = np.nan
        return {"numbers": numbers, "categories": generator.integers(-1, 5, (rows, 2))}
    series = generator.standard_normal((rows, 3, 20)).astype(np.float32)
    return {"series": series, "length": generator.integers(1, 21, rows)}


def ask_torch(module, front, raw):
    with torch.no_grad():
        return module.eval()(*apply_front(front, raw)).numpy()


def body_feeds(front, signature, raw):
    return {s.name: x.numpy() for s, x in zip(signature.inputs, apply_front(front, raw), strict=True)}


@pytest.fixture(scope="module", params=STUDENTS)
def student(request, tmp_path_factory):
    """(name, module, front, signature, folder) with body.onnx exported."""
    module, front, signature = build(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    to_onnx(module, signature, folder / "body.onnx")
    return request.param, module, front, signature, folder


def test_export_equals_torch_at_any_batch(student):
    name, module, front, signature, folder = student
    raws = [make_raw(name, rows) for rows in (1, 7)]
    parity = check_parity(
        folder / "body.onnx",
        [body_feeds(front, signature, raw) for raw in raws],
        [ask_torch(module, front, raw) for raw in raws],
        tolerance=1e-4,
    )
    assert parity.kept
    assert parity.rows == 8


def test_ends_are_as_the_signature_says(student):
    *_, signature, folder = student
    graph = onnx.load(folder / "body.onnx").graph
    ends = export.graphs.read_specs([*graph.input, *graph.output])
    assert ends == (*signature.inputs, *signature.outputs)


def test_batch_norm_is_folded(student):
    assert "BatchNormalization" not in describe(student[-1] / "body.onnx", "fp32").operators


def test_same_module_same_bytes(student, tmp_path):
    name, _, front, signature, folder = student
    again, *_ = build(name)
    to_onnx(again, signature, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (folder / "body.onnx").read_bytes()
    calibration = [body_feeds(front, signature, make_raw(name, 16))]
    for twin in ("a.onnx", "b.onnx"):
        quantise(folder / "body.onnx", tmp_path / twin, "int8", calibration)
        merge_front(tmp_path / twin, front, tmp_path / f"merged-{twin}")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert (tmp_path / "merged-a.onnx").read_bytes() == (tmp_path / "merged-b.onnx").read_bytes()


def test_no_trace_of_this_machine(student):
    content = (student[-1] / "body.onnx").read_bytes()
    assert b"pytorch" not in content
    assert b".py" not in content
    model = onnx.load_from_string(content)
    assert not any(item.doc_string for item in [model, model.graph, *model.graph.node])


def test_fp32_with_front_equals_torch_on_raw_inputs(student, tmp_path):
    name, module, front, _, folder = student
    artifact = merge_front(folder / "body.onnx", front, tmp_path / "shipped.onnx")
    assert artifact.precision == "fp32"
    graph = onnx.load(artifact.path).graph
    assert export.graphs.read_specs(graph.input) == raw_signature(front)
    for rows in (1, 7):
        raw = make_raw(name, rows)
        np.testing.assert_allclose(run(artifact.path, raw), ask_torch(module, front, raw), atol=1e-4)


@pytest.mark.parametrize("front_first", [False, True])
def test_int8_is_int8_and_near(student, tmp_path, front_first):
    """Quantised before or after the front is joined; the front's own operators stay in float32."""
    name, module, front, signature, folder = student
    raw = make_raw(name, 64)
    source, shipped = folder / "body.onnx", tmp_path / "shipped.onnx"
    if front_first:
        merge_front(source, front, tmp_path / "merged.onnx")
        artifact = quantise(tmp_path / "merged.onnx", shipped, "int8", [raw])
    else:
        quantise(source, tmp_path / "int8.onnx", "int8", [body_feeds(front, signature, raw)])
        artifact = merge_front(tmp_path / "int8.onnx", front, shipped)
    assert artifact.precision == "int8"
    assert {"QuantizeLinear", "DequantizeLinear"} <= set(artifact.operators)
    graph = onnx.load(shipped).graph
    assert any(tensor.data_type == onnx.TensorProto.INT8 for tensor in graph.initializer)
    made = {out: node for node in graph.node for out in node.output}
    fronts = [node for node in graph.node if node.name.startswith("front/")]
    assert fronts
    assert not any(made[i].op_type == "DequantizeLinear" for n in fronts for i in n.input if i in made)
    wanted = ask_torch(module, front, raw)
    if SUMS_EXACTLY or name != "encoder":
        assert np.abs(run(shipped, raw) - wanted).max() < 0.15 * np.abs(wanted).max()
    assert run(shipped, make_raw(name, 1)).shape == (1, 5)


def test_bias_scales_are_consistent(tmp_path):
    """Bias scale = input scale × weight scale, or the int8 kernel is not taken (several times slower)."""
    module, _, signature = build("cnn")
    to_onnx(module, signature, tmp_path / "body.onnx")
    quantise(tmp_path / "body.onnx", tmp_path / "q.onnx", "int8", make_up_inputs(tmp_path / "body.onnx"))
    graph = onnx.load(tmp_path / "q.onnx").graph
    made = {out: node for node in graph.node for out in node.output}
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 5
    for node in convolutions:
        x, w, b = (weights[made[name].input[1]] for name in node.input)
        np.testing.assert_allclose(b, x * w, rtol=1e-5)


def test_dynamic_int8(student, tmp_path):
    name, module, front, _, folder = student
    if name == "cnn":
        with pytest.raises(ValueError, match="int8-dynamic does not suit a graph with Conv"):
            quantise(folder / "body.onnx", tmp_path / "q.onnx", "int8-dynamic", [])
        return
    source = folder / "body.onnx"
    if name == "encoder":  # with an embedding that is no convolution
        module = Encoder(convolve=False)
        source = to_onnx(module, body_signature(front, 5, "logits"), tmp_path / "body.onnx").path
    artifact = quantise(source, tmp_path / "q.onnx", "int8-dynamic", [])
    assert "MatMulInteger" in artifact.operators
    raw = make_raw(name, 32)
    wanted = ask_torch(module, front, raw)
    merged = merge_front(artifact.path, front, tmp_path / "m.onnx")
    assert merged.precision == "int8-dynamic"
    found = run(merged.path, raw)
    if SUMS_EXACTLY or name != "encoder":
        assert np.abs(found - wanted).max() < 0.15 * np.abs(wanted).max()


def test_int4_does_not_suit_what_it_would_leave_as_it_is(tmp_path):
    module, _, signature = build("mlp")
    to_onnx(module, signature, tmp_path / "body.onnx")
    with pytest.raises(ValueError, match="int4 does not suit a graph without MatMul or Gather of weights"):
        quantise(tmp_path / "body.onnx", tmp_path / "q.onnx", "int4", [])


def test_module_is_unchanged(tmp_path):
    module, _, signature = build("cnn")
    module.train()
    module[2].norm.eval()
    modes = [part.training for part in module.modules()]
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state, fast = torch.get_rng_state(), torch.backends.mha.get_fastpath_enabled()
    to_onnx(module, signature, tmp_path / "m.onnx")
    assert [part.training for part in module.modules()] == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


class Resizing(nn.Module):
    """Antialiased resizing has no symbolic in the TorchScript exporter."""

    def forward(self, x):
        small = nn.functional.interpolate(x, size=(4, 4), mode="bilinear", antialias=True)
        return small.flatten(1)[:, :5]


class Baked(nn.Module):
    """Tracing bakes the batch into a constant; the check at another batch must notice."""

    def forward(self, x):
        return x.reshape(x.shape.numel() // 768, 768)[:, :5]


def test_what_the_quick_exporter_cannot_do_is_exported_thoroughly(tmp_path, capfd):
    module = Resizing()
    signature = body_signature(IMAGES, 5, "logits")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        artifact = to_onnx(module, signature, tmp_path / "m.onnx")
    assert artifact.opset == 18
    assert b".py" not in artifact.path.read_bytes()
    x = np.random.default_rng(0).standard_normal((7, 3, 16, 16)).astype(np.float32)
    np.testing.assert_allclose(run(artifact.path, {"x": x}), module(torch.from_numpy(x)), atol=1e-4)
    assert "torchvision" not in "".join(capfd.readouterr())


class Undecided(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :5] * (2.0 if x.flatten()[0].item() > 0 else -3.0)


@pytest.mark.parametrize("module", [Baked(), Undecided()], ids=["baked", "undecided"])
def test_what_neither_exporter_gets_right_is_refused(tmp_path, module):
    with pytest.raises(ValueError, match=f"{type(module).__name__} cannot be exported"):
        to_onnx(module, body_signature(IMAGES, 5, "logits"), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_module_must_fit_its_signature(tmp_path):
    with pytest.raises(ValueError, match=r"must give outputs of shape \[\(2, 4\)\].*Got.*5"):
        to_onnx(build_mlp(), body_signature(TABLE, 4, "logits"), tmp_path / "m.onnx")
    with pytest.raises(ValueError, match="does not run on its signature"):
        to_onnx(build_cnn(), body_signature(TABLE, 5, "logits"), tmp_path / "m.onnx")


@needs_exact_sums
def test_masked_scores_stay_in_float(tmp_path):
    """A fully int8 softmax input would spread 255 steps from -inf to the scores: none left for the scores."""
    text = """<ir_version: 8, opset_import: ["" : 18]>
    g (float[batch, 8] x, float[batch, 8] mask) => (float[batch, 8] logits) {
        scores = MatMul(x, w)
        counts = Greater(mask, half)
        masked = Where(counts, scores, minus)
        logits = Softmax(masked)
    }"""
    model = onnx.parser.parse_model(text)
    w = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    weights = {"w": w, "minus": np.array(-np.inf, np.float32), "half": np.array(0.5, np.float32)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in weights.items())
    onnx.save(model, tmp_path / "body.onnx")
    x = np.random.default_rng(1).standard_normal((64, 8)).astype(np.float32)
    feeds = {"x": x, "mask": np.tri(64, 8, dtype=np.float32)}
    quantise(tmp_path / "body.onnx", tmp_path / "q.onnx", "int8", [feeds])
    wanted = run(tmp_path / "body.onnx", feeds)
    np.testing.assert_allclose(run(tmp_path / "q.onnx", feeds), wanted, atol=0.05)
    graph = onnx.load(tmp_path / "q.onnx").graph
    made = {out: node.op_type for node in graph.node for out in node.output}
    (softmax,) = [node for node in graph.node if node.op_type == "Softmax"]
    assert made[softmax.input[0]] == "Where"


class Pair(nn.Module):
    def forward(self, a, b):
        return a + b, a * b


def test_several_inputs_and_outputs_keep_their_names(tmp_path):
    front = PlainFront(("v0", "n0"), ((3,), (3,)))  # names that shortening uses too
    outputs = (TensorSpec("sum", "float32", ("batch", 3)), TensorSpec("w0", "float32", ("batch", 3)))
    signature = Signature(body_signature(front, 3, "sum").inputs, outputs)
    to_onnx(Pair(), signature, tmp_path / "m.onnx")
    merged = merge_front(tmp_path / "m.onnx", front, tmp_path / "p.onnx")
    a, b = np.full((2, 3), 2.0, np.float32), np.full((2, 3), 5.0, np.float32)
    both = export.Runner(merged.path).all_outputs({"v0": a, "n0": b})
    assert [array[0, 0] for array in both] == [7.0, 10.0]


def test_body_names_like_the_fronts_are_no_trouble(tmp_path):
    """A foreign body whose inner tensors are named as raw inputs and as the front's own."""
    text = """<ir_version: 8, opset_import: ["" : 18]>
    g (float[batch, 3, 20] x) => (float[batch, 3, 20] logits) {
        series = Relu(x)
        centred = Abs(series)
        logits = Neg(centred)
    }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "body.onnx")
    front = SeriesFront(3, 20, (0.0,) * 3, (1.0,) * 3, masked=False)
    merge_front(tmp_path / "body.onnx", front, tmp_path / "m.onnx")
    x = np.ones((2, 3, 20), np.float32)
    np.testing.assert_array_equal(run(tmp_path / "m.onnx", {"series": x}), -x)


def test_merge_refuses_what_does_not_fit(tmp_path):
    module, _, signature = build("mlp")
    to_onnx(module, signature, tmp_path / "body.onnx")
    with pytest.raises(ValueError, match=r"body.onnx must take x: .*\(.*3, 16, 16\).*Got x.*15"):
        merge_front(tmp_path / "body.onnx", IMAGES, tmp_path / "m.onnx")
    to_onnx(module, body_signature(TABLE, 5, "numbers"), tmp_path / "clash.onnx")
    with pytest.raises(ValueError, match=r"must not name an output like an input\. Got numbers"):
        merge_front(tmp_path / "clash.onnx", TABLE, tmp_path / "m.onnx")


def test_unsuitable_precisions(student, tmp_path):
    source = student[-1] / "body.onnx"
    with pytest.raises(
        ValueError, match=r"one of fp32, int8, int8-dynamic, int4, int8-weights, fp16-weights. Got 'int3'"
    ):
        quantise(source, tmp_path / "q.onnx", "int3", [])
    with pytest.raises(ValueError, match="at least one batch of calibration"):
        quantise(source, tmp_path / "q.onnx", "int8", [])
    assert list(PRECISIONS) == ["fp32", "int8", "int8-dynamic", "int4", "int8-weights", "fp16-weights"]
    copy = quantise(source, tmp_path / "q.onnx", "fp32", [])
    assert copy.path.read_bytes() == source.read_bytes()


def test_quantiser_is_silent_and_leaves_logging_alone(student, tmp_path, capfd):
    source, root = student[-1] / "body.onnx", logging.getLogger()
    before = (list(root.handlers), root.manager.disable)
    quantise(source, tmp_path / "q.onnx", "int8", make_up_inputs(source))
    assert (list(root.handlers), root.manager.disable) == before
    assert "".join(capfd.readouterr()) == ""


def test_parity_counts_nan_and_shapes(tmp_path):
    module, _, signature = build("mlp")
    to_onnx(module, signature, tmp_path / "m.onnx")
    feeds = make_up_inputs(tmp_path / "m.onnx", rows=3)
    wanted = run(tmp_path / "m.onnx", feeds[0])
    assert check_parity(tmp_path / "m.onnx", feeds, [wanted], 0.0).kept
    off = wanted.copy()
    off[2, 1] += 0.25
    assert check_parity(tmp_path / "m.onnx", feeds, [off], 0.1).largest == pytest.approx(0.25, abs=1e-5)
    off[0, 0] = np.nan
    assert not check_parity(tmp_path / "m.onnx", feeds, [off], 1e9).kept
    with pytest.raises(ValueError, match=r"gives outputs of shape \(3, 5\), the reference \(3, 4\)"):
        check_parity(tmp_path / "m.onnx", feeds, [wanted[:, :4]], 0.1)
    with pytest.raises(ValueError, match="zip"):
        check_parity(tmp_path / "m.onnx", feeds, [wanted, wanted], 0.1)
