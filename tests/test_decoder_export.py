"""A decoder's file: what torch gives, with the cache kept; its table held once, and every product quantised."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from decoder_students import SHAPE, list_prompts, random_decoder, trained_decoder
from int8_sums import SUMS_EXACTLY
from onnx import helper, numpy_helper

from export import Runner, merge_front, past_names, quantise, write_decoder
from export.tied import quantise_blocks, quantise_rows
from family.entry_points import step_inputs
from family.text.decoder import DecoderShape, as_blocks, generate

SMALL = ("int8-dynamic", "int4")


@pytest.fixture(scope="module", params=["random", "trained"])
def pair(request, tmp_path_factory):
    """A module and its file at fp32."""
    module = trained_decoder() if request.param == "trained" else random_decoder(SHAPE)
    path = tmp_path_factory.mktemp(request.param) / "model.onnx"
    write_decoder(as_blocks(module), path)
    return module, Runner(path)


def step(runner, front, ids, past=None):
    """Logits of ids (batch, length) after `past`, and the cache with theirs."""
    feeds = step_inputs(front, ids, past[0].shape[2] if past else 0)
    feeds |= dict(zip(past_names(front.layers), past or [], strict=False))
    logits, *present = runner.all_outputs(feeds)
    return logits, present


def go_on(runner, front, prompt, tokens):
    """The likeliest continuation, the cache kept."""
    logits, past = step(runner, front, np.array([prompt]))
    found = [int(logits[0, -1].argmax())]
    while len(found) < tokens:
        logits, past = step(runner, front, np.array([found[-1:]]), past)
        found.append(int(logits[0, -1].argmax()))
    return found


def test_greedy_text_is_torch_s_for_64_tokens_of_20_prompts(pair):
    module, runner = pair
    front = as_blocks(module).front
    said = [go_on(runner, front, prompt, 64) for prompt in list_prompts(20)]
    assert said == [generate(module, torch.tensor([prompt]), 64)[0].tolist() for prompt in list_prompts(20)]
    assert len({tuple(one) for one in said}) > 10


@pytest.mark.parametrize("parts", [(12, 1, 1, 1), (1, 5, 9), (7, 8)])
def test_in_parts_as_at_once_for_several_rows(pair, parts):
    module, runner = pair
    front = as_blocks(module).front
    ids = np.random.default_rng(0).integers(0, SHAPE.vocabulary, (3, sum(parts)))
    with torch.no_grad():
        wanted, cache = module.step(torch.from_numpy(ids))
    told, past, start = [], None, 0
    for length in parts:
        logits, past = step(runner, front, ids[:, start : start + length], past)
        told.append(logits)
        start += length
    assert np.abs(np.concatenate(told, 1) - wanted.numpy()).max() <= 1e-4
    assert np.abs(step(runner, front, ids)[0] - wanted.numpy()).max() <= 1e-4
    for found, kept in zip(past, [one for layer in cache for one in layer], strict=True):
        assert np.abs(found - kept.numpy()).max() <= 1e-4


def test_positions_turn_as_in_torch_to_the_end_of_a_long_context(tmp_path):
    module = random_decoder(replace(SHAPE, context=1024, depth=1))
    runner = Runner(write_decoder(as_blocks(module), tmp_path / "model.onnx").path)
    ids = np.random.default_rng(0).integers(0, SHAPE.vocabulary, (1, 1024))
    with torch.no_grad():
        wanted = module(torch.from_numpy(ids))[0, -8:].numpy()
    assert np.abs(runner(step_inputs(as_blocks(module).front, ids, 0))[0, -8:] - wanted).max() <= 1e-4


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A decoder whose weights are most of its file, at every precision."""
    folder = tmp_path_factory.mktemp("files")
    shape = DecoderShape(2048, 256, 128, 2, 4, 384)
    blocks = as_blocks(random_decoder(shape))
    paths = {"fp32": write_decoder(blocks, folder / "fp32.onnx").path}
    for precision in SMALL:
        paths[precision] = quantise(paths["fp32"], folder / f"{precision}.onnx", precision, []).path
    return blocks, paths


def test_the_table_is_in_the_file_once(files):
    blocks, paths = files
    table = blocks.weights["embedding"].size
    sizes = {precision: path.stat().st_size for precision, path in paths.items()}
    weights = sum(value.size for value in blocks.weights.values())
    assert sizes["fp32"] < 4 * weights + 20_000 < 4 * (weights + table)
    assert sizes["int8-dynamic"] < 0.30 * sizes["fp32"]
    assert sizes["int4"] < 0.18 * sizes["fp32"]


