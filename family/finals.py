"""The finals: what a budget could choose is exported, scored as it ships, measured afresh, and chosen from."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark import (
    Bench,
    Measurement,
    can_answer,
    host_fingerprint,
    measure_memory,
    measure_size,
    measurement_to_dict,
)
from family import spaces
from family.candidates import measure_untrained, over_limits, write_feeds
from family.host_lock import measure_alone
from family.job import Job, cost_limits, limits_of
from family.progress import Stage
from family.run_folder import recall, remember
from family.search import Searched
from family.students import Unfaithful, export_trained, outputs_of, train_candidate, trained_folder
from family.types import Training
from reports import Choice, choose, score_interval

Trial = dict[str, Any]

NEAR = {"size_kb": 1.01}  # what was a little over a limit in search may keep it when measured afresh,
NEAR_NOISY = 1.1  # timed quantities more so
ROOM = 0.9  # and who stays this far below it hardly ever breaks it


def pick_finalists(job: Job, searched: Searched, benches: Mapping[str, Bench]) -> dict[str, dict[str, Any]]:
    """`{id: params}` of what a budget could choose; where nothing comes close, what breaks its limits least."""
    done = {t["id"]: t for t in searched.trials if t["state"] == "complete"}
    higher = job.task.score.higher_is_better
    ranked = sorted(done.values(), key=lambda t: -t["val"] if higher else t["val"])
    finalists: dict[str, dict[str, Any]] = {}
    for budget in job.spec.budgets.values():
        if budget.target not in benches:
            continue
        fitting = [t for t in ranked if excess(job, t["params"], budget, benches, near=True) <= 0]
        for trial in contenders(job, fitting, budget, benches, searched.finalists) or nearest(
            job, searched, budget, benches
        ):
            finalists[trial["id"]] = trial["params"]
    return finalists


def contenders(job: Job, fitting: list[Trial], budget: Any, benches: Mapping[str, Bench], most: int) -> list[Trial]:
    """The best on val, one with room to spare, and the cheapest that come close; with a limit on the score, the
    best and the cheapest that reach it. `fitting`: trials that keep the costs' limits or nearly, best first; `most`
    of the best are taken."""
    if not fitting:
        return []
    cheap = sorted(fitting, key=lambda t: cheapness(job, t, budget, benches))
    rows, grouped = job.task.rows("val"), job.task.groups("val") is not None
    sign = 1 if job.task.score.higher_is_better else -1
    if budget.score is not None:
        sure = [t for t in cheap if sign * (t["val"] - budget.score) >= noise_of(t["val"], rows, grouped)]
        bare = [t for t in cheap if sign * (t["val"] - budget.score) >= 0]
        return [*fitting[:most], *sure[:3], *bare[:2]]
    best = fitting[0]["val"]
    close = [t for t in cheap if abs(t["val"] - best) <= noise_of(best, rows, grouped)]
    roomy = [t for t in fitting if excess(job, t["params"], budget, benches) <= ROOM - 1]
    return [*fitting[:most], *roomy[:1], *close[:3]]


def nearest(job: Job, searched: Searched, budget: Any, benches: Mapping[str, Bench]) -> list[Trial]:
    """Of all that was measured, trained or not, the one that breaks the budget's cost limits least."""
    measured = [t for t in searched.trials if t["state"] in ("complete", "pruned")]
    return sorted(measured, key=lambda t: (excess(job, t["params"], budget, benches), t["number"]))[:1]


def excess(job: Job, params: Mapping[str, Any], budget: Any, benches: Mapping[str, Bench], near: bool = False) -> float:
    """The least, over precisions, of the greatest `measured / limit - 1` of the budget's cost limits, by the
    search's own measurements; `near`: with limits as much wider as a fresh measurement may differ."""
    limits = {q: v * (NEAR.get(q, NEAR_NOISY) if near else 1.0) for q, v in cost_limits(budget).items()}
    figures = measure_untrained(job, params, benches)["costs"][budget.target]
    return min(over_limits(one, limits) for one in figures.values())


