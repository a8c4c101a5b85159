"""What real teachers bring: fixed batches, whole pixels, several outputs, splits stored apart, class files."""

import re

import numpy as np
import onnx
import pytest
import torch
from fake_task import open_npz, open_numbers
from onnx import TensorProto, helper, numpy_helper
from scipy.special import expit, logit

from family import builtin_teacher
from family.errors import Mistakes
from family.losses import check_loss
from family.tasks import DataOptions, open_task
from family.teachers import TeacherOptions, open_teacher, teacher_score

ROWS = np.arange(7)
RNG = np.random.default_rng(3)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return open_numbers(tmp_path_factory.mktemp("numbers"))


def opened(task, folder, *paths, **options):
    return open_teacher([TeacherOptions(p, **options) for p in paths], task, folder, folder / "cache")


def wrong(task, folder, *paths, **options) -> str:
    with pytest.raises(Mistakes) as found:
        opened(task, folder, *paths, **options)
    return str(found.value)


def write_onnx(path, nodes, inputs, outputs, weights=(), **options):
    graph = helper.make_graph(
        [helper.make_node(kind, given, made, **more) for kind, given, made, more in nodes],
        "teacher",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(*each) for each in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path, **options)


def write_linear(path, weight, **options):
    """numbers (n, 4) → numbers · weight."""
    write_onnx(
        path,
        [("MatMul", ["x", "w"], ["y"], {})],
        [("x", TensorProto.FLOAT, ["n", 4])],
        [("y", TensorProto.FLOAT, ["n", weight.shape[1]])],
        [("w", weight)],
        **options,
    )


@pytest.mark.parametrize("size", [1, 4])
def test_a_program_of_a_fixed_batch(task, tmp_path, size):
    layer = torch.nn.Linear(4, 3).eval()
    torch.export.save(torch.export.export(layer, (torch.zeros(size, 4),)), tmp_path / "t.pt2")
    said = opened(task, tmp_path, "t.pt2").outputs("val", ROWS, 0)
    with torch.no_grad():
        assert np.allclose(said, layer(torch.from_numpy(task.raw("val", ROWS)["numbers"])), atol=1e-5)


def test_weights_beside_an_onnx_file_are_part_of_it(task, tmp_path):
    def write(weight):
        (tmp_path / "w.bin").unlink(missing_ok=True)
        write_linear(tmp_path / "t.onnx", weight, save_as_external_data=True, location="w.bin", size_threshold=0)
        return opened(task, tmp_path, "t.onnx")

    weight = RNG.normal(size=(4, 3)).astype(np.float32)
    first, second = write(weight), write(2 * weight)
    assert first.fingerprint != second.fingerprint
    assert first.cost["parameters"] == 12


def test_of_several_onnx_outputs_the_one_that_fits_is_taken(task, tmp_path):
    """As scikit-learn's converters write them: the class first, then the probabilities."""
    write_onnx(
        tmp_path / "t.onnx",
        [
            ("MatMul", ["x", "w"], ["y"], {}),
            ("ArgMax", ["y"], ["label"], {"axis": 1, "keepdims": 0}),
            ("Softmax", ["y"], ["probabilities"], {}),
        ],
        [("x", TensorProto.FLOAT, ["n", 4])],
        [("label", TensorProto.INT64, ["n"]), ("probabilities", TensorProto.FLOAT, ["n", 3])],
        [("w", RNG.normal(size=(4, 3)).astype(np.float32))],
    )
    teacher = opened(task, tmp_path, "t.onnx")
    assert np.allclose(np.exp(teacher.outputs("val", ROWS, 0)).sum(1), 1, atol=1e-5)
    assert any("'probabilities' is taken" in note for note in teacher.notes)
    assert any("gives probabilities" in note for note in teacher.notes)


def test_whole_pixels_are_never_cut_from_fractions(tmp_path):
    image = RNG.integers(0, 256, (40, 8, 8, 1), np.uint8)
    task = open_npz(tmp_path, {"image": image, "label": np.arange(40) % 2})
    write_onnx(
        tmp_path / "t.onnx",
        [
            ("Cast", ["x"], ["f"], {"to": TensorProto.FLOAT}),
            ("Flatten", ["f"], ["flat"], {}),
            ("MatMul", ["flat", "w"], ["y"], {}),
        ],
        [("x", TensorProto.UINT8, ["n", 1, 8, 8])],
        [("y", TensorProto.FLOAT, ["n", 2])],
        [("w", np.eye(64, 2, dtype=np.float32))],
    )
    text = wrong(task, tmp_path, "t.onnx")
    assert "teacher.preprocess: gives float32 from 0" in text
    assert "tensor(uint8)" in text
    said = opened(task, tmp_path, "t.onnx", preprocess={"std": [1 / 255]}).outputs("train", ROWS, 0)
    assert np.array_equal(said, image[task.row_ids("train")[ROWS]].reshape(7, 64)[:, :2])