@pytest.mark.parametrize("precision", SMALL)
def test_no_product_with_weights_is_passed_over(files, precision):
    blocks, paths = files
    graph = onnx.load(paths[precision]).graph
    made = {name: node for node in graph.node for name in node.output}
    constant = {tensor.name for tensor in graph.initializer}
    left = [n.input[1] for n in graph.node if n.op_type == "MatMul" and {n.input[1]} <= constant | turned(made)]
    assert left == []
    layers = 5 * blocks.front.layers
    wanted = {"int8-dynamic": "MatMulInteger", "int4": "MatMulNBits"}[precision]
    assert sum(node.op_type == wanted for node in graph.node) == layers + 1
    floats = [numpy_helper.to_array(t) for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    assert max(value.size for value in floats) <= blocks.weights["embedding"].size / 32  # scales of blocks


def turned(made):
    """Outputs of operators that only move constants."""
    return {name for name, node in made.items() if node.op_type == "Transpose" and node.input[0] not in made}


@pytest.mark.parametrize("precision", SMALL)
def test_a_quantised_file_is_near_torch(tmp_path, precision):
    module = trained_decoder()
    blocks = as_blocks(module)
    write_decoder(blocks, tmp_path / "fp32.onnx")
    quantise(tmp_path / "fp32.onnx", tmp_path / "body.onnx", precision, [])
    assert merge_front(tmp_path / "body.onnx", blocks.front, tmp_path / "model.onnx").precision == precision
    ids = np.array([prompt[:5] for prompt in list_prompts(64) if len(prompt) > 5])
    with torch.no_grad():
        wanted = module(torch.from_numpy(ids)).numpy()
    found = step(Runner(tmp_path / "model.onnx"), blocks.front, ids)[0]
    assert np.abs(found - wanted).mean() > 0
    if SUMS_EXACTLY or precision == "int4":
        assert np.abs(found - wanted).mean() < {"int8-dynamic": 0.05, "int4": 0.4}[precision]


def test_a_width_that_is_no_whole_number_of_blocks(tmp_path):
    module = random_decoder(DecoderShape(300, 32, 36, 1, 2, 40))
    blocks = as_blocks(module)
    write_decoder(blocks, tmp_path / "fp32.onnx")
    quantise(tmp_path / "fp32.onnx", tmp_path / "int4.onnx", "int4", [])
    ids = np.arange(32)[None]
    found, wanted = (step(Runner(tmp_path / f"{name}.onnx"), blocks.front, ids)[0] for name in ("int4", "fp32"))
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.97


def test_rows_in_8_bits_are_off_by_half_a_step_at_most():
    table = np.random.default_rng(0).standard_normal((50, 36)).astype(np.float32)
    table[3] = 0
    small, scales = quantise_rows(table)
    assert (np.abs(small * scales[:, None] - table) <= scales[:, None] * 0.5001).all()
    assert np.array_equal(np.abs(small).max(axis=1), np.where(np.arange(50) == 3, 0, 127))


def test_blocks_in_4_bits_are_what_both_operators_read():
    table = np.random.default_rng(0).standard_normal((50, 36)).astype(np.float32)
    table[3] = 0
    packed, scales = quantise_blocks(table)
    assert (packed.shape, scales.shape) == ((50, 32), (50, 2))
    steps = np.stack([packed & 15, packed >> 4], 2).reshape(50, 64).astype(np.float32) - 8
    read = (steps * np.repeat(scales, 32, 1))[:, :36]
    limit = np.repeat(np.abs(scales), 32, 1)[:, :36]
    assert (np.abs(read - table) <= limit * 1.0001).all()  # a step: the side away from the farthest has 7
    assert np.abs(read - table).mean() < 0.3 * limit.mean()


def test_two_heads_on_one_table_are_refused(tmp_path):
    write_decoder(as_blocks(random_decoder(SHAPE)), tmp_path / "fp32.onnx")
    model = onnx.load(tmp_path / "fp32.onnx")
    turned = next(n for n in model.graph.node if n.op_type == "Transpose" and n.input[0].startswith("w"))
    hidden = next(n.input[0] for n in model.graph.node if turned.output[0] in n.input)
    model.graph.node.append(helper.make_node("MatMul", [hidden, turned.output[0]], ["more"]))
    onnx.save(model, tmp_path / "two.onnx")
    with pytest.raises(ValueError, match=r"one table may be tied to one head. Got 1 tables and 2 heads"):
        quantise(tmp_path / "two.onnx", tmp_path / "q.onnx", "int4", [])


def test_the_same_blocks_give_the_same_bytes(tmp_path):
    blocks = as_blocks(random_decoder(SHAPE))
    for name in ("a", "b"):
        write_decoder(blocks, tmp_path / f"{name}.onnx")
        quantise(tmp_path / f"{name}.onnx", tmp_path / f"{name}4.onnx", "int4", [])
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert (tmp_path / "a4.onnx").read_bytes() == (tmp_path / "b4.onnx").read_bytes()
