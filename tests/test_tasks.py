"""Tasks: what is read, split, checked, prepared and replayed."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_task import open_npz
from PIL import Image

from family.errors import Mistakes
from family.tasks import DataOptions, open_task

RNG = np.random.default_rng(3)
SIZES = ("train", "transfer", "val", "test")


def png(seed: int, height: int = 10, width: int = 12) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    return stream.getvalue()


def write_photos(folder: Path, each: int = 12, sides=lambda i: (10, 12)) -> Path:
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            (folder / name / f"{i:02}.png").write_bytes(png(1000 * (name == "dog") + i, *sides(i)))
    return folder


def write_csv(folder: Path, frame: pd.DataFrame, **options):
    frame.to_csv(folder / "data.csv", index=False)
    return open_task(DataOptions("data.csv", folder, **options), folder / "cache")


def frame(rows: int = 80) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    return pd.DataFrame({
        "size": rng.normal(10, 2, rows),
        "colour": rng.choice(["red", "green", "blue"], rows),
        "wet": rng.choice([True, False], rows),
        "label": np.tile(["no", "yes"], rows // 2),
    })  # fmt: skip


def said(call) -> str:
    with pytest.raises(Mistakes) as found:
        call()
    assert len(found.value.mistakes) == 1
    return str(found.value)


# The built-in data


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    return open_task(DataOptions("digits", folder), folder)


def test_digits_have_few_labels_and_a_pool(digits):
    assert [digits.rows(s) for s in SIZES] == [200, 797, 200, 600]
    ids = np.concatenate([digits.row_ids(s) for s in SIZES])
    assert sorted(ids) == list(range(1797))
    assert digits.classes == tuple("0123456789")
    assert not digits.warnings


def test_digits_with_all_labels_on_request(tmp_path):
    task = open_task(DataOptions("digits", tmp_path, keep_labels=997), tmp_path)
    assert [task.rows(s) for s in SIZES] == [997, 0, 200, 600]


def test_students_see_standardised_pixels(digits):
    rows = np.arange(200)
    (x,) = digits.inputs("train", rows, 0)
    assert x.shape == (200, 1, 8, 8)
    assert x.mean().item() == pytest.approx(0, abs=1e-4)
    assert x.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    raw = digits.raw("train", rows)["image"]
    front = digits.front
    assert np.allclose(x.numpy()[:, 0], (raw[..., 0] - front.mean[0]) / front.std[0], atol=1e-5)


# Views


def test_views_are_replayed_from_seed_view_and_row(digits):
    rows = np.array([5, 9, 5, 120])
    views = np.array([3, 3, 7, 3])
    (together,) = digits.inputs("transfer", rows, views)
    for i in range(4):
        (alone,) = digits.inputs("transfer", rows[i : i + 1], int(views[i]))
        assert np.array_equal(together[i], alone[0])
    assert not np.array_equal(together[0], together[2])


def test_view_0_is_clean_and_views_shift_without_flipping(digits):
    rows = np.arange(100)
    (clean,) = digits.inputs("train", rows, 0)
    moved = digits.inputs("train", rows, 1)[0].numpy()
    shifts = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    padded = np.pad(clean.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), "edge")
    found = set()
    for row in rows:
        match = [(d, r) for d, r in shifts if np.array_equal(moved[row], padded[row, :, 1 - d : 9 - d, 1 - r : 9 - r])]
        assert match
        found.add(match[0])
    assert len(found) == 9


def test_another_seed_gives_other_views(tmp_path, digits):
    other = open_task(DataOptions("digits", tmp_path, seed=5, keep_labels=997), tmp_path)
    ids = other.row_ids("val")
    assert np.array_equal(ids, digits.row_ids("val"))
    rows = np.arange(200)
    assert np.array_equal(other.raw("val", rows)["image"], digits.raw("val", rows)["image"])
    a, b = (t.teacher_inputs("val", rows, 1, None)[0] for t in (other, digits))
    assert not np.array_equal(a, b)


@pytest.mark.parametrize("size", [None, 24])
def test_teacher_and_student_see_the_same_shift(tmp_path, size):
    """Pixels count the position, so that the shift can be read off the middle pixel at any size."""
    yy, xx = np.mgrid[:12, :12].astype(np.float32)
    image = np.repeat(np.stack([yy, xx], -1)[None], 40, 0) + np.linspace(0, 1e-3, 40)[:, None, None, None]
    arrays = {
        "image": np.concatenate([image, image[..., :1]], -1).astype(np.float32),
        "label": np.arange(40) % 2,
    }
    task = open_npz(tmp_path, arrays)
    rows = np.arange(task.rows("train"))
    (x,) = task.inputs("train", rows, 4)
    (clean,) = task.inputs("train", rows, 0)
    step = (clean[0, 0, 6, 6] - clean[0, 0, 5, 6]).item()
    student = (clean - x)[:, :2, 6, 6].numpy() / step
    teacher = (
        task.teacher_inputs("train", rows, 0, {"size": size})[0]
        - task.teacher_inputs("train", rows, 4, {"size": size})[0]
    )
    middle = (size or 12) // 2
    assert np.abs(student).max() > 0.9
    assert np.allclose(student, teacher[:, :2, middle, middle], atol=0.01)


def test_augmentation_that_does_not_fit_is_refused(tmp_path):
    assert "cannot be applied to table" in said(lambda: write_csv(tmp_path, frame(), augment={"scale": 0.1}))
    assert "knows shift, flip and scale" in said(lambda: write_csv(tmp_path, frame(), augment={"turn": 1}))


# Fingerprints


def test_fingerprint_stands_for_data_split_and_augmentation(tmp_path):
    arrays = {"image": RNG.random((40, 8, 8, 1)).astype(np.float32), "label": np.arange(40) % 2}
    first = open_npz(tmp_path, dict(arrays))
    assert open_npz(tmp_path, dict(arrays)).fingerprint == first.fingerprint
    changed = arrays["image"].copy()
    changed[3, 4, 4] += 1e-3
    others = [
        open_npz(tmp_path, dict(arrays), seed=1),
        open_npz(tmp_path, dict(arrays), augment="none"),
        open_npz(tmp_path, dict(arrays), student_input=(16, 16)),
        open_npz(tmp_path, arrays | {"image": changed}),
        open_npz(tmp_path, arrays | {"label": 1 - arrays["label"]}),
    ]
    assert len({first.fingerprint, *(task.fingerprint for task in others)}) == 6


# Image folders


def test_photos_of_different_sizes_need_the_students_size(tmp_path):
    write_photos(tmp_path / "photos", sides=lambda i: (10 + i % 3, 12))
    assert "students.input" in said(lambda: open_task(DataOptions("photos", tmp_path), tmp_path / "cache"))
    task = open_task(DataOptions("photos", tmp_path, student_input=(8, 9)), tmp_path / "cache")
    assert task.ragged
    assert task.classes == ("cat", "dog")
    assert task.inputs("train", np.arange(3), 0)[0].shape == (3, 3, 8, 9)
    assert task.teacher_inputs("train", np.arange(3), 1, {"size": 16})[0].shape == (3, 3, 16, 16)
    assert "teacher.preprocess.size" in said(lambda: task.teacher_inputs("train", np.arange(3), 0, None))


def test_broken_photos_are_named(tmp_path):
    photos = write_photos(tmp_path / "photos")
    (photos / "cat" / "03.png").write_bytes(png(1)[:200])
    (photos / "dog" / "05.png").write_text("no picture")
    text = said(lambda: open_task(DataOptions("photos", tmp_path), tmp_path / "cache"))
    assert "2 corrupt or truncated images" in text
    assert "03.png" in text
    assert "05.png" in text


def test_photos_in_split_folders_keep_their_split(tmp_path):
    for split, each in (("train", 6), ("val", 3), ("test", 2)):
        write_photos(tmp_path / "photos" / split, each)
    task = open_task(DataOptions("photos", tmp_path), tmp_path / "cache")
    assert [task.rows(s) for s in SIZES] == [12, 0, 6, 4]
    assert "6 of 6 val rows stand in train" in task.warnings[0]


def test_a_pool_of_photos(tmp_path):
    write_photos(tmp_path / "photos")
    (tmp_path / "pool").mkdir()
    for i in range(5):
        (tmp_path / "pool" / f"{i}.png").write_bytes(png(5000 + i))
    task = open_task(DataOptions("photos", tmp_path, transfer="pool"), tmp_path / "cache")
    assert task.rows("transfer") == 5
    (tmp_path / "empty").mkdir()
    call = lambda: open_task(DataOptions("photos", tmp_path, transfer="empty"), tmp_path / "cache")  # noqa: E731
    assert "empty has no images" in said(call)


# Arrays


@pytest.mark.parametrize(
    ("shape", "layout", "channels"), [((8, 9, 3), "hwc", 3), ((3, 8, 9), "chw", 3), ((8, 9), "hw", 1)]
)
def test_image_arrays_in_any_layout(tmp_path, shape, layout, channels):
    image = RNG.integers(0, 255, (40, *shape), np.uint8)
    task = open_npz(tmp_path, {"image": image, "label": np.arange(40) % 2})
    assert task.front.layout == layout
    (x,) = task.inputs("train", np.arange(4), 0)
    assert x.shape == (4, channels, 8, 9)
    (given,) = task.teacher_inputs("train", np.arange(4), 0, None)
    stored = image[task.row_ids("train")[:4]].reshape(4, *shape)
    moved = {"hwc": lambda a: a.transpose(0, 3, 1, 2), "chw": lambda a: a, "hw": lambda a: a[:, None]}[layout]
    assert np.allclose(given, moved(stored) / 255, atol=1e-6)


def test_dark_pictures_are_not_taken_for_digits(tmp_path):
    image = RNG.integers(0, 9, (40, 8, 8, 1), np.uint8)
    task = open_npz(tmp_path, {"image": image, "label": np.arange(40) % 2})
    assert task.teacher_inputs("train", np.arange(4), 0, None)[0].max() <= 8 / 255 + 1e-6


def test_nan_and_infinity_are_told_with_their_rows(tmp_path):
    numbers = RNG.random((40, 3)).astype(np.float32)
    numbers[7, 1] = np.inf
    assert "infinite values in 1 rows, first [7]" in said(
        lambda: open_npz(tmp_path, {"numbers": numbers, "label": np.arange(40) % 2})
    )
    image = RNG.random((40, 8, 8)).astype(np.float32)
    image[[2, 9], 0, 0] = np.nan
    assert "NaN or infinite values in 2 rows, first [2, 9]" in said(
        lambda: open_npz(tmp_path, {"image": image, "label": np.arange(40) % 2})
    )
    labels = RNG.random(40)
    labels[4] = np.inf
    assert "data.label" in said(lambda: open_npz(tmp_path, {"numbers": RNG.random((40, 3)), "label": labels}))


def test_a_pool_of_arrays_is_checked_like_the_data(tmp_path):
    arrays = {"numbers": RNG.random((40, 3)).astype(np.float32), "label": np.arange(40) % 2}
    np.savez(tmp_path / "pool.npz", numbers=RNG.random((6, 3)))
    assert open_npz(tmp_path, dict(arrays), transfer="pool.npz").rows("transfer") == 6
    np.savez(tmp_path / "wide.npz", numbers=RNG.random((6, 4)))
    assert "data.transfer" in said(lambda: open_npz(tmp_path, dict(arrays), transfer="wide.npz"))
    np.savez(tmp_path / "odd.npz", numbers=np.full((6, 3), np.inf))
    assert "infinite" in said(lambda: open_npz(tmp_path, dict(arrays), transfer="odd.npz"))
    (tmp_path / "text.npz").write_text("no archive")
    assert "no readable .npz" in said(lambda: open_npz(tmp_path, dict(arrays), transfer="text.npz"))


@pytest.mark.parametrize("cut", [0.5, 0.0])
def test_a_broken_archive_is_one_clear_mistake(tmp_path, cut):
    np.savez(tmp_path / "data.npz", numbers=RNG.random((40, 3)), label=np.arange(40) % 2)
    whole = (tmp_path / "data.npz").read_bytes()
    (tmp_path / "data.npz").write_bytes(whole[: int(len(whole) * cut)] or b"text")
    call = lambda: open_task(DataOptions("data.npz", tmp_path), tmp_path / "cache")  # noqa: E731
    assert "no readable .npz" in said(call)


def test_series_are_masked_after_their_length(tmp_path):
    series = RNG.normal(5, 2, (40, 2, 16)).astype(np.float32)
    length = np.arange(40) % 12 + 4
    for i in range(40):
        series[i, :, length[i] :] = 999
    task = open_npz(tmp_path, {"series": series, "length": length, "label": np.arange(40) % 2})
    rows = np.arange(task.rows("train"))
    x, mask = task.inputs("train", rows, 2)
    kept = np.arange(16) < length[task.row_ids("train")][:, None, None]
    assert np.array_equal(mask.numpy(), kept)
    assert not x.numpy()[~np.broadcast_to(kept, x.shape)].any()
    clean, _ = task.inputs("train", rows, 0)
    assert clean.numpy()[np.broadcast_to(kept, x.shape)].mean() == pytest.approx(0, abs=1e-3)
    ratio = (x / clean.where(mask > 0, clean.new_ones(()))).numpy()[:, 0, 0]
    assert ratio.min() >= 0.9
    assert ratio.max() <= 1.1
    assert np.ptp(ratio) > 0.05


def test_multilabel_and_regression_are_told_from_the_labels(tmp_path):
    numbers = RNG.random((60, 3)).astype(np.float32)
    many = open_npz(tmp_path, {"numbers": numbers, "label": RNG.integers(0, 2, (60, 4))})
    assert (many.kind, many.body.outputs[0].shape) == ("multilabel", ("batch", 4))
    price = RNG.normal(1000, 50, 60)
    value = open_npz(tmp_path, {"numbers": numbers, "label": price})
    assert (value.kind, value.classes, value.score.name) == ("regression", None, "rmse")
    taught = price[value.row_ids("train")]
    assert value.target_scale[0] == pytest.approx(taught.mean(), rel=1e-5)
    assert value.target_scale[1] == pytest.approx(taught.std(), rel=1e-4)


# Tables


def test_a_table_of_numbers_and_categories(tmp_path):
    table = frame()
    table.loc[3, "size"] = None
    table.loc[5, "colour"] = None
    task = write_csv(tmp_path, table)
    ids = task.row_ids("train")
    (x,) = task.inputs("train", np.arange(len(ids)), 0)
    assert x.shape[1] == 1 + 1 + 3 + 2  # size, its flag, colours, wet or not
    values = table["size"].to_numpy()[ids]
    scaled = (values - np.nanmean(values)) / np.nanstd(values)
    assert np.allclose(x[:, 0], np.nan_to_num(scaled), atol=1e-4)
    assert np.array_equal(x[:, 1].numpy(), np.isnan(values))
    colours = pd.get_dummies(table["colour"])[["blue", "green", "red"]].to_numpy()[ids]
    assert np.array_equal(x[:, 2:5].numpy(), colours)
    assert task.preprocessing["columns"]["categories"]["wet"] == {"False": 0, "True": 1}


def test_a_missing_label_column_is_told_with_the_nearest(tmp_path):
    assert "Did you mean 'label'?" in said(lambda: write_csv(tmp_path, frame(), label="lable"))


def test_one_class_is_refused(tmp_path):
    assert "one class only (no)" in said(lambda: write_csv(tmp_path, frame().assign(label="no")))


def test_rows_without_a_label_are_the_pool_and_never_taught(tmp_path):
    table = frame()
    codes = pd.Series(np.arange(80) % 3, dtype=float)
    codes[:10] = None
    task = write_csv(tmp_path, table.assign(label=codes))
    assert task.classes == ("0", "1", "2")
    assert sorted(task.row_ids("transfer")) == list(range(10))
    named = table.assign(label=codes, split=["train"] * 40 + ["val"] * 20 + ["test"] * 20)
    task = write_csv(tmp_path, named)
    assert [task.rows(s) for s in SIZES] == [30, 10, 20, 20]
    named.loc[45, "label"] = None
    assert "missing in 1 rows of 'val'" in said(lambda: write_csv(tmp_path, named))


def test_ready_made_splits_by_their_own_names(tmp_path):
    table = frame().assign(split=["a"] * 50 + ["b"] * 14 + ["c"] * 16)
    task = write_csv(tmp_path, table, split={"train": "a", "val": "b", "test": "c"})
    assert [task.rows(s) for s in SIZES] == [50, 0, 14, 16]
    text = said(lambda: write_csv(tmp_path, table, split={"train": "a", "val": "b", "test": "d"}))
    assert "names d, which no row carries. Found: a, b, c" in text


def test_shares_keep_the_classes_shares(tmp_path):
    task = write_csv(tmp_path, frame(), split={"val": 0.25, "test": 0.25})
    assert [task.rows(s) for s in SIZES] == [40, 0, 20, 20]
    assert all(task.labels(s).mean() == 0.5 for s in ("train", "val", "test"))


def test_groups_never_straddle_splits(tmp_path):
    table = frame().assign(person=np.repeat(np.arange(20), 4))
    task = write_csv(tmp_path, table, group="person")
    people = [set(task.groups(s)) for s in ("train", "val", "test")]
    assert len(set.union(*people)) == sum(map(len, people)) == 20
    assert task.inputs("train", np.arange(1), 0)[0].shape == (1, 6)
    assert "has one group only" in said(lambda: write_csv(tmp_path, table.assign(person=1), group="person"))


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"split": {"val": 0.0}}, "data.split"),
        ({"split": {"test": 1.0}}, "data.split"),
        ({"keep_labels": 0}, "data.keep_labels"),
    ],
)
def test_an_empty_split_is_refused(tmp_path, options, where):
    assert where in said(lambda: write_csv(tmp_path, frame(), **options))


def test_duplicates_across_splits_are_counted(tmp_path):
    table = frame().assign(split=["train"] * 40 + ["val"] * 20 + ["test"] * 20)
    table.loc[[40, 41, 60], :] = table.loc[[0, 0, 1], :].to_numpy()
    table["split"] = ["train"] * 40 + ["val"] * 20 + ["test"] * 20
    task = write_csv(tmp_path, table)
    assert [w.split(" rows")[0] for w in task.warnings] == ["2 of 20 val", "1 of 20 test"]


def test_detection_is_refused(tmp_path):
    call = lambda: write_csv(tmp_path, frame().assign(bbox="[0,0,1,1]"))  # noqa: E731
    assert "detection and segmentation are not supported" in said(call)


def test_a_task_that_does_not_fit_the_data_is_refused(tmp_path):
    assert "says images; data.csv holds table" in said(lambda: write_csv(tmp_path, frame(), task="images"))
    assert "Did you mean 'images'?" in said(lambda: write_csv(tmp_path, frame(), task="image"))


def test_parquet_with_pictures(tmp_path):
    rows = [{"image": {"bytes": png(i), "path": None}, "label": i % 2} for i in range(40)]
    pd.DataFrame(rows).to_parquet(tmp_path / "data.parquet")
    task = open_task(DataOptions("data.parquet", tmp_path), tmp_path / "cache")
    assert task.inputs("train", np.arange(2), 0)[0].shape == (2, 3, 10, 12)


def test_a_saved_hugging_face_dataset(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"picture": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    made = {}
    for name, rows in (("train", 20), ("validation", 6), ("test", 8)):
        seeds = [100 * len(name) + i for i in range(rows)]
        table = {"picture": [{"bytes": png(s), "path": None} for s in seeds], "label": [s % 2 for s in seeds]}
        made[name] = datasets.Dataset.from_dict(table, features=features)
    datasets.DatasetDict(made).save_to_disk(str(tmp_path / "saved"))
    task = open_task(DataOptions("saved", tmp_path), tmp_path / "cache")
    assert [task.rows(s) for s in SIZES] == [20, 0, 6, 8]
    assert task.classes == ("cat", "dog")
    assert task.raw("val", np.arange(2))["image"].shape == (2, 10, 12, 3)
