"""The sections of a report: each a function of the run's tables, giving text, tables and figures, or None."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from reports.choice import frontier
from reports.intervals import difference
from reports.plots import draw_frontier, draw_gaps, draw_trials
from reports.run_tables import (
    COSTS,
    Run,
    find_main_cost,
    find_record,
    find_target,
    list_targets,
    name_budgets,
    take_outputs,
    take_records,
)
from reports.scores import SCORES, calibration_error, predict
from reports.words import (
    UNITS,
    count_seeds,
    name_quantity,
    say_control,
    say_cost,
    say_gap,
    say_interval,
    say_number,
    say_range,
    say_score,
)

MOST_ROWS = 24


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Table:
    """`frame` as shown; `raw` (default: the same) goes to NAME.csv."""

    name: str
    frame: pd.DataFrame
    caption: str = ""
    raw: pd.DataFrame | None = None


@dataclass(frozen=True)
class Picture:
    """Goes to NAME.png and NAME.svg; `alt` says what it shows."""

    name: str
    figure: Figure
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Facts:
    """Terms and what they are."""

    facts: Mapping[str, str]


@dataclass(frozen=True)
class Items:
    items: tuple[str, ...]


Block = Text | Table | Picture | Facts | Items


@dataclass(frozen=True)
class Section:
    title: str
    blocks: tuple[Block, ...]


def show_targets(run: Run) -> Section | None:
    """Per target its table, and its frontier where the first screen does not show it already."""
    blocks: list[Block] = []
    for rank, target in enumerate(list_targets(run)):
        if rank:
            blocks.append(picture_frontier(run, target))
        blocks.append(_tabulate_target(run, target))
    gone = run.family.get("targets", {}).items()
    blocks += [Text(f"{t} is not available here: {i['unavailable']}") for t, i in gone if i.get("unavailable")]
    return Section("What each target offers", tuple(blocks)) if blocks else None


def picture_frontier(run: Run, target: str) -> Picture:
    cost = find_main_cost(run, target)
    rows = take_records(run, target)
    best = frontier(rows, cost, "val", run.higher_is_better)
    ends = [f"{say_score(run.score, r['val'])} at {say_cost(cost, r[cost])}" for r in _rows(best)]
    chosen = [n for n, b in run.budgets.items() if b.get("status") == "kept" and find_target(run, n) == target]
    alt = (
        f"Frontier on {target}, {len(rows)} files: {name_quantity(run.score)} against {name_quantity(cost)}. "
        f"{len(best)} are not dominated, from {ends[0]} to {ends[-1]}. "
        if ends
        else f"No student was measured on {target}. "
    ) + (f"Chosen: {', '.join(chosen)}." if chosen else "")
    caption = (
        f"Every student measured on {target}. The line is the frontier: nothing is both cheaper and better. "
        "Rings mark what a budget chose; hollow marks are controls, trained on labels alone; circles are "
        "fp32, diamonds int8; bars are 95 % intervals; dotted lines are limits."
    )
    return Picture(f"frontier-{_slug(target)}", draw_frontier(run, target), alt, caption)


def _tabulate_target(run: Run, target: str) -> Table:
    cost = find_main_cost(run, target)
    rows = take_records(run, target)
    best = set(frontier(rows, cost, "val", run.higher_is_better).index)
    rows = rows.assign(_best=[i in best for i in rows.index]).sort_values(["_best", cost], ascending=[False, True])
    shown = [q for q in COSTS if q in rows and rows[q].notna().any()]
    lines = []
    for row in _rows(rows.head(MOST_ROWS)):
        line = {
            "Budget": name_budgets(run, row["id"], row["precision"], target),
            "Student": str(row["id"])[:8],
            "Parameters": _say_params(row.get("params")),
            "Precision": row["precision"],
            "Validation": say_interval(run.score, _interval(row, "val")),
            "Test": say_interval(run.score, _interval(row, "test")),
        }
        line |= {f"{name_quantity(q).capitalize()}, {UNITS[q]}": _say_measured(row, q) for q in shown}
        lines.append(line | {"Frontier": "●" if row["_best"] else ""})
    left = f" {len(rows) - MOST_ROWS} more are in the CSV." if len(rows) > MOST_ROWS else ""
    caption = f"{target}: the frontier first, then what it dominates. Below each value its 95 % interval.{left}"
    return Table(f"target-{_slug(target)}", pd.DataFrame(lines), caption, rows.drop(columns="_best"))


def show_changes(run: Run) -> Section | None:
    """What a user who swaps the teacher for a student will notice."""
    kept = _distinct(run)
    lines = [line for name in kept if (line := _compare_teacher(run, name))]
    if not lines:
        return None
    caption = (
        "On test. Newly wrong: the teacher was right; inherited: wrong, and with the teacher's answer. "
        "Calibration error: how far confidence is from the share of right answers."
    )
    changes = _tabulate_changes(run, kept)
    table = Table("against-teacher", pd.DataFrame(lines), caption)
    return Section("What changes against the teacher", (table, changes) if changes else (table,))


def show_control(run: Run) -> Section | None:
    """What distillation was good for: each student against the same one from labels alone."""
    kept = _distinct(run)
    controls = {n: c for n in kept if (c := run.budgets[n].get("control") or {}).get("verdict")}
    if not controls:
        return None
    lines = [
        {
            "Student": kept[n],
            "Verdict": c["verdict"],
            "Gain": say_gap(run.score, (c.get("difference") or {}).get("value"), True),
            "95 %": say_range(run.score, c.get("difference") or {}),
            "Could have shown": say_gap(run.score, c.get("detectable")),
            "Seeds": str(count_seeds(run.budgets[n])),
        }
        for n, c in controls.items()
    ]
    caption = (
        "Gain over labels alone on test: the same student, views and steps, fresh paired seeds, a learning "
        "rate of its own. Could have shown: the smallest true difference that this test finds in "
        "4 of 5 cases."
    )
    blocks: list[Block] = [Table("control", pd.DataFrame(lines), caption)]
    gaps = [g for name in kept if (g := _find_gap(run, name))]
    if gaps:
        alt = "; ".join(f"{kept[n]}: {say_control(run, run.budgets[n])}" for n in controls if _find_gap(run, n))
        blocks.insert(0, Picture("control", draw_gaps(run, gaps), alt))
    return Section("What distillation added", tuple(blocks))


def _distinct(run: Run) -> dict[str, str]:
    """First budget of each distinct student file → its label, with the other budgets that chose it."""
    found: dict[tuple, list[str]] = {}
    for name, budget in run.budgets.items():
        if budget.get("status") == "kept":
            found.setdefault((budget.get("id"), budget.get("precision")), []).append(name)
    return {names[0]: ", ".join(names) for names in found.values()}


def _find_gap(run: Run, name: str) -> tuple[str, float, float, float, str] | None:
    control = run.budgets[name].get("control") or {}
    gap = control.get("difference") or {}
    ends = [gap.get(key) for key in ("value", "low", "high")]
    if any(end is None for end in ends) or control.get("verdict") == "labels alone chosen":
        return None
    value, low, high = (float(end) for end in ends if end is not None)
    return _distinct(run).get(name, name), value, low, high, str(control.get("verdict"))


def _pair_outputs(run: Run, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Truth, the student's outputs and the teacher's on the test rows that both have."""
    budget, record = run.budgets[name], find_record(run, name) or {}
    student = take_outputs(run, budget["id"], budget.get("precision"), seed=record.get("seed"))
    teacher = take_outputs(run, "teacher")
    if student is None or teacher is None:
        return None
    _, left, right = np.intersect1d(student[0], teacher[0], return_indices=True)
    return (student[1][left], student[2][left], teacher[2][right]) if len(left) else None


