"""How long students are trained: the rule on made-up outputs, steps by size, patience, what is recorded and shown."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_task import open_numbers
from torch import nn

from family import recipe as recipe_module
from family import train as training_module
from family import tune
from family.controls import paired_trainings
from family.job import Job, open_job
from family.modules import MlpStudent
from family.recipe import Recipe, bake, find_recipe
from family.soft_targets import open_store
from family.spec import read_spec
from family.students import own_training, scale, train_candidate
from family.train import plan_looks, train
from family.types import Training

KD = Training("kd", 3e-3, steps=60, seed=1, batch=16, views=1)


class Truthful:
    fingerprint, views, cost, notes = "truthful", None, {}, ()

    def __init__(self, task):
        self.task = task

    def outputs(self, split, rows, view):
        return np.eye(3, dtype=np.float32)[self.task.truth[self.task.row_ids(split)[rows]]] * 6


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return open_numbers(tmp_path_factory.mktemp("numbers"), rows=240, keep_labels=60)


@pytest.fixture(scope="module")
def store(task, tmp_path_factory):
    return open_store(Truthful(task), task, 1, tmp_path_factory.mktemp("store"))


def small() -> nn.Module:
    torch.manual_seed(0)
    return MlpStudent(4, 16, 2, 3)


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def find(task, monkeypatch, wrong: dict[int, int | None]):
    """By made-up outputs: so many rows of val wrong at so many steps; None: diverged."""

    def say(training: Training) -> np.ndarray:
        truth, count = task.labels("val"), wrong[training.steps]
        if count is None:
            return np.full((len(truth), 3), np.nan)
        return np.eye(3)[np.where(np.arange(len(truth)) < count, (truth + 1) % 3, truth)]

    monkeypatch.setattr(tune, "predict", lambda outputs, *_: outputs)
    return tune.find_length(say, task, replace(KD, steps=200), list(wrong))


@pytest.mark.parametrize(
    ("wrong", "won"),
    [
        ({100: 20, 200: 3, 400: 2}, 400),
        ({100: 9, 200: 2, 400: 2}, 400),  # the more where level
        ({100: 0, 200: 1, 400: 20}, 200),  # fewer than the usual 200 only where shown better
        ({100: 0, 200: 20, 400: 20}, 100),
        ({100: 0, 200: None, 400: None}, 100),
        ({100: 20, 200: 3, 400: None}, 200),  # one that diverged is out,
        ({100: None, 200: None, 400: None}, 400),  # unless all did
        ({200: 5}, 200),
    ],
)
def test_the_length_that_is_best_on_val_is_taken(task, monkeypatch, wrong, won):
    steps, rows = find(task, monkeypatch, wrong)
    assert steps == won
    assert [row["steps"] for row in rows if row["won"]] == [won]
    assert [row["steps"] for row in rows] == sorted(wrong)


def test_gains_of_a_length_are_over_the_fewest_steps(task, monkeypatch):
    _, (first, second, third) = find(task, monkeypatch, {100: 20, 200: 3, 400: None})
    assert first["gain"] == 0
    assert second["gain"] == pytest.approx(17 / task.rows("val"))
    assert 0 < second["gain_low"] < second["gain"] < second["gain_high"]
    assert third["gain"] is None


def test_no_lengths_are_refused(task):
    with pytest.raises(ValueError, match="one length or more"):
        tune.find_length(lambda _: small(), task, KD, [])


def test_more_steps_than_usual_are_tried_as_far_as_they_can_be_afforded(monkeypatch):
    cheap, dear = 12, 420  # multiply-accumulates

    def within(work: float, *costs: int) -> list[int]:
        monkeypatch.setattr(tune, "WORK", 3 * 64 * work)
        return tune.lengths_to_try(300, (0.5, 1.0, 2.0, 4.0), *costs)

    assert within(12 * 700, cheap, cheap) == [150, 300, 600]
    assert within(420 * 100, dear, dear) == [150, 300]  # the usual stays, whatever it takes
    assert within(420 * 430, cheap, dear) == [150, 300, 600]  # what lies between 600 and 300 is 424
    assert within(420 * 420, cheap, dear) == [150, 300]


def test_steps_go_in_log_cost_from_the_small_students_to_the_large_ones():
    usual = replace(KD, steps=400)
    found = tune.stretch_between(usual, (1600, 200), (1_000, 8_000))
    assert found.steps == 400  # whoever trains no student of one size trains as long as ever
    assert scale(found, 1_000) == replace(usual, steps=1600)
    assert scale(found, 8_000) == replace(usual, steps=200)
    assert scale(found, 2_000).steps == 800
    assert scale(found, 1).steps == 1600  # not beyond what was tried
    assert scale(replace(found, steps=100), 2_000).steps == 200  # a short run is short for all
    assert scale(usual, 7) == usual
    assert tune.stretch_between(usual, (1600, 200), (5, 5)) == replace(usual, steps=1600)
    assert tune.stretch_between(usual, (400, 400), (1, 5)) == usual


LATE = replace(KD, steps=200, batch=48, patience=2, learning_rate=3e-2)


def test_patience_ends_a_training_and_keeps_the_best_weights(task, store, monkeypatch):
    """Looks made up: better until the third, then never again."""
    seen: list[dict[str, torch.Tensor]] = []
    module = small()

    def judge(*_):
        seen.append(weights(module))
        return (float(min(len(seen), 6 - len(seen))), 0.0)

    monkeypatch.setattr(training_module, "judge_rows", judge)
    done = train(module, task, store, LATE)
    _, every = plan_looks(task.rows("val"), LATE)
    assert len(seen) == done.looks == 5
    assert done.steps == (20 // every + 5) * every
    assert same(weights(done.module), seen[2])
    assert not same(seen[2], seen[4])
    assert not done.module.training


def test_without_patience_nothing_is_looked_at(task, store, monkeypatch):
    monkeypatch.setattr(training_module, "judge_rows", lambda *_: pytest.fail("looked at val"))
    done = train(small(), task, store, replace(LATE, patience=0))
    assert (done.steps, done.looks) == (200, 0)


def test_level_scores_are_decided_by_loss(task):
    truth = task.labels("val")
    rows = np.arange(len(truth))
    sure, unsure = np.eye(3, dtype=np.float32)[truth] * 6, np.eye(3, dtype=np.float32)[truth]
    better, worse = (training_module.judge_rows(task, outputs, rows) for outputs in (sure, unsure))
    assert better[0] == worse[0] == 1
    assert better > worse > training_module.judge_rows(task, sure * np.nan, rows)


@pytest.mark.parametrize("killed_at", [15, 41, 52, 64])
def test_a_killed_training_with_patience_goes_on_to_the_same_bits(task, store, killed_at, tmp_path, monkeypatch):
    whole = train(small(), task, store, LATE)
    assert 64 < whole.steps < 200  # it stops early, after every kill
    monkeypatch.setattr(training_module, "CHECKPOINT_SECONDS", -1.0)

    def stop(step: int) -> None:
        if step == killed_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(small(), task, store, LATE, on_step=stop, checkpoint=tmp_path / "state")
    resumed = train(small(), task, store, LATE, checkpoint=tmp_path / "state")
    assert (resumed.steps, resumed.looks) == (whole.steps, whole.looks)
    assert same(weights(whole.module), weights(resumed.module))


def test_a_training_killed_when_it_was_over_takes_no_further_step(task, store, tmp_path, monkeypatch):
    monkeypatch.setattr(training_module, "CHECKPOINT_SECONDS", -1.0)
    whole = weights(train(small(), task, store, LATE, checkpoint=tmp_path / "state").module)
    resumed = train(
        small(), task, store, LATE, on_step=lambda _: pytest.fail("a further step"), checkpoint=tmp_path / "state"
    )
    assert same(whole, weights(resumed.module))


@pytest.mark.parametrize(("rows", "steps"), [(50, 2000), (200, 311), (100_000, 3000), (1, 10)])
def test_looks_take_little_of_a_training(rows, steps):
    training = replace(KD, steps=steps, batch=64, patience=3)
    seen, every = plan_looks(rows, training)
    assert len(seen) <= 512
    assert len(set(seen)) == len(seen)
    assert seen.max() < rows
    assert len(seen) * (steps // every) <= 0.03 * 3 * 64 * steps


JOB = """
name: small
data: {path: data.npz, label: label}
teacher: {path: teacher.npz}
students: {space: mlp, dims: {width: [8, 32], depth: [1, 2]}}
budgets: {best: {target: cpu}}
distill: {loss: kd, control_seeds: 1, STEPS}
"""


def open_small(folder: Path, steps: str, said: list[str]) -> Job:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    label = np.arange(300) % 3
    numbers = rng.normal(size=(300, 4)).astype(np.float32)
    numbers[:, 0] += 2 * label
    np.savez(folder / "data.npz", numbers=numbers, label=label)
    np.savez(folder / "teacher.npz", outputs=np.eye(3, dtype=np.float32)[label] * 6)
    (folder / "budgets.yaml").write_text(JOB.replace("STEPS", steps))
    return open_job(read_spec(folder / "budgets.yaml"), folder / "run", folder / "cache", said.append)


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> tuple[Job, Recipe, list[str]]:
    said: list[str] = []
    job = open_small(tmp_path_factory.mktemp("job"), "steps: auto", said)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tune, "FEWEST", 40)
        return job, find_recipe(job), said


def test_lengths_are_recorded_and_said(found):
    job, recipe, said = found
    assert (job.folder / "recipe.json").exists()
    tried = {(row["student"], row["steps"]) for row in recipe.lengths["student"]}
    usual = recipe.student.steps
    assert tried == {
        ("small", round(usual * s)) for s in recipe_module.LENGTHS["small"]
    }  # the large one takes the usual
    assert sum(line.startswith("length for ") for line in said) == 2


def test_controls_get_the_same_grids_and_as_many_trials(found):
    _, recipe, _ = found
    for tables in (recipe.learning_rates, recipe.lengths):
        tried = [[(r.get("learning_rate"), r["student"], r["steps"]) for r in tables[of]] for of in tables]
        assert tried[0] == tried[1]
        assert tried[0]


@pytest.mark.parametrize(("best", "tried"), [(1e-2, 6), (3e-3, 10), (3e-4, 10)])
def test_low_rates_are_tried_for_both_where_one_of_them_wants_them(found, monkeypatch, best, tried):
    job, _, _ = found

    def judge(train, task, training):
        return -abs(np.log(training.learning_rate / (best if training.loss == "labels" else 3e-2)))

    monkeypatch.setattr(tune, "short_run", judge)
    ways = recipe_module.find_rates(job, {"student": KD, "control": replace(KD, loss="labels")})
    assert ways["student"][0] == replace(KD, learning_rate=3e-2)
    assert ways["control"][0].learning_rate == best
    assert [len(tries) for _, tries in ways.values()] == [tried, tried]


def test_what_was_tried_is_not_trained_again_for_a_finalist(found, monkeypatch):
    job, recipe, _ = found
    monkeypatch.setattr("family.students.train", lambda *_, **__: pytest.fail("trained again"))
    won = next(row for row in recipe.lengths["student"] if row["won"])
    done = train_candidate(job, recipe_module.SIZES[won["student"]](job.space), recipe.student)
    assert (done["steps"], done["val"]) == (won["steps"], won["val"])


def test_controls_take_the_steps_that_were_found_for_them(found):
    job, recipe, _ = found
    ((student, control),) = paired_trainings(job, recipe)
    for way, training in (("student", student), ("control", control)):
        (won,) = (row["steps"] for row in recipe.lengths[way] if row["won"])
        steps = {size: own_training(job, pick(job.space), training).steps for size, pick in recipe_module.SIZES.items()}
        assert steps == {"small": won, "large": recipe.student.steps}
    assert student.seed == control.seed != job.spec.seed


def test_a_student_is_trained_by_steps_of_its_own(found):
    job, recipe, _ = found
    stretched = replace(recipe.student, steps=40, stretch=0.5, macs=100.0)
    cheap, dear = ({"width": width, "depth": 1} for width in (8, 32))
    steps = [train_candidate(job, params, stretched)["steps"] for params in (cheap, dear)]
    assert steps[0] > 40 > steps[1]


def test_given_steps_are_taken_and_no_lengths_tried(tmp_path):
    said: list[str] = []
    job = open_small(tmp_path, "steps: 30, learning_rate: 0.01, patience: 2", said)
    kept = bake(job)
    assert kept["lengths"] == {"student": [], "control": []}
    assert not any(line.startswith("length") for line in said)
    for way in ("student", "control"):
        training = Training(**kept[way])
        assert (training.steps, training.stretch, training.patience) == (30, 0.0, 2)
