"""Coverage guards: which chosen students get one, what it costs beside the file without, and how often it speaks."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.covariance import ledoit_wolf

from benchmark import Meter, WorkerDied, feeds_beside, measure_size, measurement_to_dict
from export import Guard, NoFeatures, Runner, add_guard, measure_unlikeness, read_features
from export.guard import OUTPUT
from family.guard_told import no_guard
from family.host_lock import measure_alone
from family.job import Job, cost_limits
from family.measurers import key_of
from family.probes import draw_probes
from family.progress import Stage
from family.run_folder import recall, remember, write_beside
from family.soft_targets import teacher_classes
from family.students import export_trained, outputs_of, raw_batches, trained_folder
from family.types import Split, Training
from family.untold import told_alone, why_untold
from reports import Choice, Score, score_interval

VERSION = 1  # of what is fitted, of its graph and of the probes
FALSE_ALARMS = 0.05  # share of val above the threshold
FEWEST = math.ceil(1 / FALSE_ALARMS) - 1  # rows of val with which such a threshold can be set
FIT_ROWS = 10_000
LEAST_SHARE = 1e-4  # of the greatest variance: directions that vary less count as varying so much
SAME = 1e-5  # the first output may change by so much, as a share of its greatest value

FLAGGED = Score("flagged", False, lambda _, flags: float(flags.mean()), lambda _, flags: flags[:, 0].astype(float))


def guard_students(
    job: Job,
    choices: Mapping[str, Choice],
    finalists: Mapping[str, Mapping[str, Any]],
    training: Training,
    benches: Mapping[str, Meter],
) -> dict[str, dict[str, Any]]:
    """`{budget: {on, why, costs, …}}` of every budget that has a student; nothing where `export.guard` is false. A
    guard is on where a fresh measurement of the file with it keeps the budget's limits. The choice stays as it is."""
    if job.spec.export.guard is False:
        return {}
    kept = {
        name: (finalists[choice.id], choice.precision)
        for name, choice in choices.items()
        if choice.status == "kept" and choice.id is not None and choice.precision is not None
    }
    for target, bench in benches.items():
        here = {name: file for name, file in kept.items() if job.spec.budgets[name].target == target}
        measure_together(job, here, training, target, bench)
    guards = {}
    for name, (params, precision) in kept.items():
        guards[name] = decide(job, name, params, precision, training, benches)
        say(job, name, guards[name])
    return guards


def say(job: Job, name: str, guard: Mapping[str, Any]) -> None:
    if not guard["on"]:
        job.show(f"{'warning' if job.spec.export.guard is True else 'note'}: {no_guard(name, guard)}")


def decide(
    job: Job,
    name: str,
    params: Mapping[str, Any],
    precision: str,
    training: Training,
    benches: Mapping[str, Meter],
) -> dict[str, Any]:
    budget = job.spec.budgets[name]
    made = make_guard(job, params, precision, training)
    if made["why"]:
        return {"on": False, **made}
    try:
        if is_too_large(made, budget):
            figures = weigh_guarded(job, params, precision, training, budget.target)  # nothing else can save it
        else:
            figures = measure_guarded(job, params, precision, training, budget.target, benches[budget.target])
    except (ValueError, WorkerDied) as problem:
        return {**made, "on": False, "why": f"{budget.target} gives no figures of it: {problem}".rstrip(".")}
    why = " and ".join(list_broken(figures["with"], cost_limits(budget))) or None
    return {**made, "on": why is None, "why": why, "costs": compare_costs(figures)}


def is_too_large(made: Mapping[str, Any], budget: Any) -> bool:
    return bool(made["size_bytes"] / 1000 > cost_limits(budget).get("size_kb", math.inf))


def list_broken(figures: Mapping[str, Any], limits: Mapping[str, float]) -> list[str]:
    """The limits that a file breaks; where it breaks none that is told, those that are not."""
    told = told_alone(figures)
    broken = [
        f"its {quantity} would be {told[quantity]['high']:.4g}, above {limit:g}"
        for quantity, limit in limits.items()
        if quantity in told and not told[quantity]["high"] <= limit
    ]
    return broken or [why for quantity in limits if (why := why_untold(figures, [quantity]))]


