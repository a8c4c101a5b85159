"""What a search costs against training its winners once, and what it finds against a plain loop.

`python -P tests/perf/search_cost.py table` trains 64 students, even in log cost, per data set, space and seed, each in
full with the tuned learning rate, and keeps them in `runs/search-cost` (an hour and more on one core; it resumes).
`python -P tests/perf/search_cost.py` replays against that table: the plain loop (Optuna TPE, 200 trials, each counted
in full) and the engine (shared weights trained for real, their ranking, finals from the table). Both select on val
among the students of the table, under five limits even in log cost; both are judged on test.

Compute: multiply-accumulates × rows, three times the forward pass for training and once for judging. Teacher passes,
learning rate, bake-off and controls are the same for both and are not in it; the run's report tells them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from optuna.samplers import TPESampler
from scipy.stats import spearmanr

from benchmark import host
from family import spaces
from family.build import cache_folder
from family.job import Job, open_job
from family.recipe import find_recipe
from family.sampling import even_draws
from family.spec import read_spec
from family.students import load_trained, train_candidate
from family.supernet import POOL, fit_estimate, judge_slice, train_supernet
from family.train import predict
from family.types import Training
from reports import difference

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CONFIGS, SEEDS, LOOP, LIMITS, ASKED = 64, 3, 200, 5, 60
SETS = {
    "digits": {"data": "digits", "teacher": "digits", "keep": "keep_labels: 200", "input": "null"},
    "emoji": {
        "data": str(ROOT / "examples/emoji/data/emoji.npz"),
        "teacher": str(ROOT / "examples/emoji/data/teacher.onnx"),
        "keep": "label: category, group: emoji",
        "input": "16",
    },
}
SPACES = {
    "conv": "space: conv, dims: {width: [4, 32], depth: [1, 3]}",
    "factory": f"space: '{HERE}/plain_factory.py:plain'",
}
FILE = """
name: NAME
seed: SEED
data: {path: DATA, KEEP}
teacher: {path: TEACHER EXTRA}
students: {SPACE, input: INPUT}
budgets: {best: {target: cpu}}
"""
EMOJI = ", classes: '{}', preprocess: {{size: 64, mean: [0, 0, 0], std: [1, 1, 1], layout: nchw, channels: rgb}}"


def open_case(name: str, space: str, seed: int, folder: Path) -> tuple[Job, Training]:
    known = SETS[name]
    extra = EMOJI.format(ROOT / "examples/emoji/data/classes.txt") if name == "emoji" else ""
    text = FILE.replace("NAME", f"{name}-{space}-{seed}").replace("SEED", str(seed)).replace("KEEP", known["keep"])
    text = text.replace("DATA", known["data"]).replace("TEACHER", known["teacher"]).replace("EXTRA", extra)
    text = text.replace("SPACE", SPACES[space]).replace("INPUT", known["input"])
    run = folder / f"{name}-{space}-{seed}"
    run.mkdir(parents=True, exist_ok=True)
    (run / "budgets.yaml").write_text(text)
    job = open_job(read_spec(run / "budgets.yaml"), run, cache_folder(run), lambda _: None)
    return job, find_recipe(job).student


def train_table(job: Job, recipe: Training) -> list[dict[str, Any]]:
    """Every student of the table: params, cost, val and test score; what is there is not trained again."""
    rows = []
    for params in even_draws(job, CONFIGS):
        done = train_candidate(job, params, recipe)
        outputs = predict(load_trained(job, params, recipe), job.task, "test")
        kept = job.folder / "outputs" / f"{len(rows)}.npy"
        kept.parent.mkdir(exist_ok=True)
        np.save(kept, outputs)
        test = job.task.score.fn(job.task.labels("test"), outputs)
        rows.append({"params": dict(params), "macs": macs_of(job, params), "val": done["val"], "test": float(test)})
    return rows


def macs_of(job: Job, params: Mapping[str, Any]) -> float:
    module = spaces.build_student(job.space, params, job.task, job.spec.seed)
    return float(spaces.count_macs(module, job.task.inputs("val", np.arange(1), 0)))


@dataclass(frozen=True)
class Found:
    """Per limit which row of the table was picked, and what finding it cost."""

    picks: list[int]
    compute: float


def limits_of(table: list[dict[str, Any]]) -> np.ndarray:
    costs = np.array([row["macs"] for row in table])
    return np.geomspace(costs.min() * 2, costs.max(), LIMITS)


def pick(table: list[dict[str, Any]], among: list[int]) -> list[int]:
    """The best on val under each limit, of these rows; the cheapest of all where none is under it."""
    picks = []
    for limit in limits_of(table):
        under = [i for i in among if table[i]["macs"] <= limit * 1.0001] or [min(among, key=lambda i: table[i]["macs"])]
        picks.append(max(under, key=lambda i: (table[i]["val"], -table[i]["macs"])))
    return picks


def full_cost(table: list[dict[str, Any]], rows: list[int], recipe: Training) -> float:
    return float(sum(3 * table[i]["macs"] * recipe.steps * recipe.batch for i in rows))


def run_loop(job: Job, table: list[dict[str, Any]], recipe: Training, seed: int) -> Found:
    """Optuna TPE over the table's rows by their log cost: 200 trials, each in full, score and cost as objectives."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=TPESampler(seed=seed))
    asked: list[int] = []
    for _ in range(LOOP):
        trial = study.ask()
        params = spaces.suggest(trial, job.space)
        row = nearest(table, job, params)
        asked.append(row)
        study.tell(trial, [table[row]["val"], table[row]["macs"]])
    return Found(pick(table, asked), full_cost(table, asked, recipe))