def _has_classes(truth: np.ndarray, run: Run) -> bool:
    """As family.json says; a run that does not name its classes is told by its score, where that is built in."""
    if run.family.get("classes") or run.score in ("rmse", "mae", "r2"):
        return bool(run.family.get("classes"))
    if run.score not in SCORES and "classes" in run.family:
        return False
    return truth.ndim == 1 or bool(np.isin(truth, (0, 1)).all())


def _find_gain(run: Run, name: str, truth: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any] | None:
    """The student against the teacher on test, positive where better: as recorded, else counted again. A score
    of the user's own is not at hand here: without a record its value alone is known, from the two scores."""
    recorded = run.budgets[name].get("against_teacher")
    if recorded:
        return dict(recorded)
    if run.score in SCORES:
        gap = difference(SCORES[run.score], truth, [ours], [theirs])
        return {"value": gap.value, "low": gap.low, "high": gap.high}
    ends = [(known.get("test") or {}).get("value") for known in (run.budgets[name], run.family.get("teacher", {}))]
    if None in ends:
        return None
    return {"value": (ends[0] - ends[1]) * (1 if run.higher_is_better else -1)}


def _say_gain(score: str, gain: Mapping[str, Any]) -> str:
    span = f"({say_range(score, gain)})" if gain.get("low") is not None else "(interval not recorded)"
    return f"{say_gap(score, gain['value'], True)} {span}"


