"""Teachers of every kind, and what is wrong with some."""

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from fake_task import open_npz, open_numbers
from onnx import TensorProto, helper, numpy_helper
from scipy.special import log_softmax, softmax

from family.errors import Mistakes
from family.tasks import DataOptions, open_task
from family.teachers import TeacherOptions, check_teacher, open_teacher, teacher_score

WEIGHT = np.random.default_rng(5).normal(size=(4, 3)).astype(np.float32)
ROWS = np.arange(7)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return open_numbers(tmp_path_factory.mktemp("numbers"))


def opened(task, folder, *paths, **options):
    return open_teacher([TeacherOptions(p, **options) for p in paths], task, folder, folder / "cache")


def wrong(task, folder, *paths, **options) -> str:
    with pytest.raises(Mistakes) as found:
        check_teacher(opened(task, folder, *paths, **options), task)
    assert len(found.value.mistakes) == 1
    return str(found.value)


def inputs(task, split="train", rows=ROWS) -> np.ndarray:
    return task.raw(split, rows)["numbers"]


def linear() -> torch.nn.Linear:
    layer = torch.nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(WEIGHT.T))
        layer.bias.zero_()
    return layer


def write_onnx(path, batch="n", softmaxed=False, weight=WEIGHT, name="logits"):
    """numbers (batch, 4) → numbers · weight, through a softmax where asked."""
    nodes = [helper.make_node("MatMul", ["numbers", "w"], ["inner"])]
    nodes.append(helper.make_node("Softmax" if softmaxed else "Identity", ["inner"], [name]))
    graph = helper.make_graph(
        nodes,
        "teacher",
        [helper.make_tensor_value_info("numbers", TensorProto.FLOAT, [batch, 4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, weight.shape[1]])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


def write_factory(folder, body: str) -> str:
    (folder / "teacher.py").write_text(f"import torch\n\ndef make():\n    {body}\n")
    return "teacher.py:make"


# Every kind gives what it says


def test_a_factory_from_a_project_of_several_files(task, tmp_path):
    project = tmp_path / "project"
    (project / "parts_of_teacher").mkdir(parents=True)
    (project / "parts_of_teacher" / "__init__.py").write_text("")
    (project / "parts_of_teacher" / "layers.py").write_text(
        "import torch\n\nclass Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.layer = torch.nn.Linear(4, 3)\n        self.drop = torch.nn.Dropout(0.5)\n\n"
        "    def forward(self, x):\n        return self.drop(self.layer(x))\n"
    )
    torch.save({"layer." + k: v for k, v in linear().state_dict().items()}, project / "weights.pt")
    (project / "net.py").write_text(
        "from pathlib import Path\nimport torch\nfrom parts_of_teacher.layers import Net\n\n"
        "def make():\n    net = Net()\n"
        "    net.load_state_dict(torch.load(Path(__file__).parent / 'weights.pt'))\n    return net.train()\n"
    )
    teacher = opened(task, tmp_path, "project/net.py:make")
    assert np.allclose(teacher.outputs("train", ROWS, 0), inputs(task) @ WEIGHT, atol=1e-5)
    assert teacher.cost["parameters"] == 15


def test_a_program(task, tmp_path):
    batch = torch.export.Dim("batch")
    program = torch.export.export(linear().eval(), (torch.zeros(2, 4),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "teacher.pt2")
    teacher = opened(task, tmp_path, "teacher.pt2")
    assert np.allclose(teacher.outputs("val", ROWS, 0), inputs(task, "val") @ WEIGHT, atol=1e-5)


@pytest.mark.parametrize("batch", ["n", 1, 4])
def test_onnx_also_of_a_fixed_batch(task, tmp_path, batch):
    write_onnx(tmp_path / "teacher.onnx", batch)
    teacher = opened(task, tmp_path, "teacher.onnx")
    assert np.allclose(teacher.outputs("train", ROWS, 0), inputs(task) @ WEIGHT, atol=1e-5)
    assert teacher.views is None


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_stored_outputs_lie_in_the_datas_order(task, tmp_path, ending):
    outputs = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)
    if ending == "npz":
        np.savez(tmp_path / "said.npz", outputs=outputs)
    else:
        pd.DataFrame(outputs, columns=list("abc")).to_parquet(tmp_path / "said.parquet")
    teacher = opened(task, tmp_path, f"said.{ending}")
    assert np.array_equal(teacher.outputs("val", ROWS, 0), outputs[task.row_ids("val")[ROWS]])
    assert teacher.views == 1


def test_probabilities_become_logarithms(task, tmp_path):
    write_onnx(tmp_path / "teacher.onnx", softmaxed=True)
    for gives in ("auto", "probabilities"):
        said = opened(task, tmp_path, "teacher.onnx", gives=gives).outputs("train", ROWS, 0)
        assert np.allclose(said, log_softmax(inputs(task) @ WEIGHT, 1), atol=1e-4)


def test_an_ensemble_is_the_log_of_the_mean_distribution(task, tmp_path):
    write_onnx(tmp_path / "a.onnx")
    write_onnx(tmp_path / "b.onnx", softmaxed=True, weight=-WEIGHT)
    said = opened(task, tmp_path, "a.onnx", "b.onnx")
    x = inputs(task)
    expected = np.log((softmax(x @ WEIGHT, 1) + softmax(-x @ WEIGHT, 1)) / 2)
    assert np.allclose(said.outputs("train", ROWS, 0), expected, atol=1e-4)
    assert said.fingerprint != opened(task, tmp_path, "b.onnx", "a.onnx").members[0].fingerprint


def test_a_class_file_puts_outputs_in_the_datas_order(task, tmp_path):
    write_onnx(tmp_path / "teacher.onnx")
    (tmp_path / "order.txt").write_text("2\n0\n1\n")
    said = opened(task, tmp_path, "teacher.onnx", classes="order.txt").outputs("train", ROWS, 0)
    assert np.allclose(said, (inputs(task) @ WEIGHT)[:, [1, 2, 0]], atol=1e-5)


def test_a_changed_file_is_another_teacher(task, tmp_path):
    write_onnx(tmp_path / "teacher.onnx")
    first = opened(task, tmp_path, "teacher.onnx").fingerprint
    assert opened(task, tmp_path, "teacher.onnx").fingerprint == first
    write_onnx(tmp_path / "teacher.onnx", weight=WEIGHT + 1)
    assert opened(task, tmp_path, "teacher.onnx").fingerprint != first


def test_a_named_output_of_several(task, tmp_path):
    make = write_factory(tmp_path, "return Two()")
    (tmp_path / "teacher.py").write_text(
        "import torch\n\nclass Two(torch.nn.Module):\n    def forward(self, x):\n"
        "        return {'features': x, 'logits': 2 * x[:, :3]}\n\ndef make():\n    return Two()\n"
    )
    said = opened(task, tmp_path, make, output="logits").outputs("train", ROWS, 0)
    assert np.allclose(said, 2 * inputs(task)[:, :3])
    assert "'logit' is no output" in wrong(task, tmp_path, make, output="logit")


def test_a_teacher_sees_views_at_its_own_size(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (40, 8, 8, 1), np.uint8)
    task = open_npz(tmp_path, {"image": image, "label": np.arange(40) % 2})
    (tmp_path / "teacher.py").write_text(
        "import torch\n\nclass Sides(torch.nn.Module):\n    def forward(self, x):\n"
        "        assert x.shape[1:] == (16, 16, 1), x.shape\n"
        "        return x.mean((1, 2)) * torch.tensor([1.0, -1.0])\n\n"
        "def make():\n    return Sides()\n"
    )
    ways = {"size": 16, "layout": "nhwc", "mean": [0.5], "std": [0.25]}
    teacher = opened(task, tmp_path, "teacher.py:make", preprocess=ways)
    clean, moved = (teacher.outputs("train", ROWS, view) for view in (0, 3))
    mean = image[task.row_ids("train")[ROWS]].mean((1, 2, 3)) / 255
    assert np.allclose(clean[:, 0], (mean - 0.5) / 0.25, atol=0.05)
    assert not np.allclose(clean, moved, atol=1e-4)


# What is wrong is said


def test_probabilities_declared_as_logits_are_refused(task, tmp_path):
    write_onnx(tmp_path / "teacher.onnx", softmaxed=True)
    assert "these are probabilities" in wrong(task, tmp_path, "teacher.onnx", gives="logits")
    write_onnx(tmp_path / "teacher.onnx")
    assert "says probabilities, but outputs range" in wrong(task, tmp_path, "teacher.onnx", gives="probabilities")


def test_a_wrong_class_count_names_both_sides(task, tmp_path):
    write_onnx(tmp_path / "teacher.onnx", weight=np.ones((4, 5), np.float32))
    assert "gives 5 outputs a row; the data has 3 classes (0, 1, 2)" in wrong(task, tmp_path, "teacher.onnx")


def test_wrong_names_are_told(task, tmp_path):
    write_onnx(tmp_path / "teacher.onnx")
    assert "It has logits" in wrong(task, tmp_path, "teacher.onnx", output="scores")
    (tmp_path / "order.txt").write_text("0\n1\nx\n")
    assert "Not in the file: '2'. Not in the data: x." in wrong(task, tmp_path, "teacher.onnx", classes="order.txt")
    assert "not there" in wrong(task, tmp_path, "teacher.onnx", classes="nowhere.txt")
    assert "not there" in wrong(task, tmp_path, "nowhere.onnx")
    assert "must be a .onnx file" in wrong(task, tmp_path, "teacher.h5")


@pytest.mark.parametrize("ending", ["onnx", "pt2", "npz", "parquet"])
def test_a_text_file_of_any_ending_is_one_clear_mistake(task, tmp_path, ending):
    (tmp_path / f"teacher.{ending}").write_text("version https://git-lfs.github.com/spec/v1\n" * 3)
    assert f"teacher.{ending}" in wrong(task, tmp_path, f"teacher.{ending}")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("return 3", "must return a torch.nn.Module. Got int"),
        ("return open('weights-not-there.pt')", "FileNotFoundError"),
        ("return torch.nn.Linear(9, 3)", "fails on the data's inputs"),
        ("return torch.nn.GRU(4, 3)", ""),
    ],
)
def test_a_factory_that_does_not_fit(task, tmp_path, body, text):
    make = write_factory(tmp_path, body)
    if text:
        assert text in wrong(task, tmp_path, make)
    else:
        assert opened(task, tmp_path, make).outputs("train", ROWS, 0).shape == (7, 3)


