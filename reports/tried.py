"""What was tried on the way: recipe, search, and what was not chosen."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from reports.blocks import Block, Facts, Picture, Section, Table, Text
from reports.cells import (
    MOST_ROWS,
    list_rows,
    say_any,
    say_params,
    summarise,
    unit_of,
)
from reports.choice import frontier
from reports.plots import draw_trials, say_judge
from reports.run_tables import (
    Run,
    distinct_students,
    find_main_cost,
    find_record,
    find_target,
    list_targets,
    name_budgets,
    take_records,
)
from reports.words import (
    UNITS,
    name_quantity,
    say_gap,
    say_number,
    say_range,
    say_score,
)

NUMBERS = ("learning_rate", "temperature", "steps", "seconds")
WAYS = {"student": "distilled", "control": "labels alone"}  # by what family.json calls them
SPENT = {"export_s": "exporting them untrained", "measure_s": "measuring them", "judge_s": "judging what fits"}


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
        blocks.append(Facts(summarise(search)))
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
    for row in list_rows(raw):
        line = {"Loss": str(row["loss"]) + (" ✓" if row.get("won") is True else "")}
        line |= {q.replace("_", " ").capitalize(): say_any(row[q]) for q in NUMBERS if q in row}
        line["Validation"] = say_score(run.score, row.get("val"))
        if pd.notna(row.get("gain", np.nan)):
            gap = {"low": row.get("gain_low"), "high": row.get("gain_high")}
            line[f"Over the default{unit_of(run)}"] = (
                f"{say_gap(run.score, row['gain'], True)} ({say_range(run.score, gap)})"
            )
        lines.append(line)
    caption = "The bake-off of losses on a middle student, best first; labels alone among them."
    if "won" in raw:
        caption += " ✓ is what trained the family: the default, unless another is shown to be better."
    return Table("bakeoff", pd.DataFrame(lines), caption, raw)


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
    frame.insert(0, "Learning rate", [say_any(rate) for rate in wide.index])
    caption = "The search for a learning rate: validation after short runs of a small and a large student."
    return Table("learning-rates", frame, caption, raw)


def _tabulate_lengths(run: Run) -> Table | None:
    """Lengths tried, one line per way of training, student and number of steps."""
    raw = _read_tries(run, "lengths", {"steps", "student", "val"})
    if raw is None:
        return None
    lines = []
    for row in list_rows(raw):
        line = {"Trained": WAYS.get(row["of"], row["of"]), "Student": row["student"]}
        line |= {"Steps": f"{row['steps']}{' ✓' if row.get('won') is True else ''}"}
        line |= {"Validation": say_score(run.score, row["val"])}
        if pd.notna(row.get("gain", np.nan)):
            gap = {"low": row.get("gain_low"), "high": row.get("gain_high")}
            line[f"Over the fewest steps{unit_of(run)}"] = (
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
        scores = {f"{row['student']} student".capitalize(): say_score(run.score, row["val"]) for row in list_rows(rows)}
        lines.append({"Trained": WAYS.get(str(of), of), "Beginning": begin, **scores})
    caption = (
        "Where students begin: validation of two, from the weights that the whole space shares and from values of "
        "their own. ✓ is what was taken: shared weights where these two are no worse on the whole."
    )
    return Table("starts", pd.DataFrame(lines), caption, raw)


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
                    "Student": f"{str(row['id'])[:8]}\n{say_params(row.get('params'))}",
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
    kept = [
        (label, find_record(run, n) or {})
        for n, label in distinct_students(run).items()
        if find_target(run, n) == target
    ]
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