def _compare_teacher(run: Run, name: str) -> dict[str, str] | None:
    pair = _pair_outputs(run, name)
    if pair is None:
        return _recall_flips(run, name)
    truth, ours, theirs = pair
    line = {"Student": _distinct(run)[name], "Rows": str(len(truth))}
    gain = _find_gain(run, name, truth, ours, theirs)
    if gain is not None:
        line["Better than teacher by"] = _say_gain(run.score, gain)
    if not _has_classes(truth, run):
        apart = np.abs(ours - theirs)
        return line | {
            "Mean distance": say_number(float(apart.mean())),
            "Greatest": say_number(float(apart.max())),
        }
    line |= _count_flips(truth, ours, theirs)
    flips = (run.budgets[name].get("flips") or {}).get("int8_vs_fp32")
    line["int8 flips"] = "–" if flips is None else _say_share(flips)
    return line | {
        "Calibration error": f"{100 * calibration_error(truth, ours):.1f} %",
        "Teacher's": f"{100 * calibration_error(truth, theirs):.1f} %",
    }


def _count_flips(truth: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> dict[str, str]:
    mine, taught = predict(ours, truth), predict(theirs, truth)
    same, right, was_right = mine == taught, mine == truth, taught == truth
    if truth.ndim == 2:
        same, right, was_right = same.all(axis=1), right.all(axis=1), was_right.all(axis=1)
    return {
        "Agrees": f"{100 * same.mean():.1f} %",
        "Newly wrong": str(int((was_right & ~right).sum())),
        "Newly right": str(int((~was_right & right).sum())),
        "Mistakes inherited": f"{int((~was_right & same).sum())} of {int((~was_right).sum())}",
    }


def _recall_flips(run: Run, name: str) -> dict[str, str] | None:
    """What family.json says of flips, where predictions are not there."""
    flips = run.budgets[name].get("flips") or {}
    if not flips:
        return None
    return {"Student": _distinct(run)[name]} | {
        k.replace("_", " ").capitalize(): _say_share(v) for k, v in flips.items()
    }


def _say_share(value: Any) -> str:
    """Counts stay counts, shares become percent."""
    if value is None:
        return "–"
    return f"{100 * value:.1f} %" if isinstance(value, float) and 0 <= value <= 1 else str(value)


def _tabulate_changes(run: Run, kept: Mapping[str, str]) -> Table | None:
    """The most frequent pairs teacher's class → student's class, where the two differ."""
    counts = {label: c for name, label in kept.items() if (c := _count_changes(run, name)) is not None}
    counts = {label: c for label, c in counts.items() if len(c)}
    if not counts:
        return None
    classes = run.family.get("classes")
    lines = [
        {
            "Student": label if rank == 0 else "",
            "Teacher said": _name_class(classes, row["was"]),
            "Student says": _name_class(classes, row["now"]),
            "Rows": str(row["rows"]),
            "Teacher was right": str(row["teacher_right"]),
            "Student is right": str(row["student_right"]),
        }
        for label, table in counts.items()
        for rank, row in enumerate(_rows(table.head(5)))
    ]
    raw = pd.concat([c.assign(student=label) for label, c in counts.items()])
    return Table("changes", pd.DataFrame(lines), "The most frequent changes of mind on test; all are in the CSV.", raw)


def _count_changes(run: Run, name: str) -> pd.DataFrame | None:
    pair = _pair_outputs(run, name)
    if pair is None or not _has_classes(pair[0], run) or pair[0].ndim == 2:
        return None
    truth, ours, theirs = pair
    seen = pd.DataFrame({"was": predict(theirs, truth), "now": predict(ours, truth), "truth": truth})
    seen = seen[seen["was"] != seen["now"]]
    seen = seen.assign(teacher_right=seen["was"] == seen["truth"], student_right=seen["now"] == seen["truth"])
    counts = seen.groupby(["was", "now"]).agg(
        rows=("truth", "size"), teacher_right=("teacher_right", "sum"), student_right=("student_right", "sum")
    )
    return counts.reset_index().sort_values(["rows", "was", "now"], ascending=[False, True, True])


def _name_class(classes: Any, number: int) -> str:
    return str(classes[number]) if classes and 0 <= number < len(classes) else str(number)


def show_tried(run: Run) -> Section | None:
    """What was tried and dropped, so that nothing is hidden."""
    blocks: list[Block] = []
    search = run.family.get("search") or {}
    if search:
        blocks.append(Facts(_flatten(search)))
    if run.family.get("bakeoff"):
        blocks.append(_tabulate_bakeoff(run))
    if len(run.trials):
        first = next(iter(list_targets(run)), None)
        cost = find_main_cost(run, first) if first else "size_kb"
        figure = draw_trials(run, cost)
        if figure is not None:
            alt = f"{len(run.trials)} trials: {name_quantity(cost)} against the score of a short run."
            blocks.append(
                Picture("trials", figure, alt, "What the search looked at. Short runs rank, they do not judge.")
            )
        blocks.append(_tabulate_states(run))
    dropped = _tabulate_dropped(run)
    if dropped is not None:
        blocks.append(dropped)
    return Section("What was tried and dropped", tuple(blocks)) if blocks else None


def _tabulate_bakeoff(run: Run) -> Table:
    raw = pd.DataFrame(run.family["bakeoff"])
    raw = raw.sort_values("val", ascending=not run.higher_is_better) if "val" in raw else raw
    frame = pd.DataFrame(
        {str(c).replace("_", " ").capitalize(): [_say_any(v) for v in raw[c]] for c in raw if c != "val"}
    )
    if "val" in raw:
        frame["Validation"] = [say_score(run.score, v) for v in raw["val"]]
    return Table(
        "bakeoff",
        frame,
        "The bake-off of losses on a middle student, best first; labels alone among them.",
        raw,
    )


def _tabulate_states(run: Run) -> Table:
    counts = (
        run.trials["state"].astype(str).str.lower().value_counts() if "state" in run.trials else pd.Series(dtype=int)
    )
    frame = pd.DataFrame({"Trials": list(counts.index), "Number": [str(n) for n in counts]})
    return Table("trials", frame, "How the trials of the search ended; every one is in the CSV.", run.trials)


def _tabulate_dropped(run: Run) -> Table | None:
    """Finalists that no budget chose, and why."""
    lines = []
    for target in list_targets(run):
        rows = take_records(run, target)
        if "finalist" in rows:
            rows = rows[rows["finalist"].fillna(False).astype(bool)]
        cost = find_main_cost(run, target)
        best = set(frontier(rows, cost, "val", run.higher_is_better).index)
        for i, row in rows.iterrows():
            if name_budgets(run, row["id"], row["precision"], target):
                continue
            why = "no budget asks for this trade" if i in best else _find_better(run, rows, row, cost)
            lines.append(
                {
                    "Target": target,
                    "Student": str(row["id"])[:8],
                    "Precision": row["precision"],
                    "Parameters": _say_params(row.get("params")),
                    "Validation": say_score(run.score, row["val"]),
                    f"{name_quantity(cost).capitalize()}": say_cost(cost, row[cost]),
                    "Dropped because": why,
                }
            )
    caption = "Finalists that were trained in full and that no budget chose."
    frame = pd.DataFrame(lines)
    return Table("dropped", frame.head(MOST_ROWS), caption, frame) if lines else None


def _find_better(run: Run, rows: pd.DataFrame, row: pd.Series, cost: str) -> str:
    better = rows[
        (rows[cost] <= row[cost])
        & ((rows["val"] >= row["val"]) if run.higher_is_better else (rows["val"] <= row["val"]))
    ]
    better = better[(better["id"] != row["id"]) | (better["precision"] != row["precision"])]
    if not len(better):
        return "its cost or score is not known"
    one = better.sort_values(cost).iloc[0]
    return f"{str(one['id'])[:8]} ({one['precision']}) is as good and as cheap, or better"


def show_int8(run: Run) -> Section | None:
    """int8 against fp32 of the same student on the same target, and where it lost."""
    lines, lost = [], 0
    for target in list_targets(run):
        rows = take_records(run, target)
        for id, part in rows.groupby("id", sort=False):
            both = {str(row["precision"]): row for row in _rows(part)}
            if not {"fp32", "int8"} <= set(both):
                continue
            line, worse = _compare_precisions(run, both["fp32"], both["int8"])
            lines.append({"Target": target, "Student": str(id)[:8]} | line | {"int8 lost on": ", ".join(worse)})
            lost += bool(worse)
    if not lines:
        return None
    text = (
        f"int8 lost somewhere in {lost} of {len(lines)} comparisons; each budget's precision was "
        "chosen by score on validation data and by cost."
    )
    raw = pd.DataFrame(lines)
    order = raw["int8 lost on"].ne("").sort_values(ascending=False, kind="stable").index
    table = Table("int8", raw.loc[order].head(MOST_ROWS), "Figures below 1 × mean that int8 is cheaper.", raw)
    return Section("Where int8 lost", (Text(text), table))


def _compare_precisions(run: Run, fp32: Mapping[str, Any], int8: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    sign = 1 if run.higher_is_better else -1
    gain = sign * (float(int8["val"]) - float(fp32["val"]))
    line, worse = (
        {"Validation, int8 − fp32": say_gap(run.score, float(int8["val"]) - float(fp32["val"]), True)},
        [],
    )
    if gain < 0:
        worse.append("score")
    for quantity in ("latency_ms", "size_kb", "memory_mb", "instructions_m"):
        if quantity not in fp32 or pd.isna(fp32[quantity]) or pd.isna(int8[quantity]) or not fp32[quantity]:
            continue
        line[name_quantity(quantity).capitalize()] = f"{int8[quantity] / fp32[quantity]:.2f} ×"
        low = int8.get(f"{quantity}_low", int8[quantity])
        high = fp32.get(f"{quantity}_high", fp32[quantity])
        if (int8[quantity] if pd.isna(low) else low) > (fp32[quantity] if pd.isna(high) else high):
            worse.append(name_quantity(quantity))
    return line, worse


def show_method(run: Run) -> Section | None:
    """How it was measured: host, versions, protocol, provenance of each quantity, how often test was read."""
    blocks: list[Block] = []
    facts = _flatten(run.environment)
    reads = run.family.get("test_reads")
    if reads is not None:
        facts["test set read"] = f"{reads} time{'' if reads == 1 else 's'} in the history of this run folder"
    facts |= {f"coverage {k}": v for k, v in _flatten(run.family.get("coverage") or {}).items()}
    facts |= {f"provenance of {name_quantity(q)}": v for q, v in _find_provenance(run).items()}
    for column in ("host", "versions"):
        known = list(run.records[column].dropna().astype(str).unique()) if column in run.records else []
        if known and not any(column in f for f in facts):
            facts[column] = "; ".join(known)
    if facts:
        blocks.append(Facts(facts))
    blocks.append(
        Text(
            "Choices were made on validation data; test was read afterwards. A limit is kept when the bad "
            "end of the 95 % interval keeps it. Every score is that of the file that ships. Intervals: "
            "Wilson for shares "
            "of rows, otherwise a bootstrap of rows or groups; differences are paired over rows and seeds, "
            "corrected after Holm over the distinct students."
        )
    )
    blocks.append(Items(tuple(str(n) for n in run.family.get("notes") or ())))
    return Section("How it was measured", tuple(b for b in blocks if not isinstance(b, Items) or b.items))


def _find_provenance(run: Run) -> dict[str, str]:
    columns = {q: f"{q}_provenance" for q in COSTS if f"{q}_provenance" in run.records}
    found = {q: sorted(run.records[c].dropna().astype(str).unique()) for q, c in columns.items()}
    return {q: ", ".join(v) for q, v in found.items() if v}


def show_warnings(run: Run) -> Section | None:
    warnings = tuple(str(w) for w in run.family.get("warnings") or ())
    return Section("Warnings", (Items(warnings),) if warnings else (Text("None."),))


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(k): v for k, v in row.items()} for row in frame.to_dict("records")]


