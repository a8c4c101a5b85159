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

from benchmark import Bench, Meter, measurement_to_dict
from family import spaces
from family.candidates import measure_untrained, over_limits
from family.helpers import Ahead, train_nothing
from family.host_lock import measure_alone
from family.job import Job, cost_limits, limits_of
from family.measurers import key_of
from family.progress import Stage
from family.race import MOST, Race, Runner, first, next_to_train
from family.run_folder import recall, remember
from family.search import Searched
from family.students import Unfaithful, export_trained, outputs_of, train_candidate, trained_folder
from family.tune import goodness
from family.types import Training
from family.untold import is_told, told_alone, value_of
from reports import Choice, choose, score_interval

Trial = dict[str, Any]

BEST = 4  # of those trained in the search, the best come to the finals
NEAR = {"size_kb": 1.01}  # what was a little over a limit in search may keep it when measured afresh,
NEAR_NOISY = 1.1  # timed quantities more so
PREDICTED = 8  # of those that were only predicted, measured where nothing else was
ROOM = 0.9  # and who stays this far below it hardly ever breaks it


def pick_finalists(
    job: Job,
    searched: Searched,
    recipe: Training,
    benches: Mapping[str, Meter],
    train_ahead: Ahead = train_nothing,
) -> dict[str, dict[str, Any]]:
    """`{id: params}` of what a budget could choose; where nothing comes close, what breaks its limits least. Where
    the search only estimated scores, those whom it still depends on are trained here."""
    done = {t["id"]: t for t in searched.trials if t["state"] == "complete"}
    ranked = sorted(done.values(), key=lambda t: -sign_of(job) * t["val"])
    finalists: dict[str, dict[str, Any]] = {}
    scores: dict[str, float] = {}
    measured = [budget for budget in job.spec.budgets.values() if budget.target in benches]
    able_of = [[t for t in ranked if excess(job, t["params"], one, benches, near=True) <= 0] for one in measured]
    if not searched.exact:
        firsts = [begin_with(job, one, fitting, benches) for one, fitting in zip(measured, able_of, strict=True)]
        train_ahead([(done[i]["params"], recipe) for i in dict.fromkeys(firsts) if i is not None])
    for budget, fitting in zip(measured, able_of, strict=True):
        if searched.exact:
            able = contenders(job, fitting, budget, benches)
        else:
            able = race_for(job, budget, fitting, done, scores, searched, recipe, benches)
        for trial in able or nearest(job, searched, budget, benches):
            finalists[trial["id"]] = trial["params"]
    return finalists


def race_for(
    job: Job,
    budget: Any,
    fitting: list[Trial],
    done: Mapping[str, Trial],
    scores: dict[str, float],
    searched: Searched,
    recipe: Training,
    benches: Mapping[str, Meter],
) -> list[Trial]:
    """Those of `fitting` that are trained once the budget's choice is settled, one with room to spare among them.

    `scores`: val scores, the higher the better, of whom this and other budgets trained; added to.
    """
    sign = sign_of(job)
    race, runners = open_race(job, budget, fitting, benches)

    def run(identity: str) -> None:
        job.watch(Stage(f"training finalists, {len(scores)} so far"))
        val = sign * float(train_candidate(job, done[identity]["params"], recipe)["val"])
        scores[identity] = val if math.isfinite(val) else -math.inf

    while True:
        known = [(sign * j, sign * v) for j, v in searched.calibration]
        known += [(sign * done[i]["val"], score) for i, score in scores.items() if math.isfinite(score)]
        running = [r for r in runners.values() if scores.get(r.id) != -math.inf]
        runner = next_to_train(race, running, scores, list(dict.fromkeys(known)))
        if runner is None or sum(i in scores for i in runners) >= MOST:  # those that diverged count, too
            break
        run(runner.id)
    roomy = [i for i in runners if excess(job, done[i]["params"], budget, benches) <= ROOM - 1]
    if roomy and not any(i in scores for i in roomy):
        run(roomy[0])
    return [done[i] for i in runners if i in scores]


def begin_with(job: Job, budget: Any, fitting: list[Trial], benches: Mapping[str, Meter]) -> str | None:
    """Who runs first for a budget, unless others have settled it by then; None where that depends on scores."""
    if budget.score is not None or not fitting:
        return None
    race, runners = open_race(job, budget, fitting, benches)
    return first(race, list(runners.values())).id


def sign_of(job: Job) -> int:
    """What scores are multiplied by, so that the higher is the better."""
    return 1 if job.task.score.higher_is_better else -1


