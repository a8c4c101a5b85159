"""What a student changed against its teacher, and against labels alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from reports.blocks import Block, Picture, Section, Table
from reports.cells import (
    list_rows,
    say_share,
    unit_of,
)
from reports.intervals import difference
from reports.plots import draw_gaps
from reports.run_tables import (
    Run,
    distinct_students,
    find_record,
    take_outputs,
)
from reports.scores import SCORES, calibration_error, predict
from reports.words import (
    count_seeds,
    say_control,
    say_gap,
    say_number,
    say_range,
)


def show_changes(run: Run) -> Section | None:
    """What a user who swaps the teacher for a student will notice."""
    kept = distinct_students(run)
    lines = [line for name in kept if (line := _compare_teacher(run, name))]
    if not lines:
        return None
    caption = (
        "On test. Agrees: the same answer as the teacher. Newly wrong: the teacher was right; inherited: wrong, and "
        "with the teacher's answer. Against fp32: rows whose answer differs from that of the fp32 file. "
        "Calibration error: how far confidence is from the share of right answers."
    )
    changes = _tabulate_changes(run, kept)
    table = Table("against-teacher", pd.DataFrame(lines), caption)
    return Section("What changes against the teacher", (table, changes) if changes else (table,))


def show_control(run: Run) -> Section | None:
    """What distillation was good for: each student against the same one from labels alone."""
    kept = distinct_students(run)
    controls = {n: c for n in kept if (c := run.budgets[n].get("control") or {}).get("verdict")}
    if not controls:
        return None
    lines = [
        {
            "Student": kept[n],
            "Verdict": c["verdict"],
            f"Gain{unit_of(run)}": say_gap(run.score, (c.get("difference") or {}).get("value"), True),
            "95 %": say_range(run.score, c.get("difference") or {}),
            f"Could have shown{unit_of(run)}": say_gap(run.score, c.get("detectable")).removesuffix(" points"),
            "Seeds": str(count_seeds(run.budgets[n])),
        }
        for n, c in controls.items()
    ]
    caption = (
        "Gain over labels alone on test: the same student and views, fresh paired seeds, a learning rate and a length "
        "of its own from the same choice (given steps are equal). Could have shown: the smallest true difference that "
        "this test finds in 4 of 5 cases. Verdicts are corrected after Holm over the distinct students, the intervals "
        "shown are not."
    )
    blocks: list[Block] = [Table("control", pd.DataFrame(lines), caption)]
    gaps = [g for name in kept if (g := _find_gap(run, name))]
    if gaps:
        alt = "; ".join(f"{kept[n]}: {say_control(run, run.budgets[n])}" for n in controls if _find_gap(run, n))
        drawn = (
            "Distilled minus labels alone, on test, with 95 % intervals: right of 0 distillation is ahead. "
            "Triangles are verdicts, dots are none."
        )
        blocks.insert(0, Picture("control", draw_gaps(run, gaps), alt, drawn))
    return Section("What distillation added", tuple(blocks))


def _find_gap(run: Run, name: str) -> tuple[str, float, float, float, str] | None:
    control = run.budgets[name].get("control") or {}
    gap = control.get("difference") or {}
    ends = [gap.get(key) for key in ("value", "low", "high")]
    if any(end is None for end in ends) or control.get("verdict") == "labels alone chosen":
        return None
    value, low, high = (float(end) for end in ends if end is not None)
    return distinct_students(run).get(name, name), value, low, high, str(control.get("verdict"))


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
    told = (run.budgets[name], run.family.get("teacher", {}))
    ends = [float(value) for known in told if (value := (known.get("test") or {}).get("value")) is not None]
    return {"value": (ends[0] - ends[1]) * (1 if run.higher_is_better else -1)} if len(ends) == 2 else None


def _say_gain(score: str, gain: Mapping[str, Any]) -> str:
    span = f"({say_range(score, gain)})" if gain.get("low") is not None else "(interval not recorded)"
    return f"{say_gap(score, gain['value'], True)} {span}"


def _compare_teacher(run: Run, name: str) -> dict[str, str] | None:
    pair = _pair_outputs(run, name)
    if pair is None:
        return _recall_flips(run, name)
    truth, ours, theirs = pair
    line = {"Student": distinct_students(run)[name], "Rows": str(len(truth))}
    gain = _find_gain(run, name, truth, ours, theirs)
    if gain is not None:
        line[f"Student − teacher{unit_of(run)}"] = _say_gain(run.score, gain)
    if (run.family.get("data") or {}).get("kind") in ("tokens", "embedding"):
        return line  # sums over a row's positions; vectors of which the direction alone counts
    if not _has_classes(truth, run):
        apart = np.abs(ours - theirs)
        return line | {
            "Mean distance": say_number(float(apart.mean())),
            "Greatest": say_number(float(apart.max())),
        }
    line |= _count_flips(truth, ours, theirs)
    flips = (run.budgets[name].get("flips") or {}).get("vs_fp32")
    line["Against fp32"] = "–" if flips is None else say_share(flips)
    return line | {
        "Calibration error": f"{100 * calibration_error(truth, ours):.1f} %",
        "Teacher's own": f"{100 * calibration_error(truth, theirs):.1f} %",
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
    return {"Student": distinct_students(run)[name]} | {
        k.replace("_", " ").capitalize(): say_share(v) for k, v in flips.items()
    }


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
        for rank, row in enumerate(list_rows(table.head(5)))
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