def test_outputs_stored_split_by_split(task, tmp_path):
    parts = {s: RNG.normal(size=(task.rows(s), 3)).astype(np.float32) for s in ("train", "val", "test")}
    np.savez(tmp_path / "said.npz", **parts)
    teacher = opened(task, tmp_path, "said.npz")
    assert np.array_equal(teacher.outputs("test", ROWS, 0), parts["test"][ROWS])
    np.savez(tmp_path / "said.npz", **parts | {"test": parts["test"][:-1]})
    rows = task.rows("test")
    text = wrong(task, tmp_path, "said.npz")
    assert f"holds outputs for {rows - 1} rows of test; the data has {rows}" in text


def test_multilabel_probabilities_become_log_odds(tmp_path):
    label = np.tile([[0, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 1]], (30, 1))
    task = open_npz(tmp_path, {"numbers": RNG.normal(size=(120, 4)).astype(np.float32), "label": label})
    assert task.kind == "multilabel"
    p = expit(RNG.normal(size=(120, 3)))
    np.savez(tmp_path / "said.npz", outputs=p)
    said = opened(task, tmp_path, "said.npz").outputs("val", ROWS, 0)
    assert np.allclose(said, logit(p)[task.row_ids("val")[ROWS]], atol=1e-4)
    assert "these are probabilities" in wrong(task, tmp_path, "said.npz", gives="logits")


def test_a_class_file_with_other_names_shows_the_nearest(tmp_path):
    names = np.array(["setosa", "versicolor", "virginica"])
    task = open_npz(tmp_path, {"numbers": RNG.normal(size=(120, 4)), "label": names[np.arange(120) % 3]})
    write_linear(tmp_path / "t.onnx", RNG.normal(size=(4, 3)).astype(np.float32))
    (tmp_path / "order.txt").write_text("Setosa\nversicolour\nvirginica\n")
    text = wrong(task, tmp_path, "t.onnx", classes="order.txt")
    assert "'setosa' (the file has 'Setosa'), 'versicolor' (the file has 'versicolour')" in text
    (tmp_path / "order.txt").write_text("setosa\nversicolor\nvirginica\nsetosa\n")
    assert "Twice in the file: setosa" in wrong(task, tmp_path, "t.onnx", classes="order.txt")


def test_all_members_of_an_ensemble_are_looked_at(task, tmp_path):
    write_linear(tmp_path / "good.onnx", RNG.normal(size=(4, 3)).astype(np.float32))
    write_linear(tmp_path / "wide.onnx", RNG.normal(size=(4, 5)).astype(np.float32))
    with pytest.raises(Mistakes) as found:
        opened(task, tmp_path, "wide.onnx", "good.onnx", "nowhere.onnx")
    assert [m.where for m in found.value.mistakes] == ["teacher[0]", "teacher[2]"]


def test_changed_code_is_another_teacher(task, tmp_path):
    code = "import torch\n\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        return x[:, :3] * {}\n"
    seen = set()
    for place, factor in (("a", 1), ("b", 2), ("c", 1)):
        folder = tmp_path / place
        folder.mkdir()
        (folder / "net.py").write_text(code.format(factor) + "\ndef make():\n    return Net()\n")
        seen.add(opened(task, folder, "net.py:make").fingerprint)
    assert len(seen) == 2


@pytest.mark.parametrize("score", ["accuracy", "macro_f1", "auroc"])
def test_random_logits_are_near_chance_by_any_score(tmp_path, score):
    task = open_numbers(tmp_path, rows=300, score=score)
    with pytest.raises(Mistakes, match=r"no better than always saying .*shuffled"):
        teacher_score(None, task, np.random.default_rng(11).normal(size=(task.rows("val"), 3)))


def test_a_good_teacher_of_a_rare_class_may_lose_in_accuracy(tmp_path):
    label = (np.arange(1200) % 20 == 0).astype(int)
    numbers = RNG.normal(size=(1200, 4))
    task = open_npz(tmp_path, {"numbers": numbers, "label": label}, score="auroc")
    truth = task.labels("val")
    wary = np.stack([np.zeros(len(truth)), 2.0 * truth + RNG.normal(0.5, 0.5, len(truth))], 1)
    assert (wary.argmax(1) == truth).mean() < (truth == 0).mean()
    assert teacher_score(None, task, wary).value > 0.95


def test_a_regression_in_other_units_is_told(tmp_path):
    price = np.linspace(200, 900, 200)
    task = open_npz(tmp_path, {"numbers": RNG.normal(size=(200, 2)), "label": price})
    truth = task.labels("val")
    assert teacher_score(None, task, truth + 1).value == pytest.approx(1, abs=1e-4)
    with pytest.raises(Mistakes, match=r"always saying the mean.*the labels' own units"):
        teacher_score(None, task, truth / 1000)


def test_a_loss_for_another_kind_is_refused():
    with pytest.raises(Mistakes, match=r"must be one of mse, labels for regression. Got 'kd'"):
        check_loss("kd", "regression", frozenset({"all", "top", "moments", "rest"}), 4.0, (4.0,))


