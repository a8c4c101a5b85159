"""What each target offers: its table and its frontier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from reports.blocks import Block, Picture, Section, Table, Text
from reports.cells import (
    MOST_ROWS,
    NOISY,
    join_words,
    list_rows,
    say_measured,
    say_params,
    slug_of,
    take_interval,
)
from reports.choice import frontier
from reports.frontier_plot import draw_frontier, list_panels
from reports.run_tables import (
    COSTS,
    Run,
    distinct_students,
    find_main_cost,
    find_record,
    find_target,
    list_targets,
    name_budgets,
    take_controls,
    take_records,
)
from reports.words import (
    UNITS,
    name_quantity,
    say_cost,
    say_interval,
    say_score,
)


def show_targets(run: Run) -> Section | None:
    """Per target its table, and its frontier where the first screen does not show it already."""
    blocks: list[Block] = []
    for rank, target in enumerate(list_targets(run)):
        if rank:
            blocks.append(picture_frontier(run, target))
        blocks.append(_tabulate_target(run, target))
        blocks += [Text(told) for told in (say_front(run, target), say_reading(run, target)) if told]
    blocks += [Text(told) for told in (say_tokenizers(run),) if told]
    gone = run.family.get("targets", {}).items()
    blocks += [Text(f"{t} is not available here: {i['unavailable']}") for t, i in gone if i.get("unavailable")]
    return Section("What each target offers", tuple(blocks)) if blocks else None


def picture_frontier(run: Run, target: str) -> Picture:
    cost = find_main_cost(run, target)
    rows = take_records(run, target)
    best = frontier(rows, cost, "val", run.higher_is_better)
    ends = [f"{say_score(run.score, r['val'])} at {say_cost(cost, r[cost])}" for r in list_rows(best)]
    chosen = [n for n, b in run.budgets.items() if b.get("status") == "kept" and find_target(run, n) == target]
    alt = (
        f"Frontier on {target}, {len(rows)} files: {name_quantity(run.score)} against {name_quantity(cost)}. "
        f"{len(best)} are not dominated, from {ends[0]} to {ends[-1]}. "
        if ends
        else f"No student was measured on {target}. "
    ) + (f"Chosen: {', '.join(chosen)}." if chosen else "")
    caption = (
        f"Every student measured on {target}, by {join_words(name_quantity(q) for q in list_panels(run, target))}. "
        "On the frontier nothing is both cheaper and better. Bars are 95 % intervals. A budget takes the cheapest "
        "student that is not shown to be worse than the best within its limits; one that asks for a score takes "
        "the cheapest that reaches it."
    )
    if len(take_controls(run, target)):
        caption += " Controls are the same students trained on labels alone, the mean of their seeds."
    return Picture(f"frontier-{slug_of(target)}", draw_frontier(run, target), alt, caption)


def _tabulate_target(run: Run, target: str) -> Table:
    cost = find_main_cost(run, target)
    rows = take_records(run, target)
    best = set(frontier(rows, cost, "val", run.higher_is_better).index)
    rows = rows.assign(_best=[i in best for i in rows.index]).sort_values(["_best", cost], ascending=[False, True])
    shown = [q for q in COSTS if q in rows and rows[q].notna().any()]
    lines = [_line_up(run, row, target, shown) for row in list_rows(rows.head(MOST_ROWS))]
    left = f" {len(rows) - MOST_ROWS} more are in the CSV." if len(rows) > MOST_ROWS else ""
    caption = (
        f"{target}: ● is the frontier by {name_quantity(cost)}, then what it dominates. "
        f"Below each value its 95 % interval.{left}"
    )
    if any(NOISY in cell for line in lines for cell in line.values()):
        caption += f" {NOISY} Noisy: its repeats lay further apart than they should."
    return Table(f"target-{slug_of(target)}", pd.DataFrame(lines), caption, rows.drop(columns="_best"))


def _line_up(run: Run, row: Mapping[str, Any], target: str, shown: Sequence[str]) -> dict[str, str]:
    """A student's line in its target's table; what follows a line break is written smaller, below."""
    line = {
        "Student": f"{'● ' if row['_best'] else ''}{str(row['id'])[:8]}\n{say_params(row.get('params'))}",
        "Precision": str(row["precision"]),
        "Chosen by": name_budgets(run, row["id"], row["precision"], target),
        "Validation": say_interval(run.score, take_interval(row, "val")),
        "Test": say_interval(run.score, take_interval(row, "test")),
    }
    return line | {f"{name_quantity(q).capitalize()}, {UNITS[q]}": say_measured(row, q) for q in shown}


def say_reading(run: Run, target: str) -> str | None:
    """What of the latency is the tokenizer's, where students read texts."""
    rows = take_records(run, target)
    timed = [q in rows and bool(rows[q].notna().any()) for q in ("latency_ms", "tokenizer_ms")]
    if run.family.get("data", {}).get("task") != "text" or not timed[0]:
        return None
    if not timed[1]:
        return f"On {target} latency is that of the file alone: its tokenizer is not timed there."
    rows = rows.dropna(subset=["tokenizer_ms", "latency_ms"])
    shares = 100 * rows["tokenizer_ms"] / rows["latency_ms"]
    least, most = f"{shares.min():.0f} %", f"{shares.max():.0f} %"
    return (
        "An app gives a text. So latency is that of tokenizer and file together, on a text of usual length; the "
        f"tokenizer (Python tokenizers, one thread) takes {least if least == most else f'{least} to {most}'} of it."
    )


def say_tokenizers(run: Run) -> str | None:
    """What the tokenizers add that ship beside the chosen models."""
    known = {n: label for n, label in distinct_students(run).items() if run.budgets[n].get("tokenizer_kb")}
    if not known:
        return None
    weights = {label: run.budgets[n]["tokenizer_kb"] for n, label in known.items()}
    said = [
        f"{label} {say_cost('size_kb', kb['size'])} ({say_cost('download_kb', kb['download'])} compressed)"
        for label, kb in weights.items()
    ]
    return f"File sizes are those of models. Beside each ships its tokenizer.json: {', '.join(said)}."


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
    kept = [
        (label, find_record(run, n) or {})
        for n, label in distinct_students(run).items()
        if find_target(run, n) == target
    ]
    known = [(label, r) for label, r in kept if pd.notna(r.get(bare, np.nan)) and pd.notna(r.get("latency_ms", np.nan))]
    told = [f"{label} {say_cost(bare, r[bare])} instead of {say_cost(bare, r['latency_ms'])}" for label, r in known]
    return f"{text}: {'; '.join(told)}." if told else f"{text}."