def guarded_file(job: Job, params: Mapping[str, Any], precision: str, training: Training) -> Path:
    return trained_folder(job, params, training) / precision / "guarded.onnx"


def make_guard(job: Job, params: Mapping[str, Any], precision: str, training: Training) -> dict[str, Any]:
    """Write the file with its guard, once: fitted on train and transfer, its threshold set on val.

    `{why: None, output, width, centres, fitted_rows, sha256, size_bytes, largest_difference of the first output}`, or
    `{why}` there is none.
    """
    path = guarded_file(job, params, precision, training)

    def work() -> dict[str, Any]:
        job.watch(Stage("fitting coverage guards"))
        try:
            return write_guarded(job, params, precision, training)
        except NoFeatures as problem:
            return {"why": str(problem)}

    digest = export_trained(job, params, training)[precision]["sha256"]
    inputs = [digest, job.task.fingerprint, job.teacher.fingerprint, VERSION]
    return dict(remember(path.with_name("guard.json"), inputs, work))


def write_guarded(job: Job, params: Mapping[str, Any], precision: str, training: Training) -> dict[str, Any]:
    """Raises NoFeatures where the graph, or val, does not allow a guard."""
    if job.task.rows("val") < FEWEST:
        wanted = f"a threshold at {FALSE_ALARMS:.0%} false alarms takes {FEWEST} rows of val"
        raise NoFeatures(f"{wanted}. Got {job.task.rows('val')}")
    if job.task.kind == "tokens":
        raise NoFeatures("a language model answers every position, and a guard is for a row")
    path = guarded_file(job, params, precision, training)
    source, task = path.with_name("model.onnx"), job.task.seen_by(params)
    rows = draw_fit_rows(job)
    features = read_features(source, (batch for s, r in rows.items() for batch in raw_batches(task, s, r)))
    guard = fit_guard(features, see_classes(job, rows))
    on_val = read_features(source, raw_batches(task, "val", np.arange(task.rows("val"))))
    guard = guard.rescale(find_threshold(measure_unlikeness(guard, on_val)))
    artifact = add_guard(source, guard, path, precision)
    if feeds_beside(source).is_file():
        write_beside(feeds_beside(path), lambda beside: shutil.copyfile(feeds_beside(source), beside))
    return {
        "why": None,
        "output": OUTPUT,
        "width": features.shape[1],
        "centres": len(guard.centres),
        "fitted_rows": len(features),
        "sha256": artifact.sha256,
        "size_bytes": artifact.size_bytes,
        "largest_difference": check_same(job, params, precision, training),
    }


def draw_fit_rows(job: Job) -> dict[Split, np.ndarray]:
    """FIT_ROWS rows of train and transfer at most, drawn by the run's seed."""
    counts: dict[Split, int] = {split: job.task.rows(split) for split in ("train", "transfer")}
    total = sum(counts.values())
    drawn = np.random.default_rng(job.spec.seed).permutation(total)[:FIT_ROWS]
    drawn.sort()
    own = {"train": drawn[drawn < counts["train"]], "transfer": drawn[drawn >= counts["train"]] - counts["train"]}
    return {split: own[split] for split in counts if len(own[split])}


def see_classes(job: Job, rows: Mapping[Split, np.ndarray]) -> np.ndarray | None:
    """(rows,): the teacher's answers; None where they are no classes, and all rows share a centre."""
    if job.task.kind != "classification":
        return None
    return np.concatenate([teacher_classes(job.soft_targets(), split, own) for split, own in rows.items()])