def _interval(row: Mapping[str, Any], column: str) -> dict[str, Any] | None:
    if column not in row or pd.isna(row[column]):
        return None
    return {"value": row[column], "low": row.get(f"{column}_low"), "high": row.get(f"{column}_high")}


def _say_measured(row: Mapping[str, Any], quantity: str) -> str:
    value, low, high = (row.get(c, np.nan) for c in (quantity, f"{quantity}_low", f"{quantity}_high"))
    if pd.isna(value):
        return "–"
    if pd.isna(low) or pd.isna(high) or low == high:
        return say_number(value)
    return f"{say_number(value)} ({say_number(low)}–{say_number(high)})"


def _say_params(params: Any) -> str:
    if not isinstance(params, str):
        return "–"
    return ", ".join(f"{k} {_say_any(v)}" for k, v in json.loads(params).items())


def _say_any(value: Any) -> str:
    if isinstance(value, float):
        return "–" if np.isnan(value) else f"{value:.4g}"
    return ", ".join(map(_say_any, value)) if isinstance(value, (list, tuple)) else str(value)


def _flatten(nested: Mapping[str, Any], above: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in nested.items():
        name = f"{above} {key}".strip().replace("_", " ")
        flat |= _flatten(value, name) if isinstance(value, Mapping) else {name: _say_any(value)}
    return flat


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name)


SECTIONS: dict[str, Callable[[Run], Section | None]] = {
    "targets": show_targets,
    "changes": show_changes,
    "control": show_control,
    "tried": show_tried,
    "int8": show_int8,
    "method": show_method,
    "warnings": show_warnings,
}
