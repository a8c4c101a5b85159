"""What a run leaves behind: records, predictions, student folders and `family.json`."""

from __future__ import annotations

import gzip
import json
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmark import host, host_fingerprint
from export import describe, front_data
from family import spaces
from family.checks import check_student
from family.controls import NO_VERDICT, compare, faithful_pairs, judge, read_test
from family.finals import flat_figures
from family.guard_told import card_guard, say_unguarded, ship_guard, tell_guard
from family.guards import guarded_file, see_guard
from family.job import Job, limits_of
from family.kernels import kernels_of
from family.measurers import facts_of
from family.recipe import Recipe
from family.run_folder import without_nan, write_beside, write_json, write_table
from family.search import Searched
from family.shipping import golden_rows, ship
from family.soft_targets import teacher_classes
from family.spent import count_compute
from family.students import outputs_of
from family.tasks.text_task import TextTask
from family.text.answering import tell_answers, tell_asking
from family.text.fidelity import tell_fidelity
from family.text.tfidf import fit_tfidf, hold_against, tfidf_outputs
from family.types import Split, Task, Training
from reports import Choice, Interval, difference, frontier, score_interval

PACKAGES = (
    "torch",
    "onnx",
    "onnxruntime",
    "optuna",
    "pandas",
    "numpy",
    "scipy",
    "scikit-learn",
    "student-family",
)
ENDS = {"": "value", "_low": "low", "_high": "high"}
TEST_ROWS_BYTES = 256_000_000
Finalists = Mapping[str, Mapping[str, Any]]


def write_search(job: Job, searched: Searched) -> None:
    """trials.parquet: everything that was asked, with what became of it."""
    rows = [
        {**t, "params": json.dumps(t["params"]), "violation": None if t.get("untold") else t["violation"]}
        for t in searched.trials
    ]
    write_table(job.folder / "trials.parquet", pd.DataFrame(rows))


def write_environment(job: Job) -> None:
    versions = {name: version(name) for name in PACKAGES}
    environment = {
        "host": host(),
        "versions": versions,
        "python": platform.python_version(),
        "device": job.device,
    }
    targets = {name: target.portable for name, target in job.targets.items()}
    environment["targets"] = {name: {"transport": t.transport, **t.options} for name, t in targets.items()}
    environment["measured_by"] = {name: facts_of(job, name) for name in job.measured_targets()}
    write_json(job.folder / "environment.json", environment)


