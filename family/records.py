"""What a run leaves behind: `family.json`, its tables and its student folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from family.controls import compare, judge, read_test
from family.entries import as_dict, budget_entry, winner
from family.guard_told import say_unguarded
from family.job import Job
from family.recipe import Recipe
from family.run_folder import without_nan, write_json
from family.search import Searched
from family.soft_targets import teacher_classes
from family.spent import count_compute
from family.students import outputs_of
from family.tables import Chosen, Finalists, write_environment, write_predictions, write_records, write_test_rows
from family.text.answering import tell_asking
from family.text.tfidf import fit_tfidf
from family.types import Split, Training
from reports import Choice, Interval, frontier, score_interval


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


def score(job: Job, split: Split, outputs: np.ndarray) -> Interval:
    return score_interval(job.task.score, job.task.labels(split), outputs, job.task.groups(split))


def add_test_scores(
    job: Job, rows: pd.DataFrame, chosen: Chosen, finalists: Finalists, training: Training
) -> pd.DataFrame:
    """Test is read only for what was chosen."""
    rows = rows.assign(test=np.nan, test_low=np.nan, test_high=np.nan)
    for identity, precision in chosen:
        test = score(job, "test", outputs_of(job, finalists[identity], training, precision, "test"))
        here = (rows["id"] == identity) & (rows["precision"] == precision)
        rows.loc[here, ["test", "test_low", "test_high"]] = [test.value, test.low, test.high]
    return rows


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


def say_left_out(compared: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[str]:
    """A line for every paired seed that could not be compared, once a student."""
    lines = {
        f"Seed {seed} of student {identity} is left out of its comparison with labels alone; {why}."
        for (identity, _), found in compared.items()
        for seed, why in found["left_out"].items()
    }
    return sorted(lines)


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
