"""How well costs are predicted, how fast, and what the filter saves without losing anything.

`python -P tests/perf/cost_prediction.py`, some five minutes; students on digits, untrained, fp32 and int8.

First table: 60 random students of each space measured, half of them (drawn at random) to fit on, half to test: mean and
worst error out of sample, rank agreement (Spearman), and those of as few as a search measures (its design).
Second table: the asks of a search of 60 trials under example budgets, judged by a made-up score that grows with the
weights. Every candidate that was refused unmade is made and measured after all: "lost" are those that would have kept
a budget.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from scipy.stats import spearmanr

from benchmark import Bench, Predictor, fit, host, predict
from family import spaces
from family.build import cache_folder
from family.candidates import measure_untrained, open_benches, violation
from family.job import Job, open_job
from family.predicting import feature_row, open_filter
from family.search import search
from family.spec import read_spec
from family.types import Training

STUDENTS, FITTED = 60, 30
SPACES = {
    "conv": "{space: conv}",
    "mlp": "{space: mlp}",
    "factory": f"{{space: '{Path(__file__).parent}/plain_factory.py:plain'}}",
}
BUDGETS = {  # of the examples, where they limit costs; two where most of the space is too large, by size and by time
    "conv": "{tiny: {target: cpu, size_kb: 6}, small: {target: cpu, size_kb: 9}, fast: {target: cpu, latency_ms: 0.014}}",
    "mlp": "{small: {target: cpu, size_kb: 40}, fast: {target: cpu, latency_ms: 0.006}}",
    "factory": "{small: {target: cpu, size_kb: 8}, fast: {target: cpu, latency_ms: 0.012}}",
}
SPEC = """
data: digits
teacher: digits
students: SPACE
budgets: BUDGETS
search: {trials: 60, minutes: null, engine: tpe}
export: {precisions: [fp32, int8]}
"""
Rows = list[dict[str, float]]


@contextmanager
def open_run(space: str, folder: Path) -> Any:
    (folder / "budgets.yaml").write_text(SPEC.replace("SPACE", SPACES[space]).replace("BUDGETS", BUDGETS[space]))
    job = open_job(read_spec(folder / "budgets.yaml"), folder / "run", cache_folder(folder), lambda _: None)
    with open_benches(job) as benches:
        yield job, benches


def measure_random(job: Job, benches: Mapping[str, Bench]) -> tuple[Rows, list[Any], float]:
    """Features and costs of random students, and how many rows of features are counted a second."""
    rng = np.random.default_rng(job.spec.seed)
    drawn = [spaces.sample(job.space, rng) for _ in range(STUDENTS)]
    costs = [measure_untrained(job, params, benches)["costs"]["cpu"] for params in drawn]
    feature_row(job, drawn[0])  # the first also loads libraries
    start = time.process_time()
    rows = [feature_row(job, params) for params in drawn]
    return rows, costs, STUDENTS / (time.process_time() - start)


def judge_fit(predictor: Predictor, rows: Rows, values: np.ndarray) -> tuple[float, float, float, float]:
    """Mean, greatest overprediction, greatest underprediction (relative), and Spearman."""
    found = np.array([predict(predictor, row) for row in rows])
    errors = found / values - 1
    return float(np.abs(errors).mean()), float(errors.max()), float(errors.min()), float(spearmanr(found, values)[0])


def say_prediction(job: Job, benches: Mapping[str, Bench], space: str) -> None:
    rows, costs, rate = measure_random(job, benches)
    order = np.random.default_rng(1).permutation(STUDENTS)
    fitted, tested = order[:FITTED], order[FITTED:]
    designed = open_filter(job, benches)
    assert designed is not None
    row, filter_ = rows[0], designed
    start = time.process_time()
    for _ in range(200):
        violation(job, filter_.tell(row, 1.0))
    checks = 200 / (time.process_time() - start)
    for precision in job.precisions:
        for quantity in ("latency_ms", "size_kb"):
            values = np.array([one[precision][quantity]["value"] for one in costs])
            half = fit([rows[i] for i in fitted], values[fitted])
            mean, over, under, rank = judge_fit(half, [rows[i] for i in tested], values[tested])
            few = filter_.predictors["cpu"][precision].get(quantity)
            said = f"{'not used':>38}"
            if few:
                few_mean, few_over, *_ = judge_fit(few, rows, values)
                said = f"{100 * few_mean:12.1f}{100 * few_over:+12.1f}{100 * few.margin:14.0f}"
            print(
                f"{space:9}{precision:6}{quantity:12}{100 * mean:8.1f}{100 * over:+10.1f}{100 * under:+10.1f}{rank:10.3f}"
                f"{said}{rate:10.0f}{checks:10.0f}",
                flush=True,
            )


def score_of(job: Job, params: Mapping[str, Any]) -> float:
    weights = feature_row(job, params)["weights"]
    return weights / (weights + 5000)


def say_savings(job: Job, benches: Mapping[str, Bench], space: str) -> None:
    """The search with the filter, its scores made up; then all that it refused is measured."""
    train = lambda job, params, recipe: {"val": score_of(job, params)}  # noqa: E731
    with mock.patch("family.engines.train_candidate", train):
        start = time.perf_counter()
        searched = search(job, Training("kd", 0.01, 10, 0), benches)
        seconds = time.perf_counter() - start
    told = [t for t in searched.trials if t["predicted"]]
    distinct = {t["id"]: t["params"] for t in told}
    begin = time.perf_counter()
    over = [violation(job, measure_untrained(job, params, benches)["costs"]) for params in distinct.values()]
    saved = time.perf_counter() - begin
    pruned = sum(t["state"] == "pruned" for t in searched.trials)
    print(
        f"{space:9}{len(searched.trials):7}{pruned:8}{len(told):11}{len(distinct):10}{sum(one <= 0 for one in over):6}"
        f"{seconds:10.1f}{saved:10.1f}",
        flush=True,
    )


def main() -> None:
    print(f"{host()['cpu']}, onnxruntime {host()['onnxruntime']}; load at the start {os.getloadavg()[0]:.1f}")
    print("per cent; fitted on 30 and tested on 30, then on the search's design and tested on all 60")
    head = f"{'space':9}{'':6}{'':12}{'mean':>8}{'over':>10}{'under':>10}{'Spearman':>10}"
    print(head + f"{'mean':>12}{'over':>12}{'margin':>14}{'rows/s':>10}{'checks/s':>10}")
    each(say_prediction)
    print(
        f"\n{'space':9}{'asks':>7}{'pruned':>8}{'predicted':>11}{'distinct':>10}{'lost':>6}{'search s':>10}{'saved s':>10}"
    )
    each(say_savings)
    print(f"load at the end {os.getloadavg()[0]:.1f}")


def each(say: Any) -> None:
    for space in SPACES:
        with tempfile.TemporaryDirectory() as name, open_run(space, Path(name)) as (job, benches):
            say(job, benches, space)


if __name__ == "__main__":
    main()
