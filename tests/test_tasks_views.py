"""Augmented views: replayed exactly, cheap, and the same for student and teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from family.tasks import DataOptions, DataTask, open_task


def opened(folder: Path, path: str, **options: Any) -> DataTask:
    return open_task(DataOptions(path, folder, **options), folder / "cache")


def test_views_are_replayed_whatever_the_batch(tmp_path: Path) -> None:
    task = opened(tmp_path, "digits")
    rows, views = np.arange(40), np.arange(40) % 8
    (whole,) = task.inputs("transfer", rows, views)
    for row in (0, 7, 33):
        (one,) = task.inputs("transfer", rows[[row]], views[[row]])
        torch.testing.assert_close(one[0], whole[row], rtol=0, atol=0)
    again = opened(tmp_path, "digits").inputs("transfer", rows, views)[0]
    torch.testing.assert_close(again, whole, rtol=0, atol=0)


def test_another_seed_draws_other_views(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 16, 16), dtype=np.uint8)
    split = np.array(["train"] * 40 + ["val"] * 10 + ["test"] * 10)
    np.savez(tmp_path / "d.npz", x=pixels, label=np.arange(60) % 3, split=split)
    one, two = (opened(tmp_path, "d.npz", seed=seed).inputs("train", np.arange(40), 3)[0] for seed in (0, 1))
    assert not torch.equal(one, two)


def test_view_0_is_clean_and_others_are_shifts_by_at_most_an_eighth(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(16)[:, None] * 16 + np.arange(16), (60, 16, 16)).astype(np.uint8)
    np.savez(tmp_path / "d.npz", x=ramp, label=np.arange(60) % 3)
    task = opened(tmp_path, "d.npz")
    (clean,) = task.inputs("train", np.arange(40), 0)
    torch.testing.assert_close(clean[0], clean[1])
    seen = set()
    for view in range(1, 8):
        (x,) = task.inputs("train", np.arange(40), view)
        middle = x[:, 0, 8, 8] * task.front.std[0] + task.front.mean[0]  # type: ignore[union-attr]
        moved = 8 * 16 + 8 - np.rint(middle.numpy()).astype(int)
        seen |= {(int(m + 8) // 16, int(m + 8) % 16 - 8) for m in moved}
    assert {d for pair in seen for d in pair} == {-2, -1, 0, 1, 2}
    assert len(seen) == 25


def test_flips_come_only_when_asked(tmp_path: Path) -> None:
    half = np.zeros((60, 8, 8), np.uint8)
    half[:, :, 4:] = 200
    np.savez(tmp_path / "d.npz", x=half, label=np.arange(60) % 3)

    def sides(augment: Any) -> set[bool]:
        (x,) = opened(tmp_path, "d.npz", augment=augment).inputs("train", np.arange(40), 1)
        return set((x[:, 0, 0, 0] < x[:, 0, 0, 7]).tolist())

    assert sides("auto") == {True}
    assert sides({"shift": 1}) == {True}
    assert sides({"flip": "horizontal"}) == {True, False}
    assert sides({"flip": "vertical"}) == {True}


def test_no_augmentation_means_one_view(tmp_path: Path) -> None:
    assert opened(tmp_path, "digits", augment="none").views == 1
    assert opened(tmp_path, "digits", views=5).views == 5


def test_the_teacher_sees_the_same_shift_at_its_own_size(tmp_path: Path) -> None:
    blob = np.zeros((60, 16, 16, 3), np.uint8)
    blob[:, 6:10, 6:10] = 250
    np.savez(tmp_path / "d.npz", x=blob, label=np.arange(60) % 3)
    task = opened(tmp_path, "d.npz")
    rows = np.arange(40)

    def centres(x: np.ndarray) -> np.ndarray:
        weight = x[:, 0] - x[:, 0].min()
        grid = (np.arange(x.shape[2]) + 0.5) / x.shape[2]
        total = weight.sum((1, 2))
        return np.stack([weight.sum(2) @ grid / total, weight.sum(1) @ grid / total], 1)

    for view in (1, 2):
        student = task.inputs("train", rows, view)[0].numpy()
        (teacher,) = task.teacher_inputs("train", rows, view, {"size": 32})
        np.testing.assert_allclose(centres(student), centres(teacher), atol=0.02)


def test_the_teachers_preprocess(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", x=pixels, label=np.arange(60) % 3)
    task = opened(tmp_path, "d.npz")
    x = pixels[task.row_ids("val")].astype(np.float32)

    def given(**preprocess: Any) -> np.ndarray:
        return task.teacher_inputs("val", np.arange(len(x)), 0, preprocess)[0]

    shares, pixel_units = [0.485, 0.456, 0.406], [123.675, 116.28, 103.53]
    close = {"rtol": 1e-4, "atol": 1e-4}
    np.testing.assert_allclose(given(layout="nhwc"), x / 255, **close)
    np.testing.assert_allclose(given(layout="nhwc", mean=shares, std=[0.2] * 3), (x / 255 - shares) / 0.2, **close)
    np.testing.assert_allclose(given(layout="nhwc", mean=pixel_units, std=[58.0] * 3), (x - pixel_units) / 58, **close)
    np.testing.assert_allclose(given(layout="nhwc", mean=pixel_units), x - pixel_units, **close)
    np.testing.assert_allclose(given(layout="nhwc", channels="bgr"), x[..., ::-1] / 255, **close)
    assert given(size=[4, 6]).shape == (len(x), 3, 4, 6)


def test_a_teacher_of_colour_gets_grey_spread_over_three_channels(tmp_path: Path) -> None:
    task = opened(tmp_path, "digits")
    (x,) = task.teacher_inputs("val", np.arange(3), 0, {"channels": "rgb", "size": 16})
    assert x.shape == (3, 3, 16, 16)
    np.testing.assert_array_equal(x[:, 0], x[:, 2])


def test_series_views_change_little_and_alike_for_the_teacher(tmp_path: Path) -> None:
    series = np.random.default_rng(0).normal(3, 2, (60, 2, 20))
    np.savez(tmp_path / "d.npz", x=series, length=np.full(60, 20), label=np.arange(60) % 3)
    task = opened(tmp_path, "d.npz")
    rows = np.arange(30)
    clean, changed = (task.inputs("train", rows, view)[0] for view in (0, 2))
    assert not torch.equal(clean, changed)
    assert float((clean - changed).abs().mean()) < 0.2
    mean, std = (np.array(v)[:, None] for v in (task.front.mean, task.front.std))  # type: ignore[union-attr]
    (teacher, _) = task.teacher_inputs("train", rows, 2, None)
    np.testing.assert_allclose((teacher - mean) / std, changed, atol=1e-4)


@pytest.mark.parametrize("view", [0, 1])
def test_inputs_of_no_rows(tmp_path: Path, view: int) -> None:
    task = opened(tmp_path, "digits", keep_labels=10**9)
    assert task.inputs("transfer", np.arange(0), view)[0].shape == (0, 1, 8, 8)
