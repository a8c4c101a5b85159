"""A budget's student folder, with the card that says how good the student is and what not to use it for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from export import describe, front_data
from family import spaces
from family.checks import check_student
from family.controls import NO_VERDICT
from family.guard_told import card_guard, tell_guard
from family.guards import guarded_file
from family.job import Job
from family.shipping import golden_rows, ship
from family.types import Training


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
