"""What a search costs against training its winners once, and what it finds against a plain loop.

`python -P tests/perf/search_cost.py table` trains 64 students, even in log cost, per data set, space and seed, each in
full with the tuned learning rate, and keeps them in `runs/search-cost` (an hour and more on one core; it resumes).
`python -P tests/perf/search_cost.py` replays against that table: the plain loop (Optuna TPE, 200 trials, each counted
in full) and the engine (shared weights, what 60 trials ask for, where students begin, and a race per limit, all done
for real). Both select on val under five limits even in log cost; both are judged on test.

Compute: multiply-accumulates × rows, three times the forward pass for training and once for judging. The loop is given
the tuned learning rate and loss for nothing, and so is the engine; "tuning" and "controls" say what those take, in the
same unit, the five chosen trained once. The teacher passes once over every view, for both.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
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
from family.engines import calibrate, share_weights
from family.finals import race_of
from family.job import Job, open_job
from family.losses import losses_for
from family.race import Runner, next_to_train
from family.recipe import TEMPERATURES, UPPER, find_recipe
from family.sampling import even_draws
from family.spec import read_spec
from family.starts import choose_start
from family.students import load_trained, train_candidate
from family.supernet import BATCHES, FITTED, alone
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


def open_case(name: str, space: str, seed: int, folder: Path) -> Job:
    known = SETS[name]
    extra = EMOJI.format(ROOT / "examples/emoji/data/classes.txt") if name == "emoji" else ""
    text = FILE.replace("NAME", f"{name}-{space}-{seed}").replace("SEED", str(seed)).replace("KEEP", known["keep"])
    text = text.replace("DATA", known["data"]).replace("TEACHER", known["teacher"]).replace("EXTRA", extra)
    text = text.replace("SPACE", SPACES[space]).replace("INPUT", known["input"])
    run = folder / f"{name}-{space}-{seed}"
    run.mkdir(parents=True, exist_ok=True)
    (run / "budgets.yaml").write_text(text)
    return open_job(read_spec(run / "budgets.yaml"), run, cache_folder(run), lambda _: None)


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
class Case:
    """One data set, space and seed: the job, how the table was trained, and the table."""

    job: Job
    recipe: Training
    table: list[dict[str, Any]]

    def full_cost(self, rows: Iterable[int], steps: int | None = None) -> float:
        """Multiply-accumulates of training these rows once."""
        return float(sum(3 * self.table[i]["macs"] * (steps or self.recipe.steps) * self.recipe.batch for i in rows))

    def under(self, limit: float, among: Iterable[int]) -> list[int]:
        return [i for i in among if self.table[i]["macs"] <= limit * 1.0001]

    def limits(self) -> np.ndarray:
        costs = np.array([row["macs"] for row in self.table])
        return np.geomspace(costs.min() * 2, costs.max(), LIMITS)

    def pick(self, vals: Mapping[int, float]) -> list[int]:
        """The best on val under each limit; among equals the cheapest."""
        picks = []
        for limit in self.limits():
            able = self.under(limit, vals) or [min(vals, key=lambda i: float(self.table[i]["macs"]))]
            picks.append(max(able, key=lambda i: (vals[i], -self.table[i]["macs"])))
        return picks


@dataclass(frozen=True)
class Ours:
    """What the engine picked, with test outputs, and its compute by part."""

    picks: list[int]
    outputs: dict[int, np.ndarray]
    trained: int
    training: Training
    parts: dict[str, float]
    agreement: float

    @property
    def compute(self) -> float:
        return sum(self.parts.values())


def open_table(path: Path, folder: Path) -> Case:
    name, space, seed = path.parent.name.rsplit("-", 2)
    kept = json.loads(path.read_text())
    return Case(open_case(name, space, int(seed), folder), Training(**kept["recipe"]), kept["rows"])


def ask(case: Case, worth: Sequence[float], trials: int) -> list[int]:
    """Rows that Optuna TPE asks for, each the nearest to its parameters; worth and cost are its objectives."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=TPESampler(seed=case.job.spec.seed))
    asked: list[int] = []
    for _ in range(trials):
        trial = study.ask()
        row = nearest(case.table, case.job, spaces.suggest(trial, case.job.space))
        asked.append(row)
        study.tell(trial, [worth[row], case.table[row]["macs"]])
    return asked


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