def fit_guard(features: np.ndarray, classes: np.ndarray | None) -> Guard:
    """Mahalanobis distances to the centre of each class, under one covariance within classes (shrunk after Ledoit and
    Wolf 2004). features: (rows, width). Raises NoFeatures where they do not vary."""
    features = features.astype(np.float64)
    classes = np.zeros(len(features), int) if classes is None else classes
    _, number = np.unique(classes, return_inverse=True)
    centres = np.stack([features[number == i].mean(0) for i in range(number.max() + 1)])
    values, vectors = np.linalg.eigh(ledoit_wolf(features - centres[number], assume_centered=True)[0])
    if not values[-1] > 0:
        raise NoFeatures("what its last linear layer takes is the same for all rows of a class")
    scales = np.maximum(values, LEAST_SHARE * values[-1]) ** -0.5
    whitening = (vectors * scales) @ vectors.T  # symmetric: the one that is the same however vectors are signed
    middle = features.mean(0)
    return Guard(whitening, -middle @ whitening, (centres - middle) @ whitening)


def find_threshold(distances: np.ndarray) -> float:
    """Exceeded by a further row like these with a chance of FALSE_ALARMS at most (split conformal: Vovk et al. 2005).

    distances: (rows,), FEWEST of them at least."""
    rank = math.ceil((len(distances) + 1) * (1 - FALSE_ALARMS))
    return float(np.sort(distances)[rank - 1]) * (1 + 1e-4)  # so that float32 flags no row at the threshold


def check_same(job: Job, params: Mapping[str, Any], precision: str, training: Training) -> float:
    """Largest difference that the guard makes to the first output on val. Raises NoFeatures where it is too large."""
    runner = Runner(guarded_file(job, params, precision, training))
    batches = raw_batches(job.task.seen_by(params), "val", np.arange(job.task.rows("val")))
    found = np.concatenate([runner(batch) for batch in batches])
    wanted = outputs_of(job, params, training, precision, "val")
    largest = float(np.abs(found - wanted).max())
    if not largest <= SAME * max(1.0, float(np.abs(wanted).max())):
        raise NoFeatures(f"the runtime's outputs with it differ by {largest:.3g}")
    return largest


def weigh_guarded(
    job: Job, params: Mapping[str, Any], precision: str, training: Training, target: str
) -> dict[str, Any]:
    """`{without, with: {size_kb: measurement}}` of the two files: nothing is timed."""
    guarded = guarded_file(job, params, precision, training)
    files = {"without": guarded.with_name("model.onnx"), "with": guarded}
    sizes = {key: measure_size(path, job.targets[target]) for key, path in files.items()}
    return {key: {"size_kb": measurement_to_dict(size)} for key, size in sizes.items()}


def measure_guarded(
    job: Job, params: Mapping[str, Any], precision: str, training: Training, target: str, bench: Meter
) -> dict[str, Any]:
    """`{without, with: {quantity: measurement}}` of the two files, taken together, with nothing else running; written
    once and never retaken on the same host."""
    place = measuring_place(job, params, precision, training, target)

    def work() -> dict[str, Any]:
        return settle(job, [guarded_file(job, params, precision, training)], target, bench)[0]

    with measure_alone(job.show) if recall(*place) is None else contextlib.nullcontext():
        return dict(remember(*place, work))


def measuring_place(
    job: Job, params: Mapping[str, Any], precision: str, training: Training, target: str
) -> tuple[Path, list[Any]]:
    """Where the measurements of a file with its guard are kept, and what they depend on."""
    made = make_guard(job, params, precision, training)
    digest = export_trained(job, params, training)[precision]["sha256"]
    path = trained_folder(job, params, training) / "measurements" / f"{target}.guard-{precision}.json"
    return path, [digest, made["sha256"], *job.fed_by, *key_of(job, target)]


def settle(job: Job, guarded: Sequence[Path], target: str, bench: Meter) -> list[dict[str, Any]]:
    """Of each file with a guard `{without, with}`, all taken together."""
    job.watch(Stage(f"measuring coverage guards on {target}, nothing else running"))
    both = [path for one in guarded for path in (one.with_name("model.onnx"), one)]
    taken = [{one.quantity: measurement_to_dict(one) for one in figures} for figures in bench.settle(both)]
    return [dict(zip(("without", "with"), pair, strict=True)) for pair in zip(taken[::2], taken[1::2], strict=True)]


