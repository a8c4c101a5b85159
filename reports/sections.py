"""The sections of a report: each a function of the run's tables, giving text, tables and figures, or None."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from reports.blocks import Block, Facts, Items, Picture, Section, Table, Text
from reports.checks import show_checks
from reports.choice import frontier
from reports.frontier_plot import draw_frontier, list_panels
from reports.guard import show_guard
from reports.intervals import difference
from reports.kernels import show_kernels
from reports.plots import draw_gaps, draw_trials, say_judge
from reports.run_tables import (
    COSTS,
    Run,
    find_main_cost,
    find_record,
    find_target,
    list_targets,
    name_budgets,
    take_controls,
    take_outputs,
    take_records,
)
from reports.run_tables import distinct_students as _distinct
from reports.scores import SCORES, calibration_error, predict
from reports.words import (
    SHARES,
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
NOISY = "~"
NUMBERS = ("learning_rate", "temperature", "steps", "seconds")


def show_targets(run: Run) -> Section | None:
    """Per target its table, and its frontier where the first screen does not show it already."""
    blocks: list[Block] = []
    for rank, target in enumerate(list_targets(run)):
        if rank:
            blocks.append(picture_frontier(run, target))
        blocks.append(_tabulate_target(run, target))
        front = say_front(run, target)
        blocks += [Text(front)] if front else []
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
        f"Every student measured on {target}, by {_join(name_quantity(q) for q in list_panels(run, target))}. "
        "On the frontier nothing is both cheaper and better. Bars are 95 % intervals. A budget takes the cheapest "
        "student that is not shown to be worse than the best within its limits; one that asks for a score takes "
        "the cheapest that reaches it."
    )
    if len(take_controls(run, target)):
        caption += " Controls are the same students trained on labels alone, the mean of their seeds."
    return Picture(f"frontier-{_slug(target)}", draw_frontier(run, target), alt, caption)


def _tabulate_target(run: Run, target: str) -> Table:
    cost = find_main_cost(run, target)
    rows = take_records(run, target)
    best = set(frontier(rows, cost, "val", run.higher_is_better).index)
    rows = rows.assign(_best=[i in best for i in rows.index]).sort_values(["_best", cost], ascending=[False, True])
    shown = [q for q in COSTS if q in rows and rows[q].notna().any()]
    lines = [_line_up(run, row, target, shown) for row in _rows(rows.head(MOST_ROWS))]
    left = f" {len(rows) - MOST_ROWS} more are in the CSV." if len(rows) > MOST_ROWS else ""
    caption = (
        f"{target}: ● is the frontier by {name_quantity(cost)}, then what it dominates. "
        f"Below each value its 95 % interval.{left}"
    )
    if any(NOISY in cell for line in lines for cell in line.values()):
        caption += f" {NOISY} Noisy: its repeats lay further apart than they should."
    return Table(f"target-{_slug(target)}", pd.DataFrame(lines), caption, rows.drop(columns="_best"))


def _line_up(run: Run, row: Mapping[str, Any], target: str, shown: Sequence[str]) -> dict[str, str]:
    """A student's line in its target's table; what follows a line break is written smaller, below."""
    line = {
        "Student": f"{'● ' if row['_best'] else ''}{str(row['id'])[:8]}\n{_say_params(row.get('params'))}",
        "Precision": str(row["precision"]),
        "Chosen by": name_budgets(run, row["id"], row["precision"], target),
        "Validation": say_interval(run.score, _interval(row, "val")),
        "Test": say_interval(run.score, _interval(row, "test")),
    }
    return line | {f"{name_quantity(q).capitalize()}, {UNITS[q]}": _say_measured(row, q) for q in shown}


def say_front(run: Run, target: str) -> str | None:
    """What the part of the file that prepares the input costs, where finalists were measured with and without."""
    bare, rows = "latency_without_front_ms", take_records(run, target)
    if bare not in rows or "latency_ms" not in rows:
        return None
    rows = rows.dropna(subset=[bare, "latency_ms"])
    if not len(rows):
        return None
    share = 1 - rows[bare] / rows["latency_ms"]
    least, most = (f"{100 * max(v, 0):.0f} %" for v in (share.min(), share.max()))
    spread = least if least == most else f"between {least} and {most}"
    text = (
        "Each file takes the input as the data gives it: its front graph resizes, scales or encodes before the "
        f"student proper. The front takes {spread} of the latency of the {len(rows)} files measured with and "
        "without it. An app that prepares its input itself can count on the figures without front"
    )
    kept = [(label, find_record(run, n) or {}) for n, label in _distinct(run).items() if find_target(run, n) == target]
    known = [(label, r) for label, r in kept if pd.notna(r.get(bare, np.nan)) and pd.notna(r.get("latency_ms", np.nan))]
    told = [f"{label} {say_cost(bare, r[bare])} instead of {say_cost(bare, r['latency_ms'])}" for label, r in known]
    return f"{text}: {'; '.join(told)}." if told else f"{text}."


def show_changes(run: Run) -> Section | None:
    """What a user who swaps the teacher for a student will notice."""
    kept = _distinct(run)
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
    kept = _distinct(run)
    controls = {n: c for n in kept if (c := run.budgets[n].get("control") or {}).get("verdict")}
    if not controls:
        return None
    lines = [
        {
            "Student": kept[n],
            "Verdict": c["verdict"],
            f"Gain{_unit(run)}": say_gap(run.score, (c.get("difference") or {}).get("value"), True),
            "95 %": say_range(run.score, c.get("difference") or {}),
            f"Could have shown{_unit(run)}": say_gap(run.score, c.get("detectable")).removesuffix(" points"),
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
    line = {"Student": _distinct(run)[name], "Rows": str(len(truth))}
    gain = _find_gain(run, name, truth, ours, theirs)
    if gain is not None:
        line[f"Student − teacher{_unit(run)}"] = _say_gain(run.score, gain)
    if not _has_classes(truth, run):
        apart = np.abs(ours - theirs)
        return line | {
            "Mean distance": say_number(float(apart.mean())),
            "Greatest": say_number(float(apart.max())),
        }
    line |= _count_flips(truth, ours, theirs)
    flips = (run.budgets[name].get("flips") or {}).get("vs_fp32")
    line["Against fp32"] = "–" if flips is None else _say_share(flips)
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
    if len(run.trials):
        blocks.append(Text(_say_search(run)))
        first = next(iter(list_targets(run)), None)
        cost = find_main_cost(run, first) if first else "size_kb"
        figure = draw_trials(run, cost)
        if figure is not None:
            alt = f"{len(run.trials)} trials of the search, by cost, against the score, {say_judge(run)}."
            caption = "What the search looked at. Every trial is in trials.csv."
            blocks.append(Picture("trials", figure, alt, caption))
    if search:
        blocks.append(Facts(_summarise(search)))
    if compute := run.family.get("compute"):
        blocks.append(Text(_say_compute(compute)))
    blocks += [_tabulate_bakeoff(run)] if run.family.get("bakeoff") else []
    blocks += [table for table in (_tabulate_rates(run), _tabulate_lengths(run), _tabulate_starts(run)) if table]
    dropped = _tabulate_dropped(run)
    if dropped is not None:
        blocks.append(dropped)
    return Section("What was tried and dropped", tuple(blocks)) if blocks else None


def _say_compute(compute: Mapping[str, float]) -> str:
    """What training took, the chosen students trained once as the unit."""
    parts = {
        "others": "for all else that was trained to find them",
        "shared_weights": "for shared weights",
        "controls": "for controls and paired seeds",
    }
    told = ", ".join(f"{compute[name]:.1f} {what}" for name, what in parts.items() if compute.get(name, 0.0) > 0)
    return (
        f"All training in this run folder took {compute['everything']:.1f} times what training the chosen students "
        f"once takes, in multiply-accumulates: 1 for themselves, {told}."
    )


def _tabulate_bakeoff(run: Run) -> Table:
    raw = pd.DataFrame(run.family["bakeoff"])
    raw = raw.sort_values("val", ascending=not run.higher_is_better, kind="stable") if "val" in raw else raw
    lines = []
    for row in _rows(raw):
        line = {"Loss": str(row["loss"]) + (" ✓" if row.get("won") is True else "")}
        line |= {q.replace("_", " ").capitalize(): _say_any(row[q]) for q in NUMBERS if q in row}
        line["Validation"] = say_score(run.score, row.get("val"))
        if pd.notna(row.get("gain", np.nan)):
            gap = {"low": row.get("gain_low"), "high": row.get("gain_high")}
            line[f"Over the default{_unit(run)}"] = (
                f"{say_gap(run.score, row['gain'], True)} ({say_range(run.score, gap)})"
            )
        lines.append(line)
    caption = "The bake-off of losses on a middle student, best first; labels alone among them."
    if "won" in raw:
        caption += " ✓ is what trained the family: the default, unless another is shown to be better."
    return Table("bakeoff", pd.DataFrame(lines), caption, raw)


WAYS = {"student": "distilled", "control": "labels alone"}  # by what family.json calls them


def _read_tries(run: Run, what: str, needs: set[str]) -> pd.DataFrame | None:
    """What was tried for students and controls (`of`), one table; None where nothing was, or it lacks a column."""
    told = [row | {"of": way} for way, rows in (run.family.get(what) or {}).items() for row in rows]
    raw = pd.DataFrame(told)
    return raw if len(raw) and needs <= set(raw) else None


def _tabulate_rates(run: Run) -> Table | None:
    """Learning rates tried, one line each, with the val score per kind of student; distilled and labels alone."""
    raw = _read_tries(run, "learning_rates", {"learning_rate", "student", "val"})
    if raw is None:
        return None
    columns = raw["of"].map(lambda of: WAYS.get(of, of)) + ", " + raw["student"].astype(str)
    wide = raw.assign(column=columns).pivot_table(index="learning_rate", columns="column", values="val", sort=False)
    frame = pd.DataFrame({str(c).capitalize(): [say_score(run.score, v) for v in wide[c]] for c in wide})
    frame.insert(0, "Learning rate", [_say_any(rate) for rate in wide.index])
    caption = "The search for a learning rate: validation after short runs of a small and a large student."
    return Table("learning-rates", frame, caption, raw)


def _tabulate_lengths(run: Run) -> Table | None:
    """Lengths tried, one line per way of training, student and number of steps."""
    raw = _read_tries(run, "lengths", {"steps", "student", "val"})
    if raw is None:
        return None
    lines = []
    for row in _rows(raw):
        line = {"Trained": WAYS.get(row["of"], row["of"]), "Student": row["student"]}
        line |= {"Steps": f"{row['steps']}{' ✓' if row.get('won') is True else ''}"}
        line |= {"Validation": say_score(run.score, row["val"])}
        if pd.notna(row.get("gain", np.nan)):
            gap = {"low": row.get("gain_low"), "high": row.get("gain_high")}
            line[f"Over the fewest steps{_unit(run)}"] = (
                f"{say_gap(run.score, row['gain'], True)} ({say_range(run.score, gap)})"
            )
        lines.append(line)
    caption = (
        "The search for a length. ✓ is what was taken. The largest student takes the usual steps, those between the "
        "two take steps between theirs; controls had the same lengths to take the best of."
    )
    return Table("lengths", pd.DataFrame(lines), caption, raw)


def _tabulate_starts(run: Run) -> Table | None:
    """Whether students begin from shared weights: both ways on two students, distilled and labels alone."""
    raw = _read_tries(run, "starts", {"inherits", "student", "val"})
    if raw is None:
        return None
    taken = {of: bool(run.family.get("recipe", {}).get(of, {}).get("inherits")) for of in WAYS}
    lines = []
    for (of, shared), rows in raw.groupby(["of", raw["inherits"] > 0], sort=False):
        begin = f"{'shared weights' if shared else 'values of their own'}{' ✓' if taken.get(str(of)) == shared else ''}"
        scores = {f"{row['student']} student".capitalize(): say_score(run.score, row["val"]) for row in _rows(rows)}
        lines.append({"Trained": WAYS.get(str(of), of), "Beginning": begin, **scores})
    caption = (
        "Where students begin: validation of two, from the weights that the whole space shares and from values of "
        "their own. ✓ is what was taken: shared weights where these two are no worse on the whole."
    )
    return Table("starts", pd.DataFrame(lines), caption, raw)


SPENT = {"export_s": "exporting them untrained", "measure_s": "measuring them", "judge_s": "judging what fits"}


def _say_search(run: Run) -> str:
    known = run.trials["state"] if "state" in run.trials else pd.Series(dtype=str)
    states = known.astype(str).str.lower().value_counts()
    ends = ", ".join(f"{n} {'pruned untrained' if state == 'pruned' else state}" for state, n in states.items())
    said = f"The search asked for {len(run.trials)} candidates" + (f": {ends}." if ends else ".")
    said += _say_infeasible(run)
    once = run.trials.drop_duplicates("id") if "id" in run.trials else run.trials
    spent = {what: float(once[column].sum()) for column, what in SPENT.items() if column in once}
    if not any(spent.values()):
        return said
    return f"{said} It took " + ", ".join(f"{seconds:.0f} s for {what}" for what, seconds in spent.items()) + "."


def _say_infeasible(run: Run) -> str:
    """The share that no budget allows, and how much of it was told without making it."""
    if "state" not in run.trials or not len(run.trials):
        return ""
    pruned = run.trials["state"].astype(str).str.lower() == "pruned"
    said = f" {100 * pruned.mean():.0f} % of them fit no budget"
    told = int(run.trials["predicted"].fillna(False).astype(bool).sum()) if "predicted" in run.trials else 0
    return f"{said}; {told} of these were told from predicted costs, neither made nor measured." if told else f"{said}."


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
            why = _find_reason(run, target, row, cost) if i in best else _find_better(run, rows, row, cost)
            lines.append(
                {
                    "Student": f"{str(row['id'])[:8]}\n{_say_params(row.get('params'))}",
                    "Precision": row["precision"],
                    "Target": target,
                    "Validation": say_score(run.score, row["val"]),
                    f"{name_quantity(cost).capitalize()}, {UNITS[cost]}": say_number(row[cost]),
                    "Dropped because": why,
                }
            )
    caption = "Finalists that were trained in full and that no budget chose."
    if not lines:
        return None
    frame = pd.DataFrame(lines)
    raw = frame.assign(Student=frame["Student"].str.replace("\n", ", "))
    return Table("dropped", frame.head(MOST_ROWS), caption, raw)


def _find_reason(run: Run, target: str, row: pd.Series, cost: str) -> str:
    """Why a student of the frontier was not chosen: against the chosen that cost less."""
    sign = 1 if run.higher_is_better else -1
    kept = [(label, find_record(run, n) or {}) for n, label in _distinct(run).items() if find_target(run, n) == target]
    less = [(label, r) for label, r in kept if pd.notna(r.get(cost, np.nan)) and r[cost] <= row[cost]]
    if not less:
        return "cheaper than any chosen; shown to be worse than the best, or breaks a limit"
    label, best = max(less, key=lambda one: sign * one[1]["val"])
    lead = say_gap(run.score, abs(row["val"] - best["val"]))
    return f"costs more than {label}; breaks a limit, or its lead of {lead} is not shown"


def _find_better(run: Run, rows: pd.DataFrame, row: pd.Series, cost: str) -> str:
    better = rows[
        (rows[cost] <= row[cost])
        & ((rows["val"] >= row["val"]) if run.higher_is_better else (rows["val"] <= row["val"]))
    ]
    better = better[(better["id"] != row["id"]) | (better["precision"] != row["precision"])]
    if not len(better):
        return "its cost or score is not known"
    one = better.sort_values(cost).iloc[0]
    return f"{str(one['id'])[:8]} ({one['precision']}) costs no more and scores no worse"


def show_int8(run: Run) -> Section | None:
    """Each other precision against fp32 of the same student on the same target, and where it lost."""
    lines, lost = [], 0
    for target in list_targets(run):
        for id, part in take_records(run, target).groupby("id", sort=False):
            rows = {str(row["precision"]): row for row in _rows(part)}
            for precision in sorted(set(rows) - {"fp32"}) if "fp32" in rows else ():
                line, worse = _compare_precisions(run, rows["fp32"], rows[precision])
                head = {"Student": str(id)[:8], "Precision": precision, "Target": target}
                lines.append(head | line | {"Lost on": ", ".join(worse)})
                lost += bool(worse)
    if not lines:
        return None
    text = (
        f"Against fp32 of the same student, another precision lost on something in {lost} of {len(lines)} comparisons."
    )
    raw = pd.DataFrame(lines)
    order = raw["Lost on"].ne("").sort_values(ascending=False, kind="stable").index
    caption = (
        "Figures below 1 × are cheaper than fp32. Lost on: a lower validation score, however little, or a cost "
        "whose whole interval lies above that of fp32."
    )
    table = Table("int8", raw.loc[order].head(MOST_ROWS), caption, raw)
    chosen = tuple(said for name in _distinct(run) if (said := say_precision(run, name)))
    return Section("Where another precision lost", (Text(text), *((Items(chosen),) if chosen else ()), table))


def say_precision(run: Run, name: str) -> str | None:
    """Which precision a budget's student ships in, and what the other one would have meant."""
    budget, target = run.budgets[name], find_target(run, name)
    rows = take_records(run, target) if target else run.records.iloc[:0]
    both = {str(r["precision"]): r for r in _rows(rows[rows["id"] == budget.get("id")])}
    ours = str(budget.get("precision"))
    other = ours if ours != "fp32" else next((p for p in ("int8", *sorted(both)) if p in both and p != "fp32"), None)
    if other not in both or "fp32" not in both:
        return None
    line, worse = _compare_precisions(run, both["fp32"], both[other])
    gap = float(both[other]["val"]) - float(both["fp32"]["val"])
    costs = [f"{v} the {k.lower()}" for k, v in line.items() if v.endswith("×")]
    score = f"{say_gap(run.score, abs(gap))} {'lower' if gap < 0 else 'higher'}" if gap else "the same"
    text = f"{_distinct(run)[name]} ships {ours}. {other} against fp32: validation {score}, {', '.join(costs)}"
    flips = (budget.get("flips") or {}).get("vs_fp32")
    if flips is not None and ours != "fp32":
        of = f" of {budget['flips']['rows']}" if budget["flips"].get("rows") else ""
        text += f"; {_say_share(flips)}{of} answers on test differ from fp32"
    return f"{text}; {other} lost on {_join(worse)}." if worse else f"{text}; {other} lost on nothing."


