"""What every kind of input turns into: kind, front, splits, raw and body inputs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from export import SeriesFront, TableFront, apply_front
from family.tasks import DataOptions, DataTask, open_task
from family.tasks.arrow import Encoded

SPLITS = ("train", "transfer", "val", "test")


def opened(folder: Path, path: str, **options: Any) -> DataTask:
    return open_task(DataOptions(path, folder, **options), folder / "cache")


def draw_images(folder: Path, classes: int = 3, each: int = 20, sides: tuple[int, ...] = (12,)) -> None:
    random = np.random.default_rng(0)
    for name in [f"c{i}" for i in range(classes)]:
        (folder / name).mkdir(parents=True)
        for i in range(each):
            pixels = random.integers(0, 256, (sides[i % len(sides)], 10, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


def encode(pixels: np.ndarray) -> bytes:
    import io

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def assert_whole(task: DataTask) -> None:
    """Splits are disjoint, and body inputs are what the front gives for the raw inputs."""
    ids = np.concatenate([task.row_ids(s) for s in SPLITS])
    assert len(set(ids.tolist())) == len(ids)
    for split in SPLITS[2:]:
        rows = np.arange(1 if task.ragged else min(4, task.rows(split)))
        given_by_front = apply_front(task.front, task.raw(split, rows))
        for mine, front, spec in zip(task.inputs(split, rows, 0), given_by_front, task.body.inputs, strict=True):
            assert mine.dtype == torch.float32
            assert tuple(mine.shape[1:]) == spec.shape[1:]
            torch.testing.assert_close(mine, front, atol=5e-3, rtol=1e-3)  # large bodies lie in float16
        raw = task.raw(split, rows)
        assert [(s.name, s.dtype) for s in task.signature.inputs] == [(n, str(v.dtype)) for n, v in raw.items()]


def test_digits_keep_200_labels_and_the_rest_is_the_pool(tmp_path: Path) -> None:
    task = opened(tmp_path, "digits")
    assert [task.rows(s) for s in SPLITS] == [200, 797, 200, 600]
    assert task.body.inputs[0].shape == ("batch", 1, 8, 8)
    assert task.labels("train").dtype == np.int64
    assert min(task.class_counts) >= 18
    assert sum(task.class_counts) == 200
    assert_whole(task)
    ids, labels = task.teacher_train_labels()
    assert len(ids) == len(labels) == 997
    assert not set(ids) & {*task.row_ids("val"), *task.row_ids("test")}


def test_digits_with_all_labels_have_no_pool(tmp_path: Path) -> None:
    assert opened(tmp_path, "digits", keep_labels=10**9).rows("transfer") == 0


def test_a_teacher_of_digits_gets_pixels_in_0_to_1(tmp_path: Path) -> None:
    (x,) = opened(tmp_path, "digits").teacher_inputs("train", np.arange(50), 0, None)
    assert x.shape == (50, 1, 8, 8)
    assert x.dtype == np.float32
    assert 0 <= x.min() < 0.01
    assert 0.99 < x.max() <= 1


def test_folder_of_class_folders(tmp_path: Path) -> None:
    draw_images(tmp_path / "photos")
    task = opened(tmp_path, "photos")
    assert task.classes == ("c0", "c1", "c2")
    assert task.signature.inputs[0].shape == ("batch", 12, 10, 3)
    assert [task.rows(s) for s in SPLITS] == [42, 0, 9, 9]
    assert not task.ragged
    assert any("3 class folders" in note for note in task.notes)
    assert_whole(task)


def test_images_of_varying_sides_are_ragged_and_need_a_student_size(tmp_path: Path) -> None:
    draw_images(tmp_path / "photos", sides=(12, 16))
    task = opened(tmp_path, "photos", student_input=(8, 8))
    assert task.ragged
    assert task.signature.inputs[0].shape == ("batch", "height", "width", 3)
    assert_whole(task)
    (x,) = task.teacher_inputs("val", np.arange(5), 1, {"size": 20})
    assert x.shape == (5, 3, 20, 20)


def test_ready_made_split_folders(tmp_path: Path) -> None:
    for i, name in enumerate(("train", "val", "test")):
        draw_images(tmp_path / "photos" / name, classes=2, each=4 + i)
    assert [opened(tmp_path, "photos").rows(s) for s in SPLITS] == [8, 0, 10, 12]


def test_a_folder_of_unlabelled_images_is_the_pool(tmp_path: Path) -> None:
    draw_images(tmp_path / "photos")
    draw_images(tmp_path / "more", classes=1, each=7)
    task = opened(tmp_path, "photos", transfer="more")
    assert task.rows("transfer") == 7
    assert task.inputs("transfer", np.arange(7), np.arange(7))[0].shape == (7, 3, 12, 10)


@pytest.mark.parametrize("where", ["parquet", "hugging face"])
def test_encoded_images_in_a_column(tmp_path: Path, where: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 9, 9, 3), dtype=np.uint8)
    frame = pd.DataFrame(
        {
            "picture": [encode(p) for p in pixels],
            "label": ["cat", "dog"] * 20,
        }
    )
    if where == "parquet":
        frame.to_parquet(tmp_path / "data.parquet")
    else:
        datasets = pytest.importorskip("datasets")
        features = {"picture": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
        rows = {"picture": [{"bytes": b} for b in frame["picture"]], "label": list(frame["label"])}
        datasets.Dataset.from_dict(rows, datasets.Features(features)).save_to_disk(str(tmp_path / "data.parquet"))
    task = opened(tmp_path, "data.parquet")
    assert task.classes == ("cat", "dog")
    assert isinstance(task.source.files, Encoded)  # in Arrow, not in a list
    assert len(task.source.files) == 40
    ids = task.row_ids("val")
    np.testing.assert_array_equal(task.raw("val", np.arange(len(ids)))["image"], pixels[ids])
    assert_whole(task)
    draw_images(tmp_path / "more", classes=1, each=5)
    with_pool = opened(tmp_path, "data.parquet", transfer="more", student_input=(8, 8))
    assert with_pool.rows("transfer") == 5
    assert with_pool.inputs("transfer", np.arange(5), 1)[0].shape == (5, 3, 8, 8)


@pytest.mark.parametrize(
    ("shape", "layout", "body"),
    [
        ((60, 9, 8), "hw", (1, 9, 8)),
        ((60, 9, 8, 3), "hwc", (3, 9, 8)),
        ((60, 3, 9, 8), "chw", (3, 9, 8)),
        ((60, 2, 9, 8), "chw", (2, 9, 8)),
        ((60, 9, 8, 2), "hwc", (2, 9, 8)),
        ((60, 5, 16, 12), "chw", (5, 16, 12)),
        ((60, 5, 5, 3), "hwc", (3, 5, 5)),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_arrays_of_images(tmp_path: Path, shape: Any, layout: str, body: Any, dtype: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    np.savez(tmp_path / "data.npz", x=pixels, label=np.arange(60) % 3)
    task = opened(tmp_path, "data.npz")
    assert task.front.layout == layout  # type: ignore[union-attr]
    assert any(layout in note for note in task.notes)
    assert task.body.inputs[0].shape == ("batch", *body)
    assert_whole(task)
    x = task.inputs("train", np.arange(task.rows("train")), 0)[0]
    assert abs(float(x.mean())) < 0.05
    assert abs(float(x.std()) - 1) < 0.05


def test_students_may_have_a_smaller_input(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", x=pixels, label=np.arange(60) % 3)
    task = opened(tmp_path, "data.npz", student_input=(8, 8))
    assert task.body.inputs[0].shape == ("batch", 3, 8, 8)
    assert task.signature.inputs[0].shape == ("batch", 16, 16, 3)
    assert_whole(task)


def test_ready_made_split_array_and_its_unlabelled_rows(tmp_path: Path) -> None:
    split = np.array(["train"] * 30 + ["val"] * 10 + ["test"] * 12 + ["transfer"] * 8)
    np.savez(tmp_path / "d.npz", x=np.zeros((60, 8, 8), np.uint8), label=np.arange(60) % 2, split=split)
    task = opened(tmp_path, "d.npz")
    assert [task.rows(s) for s in SPLITS] == [30, 8, 10, 12]


def test_split_names_of_ones_own(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"a": np.arange(60.0), "label": ["x", "y"] * 30, "split": ["fit"] * 40 + ["dev"] * 10 + ["end"] * 10}
    )
    frame.to_csv(tmp_path / "d.csv", index=False)
    task = opened(tmp_path, "d.csv", split={"train": "fit", "val": "dev", "test": "end"})
    assert [task.rows(s) for s in SPLITS] == [40, 0, 10, 10]


def test_several_named_inputs_are_handed_on(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", a=random.random((60, 4)), b=random.random((60, 2, 3)), label=np.arange(60) % 2)
    task = opened(tmp_path, "d.npz")
    assert [(s.name, s.shape) for s in task.body.inputs] == [("a", ("batch", 4)), ("b", ("batch", 2, 3))]
    assert task.views == 1
    assert_whole(task)


def make_table(rows: int = 80) -> pd.DataFrame:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "carat": random.random(rows),
            "depth": random.integers(0, 50, rows),
            "cut": random.choice(["good", "fair", "ideal"], rows),
            "shiny": random.random(rows) > 0.5,
            "label": random.choice(["cheap", "dear"], rows),
        }
    )
    frame.loc[3, "carat"] = np.nan
    frame.loc[5, "cut"] = None
    return frame


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_tables_with_categories_and_gaps(tmp_path: Path, ending: str) -> None:
    frame = make_table()
    frame.to_csv(tmp_path / "d.csv", index=False) if ending == "csv" else frame.to_parquet(tmp_path / "d.parquet")
    task = opened(tmp_path, f"d.{ending}")
    assert isinstance(task.front, TableFront)
    assert task.front.flagged == (0,)
    assert task.front.sizes == (3, 2)
    assert task.views == 1
    columns = task.preprocessing["columns"]
    assert columns["numbers"] == ["carat", "depth"]
    assert columns["categories"]["cut"] == {"fair": 0, "good": 1, "ideal": 2}
    every = {int(i): (s, r) for s in SPLITS for r, i in enumerate(task.row_ids(s))}
    split, row = every[5]
    assert task.raw(split, np.array([row]))["categories"][0, 0] == -1  # type: ignore[arg-type]
    x = task.inputs(split, np.array([row]), 0)[0]  # type: ignore[arg-type]
    assert not x[0, 3:6].any()
    assert_whole(task)
    numbers, categories = task.teacher_inputs("val", np.arange(3), 0, None)
    assert numbers.dtype == np.float32
    assert categories.dtype == np.int64


def test_rare_categories_become_other_and_an_id_is_warned_about(tmp_path: Path) -> None:
    rows = 400
    frame = pd.DataFrame(
        {
            "id": [f"r{i}" for i in range(rows)],
            "town": [f"t{i % 10}" if i < 300 else f"u{i % 80}" for i in range(rows)],
            "label": ["a", "b"] * (rows // 2),
        }
    )
    frame.to_csv(tmp_path / "d.csv", index=False)
    task = opened(tmp_path, "d.csv")
    assert task.front.sizes[0] <= 64  # type: ignore[union-attr]
    assert {f"t{i}" for i in range(10)} <= set(task.preprocessing["columns"]["categories"]["town"])
    assert any("'id'" in warning for warning in task.warnings)
    assert any("'town'" in note for note in task.notes)


def test_regression_has_a_scale(tmp_path: Path) -> None:
    frame = make_table().assign(label=np.linspace(0, 100, 80))
    frame.to_csv(tmp_path / "d.csv", index=False)
    task = opened(tmp_path, "d.csv")
    assert task.kind == "regression"
    assert task.score.name == "rmse"
    assert task.target_scale is not None
    values = task.labels("train")
    assert values.shape == (task.rows("train"), 1)
    np.testing.assert_allclose(task.target_scale[0], values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(task.target_scale[1], values.std(0), rtol=1e-5)


def test_multi_label(tmp_path: Path) -> None:
    label = np.random.default_rng(0).integers(0, 2, (60, 4))
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(1).random((60, 8, 8)), label=label)
    task = opened(tmp_path, "d.npz")
    assert task.kind == "multilabel"
    assert task.score.name == "exact_match"
    assert task.signature.outputs[0].shape == ("batch", 4)
    np.testing.assert_array_equal(task.labels("val"), label[task.row_ids("val")])
    np.testing.assert_array_equal(task.class_counts, label[task.row_ids("train")].sum(0))


def test_series_of_unequal_lengths_are_masked(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    length = random.integers(4, 13, 60)
    series = random.normal(5, 2, (60, 2, 12)) * (np.arange(12) < length[:, None, None])
    np.savez(tmp_path / "d.npz", x=series, length=length, label=np.arange(60) % 3)
    task = opened(tmp_path, "d.npz")
    assert isinstance(task.front, SeriesFront)
    assert task.front.masked
    assert [s.name for s in task.body.inputs] == ["x", "mask"]
    assert_whole(task)
    for view in (0, 1):
        x, mask = task.inputs("train", np.arange(task.rows("train")), view)
        assert not x[(mask == 0).expand_as(x)].any()
        assert abs(float(x[(mask > 0).expand_as(x)].mean())) < 0.3
    np.testing.assert_allclose(task.front.mean, [5, 5], atol=0.3)
    np.testing.assert_allclose(task.front.std, [2, 2], atol=0.3)


def test_a_function_may_give_series_as_a_list(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def series():\n"
        "    rows = [np.full((2, 4 + i % 5), i % 3, np.float32) + i for i in range(60)]\n"
        "    return {'x': rows, 'label': np.arange(60) % 3}\n"
    )
    task = opened(tmp_path, "mine.py:series")
    assert isinstance(task.front, SeriesFront)
    assert (task.front.time, task.front.masked) == (8, True)
    every = {int(i): (s, r) for s in SPLITS for r, i in enumerate(task.row_ids(s))}
    split, row = every[1]
    assert task.raw(split, np.array([row]))["length"] == [5]  # type: ignore[arg-type]
    assert_whole(task)


def test_series_of_equal_lengths(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).normal(size=(60, 3, 12)), label=np.arange(60) % 3)
    task = opened(tmp_path, "d.npz", task="series")
    assert [s.name for s in task.body.inputs] == ["x"]
    assert_whole(task)


@settings(max_examples=15, deadline=None)
@given(groups=st.integers(6, 30), seed=st.integers(0, 99))
def test_groups_never_straddle_splits(tmp_path_factory: Any, groups: int, seed: int) -> None:
    folder = tmp_path_factory.mktemp("groups")
    who = np.random.default_rng(seed).integers(0, groups, 120)
    frame = pd.DataFrame({"a": np.arange(120.0), "who": who, "label": ["x", "y"] * 60})
    frame.to_csv(folder / "d.csv", index=False)
    task = opened(folder, "d.csv", group="who", seed=seed)
    seen = [set(np.asarray(task.groups(s)).tolist()) for s in ("train", "val", "test")]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]
    assert "who" not in task.preprocessing["columns"]["numbers"]


def test_kept_labels_of_grouped_and_stratified_rows(tmp_path: Path) -> None:
    make_table().to_csv(tmp_path / "d.csv", index=False)
    task = opened(tmp_path, "d.csv", keep_labels=20)
    assert task.rows("train") == 20
    assert task.rows("transfer") == 80 - 20 - task.rows("val") - task.rows("test")


def test_rows_without_a_label_join_the_pool(tmp_path: Path) -> None:
    frame = make_table()
    frame.loc[10:19, "label"] = None
    frame.to_csv(tmp_path / "d.csv", index=False)
    task = opened(tmp_path, "d.csv")
    assert sorted(task.row_ids("transfer")) == list(range(10, 20))


FINGERPRINT = """
import sys
from pathlib import Path
from family.tasks import DataOptions, open_task
print(open_task(DataOptions("digits", Path(".")), Path(sys.argv[1])).fingerprint)
"""


def test_fingerprint_is_the_same_in_another_process(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FINGERPRINT, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == opened(tmp_path, "digits").fingerprint


def test_fingerprint_follows_contents_not_places(tmp_path: Path) -> None:
    for name in ("one", "two"):
        draw_images(tmp_path / name, classes=2, each=10)
    first, second = (opened(tmp_path, name).fingerprint for name in ("one", "two"))
    assert first == second
    Image.fromarray(np.zeros((12, 10, 3), np.uint8)).save(tmp_path / "two" / "c0" / "0.png")
    assert opened(tmp_path, "two").fingerprint != first
    assert opened(tmp_path, "one", seed=1).fingerprint != first
    assert opened(tmp_path, "one", augment="none").fingerprint != first
    assert opened(tmp_path, "one", student_input=(8, 8)).fingerprint != first


def test_large_bodies_are_mapped_and_a_half_written_one_is_never_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from family.tasks import data_task

    draw_images(tmp_path / "photos", classes=2, each=10)
    monkeypatch.setattr(data_task, "IN_MEMORY", 0)
    whole = opened(tmp_path, "photos")
    assert isinstance(whole.body_arrays[0], np.memmap)
    expected = whole.inputs("train", np.arange(5), 0)[0]
    (file,) = (tmp_path / "cache").rglob("*.npy")
    file.rename(file.with_name(f".{file.name}.filling"))
    file.with_name(f".{file.name}.filling").write_bytes(b"half")
    again = opened(tmp_path, "photos")
    torch.testing.assert_close(again.inputs("train", np.arange(5), 0)[0], expected)
    assert_whole(again)


def test_the_description_is_for_the_report(tmp_path: Path) -> None:
    found = opened(tmp_path, "digits").describe()
    assert found["rows"] == {"train": 200, "transfer": 797, "val": 200, "test": 600}
    assert sum(found["train_labels"].values()) == 200


def test_large_arrays_are_mapped_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from family.tasks import arrays as reading

    pixels = np.random.default_rng(0).integers(0, 256, (60, 9, 8, 3), dtype=np.uint8)
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "d.npz", label=np.arange(60) % 3, x=pixels, other=np.asfortranarray(pixels[..., 0]))
        monkeypatch.setattr(reading, "MAPPED", 0)
        arrays = reading.load_arrays(tmp_path / "d.npz", "data.path")
        assert isinstance(arrays["x"], np.memmap) == (save is np.savez)
        np.testing.assert_array_equal(arrays["x"], pixels)
        np.testing.assert_array_equal(arrays["other"], pixels[..., 0])
        np.testing.assert_array_equal(arrays["label"], np.arange(60) % 3)


def test_normalisation_is_measured_over_all_of_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from family.tasks import data_task

    pixels = np.repeat(np.arange(60, dtype=np.uint8), 64).reshape(60, 8, 8)
    np.savez(tmp_path / "d.npz", x=pixels, label=np.arange(60) // 20)
    whole = opened(tmp_path, "d.npz").front
    monkeypatch.setattr(data_task, "MEASURED", 10)
    part = opened(tmp_path, "d.npz").front
    assert part != whole
    assert abs(part.mean[0] - whole.mean[0]) < 4  # type: ignore[union-attr]


def test_images_are_decoded_once_to_be_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from family.tasks import data_task

    draw_images(tmp_path / "photos")
    first = opened(tmp_path, "photos")
    monkeypatch.setattr(data_task, "image_sizes", lambda source: pytest.fail("decoded again"))
    assert opened(tmp_path, "photos").fingerprint == first.fingerprint


def test_a_label_that_no_train_row_has_is_warned_about(tmp_path: Path) -> None:
    label = np.random.default_rng(0).integers(0, 2, (60, 4))
    label[:, 2] = 0
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(1).random((60, 8, 8)), label=label)
    assert any("teach nothing: 2" in warning for warning in opened(tmp_path, "d.npz").warnings)


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Validation"])
def test_split_folders_by_their_usual_names(tmp_path: Path, name: str) -> None:
    for i, part in enumerate(("train", name, "test")):
        draw_images(tmp_path / "photos" / part, classes=2, each=4 + i)
    task = opened(tmp_path, "photos")
    assert [task.rows(s) for s in SPLITS] == [8, 0, 10, 12]
    assert task.classes == ("c0", "c1")
    assert any(f"'{name}' is val" in note for note in task.notes) == (name != "val")


def test_split_folders_of_ones_own_names_and_a_pool_without_class_folders(tmp_path: Path) -> None:
    for i, part in enumerate(("fit", "dev", "end")):
        draw_images(tmp_path / "photos" / part, classes=2, each=4 + i)
    draw_images(tmp_path / "photos" / "more", classes=1, each=3)
    for file in (tmp_path / "photos" / "more" / "c0").iterdir():
        file.rename(tmp_path / "photos" / "more" / file.name)
    (tmp_path / "photos" / "more" / "c0").rmdir()
    split = {"train": "fit", "val": "dev", "test": "end", "transfer": "more"}
    task = opened(tmp_path, "photos", split=split)
    assert [task.rows(s) for s in SPLITS] == [8, 3, 10, 12]
    assert task.classes == ("c0", "c1")


@pytest.mark.parametrize("where", ["folder", "csv"])
def test_without_a_ready_made_val_it_is_cut_off_train(tmp_path: Path, where: str) -> None:
    if where == "folder":
        draw_images(tmp_path / "d" / "train", classes=2, each=20)
        draw_images(tmp_path / "d" / "test", classes=2, each=5)
    else:
        frame = pd.DataFrame({"a": np.arange(50.0), "label": ["x", "y"] * 25, "split": ["train"] * 40 + ["test"] * 10})
        frame.to_csv(tmp_path / "d", index=False)
        (tmp_path / "d").rename(tmp_path / "d.csv")
    task = opened(tmp_path, "d" if where == "folder" else "d.csv")
    assert [task.rows(s) for s in SPLITS] == [34, 0, 6, 10]
    assert np.bincount(task.labels("val")).tolist() == [3, 3]
    assert any("6 of train (15%) became it" in note for note in task.notes)
    assert_whole(task)


def test_a_pool_of_ones_own_name_needs_no_labels(tmp_path: Path) -> None:
    split = np.array(["train"] * 30 + ["val"] * 10 + ["test"] * 12 + ["pool"] * 8)
    label = np.where(split == "pool", "?", np.where(np.arange(60) % 2, "a", "b"))
    np.savez(tmp_path / "d.npz", x=np.zeros((60, 8, 8), np.uint8), label=label, split=split)
    pd.DataFrame({"a": np.arange(60.0), "label": label, "split": split}).to_csv(tmp_path / "d.csv", index=False)
    for name in ("d.npz", "d.csv"):
        task = opened(tmp_path, name, split={"transfer": "pool"})
        assert [task.rows(s) for s in SPLITS] == [30, 8, 10, 12]
        assert task.classes == ("a", "b")


def test_rows_of_no_split_are_counted(tmp_path: Path) -> None:
    split = np.array(["train"] * 30 + ["val"] * 10 + ["test"] * 12 + ["extra"] * 8)
    np.savez(tmp_path / "d.npz", x=np.zeros((60, 8, 8), np.uint8), label=np.arange(60) % 2, split=split)
    assert "8 rows of split 'extra' are left out" in opened(tmp_path, "d.npz").warnings


def test_other_shares_win_over_ready_made_splits_and_are_said(tmp_path: Path) -> None:
    split = np.array(["train"] * 40 + ["test"] * 20)
    np.savez(tmp_path / "d.npz", x=np.zeros((60, 8, 8), np.uint8), label=np.arange(60) % 2, split=split)
    task = opened(tmp_path, "d.npz", split={"val": 0.2, "test": 0.2})
    assert [task.rows(s) for s in SPLITS] == [36, 0, 12, 12]
    assert any("ready-made splits are not used" in note for note in task.notes)
    assert opened(tmp_path, "d.npz", split={"val": 0.15, "test": 0.15}).rows("test") == 20


def test_groups_that_straddle_ready_made_splits_are_counted(tmp_path: Path) -> None:
    who = np.array([f"p{i // 6}" for i in range(60)])
    split = np.array(["train"] * 39 + ["val"] * 10 + ["test"] * 11)
    frame = pd.DataFrame({"a": np.arange(60.0), "who": who, "label": ["x", "y"] * 30, "split": split})
    frame.to_csv(tmp_path / "d.csv", index=False)
    warnings = opened(tmp_path, "d.csv", group="who").warnings
    assert "2 of 10 groups (p6, p8) straddle splits: scores are flattered" in warnings
    frame["split"] = ["train"] * 36 + ["val"] * 12 + ["test"] * 12
    frame.to_csv(tmp_path / "d.csv", index=False)
    assert not any("straddle" in warning for warning in opened(tmp_path, "d.csv", group="who").warnings)


@pytest.mark.parametrize(("layout", "body"), [("hwc", (12, 8, 9)), ("chw", (8, 9, 12))])
def test_a_layout_that_is_given_is_taken(tmp_path: Path, layout: str, body: Any) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 8, 9, 12)).astype(np.uint8)
    np.savez(tmp_path / "d.npz", x=pixels, label=np.arange(60) % 3)
    task = opened(tmp_path, "d.npz", layout=layout)
    assert task.body.inputs[0].shape == ("batch", *body)
    assert f"task: images, layout {layout} as data.layout says" in task.notes
    assert_whole(task)


def test_lists_of_labels_in_a_column(tmp_path: Path) -> None:
    label = np.random.default_rng(0).integers(0, 2, (60, 4))
    frame = pd.DataFrame({"a": np.arange(60.0), "label": [*label]})
    frame.to_parquet(tmp_path / "d.parquet")
    task = opened(tmp_path, "d.parquet")
    assert task.kind == "multilabel"
    np.testing.assert_array_equal(task.labels("val"), label[task.row_ids("val")])
    frame["label"] = [*label[:50], *[None] * 10]
    frame.to_parquet(tmp_path / "d.parquet")
    assert opened(tmp_path, "d.parquet").row_ids("transfer").tolist() == list(range(50, 60))
    frame["label"] = [*np.random.default_rng(1).random((60, 3))]
    frame.to_parquet(tmp_path / "d.parquet")
    task = opened(tmp_path, "d.parquet")
    assert task.kind == "regression"
    assert task.labels("val").shape[1] == 3


def test_bodies_are_written_in_order_so_that_a_full_disk_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from family.tasks import data_task

    draw_images(tmp_path / "photos", classes=2, each=10)
    monkeypatch.setattr(data_task, "IN_MEMORY", 0)
    chunks, sizes = data_task.raw_chunks, []

    def stop_halfway(source: Any, ragged: bool) -> Any:
        for i, chunk in enumerate(chunks(source, ragged)):
            sizes.extend(file.stat().st_size for file in (tmp_path / "cache").rglob("*.filling"))
            if i == 10:
                raise OSError(28, "No space left on device")
            yield chunk

    monkeypatch.setattr(data_task, "raw_chunks", stop_halfway)
    with pytest.raises(OSError, match="No space"):
        opened(tmp_path, "photos")
    assert max(sizes) < 20 * 3 * 12 * 10 * 2  # a memory map has its whole size at once
    assert not [*(tmp_path / "cache").rglob("*.filling")]


def test_normalisation_in_pieces_is_that_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from family.tasks import data_task

    make_table().to_csv(tmp_path / "d.csv", index=False)
    random = np.random.default_rng(0)
    series = {"x": random.normal(5, 2, (60, 2, 12)), "length": random.integers(4, 13, 60), "label": np.arange(60) % 3}
    np.savez(tmp_path / "d.npz", **series)
    for name in ("d.csv", "d.npz"):
        whole = opened(tmp_path, name)
        monkeypatch.setattr(data_task, "CHUNK", 500)
        part = opened(tmp_path, name)
        monkeypatch.undo()
        np.testing.assert_allclose(part.front.mean, whole.front.mean, rtol=1e-5)  # type: ignore[union-attr]
        np.testing.assert_allclose(part.front.std, whole.front.std, rtol=1e-5)  # type: ignore[union-attr]
        assert part.signature == whole.signature
    raw = whole.raw("train", np.arange(whole.rows("train")))
    inside = np.arange(12) < raw["length"][:, None]
    np.testing.assert_allclose(whole.front.std[1], raw["series"][:, 1][inside].std(), rtol=1e-4)  # type: ignore[union-attr]


def test_a_mapped_table_of_float32_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from family.tasks import arrays as reading

    monkeypatch.setattr(reading, "MAPPED", 0)
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).random((60, 4), np.float32), label=np.arange(60) % 3)
    task = opened(tmp_path, "d.npz")
    assert isinstance(task.source.columns["numbers"].base, np.memmap)
    assert_whole(task)
