"""Students that read tokens: padding changes nothing, small ones are slices of large ones, files say what torch says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from int8_sums import SUMS_EXACTLY, needs_exact_sums

from benchmark import Measurement, Target
from export import Runner, check_parity, quantise, to_onnx
from family import spaces
from family.errors import Mistakes
from family.supernet import copy_slices, holds
from family.tasks import DataOptions, open_task
from family.tasks.text_task import TextTask
from family.text.reading_meter import TEXT, ReadingMeter, put_reading
from family.text.tokenizer import train_tokenizer
from family.types import Training

DIMS = {
    "static": {"width": [8, 32], "depth": [0, 2], "vocabulary": [300, 340]},
    "encoder": {
        "width": [16, 32],
        "depth": [1, 2],
        "heads": 2,
        "feed": 2,
        "vocabulary": [300, 340],
        "length": [16, 24],
    },
}


@pytest.fixture(scope="module")
def task(tmp_path_factory) -> TextTask:
    folder = tmp_path_factory.mktemp("students")
    rng = np.random.default_rng(0)
    words = ["oak", "elm", "fern", "ant", "bee", "cat", "small", "runs", "naïve"]
    rows = [{"text": " ".join(rng.choice(words, 1 + i % 12)) + f" {i}", "label": "ab"[i % 2]} for i in range(80)]
    (folder / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    made = open_task(DataOptions("d.jsonl", folder, task="text", vocabularies=(300, 340), lengths=(24,)), folder / "c")
    assert isinstance(made, TextTask)
    return made


def open_space(name: str, task: TextTask, **more):
    return spaces.open_space(name, DIMS[name] | more, Path(), task)


@pytest.mark.parametrize("name", DIMS)
def test_padding_changes_nothing(name, task):
    space = open_space(name, task)
    module = spaces.build_student(space, spaces.largest(space), task, 0).eval()
    seen = task.seen_by(spaces.largest(space))
    rows = np.arange(6)
    with torch.no_grad():
        together = module(seen.inputs("val", rows, 0)[0])
        alone = [module(torch.from_numpy(seen.raw("val", rows[i : i + 1])["input_ids"]))[0] for i in rows]
    torch.testing.assert_close(together, torch.stack(alone))


@pytest.mark.parametrize("name", DIMS)
def test_small_students_are_slices_of_large_ones(name, task):
    space = open_space(name, task)
    large = dict(spaces.build_student(space, spaces.largest(space), task, 0).named_parameters())
    small = spaces.build_student(space, spaces.smallest(space), task, 1)
    assert all(holds(tuple(large[n].shape), tuple(p.shape)) for n, p in small.named_parameters())
    copy_slices(large, small)
    ids = torch.tensor([[5, 299, 0]])
    assert small(ids).shape == (1, 2)
    embedding = dict(small.named_parameters())["embedding.weight"]
    assert torch.equal(embedding, large["embedding.weight"][: len(embedding), : embedding.shape[1]])


@pytest.mark.parametrize("name", DIMS)
def test_files_say_what_torch_says_and_int8_shrinks_the_table(name, task, tmp_path):
    space = open_space(name, task, width=32, vocabulary=340)
    params = spaces.largest(space)
    seen = task.seen_by(params)
    module = spaces.build_student(space, params, task, 0).eval()
    to_onnx(module, seen.body, tmp_path / "fp32.onnx")
    raw = [seen.raw("val", np.array([i])) for i in range(4)]
    with torch.no_grad():
        wanted = [module(torch.from_numpy(one["input_ids"])).numpy() for one in raw]
    assert check_parity(tmp_path / "fp32.onnx", raw, wanted, 1e-5).kept
    table = 4 * 340 * 32
    feeds = [{"input_ids": seen.inputs("train", np.arange(32), 0)[0].numpy()}]
    for precision in (*space.precisions[1:], "int8-weights", "fp16-weights"):
        path = tmp_path / f"{precision}.onnx"
        quantise(tmp_path / "fp32.onnx", path, precision, feeds)
        saved = (tmp_path / "fp32.onnx").stat().st_size - path.stat().st_size
        assert saved > (0.45 if precision == "fp16-weights" else 0.6) * table
        found = np.concatenate([Runner(path)(one) for one in raw])
        if SUMS_EXACTLY or precision.endswith("-weights"):
            assert np.abs(found - np.concatenate(wanted)).max() < 0.2 * np.abs(wanted).max()


@needs_exact_sums
def test_attention_survives_int8_beside_padding(task, tmp_path):
    """The mask's great numbers must not coarsen the scores: two texts padded alike stay as far apart as in fp32."""
    space = open_space("encoder", task, width=32)
    module = spaces.build_student(space, spaces.largest(space), task, 3).eval()
    with torch.no_grad():
        for layer in module.layers:
            layer.attention.qkv.weight *= 8
    seen = task.seen_by(spaces.largest(space))
    to_onnx(module, seen.body, tmp_path / "fp32.onnx")
    ids = {"input_ids": seen.inputs("train", np.arange(48), 0)[0].numpy()}
    assert (ids["input_ids"] == 0).any()
    quantise(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", "int8", [ids])
    one, two = (Runner(tmp_path / f"{p}.onnx")(ids) for p in ("fp32", "int8"))
    assert np.corrcoef(one[:, 0], two[:, 0])[0, 1] > 0.95


def test_spaces_of_texts_are_refused_elsewhere_and_narrow_to_the_texts(task):
    assert spaces.largest(open_space("static", task, vocabulary=[300, 50_000]))["vocabulary"] == task.front.vocabulary
    default = spaces.open_space("static", None, Path(), task)
    assert default.dims["length"].choices == (task.front.length,)
    with pytest.raises(Mistakes, match=r"must be a whole number from 258"):
        open_space("static", task, vocabulary=100)


def test_a_batch_as_another_student_reads_it(task):
    from family.supernet import read_by
    from family.train import Batch, plan_batches
    from family.types import SoftBatch

    training = Training("labels", 1e-3, 3, 0, batch=8)
    large, small = task.seen_by({"vocabulary": 340}), task.seen_by({"vocabulary": 300})
    plan = plan_batches(large, training)
    batch = Batch(large.inputs("train", plan.rows[1], 0), SoftBatch(), torch.zeros(8), torch.ones(8))
    found = read_by(small, batch, plan, 1, "cpu")
    assert torch.equal(found.inputs[0], small.inputs("train", plan.rows[1], 0)[0])
    assert found.labels is batch.labels
    assert torch.equal(read_by(large, batch, plan, 1, "cpu").inputs[0], batch.inputs[0])


class Stopwatch:
    host = "here"

    def quickly(self, model: Path) -> list[Measurement]:
        common = {"target": "cpu", "provenance": "measured:host", "protocol": "timed", "host": "here"}
        return [
            Measurement("latency_ms", 2.0, 1.5, 2.5, (1.9, 2.1), **common),
            Measurement("size_kb", 10.0, 10.0, 10.0, (), **common),
        ]

    def settle(self, models: list[Path]) -> list[list[Measurement]]:
        return [self.quickly(model) for model in models]


def test_latency_is_that_of_tokenizer_and_file_which_are_shown_apart(tmp_path):
    put_reading(tmp_path / "model.onnx", train_tokenizer(["an oak and an ant"] * 3, 280), "an oak " * 40, 64)
    meter = ReadingMeter(Stopwatch(), Target("cpu", "local", {"batch": 1}))  # type: ignore[arg-type]
    figures = {one.quantity: one for one in meter.quickly(tmp_path / "model.onnx")}
    assert set(figures) == {"latency_ms", "size_kb", "file_ms", "tokenizer_ms"}
    reading = figures["tokenizer_ms"]
    assert 0 < reading.low <= reading.value <= reading.high < 1000
    assert figures["file_ms"].value == 2.0
    assert figures["latency_ms"].value == pytest.approx(2.0 + reading.value)
    assert figures["latency_ms"].low == pytest.approx(1.5 + reading.low)
    assert figures["size_kb"].value == 10.0
    (again,) = meter.settle([tmp_path / "model.onnx"])
    assert [one.quantity for one in again].count("tokenizer_ms") == 1


def test_what_a_student_does_not_read_of_a_long_text_is_not_timed(tmp_path):
    tokenizer = train_tokenizer(["an oak and an ant"] * 3, 280)
    text = "an oak and naïve " * 1_000
    put_reading(tmp_path / "model.onnx", tokenizer, text, 16)
    read = (tmp_path / TEXT).read_text(encoding="utf-8")
    assert read == text[: tokenizer.characters(16)]
    meter = ReadingMeter(Stopwatch(), Target("cpu", "local", {"batch": 1}))  # type: ignore[arg-type]
    (reading,) = [one for one in meter.quickly(tmp_path / "model.onnx") if one.quantity == "tokenizer_ms"]
    (tmp_path / TEXT).write_text(text, encoding="utf-8")
    (longer,) = [one for one in meter.quickly(tmp_path / "model.onnx") if one.quantity == "tokenizer_ms"]
    assert longer.value > 5 * reading.value


def test_two_texts_in_a_batch_take_about_twice_as_long(tmp_path):
    put_reading(tmp_path / "model.onnx", train_tokenizer(["an oak and an ant"] * 3, 280), "an oak " * 200, 400)
    meters = [
        ReadingMeter(Stopwatch(), Target("cpu", "local", {"batch": n}))  # type: ignore[arg-type]
        for n in (1, 8)
    ]
    one, eight = (
        next(f.value for f in m.quickly(tmp_path / "model.onnx") if f.quantity == "tokenizer_ms") for m in meters
    )
    assert eight > 3 * one
