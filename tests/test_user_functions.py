"""A user's own functions in place of names: data, score, augmentation and task."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from family.doors import hash_code
from family.errors import Mistakes
from family.tasks import DataOptions, DataTask, open_task
from reports import difference, score_interval
from reports.changes import _find_gain, _has_classes, _say_gain
from reports.run_tables import Run

DATA = """
import numpy as np
def data():
    rng = np.random.default_rng(0)
    label = np.arange(90) % 3
    return {"x": rng.normal(size=(90, 4)) + label[:, None], "label": label}
"""


def opened(folder: Path, code: str, path: str = "mine.py:data", **options: Any) -> Any:
    (folder / "mine.py").write_text(code)
    return open_task(DataOptions(path, folder, **options), folder / "cache")


def said(folder: Path, code: str, path: str = "mine.py:data", **options: Any) -> str:
    with pytest.raises(Mistakes) as caught:
        opened(folder, code, path, **options)
    return str(caught.value)


def save_images(folder: Path, **more: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (60, 10, 12, 3), np.uint8)
    np.savez(folder / "d.npz", image=images, label=np.arange(60) % 2, **more)


def save_series(folder: Path) -> None:
    rng = np.random.default_rng(2)
    series, length = rng.normal(5, 2, (60, 2, 9)), 4 + np.arange(60) % 6
    np.savez(folder / "d.npz", series=series, length=length, label=np.arange(60) % 2)


# data.path


def test_a_function_gives_data_as_an_npz_would(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", **_call(DATA, "data"))
    ours, theirs = opened(tmp_path, DATA), opened(tmp_path, DATA, "d.npz")
    assert ours.fingerprint == theirs.fingerprint
    assert ours.rows("train") == theirs.rows("train") > 0


def _call(code: str, name: str) -> Any:
    space: dict[str, Any] = {}
    exec(code, space)
    return space[name]()


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("def data(folder): return {}", "must take no arguments. It takes (folder)"),
        ("def data(): return [1, 2]", "must return {name: array}, as an .npz would hold. Got list"),
        ("def data(): return {}", "Got an empty mapping"),
        (
            "def data(): return {'x': None, 'label': [1, 2]}",
            "names with numpy arrays of numbers or text. Got 'x' (None",
        ),
        ("def data(): return {'x': [[[1], [2, 3]]], 'label': [1]}", "Got 'x' (list)"),
        ("def data(): return {'x': np.ones((3, 2)), 'target': np.arange(3)}", "'label' is not there. Found: x, target"),
        ("def data(): return {'x': np.ones((3, 2)), 'label': np.arange(4)}", "unequal numbers of rows"),
        (
            "def data():\n    rows = []\n    return rows[3]",
            "mine.py:data failed: IndexError: list index out of range (mi",
        ),
    ],
)
def test_data_that_do_not_fit_name_both_sides(tmp_path: Path, body: str, wanted: str) -> None:
    assert wanted in said(tmp_path, "import numpy as np\n" + body)


# score

COST = """
import numpy as np
def cost(truth, outputs):
    return np.abs(truth - outputs.argmax(1)).mean()