def open_race(
    job: Job, budget: Any, fitting: list[Trial], benches: Mapping[str, Meter]
) -> tuple[Race, dict[str, Runner]]:
    """For a budget, and by id those that keep its limits, or all of `fitting` where none surely does, in its order.

    Paired, a difference shows at about half of what two standard errors of one score are; so large is also the
    first guess of the judge's error. A limit on the score is reached by the bad end of an interval."""
    sign = sign_of(job)
    sure = [t for t in fitting if excess(job, t["params"], budget, benches) <= 0] or fitting
    best = max((t["val"] for t in sure), key=lambda value: sign * value, default=0.0)
    noise = noise_of(job, best)
    scale = 1.0 if is_share(job, best) else max(abs(best), 1e-9)
    race = Race(noise / 2, noise / 2, None if budget.score is None else sign * budget.score + noise, scale)
    return race, {t["id"]: Runner(t["id"], cheapness(job, t, budget, benches), sign * t["val"]) for t in sure}


def contenders(job: Job, fitting: list[Trial], budget: Any, benches: Mapping[str, Meter]) -> list[Trial]:
    """Of trained students the best on val, one with room to spare, and the cheapest that come close; with a limit on
    the score, the best and the cheapest that reach it. `fitting`: trials that keep the costs' limits or nearly, best
    first."""
    if not fitting:
        return []
    cheap = sorted(fitting, key=lambda t: cheapness(job, t, budget, benches))
    sign = sign_of(job)
    if budget.score is not None:
        sure = [t for t in cheap if sign * (t["val"] - budget.score) >= noise_of(job, t["val"])]
        bare = [t for t in cheap if sign * (t["val"] - budget.score) >= 0]
        return [*fitting[:BEST], *sure[:3], *bare[:2]]
    best = fitting[0]["val"]
    close = [t for t in cheap if abs(t["val"] - best) <= noise_of(job, best)]
    roomy = [t for t in fitting if excess(job, t["params"], budget, benches) <= ROOM - 1]
    return [*fitting[:BEST], *roomy[:1], *close[:3]]


def nearest(job: Job, searched: Searched, budget: Any, benches: Mapping[str, Meter]) -> list[Trial]:
    """Of all that was measured, trained or not, the one that breaks the budget's cost limits least."""
    asked = [t for t in searched.trials if t["state"] in ("complete", "pruned")]
    measured = [t for t in asked if not t.get("predicted")]
    measured = measured or sorted(asked, key=lambda t: float(t["violation"]))[:PREDICTED]  # by what was predicted
    return sorted(measured, key=lambda t: (excess(job, t["params"], budget, benches), t["number"]))[:1]


def excess(job: Job, params: Mapping[str, Any], budget: Any, benches: Mapping[str, Meter], near: bool = False) -> float:
    """The least, over precisions, of the greatest `measured / limit - 1` of the budget's cost limits, by the
    search's own measurements; `near`: with limits as much wider as a fresh measurement may differ."""
    limits = {q: v * (NEAR.get(q, NEAR_NOISY) if near else 1.0) for q, v in cost_limits(budget).items()}
    figures = measure_untrained(job, params, benches)["costs"][budget.target]
    return min(over_limits(one, limits) for one in figures.values())


def cheapness(job: Job, trial: Trial, budget: Any, benches: Mapping[str, Meter]) -> float:
    """By the cost that decides between equals, at the cheapest precision."""
    cost = budget.cheapest_by or job.spec.main_cost(budget.target)
    figures = measure_untrained(job, trial["params"], benches)["costs"][budget.target]
    return min(value_of(one, cost) for one in figures.values())


def noise_of(job: Job, value: float) -> float:
    """Two standard errors of a val score (three where rows come in groups): a wide net for finalists only, the choice
    itself is made on paired intervals. Any score but a share is taken as its own spread."""
    rows = job.task.rows("val")
    variance = max(value * (1 - value), 1 / rows) if is_share(job, value) else value * value
    return float((2 if job.task.groups("val") is None else 3) * (variance / rows) ** 0.5)


def is_share(job: Job, value: float) -> bool:
    """Whether a score is a share of rows, such as accuracy; an error that lies in 0..1 is none."""
    return job.task.score.higher_is_better and 0 <= value <= 1


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


def could_win(
    job: Job, finished: Mapping[str, dict[str, Any]], recipe: Training, benches: Mapping[str, Meter]
) -> dict[str, dict[str, Any]]:
    """Those of the finalists that are worth measuring afresh: of whom some file is not outdone on every target, by a
    file of another that scores no worse on val and costs less of everything by more than a fresh measurement may
    differ. A budget that the outdone file would keep is kept by the other too, which wins it."""
    files = {
        (identity, precision, name): (goodness(job.task, val), figures)
        for identity, params in finished.items()
        for precision, val in shipped_scores(job, params, recipe).items()
        for name, costs in measure_untrained(job, params, benches)["costs"].items()
        if (figures := told_alone(costs[precision]))
    }
    able = {
        identity for (identity, precision, name), file in files.items() if not is_outdone(identity, name, file, files)
    }
    if len(able) < len(finished):
        job.show(
            f"{len(finished) - len(able)} of {len(finished)} finalists are outdone by others and not measured again"
        )
    return {identity: params for identity, params in finished.items() if identity in able}


