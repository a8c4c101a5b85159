"""The run's tables and what they were made with: trials, records, predictions, test rows, environment."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmark import host, host_fingerprint
from family.controls import faithful_pairs
from family.finals import flat_figures
from family.job import Job
from family.measurers import facts_of
from family.recipe import Recipe
from family.run_folder import write_beside, write_json, write_table
from family.search import Searched
from family.students import outputs_of
from family.tasks.text_task import TextTask
from family.text.tfidf import tfidf_outputs
from family.types import Split, Task
from reports import Interval

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
Chosen = set[tuple[str, str]]  # (id, precision) of students


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


def cost_names(row: Mapping[str, Any]) -> list[str]:
    return [c.removesuffix("_provenance") for c in row if c.endswith("_provenance") and isinstance(row[c], str)]


def write_predictions(job: Job, recipe: Recipe, chosen: Chosen, finalists: Finalists, words: Mapping[str, Any]) -> None:
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