cost.higher_is_better = False
"""


def test_a_score_of_ones_own_serves_intervals_and_differences(tmp_path: Path) -> None:
    task = opened(tmp_path, DATA + COST, score="mine.py:cost")
    assert (task.score.name, task.score.higher_is_better) == ("cost", False)
    assert "score: mine.py:cost, lower is better (it says so)" in task.notes
    truth = task.labels("val")
    good = np.eye(3, dtype=np.float32)[truth]
    bad = np.eye(3, dtype=np.float32)[(truth + (np.arange(len(truth)) % 4 == 0)) % 3]
    worth = np.abs(truth - bad.argmax(1)).mean()
    found = score_interval(task.score, truth, bad)
    assert found.value == pytest.approx(worth)
    assert found.low < worth < found.high
    assert difference(task.score, truth, [good], [bad]).value == pytest.approx(worth)  # lower is better


def test_a_score_is_higher_is_better_unless_it_says_otherwise(tmp_path: Path) -> None:
    code = DATA + "def hits(truth, outputs): return (outputs.argmax(1) == truth).mean()\n"
    task = opened(tmp_path, code, score="mine.py:hits")
    assert task.score.higher_is_better
    assert "score: mine.py:hits, higher is better (it has no attribute higher_is_better)" in task.notes


def test_a_score_may_say_that_it_is_for_values(tmp_path: Path) -> None:
    """Whole numbers are classes, unless the score is for values."""
    code = DATA + "def off(truth, outputs): return abs(truth - outputs).max()\noff.higher_is_better = False\n"
    task = opened(tmp_path, code + "off.kind = 'regression'\n", score="mine.py:off")
    assert (task.kind, task.labels("val").shape[1]) == ("regression", 1)


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("def s(truth): return 1.0", "must take (truth, outputs). It takes (truth)"),
        (
            "def s(truth, outputs): return (outputs.argmax(1) == truth)",
            "one number for all rows. Got an array of shape",
        ),
        ("def s(truth, outputs): return 'good'", "must return one number for all rows. Got 'good'"),
        ("def s(truth, outputs): return float('nan')", "must return a finite number. Got nan"),
        ("def s(truth, outputs): return (outputs.argmax(1) != truth).mean()", "says that higher is better"),
        ("def s(truth, outputs): return 1.0", "gives perfect outputs 1 and shuffled ones 1"),
        ("def s(truth, outputs): return truth.nothing", "mine.py:s failed: AttributeError"),
        ("def s(truth, outputs): return np.random.rand()", "the same number for the same rows"),
        ("def s(truth, outputs):\n    outputs[:] = 0\n    return 1.0", "changes the arrays that it is given"),
        ("def s(truth, outputs): return 1.0\ns.higher_is_better = 'no'", "must be True or False. Got 'no'"),
        ("def s(truth, outputs): return 1.0\ns.kind = 'numbers'", "s.kind must be classification"),
        ("def s(truth, outputs): return 1.0\ns.kind = 'multilabel'", "is for multilabel; 'label' holds classification"),
    ],
)
def test_a_score_that_does_not_fit_is_refused_before_any_work(tmp_path: Path, body: str, wanted: str) -> None:
    assert wanted in said(tmp_path, DATA + body, score="mine.py:s")


def test_a_score_may_not_take_a_built_in_name(tmp_path: Path) -> None:
    code = DATA + "def accuracy(truth, outputs): return 1.0"
    assert "has the name of a built-in score, accuracy" in said(tmp_path, code, score="mine.py:accuracy")


def test_a_score_that_raises_where_rows_are_drawn_anew_is_refused(tmp_path: Path) -> None:
    code = DATA + (
        "def s(truth, outputs):\n"
        "    if (np.diff(outputs[:, 0]) == 0).sum() > 100 or len(set(map(bytes, outputs))) < 3: raise ValueError('few')\n"
        "    calls.append(1)\n"
        "    if len(calls) > 2: raise ValueError('drawn anew')\n"
        "    return (outputs.argmax(1) == truth).mean()\n"
        "calls = []\n"
    )
    assert "drawn anew" in said(tmp_path, code, score="mine.py:s")


# data.augment

NOISE = """
import torch
def noise(row, generator):
    return row + 0.1 * torch.randn(row.shape, generator=generator)