def shipped_scores(job: Job, params: Mapping[str, Any], recipe: Training) -> dict[str, float]:
    """Val score of the file at every precision that `export.max_flips` allows."""
    outputs = {("", p): outputs_of(job, params, recipe, p, "val") for p in job.precisions}
    truth = job.task.labels("val")
    return {p: job.task.score.fn(truth, outputs["", p]) for p in job.precisions if flips_allowed(job, outputs, "", p)}


def is_outdone(identity: str, target: str, file: tuple[float, Any], files: Mapping[tuple[str, str, str], Any]) -> bool:
    val, figures = file
    return any(
        other != identity and where == target and score >= val and is_cheaper(costs, figures)
        for (other, _, where), (score, costs) in files.items()
    )


def is_cheaper(costs: Mapping[str, Any], figures: Mapping[str, Any]) -> bool:
    """In every quantity; in those that a fresh measurement may change, by more than that."""
    exact = ("static", "counted:emulated-isa", "estimated")
    return all(
        value_of(costs, q) * (1.0 if f["provenance"] in exact else NEAR_NOISY) <= f["value"] for q, f in figures.items()
    ) and any(value_of(costs, q) < f["value"] for q, f in figures.items())


def measure_finalists(
    job: Job, finalists: Mapping[str, Mapping[str, Any]], recipe: Training, benches: Mapping[str, Meter]
) -> dict[str, dict[str, Any]]:
    """`{id: {target: {precision: {quantity: measurement}}}}` of the trained files, with nothing else running.

    Those of a file on a target are written once and never retaken on the same host; what is new on a target is timed
    together, in the same fresh processes.
    """
    job.watch(Stage(f"measuring {len(finalists)} finalists, nothing else running"))
    measured: dict[str, dict[str, Any]] = {identity: {} for identity in finalists}
    places = {
        (i, name): measuring_inputs(job, params, recipe, name) for i, params in finalists.items() for name in benches
    }
    new = {name: {i: p for i, p in finalists.items() if recall(*places[i, name]) is None} for name in benches}
    with measure_alone(job.show) if any(new.values()) else contextlib.nullcontext():
        for name, bench in benches.items():
            settled = settle(job, new[name], recipe, bench)
            for identity in finalists:
                measured[identity][name] = remember(*places[identity, name], partial(settled.__getitem__, identity))
    return measured


def measuring_inputs(job: Job, params: Mapping[str, Any], recipe: Training, target: str) -> tuple[Path, list[Any]]:
    """Where a finalist's measurements on a target are kept, and what they depend on: its files, the target, the
    host."""
    hashes = {p: a["sha256"] for p, a in export_trained(job, params, recipe).items()}
    path = trained_folder(job, params, recipe) / "measurements" / f"{target}.json"
    return path, [hashes, *job.fed_by, *key_of(job, target)]


def settle(
    job: Job, finalists: Mapping[str, Mapping[str, Any]], recipe: Training, bench: Meter
) -> dict[str, dict[str, Any]]:
    """`{id: {precision: {quantity: measurement}}}` of every file of these students, measured together."""
    folders = {identity: trained_folder(job, params, recipe) for identity, params in finalists.items()}
    files = {(i, p): folder / p / "model.onnx" for i, folder in folders.items() for p in job.precisions}
    settled: dict[str, dict[str, Any]] = {identity: {} for identity in finalists}
    for ((identity, precision), path), figures in zip(files.items(), bench.settle(list(files.values())), strict=True):
        kept = {figure.quantity: measurement_to_dict(figure) for figure in figures}
        if isinstance(bench, Bench):  # the same student fed with what its front would give
            bare = bench.paired(path.with_name("body.onnx"), 0.2)
            kept["latency_without_front_ms"] = measurement_to_dict(bare) | {"quantity": "latency_without_front_ms"}
        settled[identity][precision] = kept
    return settled


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
                    "host": measured_by(figures[precision], job.host),
                }
                rows.append(row | params_column(params) | flat_figures(figures[precision]))
    return pd.DataFrame(rows)


def measured_by(figures: Mapping[str, Mapping[str, Any]], host: str) -> str:
    """Fingerprint of what took the figures; `host` where nothing but the file was looked at."""
    return next((str(one["host"]) for one in figures.values() if one["provenance"] != "static"), host)


def params_column(params: Mapping[str, Any]) -> dict[str, str]:
    return {"params": json.dumps(dict(params))}


def flat_figures(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """`latency_ms`, `latency_ms_low`, `latency_ms_high`, `latency_ms_provenance`, … for every quantity; where it has no
    value, `latency_ms_untold`: why."""
    flat: dict[str, Any] = {}
    for quantity, figure in figures.items():
        flat[quantity] = figure["value"]
        if is_told(figure):
            flat |= {f"{quantity}_{part}": figure[part] for part in ("low", "high", "provenance", "noisy")}
        else:
            flat[f"{quantity}_untold"] = figure["protocol"]
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