def nearest(table: list[dict[str, Any]], job: Job, params: Mapping[str, Any]) -> int:
    """The row whose parameters are nearest, each in its own range, widths by their logarithm."""

    def place(given: Mapping[str, Any]) -> np.ndarray:
        return np.array([scaled(dim, given[name]) for name, dim in job.space.dims.items()])

    wanted = place(params)
    return int(np.argmin([np.abs(place(row["params"]) - wanted).sum() for row in table]))


def scaled(dim: Any, value: Any) -> float:
    low, high = (float(dim.low), float(dim.high))
    if high == low:
        return 0.0
    if dim.log:
        return float(np.log(value / low) / np.log(high / low))
    return (float(value) - low) / (high - low)


def run_engine(job: Job, table: list[dict[str, Any]], recipe: Training, finals: int) -> tuple[Found, float, float]:
    """Shared weights judge `ASKED` students; `finals` best by their estimate under each limit are trained in full.
    Also the ranker's agreement with the table (val) over 24 random rows, and with short runs' there."""
    pool = even_draws(job, POOL)
    supernet = train_supernet(job, recipe, pool)
    estimate = fit_estimate(job, supernet, pool)
    rng = np.random.default_rng(job.spec.seed)
    asked = sorted(rng.choice(len(table), min(ASKED, len(table)), replace=False).tolist())
    worth = {i: estimate.score(judge_slice(job, supernet, table[i]["params"])[1]) for i in range(len(table))}
    chosen: list[int] = []
    for limit in limits_of(table):
        under = [i for i in asked if table[i]["macs"] <= limit * 1.0001]
        chosen += sorted(under, key=lambda i: -worth[i])[:finals]
    distinct = sorted(set(chosen)) or [min(asked, key=lambda i: table[i]["macs"])]
    rows = job.task.rows("val") + 8 * 64  # judged, and batch-norm statistics before
    judging = sum(table[i]["macs"] * rows for i in asked) + sum(macs_of(job, p) * rows for p in pool)
    compute = 3 * supernet.macs + judging + full_cost(table, distinct, recipe)
    drawn = rng.choice(len(table), 24, replace=False)
    truth = [np.mean([table[i]["val"], table[i]["test"]]) for i in drawn]
    agreement = float(spearmanr([worth[i] for i in drawn], truth).statistic)
    return Found(pick(table, distinct), compute), agreement, float(len(distinct))


def hypervolume(table: list[dict[str, Any]], rows: list[int]) -> float:
    """Of (log cost, test error) below the table's greatest cost and an error of 1, over these rows."""
    low, high = (np.log(f(row["macs"] for row in table)) for f in (min, max))
    points = sorted(((np.log(table[i]["macs"]) - low) / (high - low), 1 - table[i]["test"]) for i in set(rows))
    volume, best = 0.0, 1.0
    for (cost, error), nxt in zip(points, [*[p[0] for p in points[1:]], 1.0], strict=True):
        best = min(best, error)
        volume += (nxt - cost) * (1 - best)
    return volume


def compare(job: Job, table: list[dict[str, Any]], ours: list[int], theirs: list[int]) -> tuple[float, float, float]:
    """Mean test difference over the limits, rows drawn together: value, low, high, in points."""
    outputs = [np.load(job.folder / "outputs" / f"{i}.npy") for i in range(len(table))]
    truth = np.concatenate([job.task.labels("test")] * LIMITS)
    ids = np.concatenate([job.task.row_ids("test")] * LIMITS)
    pairs = [np.concatenate([outputs[i] for i in picks]) for picks in (ours, theirs)]
    found = difference(job.task.score, truth, [pairs[0]], [pairs[1]], ids)
    return 100 * found.value, 100 * found.low, 100 * found.high


def report(folder: Path) -> None:
    print(f"{date.today()}, {host()['cpu']}, torch {torch.__version__}, optuna {optuna.__version__}")
    head = f"{'set':8}{'space':9}{'seed':>5}{'finals':>8}{'trained':>8}{'÷ chosen':>10}{'loop ÷':>8}"
    print(f"{head}{'test − loop, points':>26}{'HV %':>8}{'ranker':>8}")
    for path in sorted(folder.glob("*/table.json")):
        name, space, seed = path.parent.name.rsplit("-", 2)
        job, recipe = open_case(name, space, int(seed), folder)
        table = json.loads(path.read_text())
        loop = run_loop(job, table, recipe, int(seed))
        for finals in (1, 2, 3):
            ours, agreement, trained = run_engine(job, table, recipe, finals)
            once = full_cost(table, ours.picks, recipe)
            gap = compare(job, table, ours.picks, loop.picks)
            share = 100 * hypervolume(table, ours.picks) / hypervolume(table, loop.picks)
            line = f"{name:8}{space:9}{seed:>5}{finals:8}{trained:8.0f}{ours.compute / once:10.2f}"
            line += f"{loop.compute / ours.compute:8.1f}{gap[0]:+9.2f} ({gap[1]:+.2f} to {gap[2]:+.2f}){share:8.1f}"
            print(f"{line}{agreement:8.3f}", flush=True)


def build_tables(folder: Path, names: list[str], seeds: range) -> None:
    for name in names:
        for space in SPACES:
            for seed in seeds:
                begin = time.monotonic()
                job, recipe = open_case(name, space, seed, folder)
                table = train_table(job, recipe)
                (job.folder / "table.json").write_text(json.dumps(table))
                print(f"{job.folder.name}: {len(table)} students, {time.monotonic() - begin:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=("table", "report"), default="report")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "search-cost")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    options = parser.parse_args()
    if options.what == "table":
        build_tables(options.folder, options.sets, range(options.seeds))
    elif not list(options.folder.glob("*/table.json")):
        print("search_cost: no table yet; `python -P tests/perf/search_cost.py table` trains it (an hour and more)")
    else:
        report(options.folder)


if __name__ == "__main__":
    main()