"""


def replay(task: DataTask, view: Any = 1) -> torch.Tensor:
    return task.inputs("train", np.arange(4), view)[0]


def test_views_of_ones_own_are_replayed_row_by_row(tmp_path: Path) -> None:
    save_images(tmp_path)
    task = opened(tmp_path, NOISE, "d.npz", augment="mine.py:noise", views=3)
    assert task.views == 3
    first = replay(task)
    torch.testing.assert_close(replay(task), first, rtol=0, atol=0)
    alone = [task.inputs("train", np.array([i]), 1)[0][0] for i in (3, 1)]
    assert torch.equal(alone[0], first[3])
    assert torch.equal(alone[1], first[1])
    mixed = replay(task, np.array([0, 1, 2, 0]))
    assert torch.equal(mixed[1], first[1])
    assert torch.equal(mixed[[0, 3]], replay(task, 0)[[0, 3]])
    changes = [replay(task, view) - replay(task, 0) for view in (1, 2)]
    assert not torch.equal(*changes)
    assert changes[0].flatten(1).std(1).min() > 0


def test_student_and_teacher_see_the_same_view(tmp_path: Path) -> None:
    save_images(tmp_path)
    task = opened(tmp_path, NOISE, "d.npz", augment="mine.py:noise")
    (pixels,) = task.teacher_inputs("train", np.arange(4), 1, None)
    mean, std = (np.array(v)[:, None, None] for v in (task.front.mean, task.front.std))
    np.testing.assert_allclose(replay(task).numpy() * std + mean, pixels * 255, atol=1e-2)
    clean = task.teacher_inputs("train", np.arange(4), 0, None)[0]
    assert (pixels - clean).std() == pytest.approx(0.1, rel=0.1)  # pixels are 0 to 1


def test_a_series_is_seen_without_its_padding(tmp_path: Path) -> None:
    save_series(tmp_path)
    code = "def up(row, generator):\n    assert row.abs().min() > 0\n    return row + row.shape[1]\n"
    task = opened(tmp_path, code, "d.npz", augment="mine.py:up")
    series, length = task.teacher_inputs("train", np.arange(4), 1, None)
    clean, _ = task.teacher_inputs("train", np.arange(4), 0, None)
    inside = np.arange(9) < length[:, None, None]
    np.testing.assert_allclose(series, clean + inside * length[:, None, None], rtol=1e-6)
    body, mask = (given.numpy() for given in task.inputs("train", np.arange(4), 1))
    mean, std = (np.array(v)[:, None] for v in (task.front.mean, task.front.std))
    np.testing.assert_allclose(((body * std + mean) * mask), series, atol=1e-4)
    assert not body[np.broadcast_to(mask, body.shape) == 0].any()


def test_a_changed_function_or_neighbour_is_another_fingerprint(tmp_path: Path) -> None:
    keys = []
    for name, shift in (("a", 1), ("b", 2), ("c", 1)):
        folder = tmp_path / name
        folder.mkdir()
        save_images(folder)
        (folder / "beside.py").write_text(f"SHIFT = {shift}\n")
        (folder / "apart.py").write_text(f"NAME = {name!r}\n")
        code = "from beside import SHIFT\ndef up(row, generator): return row + SHIFT\n"
        keys.append(opened(folder, code, "d.npz", augment="mine.py:up").fingerprint)
    assert keys[0] == keys[2] != keys[1]
    plain = opened(tmp_path / "a", "from beside import SHIFT\ndef up(row, generator): return row\n", "d.npz")
    assert hash_code("mine.py:up", tmp_path / "a") != hash_code("mine.py:up", tmp_path / "c")
    assert plain.fingerprint not in keys


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("def f(row): return row", "must take (row, generator). It takes (row)"),
        ("def f(row, generator): return row.numpy()", "a float32 tensor (3, 10, 12), as it is given. Got ndarray"),
        ("def f(row, generator): return row[:, 1:]", "(3, 10, 12), as it is given. Got float32 (3, 9, 12)"),
        ("def f(row, generator): return row.double()", "Got float64 (3, 10, 12)"),
        ("def f(row, generator): return row / 0", "finite values"),
        ("def f(row, generator): return row + torch.rand(1)", "all chance must be drawn"),
        ("def f(row, generator): raise ValueError('no')", "mine.py:f failed: ValueError: no (mine.py, line 2)"),
    ],
)
def test_an_augmentation_that_does_not_fit_is_refused(tmp_path: Path, body: str, wanted: str) -> None:
    save_images(tmp_path)
    assert wanted in said(tmp_path, "import torch\n" + body, "d.npz", augment="mine.py:f")


def test_a_table_has_one_view(tmp_path: Path) -> None:
    assert "cannot be applied to table" in said(tmp_path, DATA + NOISE, augment="mine.py:noise")


def test_another_process_replays_the_same_view(tmp_path: Path) -> None:
    save_images(tmp_path)
    here = replay(opened(tmp_path, NOISE, "d.npz", augment="mine.py:noise"))
    code = (
        "import sys; from pathlib import Path; import numpy as np; from family.tasks import DataOptions, open_task\n"
        "folder = Path(sys.argv[1]); task = open_task(DataOptions('d.npz', folder, augment='mine.py:noise'), folder)\n"
        "print(task.inputs('train', np.arange(4), 1)[0].numpy().tobytes().hex())"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == here.numpy().tobytes().hex()


def test_describe_is_plain_data(tmp_path: Path) -> None:
    save_images(tmp_path)
    task = opened(tmp_path, NOISE, "d.npz", augment="mine.py:noise")
    assert json.loads(json.dumps(task.describe()))["augment"]["function"] == "mine.py:noise"


# task

TASK = """
from dataclasses import replace
from pathlib import Path
import numpy as np
from family.tasks import open_task

