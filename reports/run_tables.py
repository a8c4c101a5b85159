"""A run's tables, read back: all that a report is drawn from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reports.intervals import score_interval
from reports.scores import SCORES

COSTS = (
    "ms_per_token",
    "first_token_ms",
    "latency_ms",
    "file_ms",
    "tokenizer_ms",
    "latency_p95_ms",
    "latency_direct_ms",
    "latency_without_front_ms",
    "instructions_m",
    "size_kb",
    "download_kb",
    "memory_mb",
)


@dataclass(frozen=True)
class Run:
    """`family`: family.json. `records`: one row per student × precision × target. The rest may be empty."""

    family: Mapping[str, Any]
    records: pd.DataFrame
    predictions: pd.DataFrame
    trials: pd.DataFrame
    environment: Mapping[str, Any]

    @property
    def score(self) -> str:
        return str(self.family.get("score", {}).get("name", "score"))

    @property
    def higher_is_better(self) -> bool:
        return bool(self.family.get("score", {}).get("higher_is_better", True))

    @property
    def budgets(self) -> dict[str, dict[str, Any]]:
        return dict(self.family.get("budgets", {}))


def load_run(run: Path) -> Run:
    """Raises ValueError where the folder has no family.json or no records.parquet."""
    for name in ("family.json", "records.parquet"):
        if not (run / name).is_file():
            raise ValueError(f"{run} is no finished run folder: {name} is missing.")
    return Run(
        json.loads((run / "family.json").read_text(encoding="utf-8")),
        _read_records(run / "records.parquet"),
        _read_table(run / "predictions.parquet"),
        _read_table(run / "trials.parquet"),
        _read_json(run / "environment.json"),
    )


def _read_records(path: Path) -> pd.DataFrame:
    """Columns that every report needs are there, empty where they were not recorded."""
    rows = pd.read_parquet(path)
    for column in ("id", "role", "target", "precision", "val", "test", "size_kb"):
        if column not in rows:
            rows[column] = np.nan
    return rows


def _read_table(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path) if path.is_file() else pd.DataFrame()


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def list_targets(run: Run) -> list[str]:
    """Targets in the order in which budgets name them, then what else was measured."""
    named = [str(b["target"]) for b in run.budgets.values() if b.get("target")]
    measured = [str(t) for t in run.records["target"].dropna().unique()] if len(run.records) else []
    return [t for t in dict.fromkeys([*named, *run.family.get("frontier", {}), *measured]) if t in measured]


def find_target(run: Run, budget: str) -> str | None:
    """The target a budget is for; where family.json does not say, the first."""
    named = run.budgets[budget].get("target")
    return str(named) if named else next(iter(list_targets(run)), None)


def find_main_cost(run: Run, target: str) -> str:
    """The target's main cost: as recorded, else the first that a budget of its limits, else that is known."""
    recorded = run.family.get("targets", {}).get(target, {}).get("main_cost")
    if recorded and recorded in run.records:
        return str(recorded)
    limited = [q for name, b in run.budgets.items() if find_target(run, name) == target for q in b.get("limits", {})]
    known = [q for q in COSTS if q in run.records and run.records[q].notna().any()]
    return next(
        (q for q in COSTS[: COSTS.index("download_kb")] if q in limited and q in run.records),
        next(iter(known), "size_kb"),
    )


def take_records(run: Run, target: str, role: str = "student") -> pd.DataFrame:
    rows = run.records[run.records["target"] == target] if len(run.records) else run.records
    return rows[rows["role"] == role].reset_index(drop=True) if len(rows) else rows


def take_controls(run: Run, target: str) -> pd.DataFrame:
    """The controls there; a val score that was not recorded is the mean over the seeds told in predictions,
    and its interval the mean of theirs."""
    rows = take_records(run, target, "control")
    score = SCORES.get(run.score)
    if score is None or not len(rows) or not len(run.predictions):
        return rows.dropna(subset=["val"])
    told = run.predictions[run.predictions["split"] == "val"]
    for i, row in rows[rows["val"].isna()].iterrows():
        own = told[(told["model"] == f"control:{row['id']}") & (told["precision"] == row["precision"])]
        seeds = [take_outputs(run, own["model"].iloc[0], row["precision"], "val", s) for s in own["seed"].unique()]
        found = [score_interval(score, one[1], one[2]) for one in seeds if one is not None]
        if found:
            ends = np.mean([(f.value, f.low, f.high) for f in found], axis=0)
            rows.loc[i, ["val", "val_low", "val_high"]] = ends
    return rows.dropna(subset=["val"])


def find_record(run: Run, budget: str) -> dict[str, Any] | None:
    """The record of the student that a budget got, on that budget's target."""
    chosen, target = run.budgets[budget], find_target(run, budget)
    if target is None or chosen.get("id") is None:
        return None
    rows = take_records(run, target)
    rows = rows[(rows["id"] == chosen["id"]) & (rows["precision"] == chosen.get("precision"))]
    return {str(k): v for k, v in rows.iloc[0].items()} if len(rows) else None


def distinct_students(run: Run) -> dict[str, str]:
    """First budget of each distinct student file → its label, with the other budgets that chose it."""
    found: dict[tuple, list[str]] = {}
    for name, budget in run.budgets.items():
        if budget.get("status") == "kept":
            found.setdefault((budget.get("id"), budget.get("precision")), []).append(name)
    return {names[0]: ", ".join(names) for names in found.values()}


def name_budgets(run: Run, id: str, precision: str, target: str) -> str:
    """The budgets that chose this student there: "watch, web"."""
    return ", ".join(
        name
        for name, b in run.budgets.items()
        if b.get("status") == "kept"
        and (b.get("id"), b.get("precision")) == (id, precision)
        and find_target(run, name) == target
    )


def take_outputs(
    run: Run, model: str, precision: str | None = None, split: str = "test", seed: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Row ids (rows,), truth (rows,) or (rows, k), outputs (rows, k) of one model; None where not recorded.

    Without `seed`, or where that one is not there, the first seed's.
    """
    if not len(run.predictions):
        return None
    rows = run.predictions[(run.predictions["model"] == model) & (run.predictions["split"] == split)]
    if precision is not None:
        rows = rows[rows["precision"] == precision]
    seeds = rows["seed"].dropna().unique()
    if len(seeds):
        rows = rows[rows["seed"] == (seed if seed in seeds else seeds.min())]
    if not len(rows):
        return None
    rows = rows.drop_duplicates("row").sort_values("row")
    outputs = np.array([np.atleast_1d(o) for o in rows["output"]], dtype=float)
    return rows["row"].to_numpy(), _stack_truth(rows["truth"]), outputs


def _stack_truth(column: pd.Series) -> np.ndarray:
    if column.map(np.ndim).max() > 0:
        return np.array(column.to_list(), dtype=float)
    return column.to_numpy()