def write_family(
    job: Job,
    recipe: Recipe,
    searched: Searched,
    rows: pd.DataFrame,
    choices: Mapping[str, Choice],
    finalists: Finalists,
    teacher_latency: Mapping[str, Mapping[str, Any]],
    untrained: Mapping[str, Any],
    guards: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Read test for the chosen, their controls and the teacher, and write everything a report is drawn from."""
    write_environment(job)
    chosen = {winner(c) for c in choices.values() if c.status == "kept"}
    reads = read_test(job, f"students {sorted(chosen)}")
    compared = {key: compare(job, finalists[key[0]], key[1], recipe) for key in sorted(chosen)}
    verdicts = judge(job, compared, recipe)
    words = fit_tfidf(job)
    teacher = score_teacher(job)
    rows = add_test_scores(job, rows, chosen, finalists, recipe.student)
    write_records(job, rows, teacher, compared, teacher_latency)
    write_predictions(job, recipe, chosen, finalists, words)
    write_test_rows(job)
    entries = {
        name: budget_entry(
            job, name, choices.get(name), finalists, recipe, compared, verdicts, rows, guards.get(name), words
        )
        for name in job.spec.budgets
    }
    family = {
        "format": 1,
        "name": job.spec.name,
        "score": {"name": job.task.score.name, "higher_is_better": job.task.score.higher_is_better},
        "teacher": {s: as_dict(v) for s, v in teacher.items()}
        | {"val_augmented": job.augmented_score(), "cost": teacher_cost(job, teacher_latency)},
        "answers": tell_asking(job),
        "budgets": entries,
        **({"tfidf": words} if words else {}),
        "frontier": frontiers(job, rows),
        "targets": {n: {"main_cost": job.spec.main_cost(n), "unavailable": job.skipped.get(n)} for n in job.targets},
        "recipe": {"student": vars(recipe.student), "control": vars(recipe.control)},
        "bakeoff": recipe.bakeoff,
        "learning_rates": recipe.learning_rates,
        "lengths": recipe.lengths,
        "starts": recipe.starts,
        "search": searched.summary,
        "compute": count_compute(job, recipe, {identity: finalists[identity] for identity, _ in chosen}),
        "coverage": coverage(job),
        "classes": list(job.task.classes) if job.task.classes else None,
        "data": job.task.describe(),
        "test_reads": reads,
        "notes": [*job.task.notes, *job.teacher.notes],
        "untrained": {name: value for name, value in untrained.items() if name != "warnings"},
        "warnings": [
            *job.task.warnings,
            *say_left_out(compared),
            *untrained.get("warnings", ()),
            *(say_unguarded(guards) if job.spec.export.guard is True else ()),
        ],
    }
    write_json(job.folder / "family.json", without_nan(family))
    return json.loads((job.folder / "family.json").read_text())  # type: ignore[no-any-return]


def teacher_cost(job: Job, latency: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What is known of the teacher: parameters, size_kb, and where it was timed `latency_ms` by target."""
    known = dict(job.teacher.cost)
    timed = {name: {k: one[k] for k in ("value", "low", "high", "provenance")} for name, one in latency.items()}
    return known | ({"latency_ms": timed} if timed else {})


def score_teacher(job: Job) -> dict[str, Interval]:
    """On val and test; nothing of a teacher that returns only text."""
    splits: tuple[Split, ...] = ("val", "test")
    told = {split: job.teacher_outputs(split) for split in splits}
    return {split: score(job, split, outputs) for split, outputs in told.items() if outputs is not None}


def winner(choice: Choice) -> tuple[str, str]:
    """(id, precision) of a kept budget's student."""
    assert choice.id is not None
    assert choice.precision is not None
    return choice.id, choice.precision


def score(job: Job, split: Split, outputs: np.ndarray) -> Interval:
    return score_interval(job.task.score, job.task.labels(split), outputs, job.task.groups(split))


def as_dict(interval: Any) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def add_test_scores(
    job: Job, rows: pd.DataFrame, chosen: set[tuple[str, str]], finalists: Finalists, training: Training
) -> pd.DataFrame:
    """Test is read only for what was chosen."""
    rows = rows.assign(test=np.nan, test_low=np.nan, test_high=np.nan)
    for identity, precision in chosen:
        test = score(job, "test", outputs_of(job, finalists[identity], training, precision, "test"))
        here = (rows["id"] == identity) & (rows["precision"] == precision)
        rows.loc[here, ["test", "test_low", "test_high"]] = [test.value, test.low, test.high]
    return rows


def write_records(
    job: Job,
    rows: pd.DataFrame,
    teacher: Mapping[str, Interval],
    compared: Mapping[tuple[str, str], Mapping[str, Any]],
    teacher_latency: Mapping[str, Mapping[str, Any]],
) -> None:
    """One row per student × precision × target; controls and the teacher beside them, the teacher a row per target
    where it was timed."""
    extra: list[dict[Any, Any]] = []
    for (identity, precision), found in compared.items():
        if found["difference"] is None:
            continue
        same = rows[(rows["id"] == identity) & (rows["precision"] == precision)]
        extra += [row | control_row(row, found) for row in same.to_dict("records")]
    one = {
        "id": "teacher",
        "role": "teacher",
        "finalist": False,
        **{f"{split}{end}": getattr(found, of) for split, found in teacher.items() for end, of in ENDS.items()},
        **{k: v for k, v in job.teacher.cost.items() if k in ("parameters", "size_kb")},
    }
    timed = [{"target": name, **flat_figures({"latency_ms": figure})} for name, figure in teacher_latency.items()]
    extra += [one | {"host": host_fingerprint()} | here for here in timed] or [one]
    table = pd.concat([rows, pd.DataFrame(extra)], ignore_index=True)
    table["versions"] = json.dumps({name: version(name) for name in PACKAGES})
    write_table(job.folder / "records.parquet", table)
    write_beside(job.folder / "records.csv", lambda beside: table.to_csv(beside, index=False))


def control_row(student: Mapping[Any, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """What differs from the student's row: its scores, means over the paired seeds. The costs are the student's,
    whose architecture it shares, and say so."""
    unknown = dict.fromkeys(("val_low", "val_high", "test_low", "test_high"), np.nan)
    scores = {"role": "control", "finalist": False, "seed": None, "val": found["control_val"], "test": found["control"]}
    return (
        scores
        | unknown
        | {f"{q}_provenance": f"{student[f'{q}_provenance']}, of the student" for q in cost_names(student)}
    )


def write_predictions(
    job: Job, recipe: Recipe, chosen: set[tuple[str, str]], finalists: Finalists, words: Mapping[str, Any]
) -> None:
    """Long table: split, row, model, precision, seed, truth, output, and group where rows come in groups; of the
    chosen, their controls and the teacher, and of texts TF-IDF."""
    tables = []
    for split in ("val", "test"):
        told = job.teacher_outputs(split)
        tables += [] if told is None else [prediction_rows(job, split, "teacher", "", -1, told)]
        tables += [prediction_rows(job, split, f"tfidf:{t}", "", -1, tfidf_outputs(job, t, split)) for t in words]
        for identity, precision in sorted(chosen):
            params = finalists[identity]
            outputs = outputs_of(job, params, recipe.student, precision, split)
            tables.append(prediction_rows(job, split, identity, precision, recipe.student.seed, outputs))
            if precision != "fp32" and "fp32" in job.precisions:
                plain = outputs_of(job, params, recipe.student, "fp32", split)
                tables.append(prediction_rows(job, split, f"fp32:{identity}", "fp32", recipe.student.seed, plain))
            for _, control in faithful_pairs(job, params, recipe):
                outputs = outputs_of(job, params, control, precision, split)
                tables.append(prediction_rows(job, split, f"control:{identity}", precision, control.seed, outputs))
    write_table(job.folder / "predictions.parquet", pd.concat(tables, ignore_index=True))


def write_test_rows(job: Job) -> None:
    """test-rows.npz: what the students were tested on, so that anyone can recompute the scores; texts as they are.

    Left out where raw shapes vary or the rows would take more than TEST_ROWS_BYTES.
    """
    rows = np.arange(job.task.rows("test"))
    if job.task.ragged or count_bytes(job.task) > TEST_ROWS_BYTES:
        return
    raw = job.task.originals if isinstance(job.task, TextTask) else job.task.raw
    arrays: dict[str, Any] = {f"input:{name}": value for name, value in raw("test", rows).items()}
    arrays["truth"] = job.task.labels("test")

    def save(beside: Path) -> None:
        with beside.open("wb") as handle:
            np.savez_compressed(handle, **arrays)

    write_beside(job.folder / "test-rows.npz", save)


def count_bytes(task: Task) -> int:
    """That its test rows would take in memory; texts 4 for every character of the longest, each."""
    rows = np.arange(task.rows("test"))
    if isinstance(task, TextTask):
        return 4 * max(map(len, task.sentences("test", rows))) * len(rows)
    return sum(value.nbytes for value in task.raw("test", rows[:1]).values()) * len(rows)


def prediction_rows(job: Job, split: Split, model: str, precision: str, seed: int, outputs: np.ndarray) -> pd.DataFrame:
    truth, groups = job.task.labels(split), job.task.groups(split)
    return pd.DataFrame(
        {
            "split": split,
            "row": job.task.row_ids(split),
            "model": model,
            "precision": precision,
            "seed": seed,
            "truth": list(truth) if truth.ndim > 1 else truth,
            "output": list(np.asarray(outputs, np.float32)),
        }
        | ({} if groups is None else {"group": groups.astype(str)})
    )


def frontiers(job: Job, rows: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for target in job.measured_targets() if len(rows) else ():
        cost = job.spec.main_cost(target)
        here = rows[rows["target"] == target]
        best = frontier(here, cost, "val", job.task.score.higher_is_better)
        found[target] = [
            {"id": r["id"], "precision": r["precision"], "cost": r[cost], "val": r["val"]}
            for r in best.to_dict("records")
        ]
    return found


def budget_entry(
    job: Job,
    name: str,
    choice: Choice | None,
    finalists: Finalists,
    recipe: Recipe,
    compared: Mapping[tuple[str, str], Mapping[str, Any]],
    verdicts: Mapping[tuple[str, str], str],
    rows: pd.DataFrame,
    guard: Mapping[str, Any] | None,
    words: Mapping[str, Any],
) -> dict[str, Any]:
    """What `family.json` says of one budget; a kept one also gets its student folder."""
    budget = job.spec.budgets[name]
    base = {"target": budget.target, "asked": limits_of(budget)}
    if budget.target in job.skipped:
        return base | {"status": "skipped", "reason": job.skipped[budget.target]}
    if choice is None:
        return base | {"status": "missed", "nearest": None, "relax": {}, "limits": {}}
    if choice.status != "kept":
        missed: dict[str, Any] = {"nearest": choice.nearest, "relax": choice.relax, "limits": choice.limits}
        if why := find_untold(rows[rows["target"] == budget.target], limits_of(budget)):
            missed["untold"] = why
        return base | {"status": choice.status} | missed
    key = winner(choice)
    params = finalists[key[0]]
    here = (rows["id"] == key[0]) & (rows["precision"] == key[1]) & (rows["target"] == budget.target)
    row: dict[Any, Any] = rows[here].iloc[0].to_dict()
    found = compared[key]
    gap = found["difference"]
    entry = base | {
        "status": "kept",
        "student": f"students/{name}",
        "id": key[0],
        "precision": key[1],
        "params": dict(params),
        "parameters": int(row["parameters"]),
        "seeds": found["seeds"],
        "val": {"value": row["val"], "low": row["val_low"], "high": row["val_high"]},
        "test": {"value": row["test"], "low": row["test_low"], "high": row["test_high"]},
        "control": {
            "test": {"value": found["control"]},
            "student_mean": found["student"],
            "difference": as_dict(gap) | {"p": gap.p} if gap else {},
            "detectable": gap.detectable if gap else None,
            "verdict": verdicts[key],
            "left_out_seeds": list(found["left_out"]),
        },
        "against_teacher": against_teacher(job, params, key[1], recipe),
        "runner_up": choice.runner_up,
        "limits": measured_limits(row, limits_of(budget)),
        "costs": measured_limits(row, dict.fromkeys(cost_names(row))),
        "flips": flips(job, params, key[1], recipe),
        "answers": tell_answers(job, params, key[1], recipe),
        "kernels": kernels_of(job, params, key[1], recipe.student),
        "fidelity": tell_fidelity(job, params, key[1], recipe),
    }
    if (tokenizer := getattr(job.task.seen_by(params), "tokenizer", None)) is not None:
        entry["tokenizer_kb"] = weigh(tokenizer.data)
    if words:
        entry["tfidf"] = hold_against(job, outputs_of(job, params, recipe.student, key[1], "test"), words)
    if guard is not None:
        seen = see_guard(job, params, key[1], recipe.student) if guard["on"] else {}
        entry = ship_guard(entry, {**guard, **seen})
    return entry | {"checks": write_student_folder(job, name, entry, params, recipe.student, words)}


def find_untold(rows: pd.DataFrame, limits: Iterable[str]) -> str | None:
    """Of the first limit that no row's figures tell, why; None where each is told of some row."""
    for quantity in limits:
        if f"{quantity}_untold" in rows and rows[quantity].isna().all():
            return f"its {quantity} is untold: {rows[f'{quantity}_untold'].dropna().iloc[0]}"
    return None


def weigh(data: bytes) -> dict[str, float]:
    """Of a file that ships beside the model, in kB; limits on size are of the model alone."""
    return {"size": len(data) / 1000, "download": len(gzip.compress(data, compresslevel=9, mtime=0)) / 1000}


def say_left_out(compared: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[str]:
    """A line for every paired seed that could not be compared, once a student."""
    lines = {
        f"Seed {seed} of student {identity} is left out of its comparison with labels alone; {why}."
        for (identity, _), found in compared.items()
        for seed, why in found["left_out"].items()
    }
    return sorted(lines)


def against_teacher(job: Job, params: Mapping[str, Any], precision: str, recipe: Recipe) -> dict[str, float]:
    """Student minus teacher on test, paired by rows; nothing for a teacher that returns only text."""
    ours, theirs = outputs_of(job, params, recipe.student, precision, "test"), job.teacher_outputs("test")
    if theirs is None:
        return {}
    return as_dict(difference(job.task.score, job.task.labels("test"), [ours], [theirs], job.task.groups("test")))


def cost_names(row: Mapping[str, Any]) -> list[str]:
    return [c.removesuffix("_provenance") for c in row if c.endswith("_provenance") and isinstance(row[c], str)]


def measured_limits(row: Mapping[str, Any], limits: Mapping[str, Any]) -> dict[str, Any]:
    """Limit, fresh measurement and interval, with where the figure comes from."""
    found = {}
    for quantity, limit in limits.items():
        column = "val" if quantity == "score" else quantity
        found[quantity] = {
            "limit": limit,
            "measured": row[column],
            "low": row[f"{column}_low"],
            "high": row[f"{column}_high"],
            "provenance": "val" if quantity == "score" else row[f"{column}_provenance"],
        }
    return found


def flips(job: Job, params: Mapping[str, Any], precision: str, recipe: Recipe) -> dict[str, Any]:
    """On test: where the answer differs from the teacher's and from fp32, and which mistakes were inherited."""
    if job.task.kind != "classification":
        return {}
    ours = outputs_of(job, params, recipe.student, precision, "test").argmax(1)
    said = job.teacher_outputs("test")
    assert said is not None
    teacher = said.argmax(1)
    truth = job.task.labels("test")
    wrong = teacher != truth
    found: dict[str, Any] = {
        "rows": len(truth),
        "agreement": float((ours == teacher).mean()),
        "vs_teacher": int((ours != teacher).sum()),
        "teacher_mistakes": int(wrong.sum()),
        "inherited_mistakes": int((wrong & (ours == teacher)).sum()),
    }
    if precision != "fp32" and "fp32" in job.precisions:
        plain = outputs_of(job, params, recipe.student, "fp32", "test").argmax(1)
        found["vs_fp32"] = int((ours != plain).sum())
    return found


def coverage(job: Job) -> dict[str, Any]:
    """What the students could learn from: rows with and without labels, and what the teacher sees in them."""
    store = job.soft_targets()
    found: dict[str, Any] = {
        "labelled_rows": job.task.rows("train"),
        "unlabelled_rows": job.task.rows("transfer"),
        "views": store.views,
        "store_bytes_per_view": store.bytes_per_view,
    }
    if job.task.classes and job.task.kind == "classification":
        seen = np.zeros(len(job.task.classes), int)
        for split in ("train", "transfer"):
            rows = np.arange(job.task.rows(split))
            if len(rows):
                seen += np.bincount(teacher_classes(store, split, rows), minlength=len(seen))
        found["teacher_sees"] = dict(zip(job.task.classes, seen.tolist(), strict=True))
    return found


def write_student_folder(
    job: Job,
    name: str,
    entry: Mapping[str, Any],
    params: Mapping[str, Any],
    training: Training,
    words: Mapping[str, Any],
) -> dict[str, Any]:
    """students/<budget>/: the file that was scored and measured, with its guard where it has one, and all an app needs.
    Returns its checks."""
    told = tell_guard(entry)
    guarded = guarded_file(job, params, entry["precision"], training)
    path = guarded if told else guarded.with_name("model.onnx")
    task = job.task.seen_by(params)
    golden = task.raw("val", golden_rows(task))
    checks, beside = check_student(job, path, entry["precision"], golden)
    manifest = {
        "name": f"{job.spec.name}/{name}",
        "kind": job.task.kind,
        "classes": list(job.task.classes) if job.task.classes else None,
        "preprocessing": front_data(task.front) | dict(task.preprocessing),
        "params": dict(params),
        "teacher": {"licence": given_by(job, "licence"), "origin": given_by(job, "origin")},
        "score": {"name": job.task.score.name, "test": entry["test"], "val": entry["val"]},
        "limits": entry["limits"],
        "checks": checks,
        **told,
    }
    artifact = describe(path, entry["precision"])
    ship(task, job.folder / "students" / name, artifact, manifest, golden, card(job, name, entry, words), beside)
    return checks


def given_by(job: Job, what: str) -> str | None:
    """Licence or origin as given; of an ensemble all of them."""
    return "; ".join(dict.fromkeys(said for t in job.spec.teacher if (said := getattr(t, what)))) or None


def card(job: Job, name: str, entry: Mapping[str, Any], words: Mapping[str, Any]) -> str:
    """MODEL_CARD.md: what it is for, how good, what not to use it for."""
    test, measure = entry["test"], job.task.score.name
    control = entry["control"]
    limits = "\n".join(
        f"- {q}: {v['measured']:.4g} (limit {v['limit']:g}, {v['provenance']})" for q, v in entry["limits"].items()
    )
    return f"""# {job.spec.name}/{name}

A student of {spaces.describe_params(entry["params"])}, {entry["parameters"]:,} parameters, {entry["precision"]}.

- {measure} on {job.task.rows("test")} held-out test rows: {test["value"]:.4f}
  (95 % interval {say_ends(test)})
- against the same student trained on labels alone: {say_verdict(entry)}{say_gap(control)}
{card_words(entry, words)}{limits}

## Limits of use
- It was taught by a teacher and inherits that teacher's mistakes and bias.
- It knows only what its transfer data covered: {job.task.rows("train")} labelled and
  {job.task.rows("transfer")} unlabelled rows.
- Inputs unlike those give confident answers that mean nothing. Scores hold for data like the test rows.
{card_guard(entry)}"""


def say_ends(interval: Mapping[str, float]) -> str:
    known = np.isfinite([interval["low"], interval["high"]]).all()
    return f"{interval['low']:.4f} to {interval['high']:.4f}" if known else "unknown"


def card_words(entry: Mapping[str, Any], words: Mapping[str, Any]) -> str:
    """A line on TF-IDF with a linear model, where the student reads texts."""
    if not words:
        return ""
    told = " and ".join(
        f"{one['test']['value']:.4f} on {'labels' if taught == 'labels' else 'the answers of the teacher'} "
        f"({one['size_kb']:.0f} kB)"
        for taught, one in words.items()
    )
    return f"- TF-IDF with a linear model: {told}{'. TF-IDF wins here' if entry['tfidf']['wins'] else ''}\n"


def say_gap(control: Mapping[str, Any]) -> str:
    """The difference from labels alone in brackets, where some pair could be compared."""
    if not control["difference"]:
        return ""
    difference, detectable = control["difference"]["value"], control["detectable"]
    return f"\n  (difference {difference:+.4f}, smallest difference this test\n  could have shown {detectable:.4f})"


TOLD = {"size_kb": ".1f", "latency_ms": ".4f", "instructions_m": ".4f"}


def summary_table(family: Mapping[str, Any]) -> str:
    """The family as a text table, a row per budget; below it what was missed or skipped, and what would help."""
    rows, open_ends = [], []
    for name, entry in family["budgets"].items():
        if entry["status"] != "kept":
            rows.append({"budget": name, "status": entry["status"]})
            open_ends.append(f"{name}: {entry['status']}, {say_way_out(entry)}")
            continue
        test, costs = entry["test"], entry["costs"]
        rows.append(
            {
                "budget": name,
                "status": "kept",
                "student": f"{entry['id']} {entry['precision']}",
                f"test {family['score']['name']}": f"{test['value']:.4f} ({say_ends(test)})",
                **{
                    quantity: format(costs[quantity]["measured"], form)
                    for quantity, form in TOLD.items()
                    if quantity in costs
                },
                "against labels alone": say_verdict(entry),
            }
        )
    return "\n".join([pd.DataFrame(rows).fillna("").to_string(index=False), *open_ends])


def say_way_out(entry: Mapping[str, Any]) -> str:
    """Of a missed budget, which limits to relax and from where; of a skipped one, the reason."""
    if entry["status"] == "skipped":
        return str(entry["reason"])
    relax = [
        f"{quantity} from {entry['asked'][quantity]:g} to {value:.4g}" for quantity, value in entry["relax"].items()
    ]
    nothing = "no student could be measured against its limits"
    return f"relax {' and '.join(relax)}" if relax else "; ".join([nothing, *filter(None, [entry.get("untold")])])


ONE_SEED = {
    "distillation helped": "this student beats this control",
    "labels alone were better": "this control beats this student",
}


def say_verdict(entry: Mapping[str, Any]) -> str:
    """The verdict; with one seed no more than is known, which is about two models and not about a method."""
    verdict = str(entry["control"]["verdict"])
    if verdict == NO_VERDICT:
        return f"{verdict}, too few paired seeds could be compared"
    return f"{ONE_SEED.get(verdict, verdict)} (one seed)" if len(entry["seeds"]) == 1 else verdict