def test_stored_outputs_must_cover_the_data(task, tmp_path):
    np.savez(tmp_path / "said.npz", outputs=np.zeros((100, 3)))
    assert "holds outputs for 100 rows; the data has 120" in wrong(task, tmp_path, "said.npz")
    assert "no array 'other'" in wrong(task, tmp_path, "said.npz", output="other")


def test_an_onnx_of_another_shape_names_both_shapes(task, tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "wide",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 224, 224])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 224, 224])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "t.onnx")
    text = wrong(task, tmp_path, "t.onnx")
    assert "(4,)" in text
    assert "(3, 224, 224)" in text


def test_nan_is_told_wherever_it_comes_up(task, tmp_path):
    outputs = np.random.default_rng(0).normal(size=(120, 3))
    outputs[task.row_ids("train")[2]] = np.nan
    np.savez(tmp_path / "said.npz", outputs=outputs)
    assert "NaN or infinite values for 1 of 8 train rows" in wrong(task, tmp_path, "said.npz")
    outputs[task.row_ids("val")[0]] = np.nan
    np.savez(tmp_path / "said.npz", outputs=outputs)
    assert "NaN or infinite values on validation inputs" in wrong(task, tmp_path, "said.npz")


@pytest.mark.parametrize("score", ["accuracy", "macro_f1"])
def test_a_teacher_near_chance_stops_with_advice(tmp_path, score):
    task = open_numbers(tmp_path, rows=300, score=score)
    truth = task.labels("val")
    outputs = np.eye(3)[(truth + 1) % 3]
    with pytest.raises(Mistakes, match=r"most frequent class.*teacher\.classes.*teacher\.preprocess"):
        teacher_score(None, task, outputs)
    found = teacher_score(None, task, np.eye(3)[truth])
    assert found.value == 1.0


def test_the_built_in_teacher_belongs_to_the_digits(task, tmp_path):
    assert "teaches the built-in data 'digits' alone" in wrong(task, tmp_path, "digits")


def test_the_built_in_teacher_is_kept_and_never_sees_val_or_test(tmp_path, monkeypatch):
    from family import builtin_teacher

    monkeypatch.setattr(builtin_teacher, "STEPS", 20)
    monkeypatch.setattr(builtin_teacher, "MEMBERS", 1)
    task = open_task(DataOptions("digits", tmp_path, views=2), tmp_path)
    first = opened(task, tmp_path, "digits")
    images = builtin_teacher.labelled_images(task)
    assert images.shape == (997, 1, 8, 8)
    assert float(images.max()) == 1.0
    monkeypatch.setattr(builtin_teacher, "train_member", None)
    again = opened(task, tmp_path, "digits")
    assert np.array_equal(first.outputs("val", ROWS, 1), again.outputs("val", ROWS, 1))
    other = open_task(DataOptions("digits", tmp_path, views=2, split={"val": 0.3, "test": 0.2}), tmp_path)
    with pytest.raises(TypeError):
        opened(other, tmp_path, "digits")
