"""What `family.json` says of one budget, and of its student beside teacher and control."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from family.cards import write_student_folder
from family.guard_told import ship_guard
from family.guards import see_guard
from family.job import Job, limits_of
from family.kernels import kernels_of
from family.recipe import Recipe
from family.students import outputs_of
from family.tables import Finalists, cost_names
from family.text.answering import tell_answers
from family.text.fidelity import tell_fidelity
from family.text.tfidf import hold_against
from reports import Choice, difference


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


def winner(choice: Choice) -> tuple[str, str]:
    """(id, precision) of a kept budget's student."""
    assert choice.id is not None
    assert choice.precision is not None
    return choice.id, choice.precision


def as_dict(interval: Any) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def find_untold(rows: pd.DataFrame, limits: Iterable[str]) -> str | None:
    """Of the first limit that no row's figures tell, why; None where each is told of some row."""
    for quantity in limits:
        if f"{quantity}_untold" in rows and rows[quantity].isna().all():
            return f"its {quantity} is untold: {rows[f'{quantity}_untold'].dropna().iloc[0]}"
    return None


def weigh(data: bytes) -> dict[str, float]:
    """Of a file that ships beside the model, in kB; limits on size are of the model alone."""
    return {"size": len(data) / 1000, "download": len(gzip.compress(data, compresslevel=9, mtime=0)) / 1000}


def against_teacher(job: Job, params: Mapping[str, Any], precision: str, recipe: Recipe) -> dict[str, float]:
    """Student minus teacher on test, paired by rows; nothing for a teacher that returns only text."""
    ours, theirs = outputs_of(job, params, recipe.student, precision, "test"), job.teacher_outputs("test")
    if theirs is None:
        return {}
    return as_dict(difference(job.task.score, job.task.labels("test"), [ours], [theirs], job.task.groups("test")))


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
