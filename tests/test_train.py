"""Training: the same seed the same bits, also after a resume; controls, calibration, units."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_task import CountingTeacher, open_npz, open_numbers
from torch import nn

from family import train as training_module
from family.errors import Mistakes
from family.modules import ConvStudent, MlpStudent
from family.soft_targets import SoftTargets, open_store
from family.spaces import build_student, mlp
from family.tasks import DataOptions, open_task
from family.train import load_student, pick_device, plan_batches, predict, recalibrate, save_student, train
from family.types import Training

KD = Training("kd", 3e-3, steps=30, seed=1, batch=16, views=2)


class Truthful:
    """Knows every label of the data, and is sure of it."""

    fingerprint, views, cost, notes = "truthful", None, {}, ()

    def __init__(self, task):
        self.task = task

    def outputs(self, split, rows, view):
        truth = self.task.truth[self.task.row_ids(split)[rows]]
        return np.eye(len(self.task.classes), dtype=np.float32)[truth] * 6


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x):
        return self.layers(x)


def small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return MlpStudent(4, 16, 2, 3)


def dropping() -> nn.Module:
    torch.manual_seed(0)
    return Dropping()


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return open_numbers(tmp_path_factory.mktemp("numbers"), rows=240, keep_labels=60)


@pytest.fixture(scope="module")
def store(task, tmp_path_factory):
    return open_store(Truthful(task), task, 1, tmp_path_factory.mktemp("store"))


@pytest.mark.parametrize("build", [small, dropping])
def test_the_same_seed_gives_the_same_bits(task, store, build):
    first = weights(train(build(), task, store, KD).module)
    torch.manual_seed(99)
    module = build()
    torch.rand(7)
    assert same(first, weights(train(module, task, store, KD).module))
    assert not same(first, weights(train(build(), task, store, replace(KD, seed=2)).module))


def test_training_leaves_the_callers_generator_alone(task, store):
    module, before = small(), torch.get_rng_state()
    train(module, task, store, KD)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("build", [small, dropping])
@pytest.mark.parametrize("killed_at", [1, 13, 29])
def test_a_killed_training_goes_on_to_the_same_bits(task, store, build, killed_at, tmp_path, monkeypatch):
    whole = weights(train(build(), task, store, KD).module)
    monkeypatch.setattr(training_module, "CHECKPOINT_SECONDS", -1.0)

    def stop(step: int) -> None:
        if step == killed_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(build(), task, store, KD, on_step=stop, checkpoint=tmp_path / "state.pt")
    steps: list[int] = []
    resumed = train(build(), task, store, KD, on_step=steps.append, checkpoint=tmp_path / "state.pt")
    assert steps == list(range(killed_at + 1, 31))
    assert same(whole, weights(resumed.module))


def test_a_checkpoint_of_another_training_is_not_taken(task, store, tmp_path, monkeypatch):
    monkeypatch.setattr(training_module, "CHECKPOINT_SECONDS", -1.0)
    train(small(), task, store, KD, checkpoint=tmp_path / "state.pt")
    other = replace(KD, seed=8)
    expected = weights(train(small(), task, store, other).module)
    assert same(expected, weights(train(small(), task, store, other, checkpoint=tmp_path / "state.pt").module))


def test_the_control_never_looks_at_soft_targets_or_the_pool(task, store):
    control = replace(KD, loss="labels")
    first = weights(train(small(), task, store, control).module)
    empty = SoftTargets("none", 1, 3, 0, {})
    assert same(first, weights(train(small(), task, empty, control).module))
    assert not plan_batches(task, control).transfer.any()


def test_a_plan_sees_every_row_once_per_epoch(task):
    total = task.rows("train") + task.rows("transfer")
    plan = plan_batches(task, replace(KD, batch=10, steps=total // 10))
    seen = set(zip(plan.transfer.ravel().tolist(), plan.rows.ravel().tolist(), strict=True))
    assert len(seen) == total // 10 * 10


def test_soft_targets_teach(task, store):
    long = replace(KD, steps=150, label_weight=0.0, learning_rate=1e-2)
    assert train(small(), task, store, long).val_score > 0.7


def test_a_misled_student_follows_its_teacher(task, tmp_path):
    """Labels say one thing, the teacher another: with label weight 0 the teacher wins, with 1 the labels."""

    class Shifted(Truthful):
        fingerprint = "shifted"

        def outputs(self, split, rows, view):
            return np.roll(super().outputs(split, rows, view), 1, axis=1)

    wrong = open_store(Shifted(task), task, 1, tmp_path)
    long = replace(KD, steps=150, learning_rate=1e-2)
    assert train(small(), task, wrong, replace(long, label_weight=0.0)).val_score < 0.2
    full = open_npz_without_pool(tmp_path)
    wrong = open_store(Shifted(full), full, 1, tmp_path)
    assert train(small(), full, wrong, replace(long, label_weight=1.0)).val_score > 0.7


def open_npz_without_pool(folder):
    return open_numbers(folder, rows=240)


def test_digits_are_learnt_in_a_few_steps(tmp_path):
    task = open_task(DataOptions("digits", tmp_path, views=2), tmp_path)
    store = open_store(Truthful(task), task, 2, tmp_path)
    torch.manual_seed(0)
    student = ConvStudent(1, 8, 8, 1, 10)
    trained = train(student, task, store, replace(KD, steps=120, batch=64, learning_rate=1e-2))
    assert trained.val_score > 0.5
    assert trained.steps == 120
    assert predict(trained.module, task, "val").shape == (200, 10)


def test_recalibration_changes_statistics_only(task, store):
    module = train(small(), task, store, replace(KD, steps=3)).module
    before = weights(module)
    recalibrate(module, task)
    changed = {name for name, value in weights(module).items() if not torch.equal(value, before[name])}
    assert changed
    assert all("running" in name or "tracked" in name for name in changed)
    assert not module.training
    assert module.norms[0].momentum == 0.1


def test_recalibrated_statistics_are_those_of_the_data(task):
    module = nn.Sequential(nn.BatchNorm1d(4, affine=False), nn.Linear(4, 3))
    recalibrate(module, task, batches=40, size=60)
    x = torch.cat([task.inputs(s, np.arange(task.rows(s)), 0)[0] for s in ("train", "transfer")])
    assert torch.allclose(module[0].running_mean, x.mean(0), atol=0.05)
    assert torch.allclose(module[0].running_var, x.var(0), rtol=0.1)


def test_regression_is_learnt_in_the_labels_units(tmp_path):
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(300, 2)).astype(np.float32)
    price = 500_000 + 80_000 * numbers[:, 0] - 40_000 * numbers[:, 1]
    task = open_npz(tmp_path, {"numbers": numbers, "label": price})

    class Knows(CountingTeacher):
        def outputs(self, split, rows, view):
            return price[task.row_ids(split)[rows]][:, None].astype(np.float32)

    store = open_store(Knows(1), task, 1, tmp_path / "store")
    for loss in ("mse", "labels"):
        student = build_student(mlp(), {"width": 32, "depth": 1}, task, 0)
        training = Training(loss, 1e-2, 300, 0, batch=64, views=1)
        trained = train(student, task, store, training)
        assert trained.val_score < 30_000
        said = predict(trained.module, task, "val")[:, 0]
        assert said.mean() == pytest.approx(price[task.row_ids("val")].mean(), rel=0.03)


def test_a_diverged_training_scores_nan(task, store):
    assert np.isnan(train(small(), task, store, replace(KD, loss="mse", learning_rate=1e30)).val_score)


def test_students_are_kept_bit_for_bit(task, store, tmp_path):
    module = train(small(), task, store, KD).module
    save_student(module, tmp_path / "student.safetensors")
    other = small(5)
    load_student(other, tmp_path / "student.safetensors")
    assert same(weights(module), weights(other))


def test_an_unknown_device_is_refused():
    assert pick_device("cpu") == "cpu"
    with pytest.raises(Mistakes, match=r"must be auto, cpu, cuda or mps. Got 'tpu'"):
        pick_device("tpu")
