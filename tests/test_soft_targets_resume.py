"""A store that was interrupted goes on, keeps its digits, and leaves test alone."""

import numpy as np
import pytest
from fake_task import CountingTeacher, open_numbers, say

from family.soft_targets import SoftTargets, dense_fields, open_store, score_outputs


class Stopped(CountingTeacher):
    """Is interrupted at the given call."""

    def __init__(self, outputs, at):
        super().__init__(outputs)
        self.at = at

    def outputs(self, split, rows, view):
        if self.calls == self.at:
            raise KeyboardInterrupt
        return super().outputs(split, rows, view)


@pytest.mark.parametrize("at", range(6))
def test_an_interrupted_store_asks_only_for_the_missing_views(tmp_path, at):
    task = open_numbers(tmp_path, keep_labels=20)
    whole = open_store(CountingTeacher(3), task, 3, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        open_store(Stopped(3, at), task, 3, tmp_path / "store")
    teacher = CountingTeacher(3)
    store = open_store(teacher, task, 3, tmp_path / "store")
    assert teacher.calls == 6 - at
    for split in ("train", "transfer"):
        assert np.array_equal(store.arrays[split]["logits"], whole.arrays[split]["logits"])


def test_an_interruption_within_a_view_leaves_no_part_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr("family.soft_targets.CHUNK", 7)
    task = open_numbers(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        open_store(Stopped(3, 15), task, 2, tmp_path / "store")  # the second view of 12 chunks has begun
    store = open_store(CountingTeacher(3), task, 2, tmp_path / "store")
    rows = np.arange(task.rows("train"))
    for view in (0, 1):
        said = say("train", rows, view, 3)
        assert np.allclose(store.batch("train", rows, rows * 0 + view).logits, said, atol=5e-3)


def test_large_arrays_stay_on_disk_and_give_the_same(tmp_path, monkeypatch):
    task = open_numbers(tmp_path)
    rows, views = np.array([5, 1, 1]), np.array([0, 1, 0])
    small = open_store(CountingTeacher(3), task, 2, tmp_path / "store").batch("train", rows, views)
    monkeypatch.setattr("family.soft_targets.IN_MEMORY", 0)
    store = open_store(CountingTeacher(3), task, 2, tmp_path / "store")
    assert isinstance(store.arrays["train"]["logits"], np.memmap)
    assert np.array_equal(store.batch("train", rows, views).logits, small.logits)


def test_an_offset_of_all_logits_costs_no_digits():
    said = np.random.default_rng(0).normal(5000, 2, (4, 30)).astype(np.float32)
    arrays = {name: values[None] for name, values in dense_fields(said).items()}
    rows = np.arange(4)
    found = SoftTargets("", 1, 30, 64, {"train": arrays}).batch("train", rows, rows * 0).logits.numpy()
    assert np.abs(found - said).max() < 5e-3
    assert np.abs(said.astype(np.float16) - said).max() > 0.5


def test_filling_a_store_and_scoring_val_ask_nothing_of_test(tmp_path):
    asked = set()

    class Watched(CountingTeacher):
        def outputs(self, split, rows, view):
            asked.add(split)
            return super().outputs(split, rows, view)

    task = open_numbers(tmp_path, keep_labels=20)
    open_store(Watched(3), task, 1, tmp_path / "store")
    score_outputs(Watched(3), task, "val", tmp_path / "store")
    assert asked == {"train", "transfer", "val"}
