"""The finals: what a budget could choose is exported, scored as it ships, measured afresh, and chosen from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from benchmark import Bench, can_answer, host_fingerprint, measure_memory, measure_size, measurement_to_dict
from family.candidates import measure_untrained, write_feeds
from family.job import Job, limits_of
from family.run_folder import remember
from family.search import Searched
from family.students import export_trained, outputs_of, train_candidate, trained_folder
from family.types import Training
from reports import Choice, choose, score_interval

NEAR = 1.1  # a candidate this close over a limit may still keep it when measured afresh
PER_BUDGET = 4


def pick_finalists(job: Job, searched: Searched, benches: Mapping[str, Bench]) -> dict[str, dict[str, Any]]:
    """`{id: params}` of what a budget could choose: its best on val, and the cheapest that come close."""
    done = {t["id"]: t for t in searched.trials if t["state"] == "complete"}
    higher = job.task.score.higher_is_better
    ranked = sorted(done.values(), key=lambda t: -t["val"] if higher else t["val"])
    finalists: dict[str, dict[str, Any]] = {}
    for budget in job.spec.budgets.values():
        if budget.target not in benches:
            continue
        fitting = [t for t in ranked if fits(job, t["params"], budget, benches)] or ranked[:1]
        for trial in (*fitting[:PER_BUDGET], *cheapest_close(job, fitting, budget.target, benches)):
            finalists[trial["id"]] = trial["params"]
    return finalists


def fits(job: Job, params: Mapping[str, Any], budget: Any, benches: Mapping[str, Bench]) -> bool:
    """Whether some precision keeps the budget's cost limits, or nearly, by the search's own measurements."""
    limits = {q: v for q, v in limits_of(budget).items() if q != "score"}
    figures = measure_untrained(job, params, benches)["costs"][budget.target]
    return any(all(f[q]["value"] <= v * NEAR for q, v in limits.items()) for f in figures.values())


def cheapest_close(
    job: Job, fitting: list[dict[str, Any]], target: str, benches: Mapping[str, Bench]
) -> list[dict[str, Any]]:
    """Up to three of the cheapest whose val score lies within the noise of the best."""
    best = fitting[0]["val"]
    width = noise_of(best, job.task.rows("val"), job.task.groups("val") is not None)
    close = [t for t in fitting if abs(t["val"] - best) <= width]
    cost = job.spec.main_cost(target)

    def cheapness(trial: dict[str, Any]) -> float:
        figures = measure_untrained(job, trial["params"], benches)["costs"][target]
        return float(min(f[cost]["value"] for f in figures.values()))

    return sorted(close, key=cheapness)[:3]


def noise_of(value: float, rows: int, grouped: bool) -> float:
    """Two standard errors of a score over `rows` (three where rows come in groups): a wide net for finalists only,
    the choice itself is made on paired intervals. A score in 0..1 is taken as a share, any other as its own spread."""
    variance = max(value * (1 - value), 1 / rows) if 0 <= value <= 1 else value * value
    return float((3 if grouped else 2) * (variance / rows) ** 0.5)


def finish(job: Job, params: Mapping[str, Any], recipe: Training) -> None:
    """Train, export at every precision and score on val: everything but measuring."""
    train_candidate(job, params, recipe)
    export_trained(job, params, recipe)
    for precision in job.precisions:
        outputs_of(job, params, recipe, precision, "val")


def measure_finalist(
    job: Job, params: Mapping[str, Any], recipe: Training, benches: Mapping[str, Bench]
) -> dict[str, Any]:
    """`{target: {precision: {quantity: measurement}}}` of the trained files, with nothing else running."""
    folder = trained_folder(job, params, recipe)
    artifacts = export_trained(job, params, recipe)

    def work() -> dict[str, Any]:
        return {
            name: {p: measure_file(job, name, folder / p / "model.onnx", benches[name]) for p in artifacts}
            for name in benches
        }

    hashes = {p: a["sha256"] for p, a in artifacts.items()}
    inputs = [hashes, {n: str(job.targets[n]) for n in benches}]
    return dict(remember(folder / "measurements.json", inputs, work))


def measure_file(job: Job, target: str, path: Any, bench: Bench) -> dict[str, Any]:
    figures = [measure_size(path, job.targets[target])]
    if "latency_ms" in can_answer(job.targets[target]):
        figures += [bench.paired(path, 0.5), *bench.direct(path, 0.5)]
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
    truth, groups = job.task.labels("val"), job.task.groups("val")
    outputs = {
        (identity, precision): outputs_of(job, params, recipe, precision, "val")
        for identity, params in finalists.items()
        for precision in job.precisions
    }
    chosen = {}
    for name, budget in job.spec.budgets.items():
        here = rows[rows["target"] == budget.target] if len(rows) else rows
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
