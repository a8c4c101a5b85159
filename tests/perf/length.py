"""How long students of each size should be trained, at which rate, and what stopping early would save.

`python -P tests/perf/length.py [--keep FOLDER]`: trains the smallest, middle and largest student of conv and mlp on
digits (200 labels) and of mlp on diamonds (where `examples/diamonds/prepare.py` has been run), distilled and from
labels alone, at two learning rates, half, once, twice and four times `auto_steps`, three seeds: 18 minutes on one
core. With a folder, what was trained there is read again. Three tables: the test score by size and length, each at
the rate that is best on val for it; what rules for rate and length would have taken; what patience would have saved.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmark import host
from family import spaces, tune
from family.build import cache_folder
from family.job import Job, open_job
from family.losses import supervised
from family.recipe import usual_steps
from family.spec import read_spec
from family.train import predict, score_split, train
from family.types import Split, Task, Training

ROOT = Path(__file__).parents[2]
RATES, LENGTHS, SEEDS = (1e-2, 3e-2), (0.5, 1.0, 2.0, 4.0), (0, 1, 2)
SIZES = {"smallest": spaces.smallest, "middle": spaces.middle, "largest": spaces.largest}
WAYS = {"distilled": "kd", "labels": "labels"}
LOOKS = 40  # evaluations on val within one training
DIGITS = """
data: {path: digits, keep_labels: 200}
teacher: digits
students: {space: SPACE, dims: {width: WIDTHS, depth: [1, 3]}}
budgets: {best: {target: cpu}}
"""


@dataclass(frozen=True)
class Run:
    """One training: outputs at the end by split, and per look `(step, val score, val loss, test score)`."""

    val: np.ndarray
    test: np.ndarray
    looks: np.ndarray


def open_jobs(folder: Path) -> dict[str, Job]:
    specs = {}
    for space, widths in (("conv", "[4, 32]"), ("mlp", "[8, 96]")):
        specs[f"digits {space}"] = folder / f"{space}.yaml"
        specs[f"digits {space}"].write_text(DIGITS.replace("SPACE", space).replace("WIDTHS", widths))
    diamonds = ROOT / "examples" / "diamonds"
    if (diamonds / "data" / "teacher.npz").exists():
        specs["diamonds mlp"] = diamonds / "budgets.yaml"
    return {n: open_job(read_spec(p), folder / n, cache_folder(folder / n), lambda _: None) for n, p in specs.items()}


def run_once(job: Job, size: str, training: Training, keep: Path) -> Run:
    """Train with a look at val and test now and then; kept."""
    if keep.exists():
        return Run(**np.load(keep))
    module = spaces.build_student(job.space, SIZES[size](job.space), job.task, training.seed)
    looks: list[tuple[float, ...]] = []
    every = max(1, training.steps // LOOKS)

    def look(step: int) -> None:
        if step % every == 0:
            looks.append((step, *look_at(job.task, predict(module, job.task, "val"), "val")))
            looks[-1] += look_at(job.task, predict(module, job.task, "test"), "test")[:1]
            module.train()

    train(module, job.task, job.soft_targets(), training, on_step=look)
    run = Run(predict(module, job.task, "val"), predict(module, job.task, "test"), np.array(looks))
    np.savez(keep, **vars(run))
    return run


def look_at(task: Task, outputs: np.ndarray, split: Split) -> tuple[float, float]:
    loss = supervised(task.kind)(torch.from_numpy(outputs), torch.from_numpy(task.labels(split))).mean().item()
    return score_split(task, outputs, split), loss


Key = tuple[str, str, str, float, float, int]  # data, size, way, rate, length, seed


def run_all(jobs: Mapping[str, Job], keep: Path) -> Iterator[tuple[Key, Run]]:
    for seed in SEEDS:
        for name, job in jobs.items():
            for size, way in ((s, w) for s in SIZES for w in WAYS):
                for rate, length in ((r, n) for r in RATES for n in LENGTHS):
                    key = (name, size, way, rate, length, seed)
                    steps = round(base_steps(job) * length)
                    training = Training(WAYS[way], rate, steps, seed, views=job.soft_targets().views)
                    yield key, run_once(job, size, training, keep / ("-".join(map(str, key)) + ".npz"))


def base_steps(job: Job) -> int:
    return usual_steps(job)


Runs = Mapping[Key, Run]
Shares = Mapping[str, tuple[float, float]]  # size → (rate, length)
Plan = Callable[[Job, Runs, str, str, int], Shares]


def score_test(job: Job, run: Run) -> float:
    return score_split(job.task, run.test, "test")


def score_val(job: Job, run: Run) -> float:
    return tune.goodness(job.task, score_split(job.task, run.val, "val"))


def best_rate(job: Job, runs: Runs, name: str, way: str, sizes: tuple[str, ...], length: float, seeds: Any) -> float:
    def mean(rate: float) -> float:
        return float(np.mean([score_val(job, runs[name, s, way, rate, length, i]) for s in sizes for i in seeds]))

    return max(RATES, key=mean)


def tabulate_sizes(jobs: Mapping[str, Job], runs: Runs) -> None:
    """Test score by length, each size at the rate best for it at that length (val, mean of the seeds)."""
    print("\n| data | way | size | " + " | ".join(f"{n:g} ×" for n in LENGTHS) + " | best rate at each |")
    print("| --- | --- | --- |" + " ---: |" * (len(LENGTHS) + 1))
    for name, job in jobs.items():
        for way, size in ((w, s) for w in WAYS for s in SIZES):
            cells, rates = [], []
            for length in LENGTHS:
                rates.append(best_rate(job, runs, name, way, (size,), length, SEEDS))
                scores = [score_test(job, runs[name, size, way, rates[-1], length, i]) for i in SEEDS]
                cells.append(f"{np.mean(scores):.3f} ± {np.std(scores, ddof=1):.3f}")
            print(f"| {name} | {way} | {size} | {' | '.join(cells)} | {', '.join(f'{r:g}' for r in rates)} |")


def shown_worse(job: Job, one: Run, other: Run) -> bool:
    high = tune.compare(job.task, one.val, other.val)["gain_high"]
    return high is not None and high < 0


def shortest(job: Job, tried: Mapping[float, Run]) -> float:
    """The shortest that is not shown worse on val than the longest."""
    longest = tried[max(tried)]
    return next(n for n in tried if not shown_worse(job, tried[n], longest))


def best(job: Job, tried: Mapping[float, Run]) -> float:
    """The best on val, intervals or not."""
    return max(tried, key=lambda n: score_val(job, tried[n]))


ENDS = ("smallest", "largest")
HALF = {"smallest": (1.0, 2.0, 4.0), "largest": (0.5, 1.0)}
ONCE = {"smallest": (1.0, 2.0, 4.0), "largest": (1.0,)}
TWICE = {"smallest": (1.0, 2.0, 4.0), "largest": (1.0, 2.0)}


def by_size(rule: Callable[[Job, Mapping[float, Run]], float], grids: Mapping[str, tuple[float, ...]]) -> Plan:
    """One rate (from half the steps, both ends together), each end its own length, the middle what lies between."""

    def plan(job: Job, runs: Runs, name: str, way: str, seed: int) -> Shares:
        rate = best_rate(job, runs, name, way, ENDS, 0.5, (seed,))
        low, high = (rule(job, {n: runs[name, s, way, rate, n, seed] for n in grids[s]}) for s in ENDS)
        return {"smallest": (rate, low), "middle": (rate, between(low, high, LENGTHS)), "largest": (rate, high)}

    return plan


def always(*lengths: float) -> Plan:
    """Given lengths of the smallest, middle and largest."""

    def plan(job: Job, runs: Runs, name: str, way: str, seed: int) -> Shares:
        rate = best_rate(job, runs, name, way, ENDS, 0.5, (seed,))
        return {size: (rate, length) for size, length in zip(SIZES, lengths, strict=True)}

    return plan


def rate_by_size(job: Job, runs: Runs, name: str, way: str, seed: int) -> Shares:
    """Each end its own rate, the middle what lies between; `auto_steps` for all."""
    low, high = (best_rate(job, runs, name, way, (s,), 0.5, (seed,)) for s in ENDS)
    return {"smallest": (low, 1.0), "middle": (between(low, high, RATES), 1.0), "largest": (high, 1.0)}


def between(low: float, high: float, grid: tuple[float, ...]) -> float:
    """What of the grid is nearest to the geometric mean."""
    return min(grid, key=lambda g: abs(np.log(g) - 0.5 * (np.log(low) + np.log(high))))


PLANS = {
    "½ for all": always(0.5, 0.5, 0.5),
    "1 for all (as before)": always(1.0, 1.0, 1.0),
    "1 for all, rate by size": rate_by_size,
    "2 for all": always(2.0, 2.0, 2.0),
    "4 for all": always(4.0, 4.0, 4.0),
    "4, 2, 1": always(4.0, 2.0, 1.0),
    "4, 1, ½": always(4.0, 1.0, 0.5),
    "small 1 to 4, large ½ to 1, shortest not shown worse": by_size(shortest, HALF),
    "small 1 to 4, large ½ to 1, best on val": by_size(best, HALF),
    "small 1 to 4, large 1, shortest not shown worse": by_size(shortest, ONCE),
    "small 1 to 4, large 1, best on val": by_size(best, ONCE),
    "small 1 to 4, large 1 to 2, best on val": by_size(best, TWICE),
}


def tabulate_plans(jobs: Mapping[str, Job], runs: Runs) -> None:
    """What each plan takes by the val scores of one seed, and the test score that such students have over all seeds;
    mean of the three sizes."""
    print("\n| plan | " + " | ".join(f"{n}, {w}" for n in jobs for w in WAYS) + " | mean lengths |")
    print("| --- |" + " ---: |" * (len(jobs) * len(WAYS) + 1))
    for label, plan in PLANS.items():
        cells, lengths = [], []
        for name, way in ((n, w) for n in jobs for w in WAYS):
            plans = [plan(jobs[name], runs, name, way, seed) for seed in SEEDS]
            lengths += [[one[s][1] for s in SIZES] for one in plans]
            tests = [
                score_test(jobs[name], runs[name, s, way, *one[s], i]) for one in plans for s in SIZES for i in SEEDS
            ]
            cells.append(f"{np.mean(tests):.4f}")
        print(f"| {label} | {' | '.join(cells)} | {', '.join(f'{n:.2f}' for n in np.mean(lengths, 0))} |")


def stop_early(run: Run, higher: bool, patience: int, stride: int) -> tuple[float, float]:
    """The share of the steps taken, and the test score of the best look; `stride`: one look of so many is taken."""
    last = run.looks[-1, 0]
    kept: tuple[tuple[float, float], float] | None = None
    waited, taken = 0, 0.0
    for step, val, loss, test in run.looks[::-1][::stride][::-1]:
        if step <= 0.1 * last:
            continue
        found = (val if higher else -val, -loss)
        waited = 0 if kept is None or found > kept[0] else waited + 1
        kept = (found, test) if not waited else kept
        taken = step / last
        if waited >= patience:
            break
    assert kept is not None
    return float(taken), float(kept[1])


def tabulate_patience(jobs: Mapping[str, Job], runs: Runs) -> None:
    """Steps saved and test score gained by patience, at one rate for all sizes and once or twice `auto_steps`."""
    print("\n| data | way | length | looks | patience | steps saved | test gained |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for name, job in jobs.items():
        for way, length in ((w, n) for w in WAYS for n in (1.0, 2.0)):
            rate = best_rate(job, runs, name, way, ENDS, 0.5, SEEDS)
            for stride, patience in ((6, 2), (2, 3), (2, 5), (2, 99)):
                shares, gains = [], []
                for s, i in ((s, i) for s in SIZES for i in SEEDS):
                    run = runs[name, s, way, rate, length, i]
                    share, test = stop_early(run, job.task.score.higher_is_better, patience, stride)
                    shares.append(share)
                    gains.append(test - score_test(job, run))
                saved = f"{1 - np.mean(shares):.1%} | {np.mean(gains):+.4f} ± {np.std(gains, ddof=1):.4f}"
                print(f"| {name} | {way} | {length:g} × | {LOOKS // stride} | {patience} | {saved} |")


def main() -> None:
    asked = argparse.ArgumentParser(description="How long students of each size should be trained.")
    asked.add_argument("--keep", type=Path, help="where trainings are kept")
    keep = asked.parse_args().keep
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jobs = open_jobs(folder)
        (keep or folder).mkdir(parents=True, exist_ok=True)
        runs = dict(run_all(jobs, keep or folder))
        print(f"{host()['cpu']}; {len(runs)} trainings of {', '.join(f'{n} {base_steps(j)}' for n, j in jobs.items())}")
        tabulate_sizes(jobs, runs)
        tabulate_plans(jobs, runs)
        tabulate_patience(jobs, runs)


if __name__ == "__main__":
    main()