def base(options, **more):
    folder = options.folder
    return open_task(replace(options, task=None, path="d.npz", score=None, **more), folder / "kept")

def plain(options):
    return base(options)

class Wrapped:
    def __init__(self, task, **changes):
        self.task, self.changes = task, changes
    def __getattr__(self, name):
        return self.changes[name] if name in self.changes else getattr(self.task, name)
"""


def task_said(folder: Path, changes: str, **options: Any) -> str:
    save_images(folder)
    code = TASK + f"def mine(options):\n    task = base(options)\n    return Wrapped(task, {changes})\n"
    return said(folder, code, "d.npz", task="mine.py:mine", **options)


@pytest.mark.parametrize("save", [save_images, save_series])
def test_a_task_of_ones_own_is_used_as_it_is(tmp_path: Path, save: Any) -> None:
    save(tmp_path)
    task = opened(tmp_path, TASK, "d.npz", task="mine.py:plain")
    assert task.rows("train") == opened(tmp_path, TASK, "d.npz").rows("train")


def test_changed_code_is_another_task(tmp_path: Path) -> None:
    keys = []
    for name, more in (("one", ""), ("same", ""), ("other", "\nSIDE = 3\n")):
        (tmp_path / name).mkdir()
        save_images(tmp_path / name)
        keys.append(opened(tmp_path / name, TASK + more, "d.npz", task="mine.py:plain").fingerprint)
    assert keys[0] == keys[1]
    assert keys[0] != keys[2]


def test_a_task_of_ones_own_may_be_a_regression(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", x=rng.normal(size=(60, 3)), label=rng.normal(size=60))
    assert opened(tmp_path, TASK, "d.npz", task="mine.py:plain", score="rmse").kind == "regression"
    assert "asks for mae; the task of mine.py:plain has the score rmse" in said(
        tmp_path, TASK, "d.npz", task="mine.py:plain", score="mae"
    )


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        (
            "kind='boxes'",
            "mine.py:mine: its kind must be classification, multilabel, regression, embedding, tokens. Got 'boxes'",
        ),
        ("classes=None", "classes must be the names for classification. Got None"),
        ("classes=('a', 'a')", "classes must be a tuple of two or more different names"),
        ("classes=('a', 'b', 'c')", "signature has 2 outputs for 3 classes"),
        ("score='accuracy'", "score must be a Score. Got str 'accuracy'"),
        ("views=0", "views must be at least 1"),
        ("fingerprint=''", "fingerprint must be a str"),
        ("front=None", "front must be a Front of export. Got NoneType"),
        ("signature=task.body", "signature must be what its front takes and gives, image: uint8"),
        ("target_scale=(0, 1)", "target_scale must be None for classification"),
        ("describe=lambda: {'a': {1, 2}}", "describe() must be a mapping of plain data"),
        ("rows=lambda split: 0", "rows('train') must be 1 or more. Got 0"),
        ("row_ids=lambda split: np.arange(task.rows(split))", "row_ids of train and val share"),
        ("row_ids=lambda split: np.arange(3)", "row_ids('train') must be integers ("),
        ("labels=lambda split: task.labels(split).astype(float)", "labels('train') must be int64 ("),
        ("labels=lambda split: task.labels(split) + 1", "labels('train') must be from 0 to 1. Got 1 to 2"),
        ("groups=lambda split: np.arange(2)", "groups('train') must be None or ("),
        (
            "inputs=lambda split, rows, view: tuple(x.double() for x in task.inputs(split, rows, view))",
            "must be float32 tensors, as its body says: x (3, 3, 10, 12). Got torch.float64 (3, 3, 10, 12)",
        ),
        (
            "inputs=lambda split, rows, view: tuple(x + 1 for x in task.inputs(split, rows, view))",
            "differs from inputs('train', …, 0) by 1: the file that ships would see something other",
        ),
        (
            "inputs=lambda split, rows, view: tuple(x / (x * 0) for x in task.inputs(split, rows, view))",
            "must be finite. Got NaN or inf",
        ),
        (
            "inputs=lambda split, rows, view: tuple(x + np.any(view) * np.random.rand() for x in "
            "task.inputs(split, rows, 0))",
            "inputs('train', rows, 1) differ from call to call",
        ),
        (
            "inputs=lambda split, rows, view: tuple(x + np.any(view) * len(x) for x in task.inputs(split, rows, 0))",
            "they change with the rows asked for",
        ),
        (
            "inputs=lambda split, rows, view: task.inputs(split, rows, int(np.max(view)))",
            "must take an array of views",
        ),
        ("raw=lambda split, rows: {'picture': 1}", "must be uint8 ('batch', 10, 12, 3), as its signature says. Got no"),
        ("teacher_inputs=lambda *given: None", "must be a tuple of arrays with 3 rows. Got NoneType"),
        ("inputs=lambda split, rows: None", "mine.py:mine gives a task that fails: TypeError"),
    ],
)
def test_a_task_that_does_not_fit_is_refused_naming_both_sides(tmp_path: Path, changes: str, wanted: str) -> None:
    assert wanted in task_said(tmp_path, changes)


def test_what_is_no_task_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.ones(3))
    for body, wanted in (
        ("def mine(options): return 3", "must return a family.types.Task. int lacks name, kind, classes"),
        ("def mine(): return 3", "must take (options). It takes ()"),
        ("def mine(options): return options.nothing", "mine.py:mine failed: AttributeError"),
    ):
        folder = tmp_path / wanted[:9].strip()
        folder.mkdir()
        assert wanted in said(folder, body, "d.npz", task="mine.py:mine")


# data.transfer


def test_a_pool_of_a_table_takes_the_codes_of_the_data(tmp_path: Path) -> None:
    label = np.arange(60) % 2
    data = pd.DataFrame({"size": label + 0.5, "tint": np.where(label, "red", "blue"), "label": label})
    data.to_csv(tmp_path / "d.csv", index=False)
    pool = pd.DataFrame({"tint": ["red", "green", "blue", None], "size": [1, 2, 3, None], "more": "x"})
    pool.to_csv(tmp_path / "pool.csv", index=False)
    pool.to_parquet(tmp_path / "pool.parquet")
    for name in ("pool.csv", "pool.parquet"):
        task = open_task(DataOptions("d.csv", tmp_path, transfer=name), tmp_path / "cache")
        raw = task.raw("transfer", np.arange(4))
        np.testing.assert_array_equal(raw["categories"][:, 0], [1, -1, 0, -1])
        np.testing.assert_array_equal(raw["numbers"][:, 0], [1, 2, 3, np.nan])
        assert torch.isfinite(task.inputs("transfer", np.arange(4), 0)[0]).all()
    data.drop(columns="tint").to_csv(tmp_path / "less.csv", index=False)
    data.assign(size="big").to_csv(tmp_path / "words.csv", index=False)
    for name, wanted in (("less.csv", "lacks columns that the data has: tint"), ("words.csv", "no numbers in columns")):
        with pytest.raises(Mistakes, match=wanted):
            open_task(DataOptions("d.csv", tmp_path, transfer=name), tmp_path / "cache")


def encoded(colour: int) -> bytes:
    import io

    from PIL import Image

    kept = io.BytesIO()
    Image.new("RGB", (9, 8), (colour, 0, 0)).save(kept, "PNG")
    return kept.getvalue()


def test_a_pool_of_images_may_be_parquet_beside_any_images_in_files(tmp_path: Path) -> None:
    pictures = [encoded(i) for i in range(60)]
    pd.DataFrame({"image": pictures, "label": np.arange(60) % 2}).to_parquet(tmp_path / "d.parquet")
    pd.DataFrame({"picture": [encoded(200), encoded(201)]}).to_parquet(tmp_path / "pool.parquet")
    for group in ("a", "b"):
        (tmp_path / "photos" / group).mkdir(parents=True)
    for i, picture in enumerate(pictures):
        (tmp_path / "photos" / "ab"[i % 2] / f"{i}.png").write_bytes(picture)
    for path in ("d.parquet", "photos"):
        task = open_task(DataOptions(path, tmp_path, transfer="pool.parquet"), tmp_path / "cache")
        shown = task.raw("transfer", np.arange(task.rows("transfer")))["image"]
        assert shown[:, 0, 0, 0].tolist() == [200, 201]
    task = open_task(DataOptions("d.parquet", tmp_path, transfer="photos"), tmp_path / "cache")
    assert task.rows("transfer") == 60
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "numbers.parquet")
    with pytest.raises(Mistakes, match=r"has no column of images, which the data are\. It has x"):
        open_task(DataOptions("photos", tmp_path, transfer="numbers.parquet"), tmp_path / "cache")


def test_a_pool_may_be_a_hugging_face_dataset(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    columns = {"picture": [{"bytes": encoded(i), "path": None} for i in (7, 8)]}
    datasets.Dataset.from_dict(columns, datasets.Features(picture=datasets.Image())).save_to_disk(tmp_path / "pool")
    for i in range(60):
        (tmp_path / "photos" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / "ab"[i % 2] / f"{i}.png").write_bytes(encoded(i))
    task = open_task(DataOptions("photos", tmp_path, transfer="pool"), tmp_path / "cache")
    assert task.raw("transfer", np.arange(2))["image"][:, 0, 0, 0].tolist() == [7, 8]


def test_a_pool_may_be_a_function_and_must_be_of_the_datas_kind(tmp_path: Path) -> None:
    save_images(tmp_path)
    code = "import numpy as np\ndef pool(): return {'image': np.zeros((5, 10, 12, 3), np.uint8)}\n"
    code += "def floats(): return {'image': np.zeros((5, 10, 12, 3))}\n"
    assert opened(tmp_path, code, "d.npz", transfer="mine.py:pool").rows("transfer") == 5
    wanted = "holds 'image' as float64; the data hold it as uint8"
    assert wanted in said(tmp_path, code, "d.npz", transfer="mine.py:floats")


# reports: drawn from the tables, without the user's file


@pytest.mark.parametrize("higher", [True, False])
def test_a_report_tells_a_score_of_ones_own_from_the_tables(higher: bool) -> None:
    family: dict[str, Any] = {
        "score": {"name": "cost", "higher_is_better": higher},
        "teacher": {"test": {"value": 2.0}},
        "budgets": {"small": {"test": {"value": 2.5}}},
    }
    run = Run(family, pd.DataFrame(), pd.DataFrame(), pd.DataFrame(), {})
    nothing = np.zeros(0)
    gain = _find_gain(run, "small", nothing, nothing, nothing)
    assert gain == {"value": 0.5 if higher else -0.5}
    assert _say_gain("cost", gain) == f"{'+' if higher else '−'}0.50 (interval not recorded)"
    family["budgets"]["small"]["against_teacher"] = {"value": 0.4, "low": 0.1, "high": 0.7}
    gain = _find_gain(run, "small", nothing, nothing, nothing)
    assert gain is not None
    assert _say_gain("cost", gain) == "+0.40 (+0.10 to +0.70)"


def test_a_regression_by_a_score_of_ones_own_has_no_classes_in_the_report() -> None:
    table = pd.DataFrame()
    run = Run({"score": {"name": "cost"}, "classes": None}, table, table, table, {})
    assert not _has_classes(np.array([0.5, 1.5]), run)
    assert _has_classes(np.array([0, 1]), Run({"score": {"name": "cost"}, "classes": ["a", "b"]}, *[table] * 3, {}))
    assert not _has_classes(np.array([0.5]), Run({"score": {"name": "rmse"}}, *[table] * 3, {}))
    assert _has_classes(np.array([0, 1]), Run({"score": {"name": "accuracy"}}, *[table] * 3, {}))
