"""Learning rate and bake-off: what wins, what is left out, what the tables say."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from fake_task import CountingTeacher, open_npz, open_numbers
from torch import nn

from family import spaces, tune
from family.soft_targets import open_store
from family.train import predict, score_split, train
from family.types import Training

BASE = Training("kd", 1e-2, steps=60, seed=0, batch=16, views=1)
CONTROL = replace(BASE, loss="labels", learning_rate=3e-3)


@dataclass(frozen=True)
class Says:
    """A teacher of fixed logits: `table[row id]`."""

    table: np.ndarray
    row_ids: object
    fingerprint: str
    views: int | None = None

    def outputs(self, split, rows, view):
        return self.table[self.row_ids(split)[rows]].astype(np.float32)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return open_numbers(tmp_path_factory.mktemp("numbers"), rows=900, keep_labels=30)


@pytest.fixture(scope="module")
def stores(task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    truth = np.eye(3)[task.truth] * 6
    noise = np.random.default_rng(0).normal(0, 3, truth.shape)
    return {
        name: open_store(Says(table, task.row_ids, name), task, 1, folder)
        for name, table in (("good", truth), ("noise", noise), ("wrong", np.roll(truth, 1, 1)))
    }


def trainer(task, store, width=16, depth=1):
    def train_once(training):
        params = {"width": width, "depth": depth}
        return train(spaces.build_student(spaces.mlp(), params, task, training.seed), task, store, training).module

    return train_once


def test_the_learning_rate_with_the_best_mean_wins(task, stores):
    students = [(trainer(task, stores["good"], width), task) for width in (8, 32)]
    grid = (1e-7, 1e-2, 1e30)
    rate, tries = tune.find_learning_rate(students, BASE, grid, 40)
    assert rate == 1e-2
    assert [(t["learning_rate"], t["student"]) for t in tries] == [(r, s) for r in grid for s in ("small", "large")]
    assert all(t["steps"] == 40 for t in tries)
    best = [t["val"] for t in tries if t["learning_rate"] == rate]
    assert np.mean(best) > np.mean([t["val"] for t in tries if t["learning_rate"] == 1e-7])


def test_a_rate_that_diverges_is_out_whichever_way_the_score_runs(tmp_path):
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(200, 2)).astype(np.float32)
    task = open_npz(tmp_path, {"numbers": numbers, "label": numbers[:, 0] * 3.0 + 7})
    assert not task.score.higher_is_better
    store = open_store(Says(task.truth.reshape(-1, 1), task.row_ids, "truth"), task, 1, tmp_path / "store")
    base = replace(BASE, loss="mse")
    rate, tries = tune.find_learning_rate([(trainer(task, store), task)], base, (1e30, 1e-6, 3e-2), 60)
    assert rate == 3e-2
    assert np.isnan(tries[0]["val"])
    assert tries[2]["val"] < tries[1]["val"]


def test_no_rates_are_refused(task, stores):
    with pytest.raises(ValueError, match="must hold one or more"):
        tune.find_learning_rate([(trainer(task, stores["good"]), task)], BASE, (), 10)


def test_short_runs_are_judged_on_fresh_statistics(task, stores):
    """Four steps leave running averages near their start, where a batch norm sees inputs far from it."""

    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.layers = nn.BatchNorm1d(4), nn.Linear(4, 3)

        def forward(self, x):
            return self.layers(self.norm(x * 50 + 1000))

    def train_once(training):
        torch.manual_seed(training.seed)
        return train(Shifted(), task, stores["good"], training).module

    training = replace(BASE, steps=4, learning_rate=0.1)
    stale = score_split(task, predict(train_once(training), task, "val"), "val")
    assert tune.short_run(train_once, task, training) > stale


def test_the_default_stays_where_nothing_beats_it(task, stores):
    """kd and its like from a perfect teacher are level: the first keeps its place."""
    chosen, table = tune.bake_off(
        trainer(task, stores["good"]), task, stores["good"], BASE, ("kd", "dkd", "labels"), CONTROL
    )
    assert chosen == BASE
    assert [row["loss"] for row in table] == ["kd", "dkd", "labels"]
    assert [row["won"] for row in table] == [True, False, False]
    assert table[0]["gain"] == 0
    assert table[0]["gain_low"] <= 0 <= table[0]["gain_high"]
    assert table[2]["learning_rate"] == CONTROL.learning_rate
    assert table[2]["val"] < table[0]["val"]
    assert all(row["steps"] == 60 for row in table)


def test_labels_win_against_a_teacher_that_is_wrong(task, stores):
    chosen, table = tune.bake_off(
        trainer(task, stores["wrong"]), task, stores["wrong"], BASE, ("kd", "mse", "labels"), CONTROL
    )
    assert chosen == CONTROL
    assert table[2]["won"]
    assert table[2]["gain_low"] > 0


def test_a_default_that_diverged_does_not_stay(task, stores):
    wild = replace(BASE, learning_rate=1e30)
    chosen, table = tune.bake_off(trainer(task, stores["good"]), task, stores["good"], wild, ("mse", "labels"), CONTROL)
    assert chosen == CONTROL
    assert table[0]["gain"] is None


def test_temperatures_are_tried_for_the_winner_alone(task, stores):
    losses = ("kd", "labels")
    chosen, table = tune.bake_off(
        trainer(task, stores["good"]), task, stores["good"], BASE, losses, CONTROL, temperatures=(1.0, 4.0, 8.0)
    )
    assert [(row["loss"], row["temperature"]) for row in table] == [
        ("kd", 4.0),
        ("labels", 4.0),
        ("kd", 1.0),
        ("kd", 8.0),
    ]
    assert sum(row["won"] for row in table) == 1
    (winner,) = (row for row in table if row["won"])
    assert (winner["loss"], winner["temperature"]) == (chosen.loss, chosen.temperature)


def test_losses_that_the_store_cannot_serve_are_left_out(task, tmp_path):
    wide = open_numbers(tmp_path, classes=60, rows=1200)
    store = open_store(CountingTeacher(60), wide, 1, tmp_path / "store", dense_bytes=1)
    assert not store.dense
    asked = replace(BASE, steps=5)
    _, table = tune.bake_off(
        trainer(wide, store),
        wide,
        store,
        asked,
        ("kd", "dkd", "dist", "mse", "labels"),
        replace(CONTROL, steps=5),
        (3.0, 8.0),
    )
    tried = [(row["loss"], row["temperature"]) for row in table]
    assert not {"dkd", "dist", "mse"} & {loss for loss, _ in tried}
    assert tried[0] == ("kd", 4.0)
    assert 3.0 not in {temperature for _, temperature in tried}


def test_the_bake_off_is_the_same_twice(task, stores):
    def run():
        _, table = tune.bake_off(
            trainer(task, stores["noise"]), task, stores["noise"], BASE, ("kd", "dist", "labels"), CONTROL
        )
        return table

    assert run() == run()


def test_steps_grow_with_the_data_and_shrink_with_the_work():
    assert tune.auto_steps(rows=100, cost=16) == tune.FEWEST
    assert tune.auto_steps(rows=2100, cost=16) == (20 * 2100 // 64)
    assert tune.FEWEST <= tune.auto_steps(rows=2100, cost=36_000_000) < tune.auto_steps(rows=2100, cost=16)