def measure_together(
    job: Job, kept: Mapping[str, tuple[Mapping[str, Any], str]], training: Training, target: str, bench: Meter
) -> None:
    """Measure in the same fresh processes what is new of these budgets' files with a guard, where its size may keep the
    budget. Of several of which the target refuses one, none is measured here: `measure_guarded` asks of each."""
    new: dict[Path, tuple[Path, list[Any]]] = {}
    for name, (params, precision) in kept.items():
        made = make_guard(job, params, precision, training)
        if made["why"] or is_too_large(made, job.spec.budgets[name]):
            continue
        place = measuring_place(job, params, precision, training, target)
        if recall(*place) is None:
            new[guarded_file(job, params, precision, training)] = place
    if len(new) < 2:
        return
    try:
        with measure_alone(job.show):
            settled = settle(job, list(new), target, bench)
    except (ValueError, WorkerDied):
        return
    for place, figures in zip(new.values(), settled, strict=True):
        remember(*place, partial(dict, figures))


def compare_costs(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """`{quantity: {without, with, low, high (of `with`), provenance, ratio, ratio_low, ratio_high}}` of what is told of
    the file with the guard; NaN where that is not told of the other."""
    found, plain = {}, told_alone(figures["without"])
    for quantity, own in told_alone(figures["with"]).items():
        bare = plain.get(quantity)
        half = math.hypot(half_width(own), half_width(bare)) if bare else math.nan
        ratio = own["value"] / bare["value"] if bare and bare["value"] > 0 else math.nan
        found[quantity] = {
            "without": bare["value"] if bare else math.nan,
            "with": own["value"],
            "low": own["low"],
            "high": own["high"],
            "provenance": own["provenance"],
            "ratio": ratio,
            "ratio_low": ratio * math.exp(-half),
            "ratio_high": ratio * math.exp(half),
        }
    return found


def half_width(figure: Mapping[str, Any]) -> float:
    """Of its interval, in logs; 0 where that cannot be said."""
    return math.log(figure["high"] / figure["low"]) / 2 if 0 < figure["low"] <= figure["high"] else 0.0


def see_guard(job: Job, params: Mapping[str, Any], precision: str, training: Training) -> dict[str, Any]:
    """How often the guard of this file speaks, by the file itself: `false_alarms` on val, where the threshold was set,
    and on test; `caught`: on inputs that no transfer data covers. Shares with their intervals; reads test."""
    path = guarded_file(job, params, precision, training)
    made = make_guard(job, params, precision, training)

    def work() -> dict[str, Any]:
        runner, task = Runner(path), job.task.seen_by(params)
        alarms: dict[str, Any] = {"aim": FALSE_ALARMS}
        splits: tuple[Split, ...] = ("val", "test")
        for split in splits:
            batches = raw_batches(task, split, np.arange(task.rows(split)))
            alarms[split] = rate(runner, batches, task.groups(split))
        caught = {what: rate(runner, rows) for what, rows in draw_probes(job, task)}
        return {"false_alarms": alarms, "caught": caught}

    inputs = [made["sha256"], job.task.fingerprint, job.spec.seed, VERSION]
    return dict(remember(path.with_name("guard-seen.json"), inputs, work))


def rate(runner: Runner, batches: Any, groups: np.ndarray | None = None) -> dict[str, Any]:
    """Share of rows that the guard flags, with its interval: `{value, low, high, rows}`."""
    flags = np.concatenate([runner.all_outputs(batch)[-1] > 1 for batch in batches])[:, None]
    found = score_interval(FLAGGED, np.zeros(len(flags)), flags, groups)
    return {"value": found.value, "low": found.low, "high": found.high, "rows": len(flags)}