def cheapness(job: Job, trial: Trial, budget: Any, benches: Mapping[str, Bench]) -> float:
    """By the cost that decides between equals, at the cheapest precision."""
    cost = budget.cheapest_by or job.spec.main_cost(budget.target)
    figures = measure_untrained(job, trial["params"], benches)["costs"][budget.target]
    return float(min(f[cost]["value"] for f in figures.values()))


def noise_of(value: float, rows: int, grouped: bool) -> float:
    """Two standard errors of a score over `rows` (three where rows come in groups): a wide net for finalists only,
    the choice itself is made on paired intervals. A score in 0..1 is taken as a share, any other as its own spread."""
    variance = max(value * (1 - value), 1 / rows) if 0 <= value <= 1 else value * value
    return float((3 if grouped else 2) * (variance / rows) ** 0.5)


def finish(job: Job, finalists: Mapping[str, dict[str, Any]], recipe: Training) -> dict[str, dict[str, Any]]:
    """Train, export at every precision and score on val: everything but measuring. Those whose file would not be
    what was trained are left out, and it is said."""
    finished: dict[str, dict[str, Any]] = {}
    for done, (identity, params) in enumerate(finalists.items()):
        job.watch(Stage("training and exporting finalists", done, len(finalists)))
        if math.isnan(train_candidate(job, params, recipe)["val"]):
            job.show(
                f"warning: student {identity} ({spaces.describe_params(params)}) is left out; its training diverged"
            )
            continue
        try:
            export_trained(job, params, recipe)
        except Unfaithful as problem:
            job.show(f"warning: student {identity} ({spaces.describe_params(params)}) is left out; {problem}")
            continue
        for precision in job.precisions:
            outputs_of(job, params, recipe, precision, "val")
        finished[identity] = params
    return finished


def measure_finalists(
    job: Job, finalists: Mapping[str, Mapping[str, Any]], recipe: Training, benches: Mapping[str, Bench]
) -> dict[str, dict[str, Any]]:
    """`{id: {target: {precision: {quantity: measurement}}}}` of the trained files, with nothing else running.

    Those of a file are written once and never retaken on the same host; what is new is timed together, in the
    same fresh processes.
    """
    measured, new = {}, {}
    for identity, params in finalists.items():
        path, inputs = measuring_inputs(job, params, recipe, benches)
        kept = recall(path, inputs)
        if kept is None:
            new[identity] = params
        else:
            measured[identity] = kept
    job.watch(Stage(f"measuring {len(finalists)} finalists, nothing else running"))
    with measure_alone(job.show) if new else contextlib.nullcontext():
        latencies = {name: time_afresh(job, new, recipe, name, bench) for name, bench in benches.items()}
        for identity, params in new.items():
            path, inputs = measuring_inputs(job, params, recipe, benches)
            figures = {
                name: {
                    precision: measure_file(job, name, path.parent / precision / "model.onnx", bench, latencies[name])
                    for precision in job.precisions
                }
                for name, bench in benches.items()
            }
            measured[identity] = remember(path, inputs, partial(dict, figures))
    return measured


def measuring_inputs(
    job: Job, params: Mapping[str, Any], recipe: Training, benches: Mapping[str, Bench]
) -> tuple[Path, list[Any]]:
    """Where a finalist's measurements are kept, and what they depend on: its files, the targets, the host."""
    hashes = {p: a["sha256"] for p, a in export_trained(job, params, recipe).items()}
    targets = {name: str(job.targets[name]) for name in benches}
    return trained_folder(job, params, recipe) / "measurements.json", [hashes, targets, host_fingerprint()]


def time_afresh(
    job: Job, finalists: Mapping[str, Mapping[str, Any]], recipe: Training, target: str, bench: Bench
) -> dict[Path, Measurement]:
    """Latency of every file of these students, timed together."""
    if "latency_ms" not in can_answer(job.targets[target]):
        return {}
    folders = [trained_folder(job, params, recipe) for params in finalists.values()]
    paths = [folder / precision / "model.onnx" for folder in folders for precision in job.precisions]
    return dict(zip(paths, bench.paired_afresh(paths), strict=True)) if paths else {}