def test_digits_are_shifted_by_at_most_a_pixel():
    image = torch.arange(64.0).reshape(1, 1, 8, 8)
    moved = builtin_teacher.shift(image.repeat(200, 1, 1, 1))
    corners = {tuple(divmod(int(m[0, 4, 4]), 8)) for m in moved}
    assert corners == {(y, x) for y in (3, 4, 5) for x in (3, 4, 5)}


def test_training_the_digits_teacher_repeats_to_the_bit(monkeypatch):
    monkeypatch.setattr(builtin_teacher, "STEPS", 5)
    images, truth = torch.rand(100, 1, 8, 8), np.arange(100) % 10
    before = torch.random.get_rng_state()
    first, second = (builtin_teacher.train_teacher(images, truth).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.slow
def test_the_digits_teacher_is_good():
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy((data.images[:, None] / 16).astype(np.float32))
    order = np.random.default_rng(0).permutation(len(images))
    teach, rest = order[:997], order[997:]
    teacher = builtin_teacher.train_teacher(images[teach], data.target[teach].astype(np.int64))
    with torch.no_grad():
        assert (teacher(images[rest]).argmax(1).numpy() == data.target[rest]).mean() >= 0.985


def test_worse_than_shuffled_points_to_the_class_order_first(tmp_path):
    task = open_numbers(tmp_path, rows=300)
    truth = task.labels("val")
    with pytest.raises(Mistakes, match=r"not in the data's order\. Look at teacher\.classes .* first"):
        teacher_score(None, task, np.eye(3)[(truth + 1) % 3])
    with pytest.raises(Mistakes) as found:
        teacher_score(None, task, np.zeros((len(truth), 3)))
    assert "not in the data's order" not in str(found.value)
    assert str(found.value).index("teacher.preprocess") < str(found.value).index("teacher.classes")


def test_a_list_of_classes_is_an_order_too(tmp_path):
    task = open_numbers(tmp_path)
    weight = RNG.normal(size=(4, 3)).astype(np.float32)
    write_linear(tmp_path / "t.onnx", weight)
    plain = opened(task, tmp_path, "t.onnx").outputs("val", np.arange(5), 0)
    turned = opened(task, tmp_path, "t.onnx", classes=["2", "0", "1"]).outputs("val", np.arange(5), 0)
    np.testing.assert_array_equal(turned, plain[:, [1, 2, 0]])
    said = wrong(task, tmp_path, "t.onnx", classes=["0", "1", "two"])
    assert "teacher.classes: the list has 3 classes, the data has 3. Not in the list: '2'" in said
    assert "Not in the data: two" in said


@pytest.mark.parametrize("kind", ["table", "series", "stored", "digits"])
def test_preprocessing_that_nothing_would_follow_is_refused(tmp_path, kind):
    label = np.arange(60) % 3
    if kind == "digits":
        task, path = open_task(DataOptions("digits", tmp_path), tmp_path / "cache"), "digits"
    elif kind == "series":
        task = open_npz(tmp_path, {"x": RNG.normal(size=(60, 4, 9)), "label": label}, task="series")
        path = "net.py:make"
    else:
        task, path = open_numbers(tmp_path), "net.py:make"
    (tmp_path / "net.py").write_text("import torch\ndef make(): return torch.nn.Linear(4, 3)\n")
    if kind == "stored":
        path = "said.npz"
        np.savez(tmp_path / path, outputs=np.zeros((120, 3)))
    said = wrong(task, tmp_path, path, preprocess={"mean": [0.5]})
    assert said.startswith("teacher.preprocess: is ")
    assert "Got mean; leave it out." in said


@pytest.mark.parametrize(
    ("shape", "preprocess", "wanted"),
    [
        ((60, 9, 9, 3), {"mean": [0.1, 0.2]}, "mean: must have 1 or 3 numbers, as the images have 3 channels. Got 2."),
        ((60, 9, 9), {"std": [0.1, 0.2, 0.3]}, "std: must have 1 number, .* Got 3. For a teacher of colour"),
        ((60, 9, 9, 4), {"channels": "bgr"}, "channels: is for 1 or 3 channels; the images have 4"),
    ],
)
def test_preprocessing_that_does_not_fit_the_channels(tmp_path, shape, preprocess, wanted):
    task = open_npz(tmp_path, {"x": RNG.integers(0, 256, shape).astype(np.uint8), "label": np.arange(60) % 3})
    (tmp_path / "net.py").write_text(
        "import torch\ndef make():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(81, 3))\n"
    )
    assert re.search(wanted, wrong(task, tmp_path, "net.py:make", preprocess=preprocess))


def test_a_teacher_without_weights_is_refused(task, tmp_path):
    (tmp_path / "net.py").write_text("import torch\ndef make(): return torch.nn.LazyLinear(3)\n")
    assert "weights without values" in wrong(task, tmp_path, "net.py:make")