def run_engine(case: Case) -> Ours:
    """Shared weights judge what `ASKED` trials ask for, students begin as a comparison says, and a race per limit trains
    whom it could choose: all by the product's own functions."""
    job, table = case.job, case.table
    training, tries = choose_start(job, case.recipe)
    judge = share_weights(job, case.recipe)
    worth = [judge.score(row["params"]) for row in table]
    asked = sorted({*even_rows(case, ASKED // 4), *ask(case, worth, ASKED - ASKED // 4)})
    calibration = calibrate(job, training, judge)
    vals: dict[int, float] = {}
    for limit in case.limits():
        runners = [Runner(str(i), table[i]["macs"], worth[i]) for i in case.under(limit, asked)]
        race = race_of(job, job.spec.budgets["best"], [r.judged for r in runners], 1)
        while True:
            known = [*calibration, *((worth[i], val) for i, val in vals.items())]
            runner = next_to_train(race, runners, {str(i): val for i, val in vals.items()}, known)
            if runner is None:
                break
            row = int(runner.id)
            vals[row] = train_candidate(job, table[row]["params"], training)["val"]
    rows = job.task.rows("val") + BATCHES * 64
    small, middle = (macs_of(job, size(job.space)) for size in (spaces.smallest, spaces.middle))
    step = 3 * case.recipe.batch * case.recipe.steps
    parts = {
        "ranker": 3 * judge.facts["supernet_macs"],
        "judging": sum(table[i]["macs"] * rows for i in asked)
        + sum(macs_of(job, p) * rows for p in even_draws(job, FITTED)),
        "start": step * (2 * small + middle) if tries else 0.0,  # the middle one's own start is of the bake-off
        "finals": case.full_cost(vals, training.steps),
    }
    drawn = np.random.default_rng(job.spec.seed).choice(len(table), 24, replace=False)
    truth = [np.mean([table[i]["val"], table[i]["test"]]) for i in drawn]
    agreement = float(spearmanr([worth[i] for i in drawn], truth).statistic)
    picks = case.pick(vals)
    outputs = {i: predict(load_trained(job, table[i]["params"], training), job.task, "test") for i in set(picks)}
    return Ours(picks, outputs, len(vals), training, parts, agreement)


def even_rows(case: Case, count: int) -> list[int]:
    """What the search begins with: rows even in log cost, the cheapest and the dearest among them."""
    by_cost = sorted(range(len(case.table)), key=lambda i: float(case.table[i]["macs"]))
    return [by_cost[i] for i in np.linspace(0, len(by_cost) - 1, count).round().astype(int)]


def hypervolume(case: Case, tests: Mapping[int, float]) -> float:
    """Of (log cost, test error) below the table's greatest cost and an error of 1, over these rows."""
    low, high = (np.log(f(row["macs"] for row in case.table)) for f in (min, max))
    points = sorted(((np.log(case.table[i]["macs"]) - low) / (high - low), 1 - test) for i, test in tests.items())
    volume, best = 0.0, 1.0
    for (cost, error), nxt in zip(points, [*[p[0] for p in points[1:]], 1.0], strict=True):
        best = min(best, error)
        volume += (nxt - cost) * (1 - best)
    return volume


@dataclass(frozen=True)
class Pairs:
    """Test outputs of both, limit after limit, with the truth and the rows' names."""

    truth: np.ndarray
    ids: np.ndarray
    ours: np.ndarray
    loop: np.ndarray


def pair(case: Case, ours: Ours, loop: list[int]) -> Pairs:
    job = case.job
    theirs = [np.load(job.folder / "outputs" / f"{i}.npy") for i in loop]
    mine = [ours.outputs[i] for i in ours.picks]
    truth, ids = job.task.labels("test"), job.task.row_ids("test").astype(str)
    return Pairs(np.tile(truth, LIMITS), np.tile(ids, LIMITS), np.concatenate(mine), np.concatenate(theirs))


def say_difference(case: Case, pairs: Sequence[Pairs]) -> str:
    """Ours minus the loop's in points of the score, the same rows drawn together over limits, seeds and spaces."""
    truth, ids, ours, loop = (np.concatenate([getattr(p, f) for p in pairs]) for f in ("truth", "ids", "ours", "loop"))
    found = difference(case.job.task.score, truth, [ours], [loop], ids)
    return f"{100 * found.value:+.2f} ({100 * found.low:+.2f} to {100 * found.high:+.2f})"


def compare(case: Case) -> tuple[Pairs, list[float]]:
    """Both run, one line printed; the figures of it that are averaged."""
    loop = ask(case, [row["val"] for row in case.table], LOOP)
    theirs = case.pick({i: case.table[i]["val"] for i in loop})
    ours = run_engine(case)
    once = case.full_cost(ours.picks)
    score = case.job.task.score.fn
    tests = {i: float(score(case.job.task.labels("test"), out)) for i, out in ours.outputs.items()}
    share = hypervolume(case, tests) / hypervolume(case, {i: case.table[i]["test"] for i in theirs})
    figures = [ours.compute / once, case.full_cost(loop) / ours.compute, 100 * share, ours.agreement]
    seeds, way = case.job.spec.distill.control_seeds, ours.training
    control = case.full_cost(set(ours.picks), 2 * way.steps + way.inherits) * seeds
    extra = [(control + seeds * (ours.parts["ranker"] if way.inherits else 0)) / once, tuning(case) / once]
    pairs = pair(case, ours, theirs)
    parts = " ".join(f"{ours.parts[name] / once:.2f}" for name in PARTS)
    begin = f"{way.steps}/{case.recipe.steps}{' shared' if way.inherits else ' own'}"
    line = f"{case.job.spec.name:18}{begin:>15}{ours.trained:>8}{figures[0]:10.2f}  {parts:>20}{figures[1]:8.1f}"
    line += f"{say_difference(case, [pairs]):>25}{figures[2]:8.1f}{figures[3]:8.3f}{extra[0]:10.1f}{extra[1]:8.1f}"
    print(line, flush=True)
    return pairs, figures


PARTS = ("ranker", "judging", "start", "finals")


def tuning(case: Case) -> float:
    """Learning rates of students and controls (the upper ones, which are tried first), and the bake-off."""
    job, step = case.job, 3 * case.recipe.batch
    small, middle, large = (macs_of(job, f(job.space)) for f in (spaces.smallest, spaces.middle, spaces.largest))
    short = max(20, case.recipe.steps // 3)
    bakes = len(losses_for(job.task.kind)) + len(TEMPERATURES)
    return float(step * (2 * len(UPPER) * short * (small + large) + bakes * case.recipe.steps * middle))


def report(folder: Path) -> None:
    print(f"{date.today()}, {host()['cpu']}, torch {torch.__version__}, optuna {optuna.__version__}")
    head = f"{'case':18}{'steps':>15}{'trained':>8}{'÷ chosen':>10}  {'rank judge start final':>20}{'loop ÷':>8}"
    print(f"{head}{'test − loop, points':>25}{'HV %':>8}{'ranker':>8}{'controls':>10}{'tuning':>8}")
    groups: dict[str, list[tuple[Case, Pairs, list[float]]]] = {}
    for path in sorted(folder.glob("*/table.json")):
        case = open_table(path, folder)
        groups.setdefault(case.job.spec.name.rsplit("-", 1)[0], []).append((case, *compare(case)))
    for name, done in groups.items():
        mean = np.mean([figures for _, _, figures in done], 0)
        gap = say_difference(done[0][0], [pairs for _, pairs, _ in done])
        print(f"{name + ', all':18}{'':23}{mean[0]:10.2f}  {'':20}{mean[1]:8.1f}{gap:>25}{mean[2]:8.1f}{mean[3]:8.3f}")


def build_tables(folder: Path, names: list[str], seeds: range) -> None:
    for seed in seeds:
        for name in names:
            for space in SPACES:
                begin = time.monotonic()
                job = open_case(name, space, seed, folder)
                recipe = alone(find_recipe(job).student)
                rows = train_table(job, recipe)
                (job.folder / "table.json").write_text(json.dumps({"recipe": asdict(recipe), "rows": rows}))
                print(f"{job.folder.name}: {len(rows)} students, {time.monotonic() - begin:.0f} s", flush=True)


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