def _compare_precisions(run: Run, fp32: Mapping[str, Any], ours: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """Per quantity another precision against fp32, and on which it lost."""
    gap = float(ours["val"]) - float(fp32["val"])
    line = {f"Validation, − fp32{_unit(run)}": say_gap(run.score, gap, True)}
    worse = ["score"] if gap * (1 if run.higher_is_better else -1) < 0 else []
    for quantity in ("latency_ms", "size_kb", "download_kb", "memory_mb", "instructions_m"):
        if quantity not in fp32 or pd.isna(fp32[quantity]) or pd.isna(ours[quantity]) or not fp32[quantity]:
            continue
        line[name_quantity(quantity).capitalize()] = f"{ours[quantity] / fp32[quantity]:.2f} ×"
        low = ours.get(f"{quantity}_low", ours[quantity])
        high = fp32.get(f"{quantity}_high", fp32[quantity])
        if (ours[quantity] if pd.isna(low) else low) > (fp32[quantity] if pd.isna(high) else high):
            worse.append(name_quantity(quantity))
    return line, worse


def show_method(run: Run) -> Section | None:
    """How it was measured: host, versions, protocol, provenance of each quantity, how often test was read."""
    blocks: list[Block] = []
    facts = _summarise(run.environment)
    reads = run.family.get("test_reads")
    if reads is not None:
        facts["Test set read"] = f"{reads} time{'' if reads == 1 else 's'} in the history of this run folder"
    for key in ("data", "coverage", "recipe"):
        facts |= _summarise({key: run.family.get(key) or {}})
    if run.family.get("untrained"):
        facts["Untrained graphs"] = _say_untrained(run.family["untrained"])
    sources = _find_provenance(run)
    if sources:
        facts["Provenance"] = "; ".join(f"{name_quantity(q)}: {v}" for q, v in sources.items())
    for column in ("host", "versions"):
        known = list(run.records[column].dropna().astype(str).unique()) if column in run.records else []
        if known and column.capitalize() not in facts:
            facts[column.capitalize()] = "; ".join(known)
    if facts:
        blocks.append(Facts(facts))
    blocks.append(
        Text(
            "Choices were made on validation data; test was read afterwards. A limit is kept when the bad "
            "end of the 95 % interval keeps it. Every score is that of the file that ships. Intervals: "
            "Wilson for shares of rows, otherwise a bootstrap of rows or groups; "
            "differences are paired over rows and seeds, corrected after Holm over the distinct students."
        )
    )
    blocks.append(Items(tuple(str(n) for n in run.family.get("notes") or ())))
    return Section("How it was measured", tuple(b for b in blocks if not isinstance(b, Items) or b.items))


def _say_untrained(found: Mapping[str, Any]) -> str:
    """How the graphs that the search measured before training compare with the finalists' files."""
    said = (
        f"of {found['finalists']} finalists, {found['same_operators']} of {found['files']} have the operators of the "
    )
    said += f"trained file, size within {_say_percent(found['size_within'])}"
    for target, one in (found.get("latency") or {}).items():
        interval = f"{one['low']:.2f}–{one['high']:.2f}"
        said += f"; latency on {target} {one['ratio']:.2f} ({interval}) × that of the trained file"
    return said


def _say_percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.001 else "0.1 %"


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
    """Value and interval, this left out where it says no more at three digits."""
    value, low, high = (row.get(c, np.nan) for c in (quantity, f"{quantity}_low", f"{quantity}_high"))
    if pd.isna(value):
        return "–"
    mark = f" {NOISY}" if row.get(f"{quantity}_noisy") is True or row.get(f"{quantity}_noisy") == 1 else ""
    if pd.isna(low) or pd.isna(high) or {say_number(low), say_number(high)} == {say_number(value)}:
        return say_number(value) + mark
    return f"{say_number(value)}{mark} ({say_number(low)}–{say_number(high)})"


def _say_params(params: Any) -> str:
    if not isinstance(params, str):
        return "–"
    return ", ".join(f"{k} {_say_any(v)}" for k, v in json.loads(params).items())


def _say_any(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.3g}".replace("-", "−")
    return ", ".join(map(_say_any, value)) if isinstance(value, (list, tuple)) else str(value)


def _summarise(nested: Mapping[str, Any]) -> dict[str, str]:
    """One fact per key: what lies below it becomes `name value` pairs. What is empty is left out."""
    facts = {str(k).replace("_", " "): _say_nested(v) for k, v in nested.items() if v not in (None, "", {}, [])}
    return {k[:1].upper() + k[1:]: v for k, v in facts.items() if v}


def _say_nested(value: Any) -> str:
    if not isinstance(value, Mapping):
        return _say_any(value)
    parts = []
    for key, one in value.items():
        if one not in (None, "", {}, []):
            name = str(key).replace("_", " ")
            parts.append(f"{name}: {_say_nested(one)};" if isinstance(one, Mapping) else f"{name} {_say_nested(one)},")
    return " ".join(parts).rstrip(",;")


def _join(words: Iterable[str]) -> str:
    """`a, b and c`."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def _unit(run: Run) -> str:
    """What differences of this score are counted in, for the head of a column."""
    return ", points" if run.score in SHARES else ""


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name)


SECTIONS: dict[str, Callable[[Run], Section | None]] = {
    "targets": show_targets,
    "changes": show_changes,
    "control": show_control,
    "tried": show_tried,
    "int8": show_int8,
    "kernels": show_kernels,
    "guard": show_guard,
    "checks": show_checks,
    "method": show_method,
    "warnings": show_warnings,
}
