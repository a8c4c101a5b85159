"""The soft-target store: kept exactly, small, never half-read, asked once."""

import numpy as np
import pytest
from fake_task import CountingTeacher, open_npz, open_numbers, say
from scipy.special import logsumexp

from family.errors import Mistakes
from family.soft_targets import TEMPERATURES, SoftTargets, open_store, score_outputs, sparse_fields
from family.train import plan_batches
from family.types import Training

ROWS = np.array([0, 3, 3, 7])
VIEWS = np.array([0, 1, 0, 1])


@pytest.fixture
def task(tmp_path):
    return open_numbers(tmp_path, keep_labels=20)


def test_dense_logits_come_back_as_said(task, tmp_path):
    store = open_store(CountingTeacher(3), task, 2, tmp_path / "store")
    for split in ("train", "transfer"):
        said = np.concatenate([say(split, ROWS[i : i + 1], VIEWS[i], 3) for i in range(4)])
        assert np.allclose(store.batch(split, ROWS, VIEWS).logits.numpy(), said, atol=5e-3)
    assert store.dense
    assert "all" in store.has


def test_sparse_store_keeps_the_top_the_moments_and_the_rest(task, tmp_path):
    task.body.outputs[0].__dict__["shape"] = ("batch", 1000)
    store = open_store(CountingTeacher(1000), task, 2, tmp_path / "store", dense_bytes=0)
    assert not store.dense
    assert store.bytes_per_view <= 64
    assert "all" not in store.has
    batch = store.batch("transfer", ROWS, VIEWS)
    said = np.concatenate([say("transfer", ROWS[i : i + 1], VIEWS[i], 1000) for i in range(4)])
    assert np.array_equal(batch.ids.numpy(), np.argsort(-said, 1)[:, :10])
    assert np.allclose(batch.top.numpy(), -np.sort(-said, 1)[:, :10], rtol=1e-3)
    assert np.allclose(batch.mean.numpy(), said.mean(1), atol=1e-3)
    assert np.allclose(batch.std.numpy(), said.std(1), rtol=1e-3)


def test_rest_is_the_logsumexp_of_the_others_at_each_temperature():
    said = np.random.default_rng(0).normal(40, 4, (3, 200)).astype(np.float32)
    arrays = {name: values[None] for name, values in sparse_fields(said).items()}
    rows = np.arange(3)
    batch = SoftTargets("", 1, 200, 0, {"train": arrays}).batch("train", rows, rows * 0)
    for row in rows:
        z = (said[row] - said[row].mean()) / said[row].std()
        sides = [np.delete(side.astype(np.float64), batch.ids[row]) for side in (said[row], z)]
        expected = [logsumexp(side / t) for side in sides for t in TEMPERATURES]
        assert np.allclose(batch.rest[row], expected, rtol=1e-3, atol=5e-3)


def test_the_teacher_is_asked_once(task, tmp_path):
    teacher = CountingTeacher(3)
    first = open_store(teacher, task, 2, tmp_path / "store")
    asked = teacher.calls
    second = open_store(teacher, task, 2, tmp_path / "store")
    assert teacher.calls == asked == 4
    assert second.fingerprint == first.fingerprint
    assert np.array_equal(first.arrays["train"]["logits"], second.arrays["train"]["logits"])
    assert open_store(teacher, task, 1, tmp_path / "store").fingerprint != first.fingerprint
    assert teacher.calls == asked + 2


def test_a_half_written_store_is_never_read(task, tmp_path):
    teacher = CountingTeacher(3)
    store = open_store(teacher, task, 1, tmp_path / "store")
    place = tmp_path / "store" / store.fingerprint
    array = place / "train-logits.npy"
    whole = array.read_bytes()
    (place / "done.json").unlink()
    array.write_bytes(whole[:-20])
    again = open_store(teacher, task, 1, tmp_path / "store")
    assert teacher.calls == 4
    assert np.array_equal(again.arrays["train"]["logits"], store.arrays["train"]["logits"])


def test_a_teacher_that_fails_midway_leaves_nothing_to_read(task, tmp_path):
    class Failing(CountingTeacher):
        def outputs(self, split, rows, view):
            if split == "transfer":
                raise KeyboardInterrupt
            return super().outputs(split, rows, view)

    with pytest.raises(KeyboardInterrupt):
        open_store(Failing(3), task, 1, tmp_path / "store")
    assert {p.name[0] for p in (tmp_path / "store").iterdir()} == {"."}
    store = open_store(CountingTeacher(3), task, 1, tmp_path / "store")
    assert np.allclose(store.arrays["train"]["logits"][0], say("train", np.arange(20), 0, 3), atol=5e-3)


def test_values_of_any_size_are_kept(tmp_path):
    price = np.linspace(200_000, 900_000, 40)
    task = open_npz(tmp_path, {"numbers": np.random.default_rng(0).random((40, 2)), "label": price})

    class Dear(CountingTeacher):
        def outputs(self, split, rows, view):
            return 500_000 + say(split, rows, view, 1)

    store = open_store(Dear(1), task, 1, tmp_path / "store")
    said = 500_000 + say("train", np.array([0]), 0, 1)
    assert store.batch("train", np.array([0]), np.array([0])).logits.numpy() == pytest.approx(said, rel=1e-6)


def test_clean_outputs_are_kept(task, tmp_path):
    teacher = CountingTeacher(3)
    first = score_outputs(teacher, task, "val", tmp_path / "kept")
    assert np.array_equal(first, say("val", np.arange(task.rows("val")), 0, 3))
    assert np.array_equal(score_outputs(teacher, task, "val", tmp_path / "kept"), first)
    assert teacher.calls == 1


def test_a_plan_sees_every_row_once_per_epoch(task):
    plan = plan_batches(task, Training("kd", 1e-3, task.rows("transfer") // 10 + 2, 0, batch=10))
    seen = list(zip(plan.transfer.ravel().tolist(), plan.rows.ravel().tolist(), strict=True))
    total = task.rows("train") + task.rows("transfer")
    assert len(set(seen[:total])) == min(total, len(seen))


def test_a_damaged_store_is_made_anew(task, tmp_path):
    teacher = CountingTeacher(3)
    store = open_store(teacher, task, 1, tmp_path / "store")
    array = tmp_path / "store" / store.fingerprint / "train-logits.npy"
    content = bytearray(array.read_bytes())
    content[-3] ^= 0xFF
    array.write_bytes(bytes(content))
    again = open_store(teacher, task, 1, tmp_path / "store")
    assert teacher.calls == 4
    assert np.array_equal(again.arrays["train"]["logits"], store.arrays["train"]["logits"])


def test_stored_outputs_have_one_view(task, tmp_path):
    teacher = CountingTeacher(3)
    teacher.views = 1
    with pytest.raises(Mistakes, match=r"at most 1 with this teacher. Got 2"):
        open_store(teacher, task, 2, tmp_path / "store")
