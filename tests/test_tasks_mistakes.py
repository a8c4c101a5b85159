"""Bad input: what is wrong, what was found, where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from family.errors import Mistakes
from family.tasks import DataOptions, DataTask, open_task


def opened(folder: Path, path: str, **options: Any) -> DataTask:
    return open_task(DataOptions(path, folder, **options), folder / "cache")


def refused(folder: Path, path: str, **options: Any) -> dict[str, str]:
    """What each place was blamed for."""
    with pytest.raises(Mistakes) as raised:
        opened(folder, path, **options)
    return {m.where: m.message for m in raised.value.mistakes}


def save(folder: Path, **arrays: Any) -> str:
    rows = 60
    whole = {"x": np.random.default_rng(0).random((rows, 8, 8)), "label": np.arange(rows) % 3} | arrays
    np.savez(folder / "d.npz", **{n: v for n, v in whole.items() if v is not None})
    return "d.npz"


def photos(folder: Path, classes: int = 2, each: int = 12, ending: str = "png") -> Path:
    random = np.random.default_rng(0)
    for name in [f"c{i}" for i in range(classes)]:
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(each):
            pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{i}.{ending}")
    return folder / "photos"


def test_no_such_path(tmp_path: Path) -> None:
    assert "nowhere.npz" in refused(tmp_path, "nowhere.npz")["data.path"]


def test_unknown_formats_are_answered_with_those_allowed(tmp_path: Path) -> None:
    (tmp_path / "d.xlsx").write_text("x")
    said = refused(tmp_path, "d.xlsx")["data.path"]
    assert ".npz" in said
    assert ".parquet" in said


@pytest.mark.parametrize("name", ["d.npz", "d.parquet", "d.csv"])
def test_files_that_are_not_what_they_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\xff\xfe\x00nonsense\x00" * 9)
    assert name in refused(tmp_path, name)["data.path"]


def test_an_empty_csv(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("")
    assert "d.csv" in refused(tmp_path, "d.csv")["data.path"]


def test_a_label_column_that_is_not_there_and_the_nearest(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1.0] * 9, "lable": list("xyz") * 3}).to_csv(tmp_path / "d.csv", index=False)
    said = refused(tmp_path, "d.csv")["data.label"]
    assert "'label'" in said
    assert "Did you mean 'lable'?" in said
    assert "Did you mean 'label'?" in refused(tmp_path, save(tmp_path), label="labl")["data.label"]


def test_one_class_only(tmp_path: Path) -> None:
    assert "one class" in refused(tmp_path, save(tmp_path, label=np.zeros(60, int)))["data.label"]
    photos(tmp_path, classes=1)
    assert "one class" in refused(tmp_path, "photos")["data.label"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_in_inputs(tmp_path: Path, value: float) -> None:
    x = np.random.default_rng(0).random((60, 8, 8))
    x[[4, 9], 0, 0] = value
    said = refused(tmp_path, save(tmp_path, x=x))["data.path"]
    assert "2 rows" in said
    assert "[4, 9]" in said


def test_nan_beyond_a_series_length_is_padding(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((60, 2, 8))
    length = np.full(60, 8)
    length[7], x[7, :, 5:] = 5, np.nan
    task = opened(tmp_path, save(tmp_path, x=x, length=length))
    for split in ("train", "val", "test"):
        for values in task.raw(split, np.arange(task.rows(split))).values():  # type: ignore[arg-type]
            assert np.isfinite(values).all()
    assert np.isfinite(task.front.mean).all()  # type: ignore[union-attr]


def test_series_lengths_out_of_range(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((60, 2, 8))
    for wrong in (0, 9):
        length = np.full(60, 8)
        length[7] = wrong
        said = refused(tmp_path, save(tmp_path, x=x, length=length))["data.path"]
        assert "length" in said
        assert "8" in said


def test_infinity_in_a_table_but_nan_is_missing(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": np.arange(60.0), "b": np.arange(60.0), "label": ["x", "y"] * 30})
    frame.loc[2, "a"], frame.loc[3, "b"] = np.nan, np.inf
    frame.to_csv(tmp_path / "d.csv", index=False)
    assert "1 row" in refused(tmp_path, "d.csv")["data.path"]


def test_infinite_regression_labels(tmp_path: Path) -> None:
    label = np.linspace(0, 1, 60) ** 2
    label[5] = np.inf
    assert "[5]" in refused(tmp_path, save(tmp_path, label=label))["data.label"]


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((60, 8, 8))
    x[4] = np.nan
    said = refused(tmp_path, save(tmp_path, x=x, label=np.zeros(60, int)), augment={"shfit": 1})
    assert set(said) == {"data.path", "data.label", "data.augment"}


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "webp"])
def test_truncated_images_are_named(tmp_path: Path, ending: str) -> None:
    folder = photos(tmp_path, ending=ending)
    for name in ("c0/3", "c1/5"):
        file = folder / f"{name}.{ending}"
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    said = refused(tmp_path, "photos")["data.path"]
    assert "2 corrupt or truncated" in said
    assert f"3.{ending}" in said
    assert f"5.{ending}" in said


def test_at_most_five_broken_images_are_named(tmp_path: Path) -> None:
    for file in sorted((photos(tmp_path) / "c0").iterdir()):
        file.write_bytes(b"no image")
    said = refused(tmp_path, "photos")["data.path"]
    assert "12 corrupt" in said
    assert said.count(".png") == 5


@pytest.mark.parametrize("cut", range(0, 200, 9))
def test_bytes_cut_anywhere_never_end_in_another_error(tmp_path: Path, cut: int) -> None:
    file = photos(tmp_path, each=6) / "c0" / "0.png"
    file.write_bytes(file.read_bytes()[:cut])
    assert "0.png" in refused(tmp_path, "photos")["data.path"]


def test_broken_images_in_the_pool(tmp_path: Path) -> None:
    photos(tmp_path)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "x.png").write_bytes(b"no image")
    assert "x.png" in next(iter(refused(tmp_path, "photos", transfer="more").values()))


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    said = refused(tmp_path, "photos")["data.path"]
    assert "class folders" in said
    assert ".png" in said


def test_empty_splits(tmp_path: Path) -> None:
    split = np.array(["train"] * 40 + ["val"] * 20)
    assert "test" in refused(tmp_path, save(tmp_path, split=split))["data.split"]
    few = save(tmp_path, x=np.zeros((2, 8, 8)), label=np.arange(2))
    assert "data.split" in refused(tmp_path, few)


def test_a_class_missing_from_train(tmp_path: Path) -> None:
    split = np.array(["train"] * 40 + ["val"] * 10 + ["test"] * 10)
    label = np.array([0, 1] * 20 + [0, 1, 2, 0, 1] * 4)
    said = refused(tmp_path, save(tmp_path, split=split, label=label))["data.split"]
    assert "class 2" in said


def test_duplicates_across_splits_are_counted_not_refused(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((60, 8, 8))
    split = np.array(["train"] * 40 + ["val"] * 10 + ["test"] * 10)
    x[50:53] = x[:3]
    x[45] = x[4]
    x[55] = x[46]
    task = opened(tmp_path, save(tmp_path, x=x, split=split))
    said = "\n".join(task.warnings)
    assert "3 of 10 test rows" in said
    assert "1 of 10 val rows" in said
    assert "1 of 10 test rows stand in val" in said


@pytest.mark.parametrize("column", ["boxes", "mask", "bbox"])
def test_detection_and_segmentation_are_refused_in_one_line(tmp_path: Path, column: str) -> None:
    said = refused(tmp_path, save(tmp_path, **{column: np.zeros((60, 8, 8))}))["data.path"]
    assert "segmentation" in said
    assert "\n" not in said
    pd.DataFrame({"a": [1.0] * 9, column: ["[1]"] * 9, "label": list("xyz") * 3}).to_csv(tmp_path / "d.csv")
    assert "segmentation" in refused(tmp_path, "d.csv")["data.path"]


def test_label_maps_are_refused(tmp_path: Path) -> None:
    said = refused(tmp_path, save(tmp_path, label=np.zeros((60, 8, 8), int)))["data.label"]
    assert "segmentation" in said


def test_unequal_numbers_of_rows(tmp_path: Path) -> None:
    assert "unequal" in refused(tmp_path, save(tmp_path, label=np.arange(59) % 3))["data.path"]
    said = refused(tmp_path, save(tmp_path, split=np.array(["train"] * 59)))
    assert "unequal" in said["data.path"]


def test_pickled_arrays_are_not_opened(tmp_path: Path) -> None:
    rows = np.empty(60, object)
    rows[:] = [np.zeros((2, 4 + i % 3)) for i in range(60)]
    assert "length" in refused(tmp_path, save(tmp_path, x=rows))["data.path"]


def test_a_group_that_is_not_there(tmp_path: Path) -> None:
    frame = pd.DataFrame({"patient": range(9), "a": range(9), "label": list("xyz") * 3})
    frame.to_csv(tmp_path / "d.csv", index=False)
    assert "'patient'" in refused(tmp_path, "d.csv", group="patent")["data.group"]


def test_a_score_that_does_not_fit(tmp_path: Path) -> None:
    pd.DataFrame({"a": np.arange(60), "label": ["x", "y"] * 30}).to_csv(tmp_path / "d.csv", index=False)
    assert "classification" in refused(tmp_path, "d.csv", score="rmse")["score"]
    assert (
        "exact_match"
        in refused(tmp_path, save(tmp_path, label=np.eye(3, dtype=int)[np.arange(60) % 3]), score="accuracy")["score"]
    )


def test_a_task_that_does_not_fit(tmp_path: Path) -> None:
    assert "image" in refused(tmp_path, save(tmp_path), task="image")["task"]
    assert "table" in refused(tmp_path, save(tmp_path), task="table")["task"]
    pd.DataFrame({"a": np.arange(60), "label": ["x", "y"] * 30}).to_csv(tmp_path / "d.csv", index=False)
    assert "series" in refused(tmp_path, "d.csv", task="series")["task"]


def test_varying_sides_need_a_size(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((9, 7, 3), np.uint8)).save(photos(tmp_path) / "c0" / "odd.png")
    assert "different sizes" in refused(tmp_path, "photos")["students.input"]


def test_a_pool_of_another_shape(tmp_path: Path) -> None:
    np.savez(tmp_path / "more.npz", x=np.zeros((5, 9, 9)))
    said = refused(tmp_path, save(tmp_path), transfer="more.npz")["data.transfer"]
    assert "(9, 9)" in said
    assert "(8, 8)" in said
    assert "nowhere" in refused(tmp_path, save(tmp_path), transfer="nowhere.npz")["data.transfer"]


@pytest.mark.parametrize(
    "augment",
    [
        "some",
        {"shfit": 1},
        {"flip": "sideways"},
        {"scale": 0.1},
        {"shift": "far"},
        {"shift": -1},
        {"shift": 99},
    ],
)
def test_augmentations_that_are_not(tmp_path: Path, augment: Any) -> None:
    assert any(w.startswith("data.augment") for w in refused(tmp_path, save(tmp_path), augment=augment))


@pytest.mark.parametrize("names", [("train", "cat"), ("valid", "invalid"), ("train", "val", "test", "bird")])
def test_folders_that_look_like_splits_never_become_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / "all" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "all" / name / "a.png")
    said = refused(tmp_path, "all")["data.path"]
    assert names[0] in said
    assert f"beside {names[-1]}, which are none" in said


def test_split_folders_without_test_or_without_class_folders(tmp_path: Path) -> None:
    photos(tmp_path).rename(tmp_path / "kept")
    (tmp_path / "photos").mkdir()
    (tmp_path / "kept").rename(tmp_path / "photos" / "train")
    said = refused(tmp_path, "photos")["data.split"]
    assert "names test, which no row carries. Found: train." in said
    assert "{val: 0.15, test: 0.15}" in said
    assert opened(tmp_path, "photos", split={"val": 0.15, "test": 0.15}).rows("test") == 4
    (tmp_path / "photos" / "test").mkdir()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "photos" / "test" / "a.png")
    assert "photos/test has no images in class folders" in refused(tmp_path, "photos")["data.path"]


@pytest.mark.parametrize("key", ["label", "group"])
def test_a_column_where_there_are_none_is_refused(tmp_path: Path, key: str) -> None:
    photos(tmp_path)
    code = "from family.tasks.sources import read_digits\ndef give():\n    return read_digits()\n"
    (tmp_path / "mine.py").write_text(code)
    for path, what in (("photos", "folder of images"), ("digits", "built-in digits"), ("mine.py:give", "Source")):
        said = refused(tmp_path, path, **{key: "patient"})[f"data.{key}"]
        assert what in said
        assert "Got 'patient'" in said
        assert ".csv" in said
    assert set(refused(tmp_path, "photos", label="a", group="b")) == {"data.label", "data.group"}


@pytest.mark.parametrize("shape", [(8, 9, 12), (64, 8, 8), (3, 9, 3)])
def test_either_end_may_hold_the_channels(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    a, b, c = shape
    said = refused(tmp_path, save(tmp_path, x=np.zeros((60, *shape), np.uint8)))["data.layout"]
    assert f"{a} × {b} pixels of {c} channels (hwc)" in said
    assert f"{b} × {c} pixels of {a} channels (chw)" in said


def test_a_layout_for_what_has_none(tmp_path: Path) -> None:
    photos(tmp_path)
    pd.DataFrame({"a": np.arange(60), "label": ["x", "y"] * 30}).to_csv(tmp_path / "d.csv", index=False)
    assert "holds table, not images" in refused(tmp_path, "d.csv", layout="hwc")["data.layout"]
    assert "read as hwc" in refused(tmp_path, "photos", layout="chw")["data.layout"]
    assert "read as hwc" in refused(tmp_path, "digits", layout="chw")["data.layout"]
    assert "(60, 8, 8)" in refused(tmp_path, save(tmp_path), layout="chw")["data.layout"]


@pytest.mark.parametrize(
    ("label", "wanted"),
    [
        ([[0, 1], [1]] * 30, "lengths [1, 2]"),
        ([["cat", "dog"], ["dog", "cat"]] * 30, "numbers, such as [0, 1, 1]. Got ['cat', 'dog']"),
    ],
)
def test_lists_of_labels_that_do_not_fit(tmp_path: Path, label: Any, wanted: str) -> None:
    pd.DataFrame({"a": np.arange(60.0), "label": label}).to_parquet(tmp_path / "d.parquet")
    assert wanted in refused(tmp_path, "d.parquet")["data.label"]


def test_a_split_that_is_named_is_not_taken_for_another(tmp_path: Path) -> None:
    split = np.array(["train"] * 40 + ["test"] * 20)
    path = save(tmp_path, split=split)
    assert "names test, which no row carries" in refused(tmp_path, path, split={"val": "test"})["data.split"]
    said = refused(tmp_path, path, split={"val": "test", "test": "test"})["data.split"]
    assert "names 'test' twice" in said