def measure_file(
    job: Job, target: str, path: Path, bench: Bench, latencies: Mapping[Path, Measurement]
) -> dict[str, Any]:
    figures = [measure_size(path, job.targets[target])]
    if path in latencies:
        figures += [latencies[path], *bench.direct(path, 0.5)]
        figures.append(measure_memory(path, job.targets[target], write_feeds(job)))
    kept = {figure.quantity: measurement_to_dict(figure) for figure in figures}
    if "latency_ms" in kept:  # the same student fed with what its front would give
        bare = bench.paired(path.with_name("body.onnx"), 0.2)
        kept["latency_without_front_ms"] = measurement_to_dict(bare) | {"quantity": "latency_without_front_ms"}
    return kept


def finalist_rows(
    job: Job, finalists: Mapping[str, Any], recipe: Training, measured: Mapping[str, Any]
) -> pd.DataFrame:
    """One row per finalist × precision × target, with every quantity, its interval and its provenance."""
    truth, groups = job.task.labels("val"), job.task.groups("val")
    rows = []
    for identity, params in finalists.items():
        done = train_candidate(job, params, recipe)
        for precision in job.precisions:
            outputs = outputs_of(job, params, recipe, precision, "val")
            val = score_interval(job.task.score, truth, outputs, groups)
            for target, figures in measured[identity].items():
                row = {
                    "id": identity,
                    "role": "student",
                    "finalist": True,
                    "target": target,
                    "precision": precision,
                    "parameters": done["parameters"],
                    "seed": recipe.seed,
                    "val": val.value,
                    "val_low": val.low,
                    "val_high": val.high,
                    "host": host_fingerprint(),
                }
                rows.append(row | params_column(params) | flat_figures(figures[precision]))
    return pd.DataFrame(rows)


def params_column(params: Mapping[str, Any]) -> dict[str, str]:
    return {"params": json.dumps(dict(params))}


def flat_figures(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """`latency_ms`, `latency_ms_low`, `latency_ms_high`, `latency_ms_provenance`, … for every quantity."""
    flat: dict[str, Any] = {}
    for quantity, figure in figures.items():
        flat[quantity] = figure["value"]
        flat |= {f"{quantity}_{part}": figure[part] for part in ("low", "high", "provenance", "noisy")}
    return flat


def choose_students(job: Job, rows: pd.DataFrame, finalists: Mapping[str, Any], recipe: Training) -> dict[str, Choice]:
    """The winner of every budget whose target was measured, on val and on fresh measurements."""
    if not len(rows):
        return {}
    truth, groups = job.task.labels("val"), job.task.groups("val")
    outputs = {
        (identity, precision): outputs_of(job, params, recipe, precision, "val")
        for identity, params in finalists.items()
        for precision in job.precisions
    }
    chosen = {}
    for name, budget in job.spec.budgets.items():
        here = rows[rows["target"] == budget.target]
        here = here[[flips_allowed(job, outputs, i, p) for i, p in zip(here["id"], here["precision"], strict=True)]]
        if len(here):
            cost = budget.cheapest_by or job.spec.main_cost(budget.target)
            chosen[name] = choose(limits_of(budget), cost, here, truth, outputs, job.task.score, groups)
    return chosen


def flips_allowed(job: Job, outputs: Mapping[tuple[str, str], Any], identity: str, precision: str) -> bool:
    """Whether a precision changes no more of fp32's answers on val than `export.max_flips` allows."""
    most = job.spec.export.max_flips
    if most is None or precision == "fp32" or job.task.kind != "classification" or (identity, "fp32") not in outputs:
        return True
    changed = outputs[identity, precision].argmax(1) != outputs[identity, "fp32"].argmax(1)
    return bool(changed.mean() <= most)
