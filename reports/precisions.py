"""Each other precision against fp32 of the same student."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from reports.blocks import Items, Section, Table, Text
from reports.cells import (
    MOST_ROWS,
    join_words,
    list_rows,
    say_share,
    unit_of,
)
from reports.run_tables import (
    Run,
    distinct_students,
    find_target,
    list_targets,
    take_records,
)
from reports.words import (
    name_quantity,
    say_gap,
)


def show_int8(run: Run) -> Section | None:
    """Each other precision against fp32 of the same student on the same target, and where it lost."""
    lines, lost = [], 0
    for target in list_targets(run):
        for id, part in take_records(run, target).groupby("id", sort=False):
            rows = {str(row["precision"]): row for row in list_rows(part)}
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
        "Figures below 1 × are cheaper than fp32. Lost on: a worse validation score, however little, or a cost "
        "whose whole interval lies above that of fp32."
    )
    table = Table("int8", raw.loc[order].head(MOST_ROWS), caption, raw)
    chosen = tuple(said for name in distinct_students(run) if (said := say_precision(run, name)))
    return Section("Where another precision lost", (Text(text), *((Items(chosen),) if chosen else ()), table))


def say_precision(run: Run, name: str) -> str | None:
    """Which precision a budget's student ships in, and what the other one would have meant."""
    budget, target = run.budgets[name], find_target(run, name)
    rows = take_records(run, target) if target else run.records.iloc[:0]
    both = {str(r["precision"]): r for r in list_rows(rows[rows["id"] == budget.get("id")])}
    ours = str(budget.get("precision"))
    other = ours if ours != "fp32" else next((p for p in ("int8", *sorted(both)) if p in both and p != "fp32"), None)
    if other not in both or "fp32" not in both:
        return None
    line, worse = _compare_precisions(run, both["fp32"], both[other])
    gap = float(both[other]["val"]) - float(both["fp32"]["val"])
    costs = [f"{v} the {k.lower()}" for k, v in line.items() if v.endswith("×")]
    score = f"{say_gap(run.score, abs(gap))} {'lower' if gap < 0 else 'higher'}" if gap else "the same"
    text = f"{distinct_students(run)[name]} ships {ours}. {other} against fp32: validation {score}, {', '.join(costs)}"
    flips = (budget.get("flips") or {}).get("vs_fp32")
    if flips is not None and ours != "fp32":
        of = f" of {budget['flips']['rows']}" if budget["flips"].get("rows") else ""
        text += f"; {say_share(flips)}{of} answers on test differ from fp32"
    return f"{text}; {other} lost on {join_words(worse)}." if worse else f"{text}; {other} lost on nothing."


def _compare_precisions(run: Run, fp32: Mapping[str, Any], ours: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """Per quantity another precision against fp32, and on which it lost."""
    gap = float(ours["val"]) - float(fp32["val"])
    line = {f"Validation, − fp32{unit_of(run)}": say_gap(run.score, gap, True)}
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
