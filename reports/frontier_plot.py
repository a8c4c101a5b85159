"""The frontier of a target: score against each cost that its budgets limit, every mark with its interval."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation

from reports.choice import frontier
from reports.labels import Box, choose_box, follow, surround
from reports.plots import ACCENT, INK, LIMIT, MUTED, PAPER, STYLE, mark_log_axis, name_axis, shape_of, show_shares
from reports.run_tables import COSTS, Run, find_main_cost, find_target, name_budgets, take_controls, take_records
from reports.words import UNITS, name_quantity, say_score

FAR = 1.8  # a limit further from the data than this factor is told at the edge, with an arrow


def list_panels(run: Run, target: str) -> list[str]:
    """The target's main cost, then what else its budgets limit and was measured there."""
    rows, main = take_records(run, target), find_main_cost(run, target)
    limited = {q for n, b in run.budgets.items() if find_target(run, n) == target for q in b.get("limits") or {}}
    return [main, *(q for q in COSTS if q in limited and q != main and q in rows and rows[q].notna().any())]


def draw_frontier(run: Run, target: str) -> Figure:
    """Costs against val score of every measured student on one target, with limits, controls and teacher."""
    costs = list_panels(run, target)
    across = min(len(costs), 2)
    down = -(-len(costs) // across)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.6 if across == 1 else 10.4, 0.3 + 4.5 * down), layout="constrained")
        panels = figure.subplots(down, across, sharey=True, squeeze=False).ravel()
        for axes, cost in zip(panels, costs, strict=False):
            _draw_panel(axes, run, target, cost)
        for axes in panels[len(costs) :]:
            axes.remove()
        panels[0].set_ylabel(f"{name_quantity(run.score)} on validation data")
        _explain_marks(figure, run, target)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for rank, (axes, cost) in enumerate(zip(panels, costs, strict=False)):
            _label_panel(axes, run, target, cost, rank == 0)
    return figure


def _draw_panel(axes: Axes, run: Run, target: str, cost: str) -> None:
    axes.set_xscale("log")
    rows, controls = _known(take_records(run, target), cost), _known(take_controls(run, target), cost)
    near = _set_range(axes, pd.concat([rows, controls]), cost, list(_group_limits(run, target, cost)))
    best = frontier(rows, cost, "val", run.higher_is_better)
    _draw_points(axes, rows.drop(index=best.index), cost, MUTED, 22, 0.55)
    axes.step(best[cost], best["val"], where="post", color=ACCENT, lw=1.3, alpha=0.8, zorder=2)
    _draw_points(axes, best, cost, ACCENT, 34, 1.0)
    _draw_points(axes, controls, cost, INK, 40, 1.0, hollow=True)
    for row in _list_chosen(run, rows, target):
        shape, x, y = shape_of(row["precision"]), row[cost], row["val"]
        axes.scatter(x, y, s=34, marker=shape, color=ACCENT, lw=0, zorder=6)
        axes.scatter(x, y, s=120, marker=shape, facecolor="none", edgecolor=ACCENT, lw=1.5, zorder=6)
    if (teacher := find_teacher_score(run)) is not None:
        axes.axhline(teacher[1], color=INK, lw=1, ls=(0, (6, 3)), zorder=1)
    if (words := find_words_score(run)) is not None:
        axes.axhline(words, color=MUTED, lw=1, ls=(0, (1, 2)), zorder=1)
    for limit in _group_limits(run, target, "score"):
        axes.axhline(limit, color=LIMIT, lw=1, ls=(0, (2, 2)), zorder=1)
    for limit in near:
        axes.axvline(limit, color=LIMIT, lw=1.1, ls=(0, (2, 2)), zorder=1)
    mark_log_axis(axes)
    axes.set_xlabel(name_axis(cost, f" on {target}"))
    axes.margins(y=0.1)
    show_shares(axes, run.score)


def _set_range(axes: Axes, rows: pd.DataFrame, cost: str, limits: Sequence[float]) -> list[float]:
    """Sets the range of the cost to the data and the limits near it; returns these."""
    low, high = _span_costs(rows, cost)
    near = [v for v in limits if low / FAR <= v <= high * FAR]
    low, high = min([low, *near]), max([high, *near])
    pad = max((high / low) ** 0.09, 1.06)
    axes.set_xlim(low / pad, high * pad)
    return near


def _known(rows: pd.DataFrame, cost: str) -> pd.DataFrame:
    return rows.dropna(subset=[cost, "val"]) if cost in rows else rows.iloc[:0].assign(**{cost: np.nan})


def _span_costs(rows: pd.DataFrame, cost: str) -> tuple[float, float]:
    """Least and greatest of a cost with its bars, these cut where they reach far beyond their point."""
    value = rows[cost].to_numpy(float)
    below, above = _spans(rows, cost)
    ends = np.concatenate([np.maximum(value - below, value / 1.5), np.minimum(value + above, value * 1.5)])
    ends = ends[ends > 0]
    return (float(ends.min()), float(ends.max())) if len(ends) else (1.0, 10.0)


def _spans(rows: pd.DataFrame, column: str) -> np.ndarray:
    """(2, rows) lengths below and above, 0 where an end is unknown."""
    value = rows[column].to_numpy(float)
    if f"{column}_low" not in rows:
        return np.zeros((2, len(rows)))
    ends = [value - rows[f"{column}_low"].to_numpy(float), rows[f"{column}_high"].to_numpy(float) - value]
    return np.asarray(np.nan_to_num(np.clip(ends, 0, None)))


def _draw_points(
    axes: Axes, rows: pd.DataFrame, cost: str, colour: str, size: float, alpha: float, hollow: bool = False
) -> None:
    for precision, part in rows.groupby("precision"):
        x, y = part[cost].to_numpy(float), part["val"].to_numpy(float)
        spans: Any = {"xerr": _spans(part, cost), "yerr": _spans(part, "val")}
        axes.errorbar(
            x, y, **spans, fmt="none", ecolor=colour, elinewidth=0.8, alpha=(0.3 if hollow else 0.5) * alpha, zorder=3
        )
        looks: Any = {"facecolor": PAPER, "edgecolor": colour, "lw": 1.1} if hollow else {"color": colour, "lw": 0}
        axes.scatter(x, y, s=size, marker=shape_of(str(precision)), alpha=alpha, zorder=5 if hollow else 4, **looks)


def find_teacher_score(run: Run) -> tuple[str, float] | None:
    """Split and score of the teacher: val where it is known, as the marks are, else test."""
    for split in ("val", "test"):
        value = (run.family.get("teacher", {}).get(split) or {}).get("value")
        if value is not None:
            return split, float(value)
    return None


def find_words_score(run: Run) -> float | None:
    """Of texts, the best that counting words reaches on validation data."""
    found = [one["val"]["value"] for one in (run.family.get("tfidf") or {}).values()]
    return (max if run.higher_is_better else min)(found, default=None)


def _list_chosen(run: Run, rows: pd.DataFrame, target: str) -> list[dict[str, Any]]:
    named: list[dict[Any, Any]] = [
        r | {"names": name_budgets(run, r["id"], r["precision"], target)} for r in rows.to_dict("records")
    ]
    return [r for r in named if r["names"]]


def _group_limits(run: Run, target: str, quantity: str) -> dict[float, str]:
    """Limit → the budgets that set it."""
    found: dict[float, list[str]] = {}
    for name, budget in run.budgets.items():
        limit = (budget.get("limits") or {}).get(quantity, {}).get("limit")
        if limit is not None and find_target(run, name) == target:
            found.setdefault(float(limit), []).append(name)
    return {limit: ", ".join(names) for limit, names in sorted(found.items())}


def _explain_marks(figure: Figure, run: Run, target: str) -> None:
    """A legend of what is there, above the panels."""
    rows, controls = take_records(run, target).dropna(subset=["val"]), take_controls(run, target)
    dot: Any = {"ls": "", "color": MUTED, "ms": 5.5, "mew": 0}
    ring: Any = {"ls": "", "marker": "o", "color": ACCENT, "mfc": "none", "mew": 1.5, "ms": 9}
    handles = [Line2D([], [], color=ACCENT, lw=1.3, label="frontier")]
    handles += [
        Line2D([], [], marker=shape_of(p), label=p, **dot) for p in sorted(map(str, rows["precision"].unique()))
    ]
    if _list_chosen(run, rows, target):
        handles.append(Line2D([], [], label="chosen by a budget", **ring))
    if len(controls):
        handles.append(Line2D([], [], ls="", marker="o", color=INK, mfc=PAPER, ms=6.5, label="control: labels alone"))
    if find_teacher_score(run):
        handles.append(Line2D([], [], color=INK, lw=1, ls=(0, (6, 3)), label="teacher"))
    if find_words_score(run) is not None:
        handles.append(Line2D([], [], color=MUTED, lw=1, ls=(0, (1, 2)), label="TF-IDF"))
    if any(_group_limits(run, target, q) for q in ("score", *COSTS)):
        handles.append(Line2D([], [], color=LIMIT, lw=1.1, ls=(0, (2, 2)), label="limit of a budget"))
    lines = 1 if len(handles) <= (8 if figure.get_figwidth() > 10 else 7) else 2
    columns = -(-len(handles) // lines)
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, fontsize=8.5, handletextpad=0.5)


def _label_panel(axes: Axes, run: Run, target: str, cost: str, first: bool) -> None:
    """Names limits, the teacher and what budgets chose, the least movable first; no name is written over another."""
    rows = _known(take_records(run, target), cost)
    crossed = _list_marks(axes, pd.concat([rows, _known(take_controls(run, target), cost)]), cost)
    taken: list[Box] = []
    for limit, names in _group_limits(run, target, cost).items():
        _label_limit(axes, f"{names} ≤ {limit:.6g} {UNITS.get(cost, '')}".strip(), limit, taken, crossed)
    teacher, side = find_teacher_score(run), "≥" if run.higher_is_better else "≤"
    if first and teacher is not None:
        text = f"teacher {say_score(run.score, teacher[1])}" + ("" if teacher[0] == "val" else " (test)")
        _label_level(axes, text, teacher[1], INK, taken, crossed)
    if first and (words := find_words_score(run)) is not None:
        _label_level(axes, f"TF-IDF {say_score(run.score, words)}", words, MUTED, taken, crossed)
    for limit, names in _group_limits(run, target, "score").items() if first else ():
        _label_level(axes, f"{names} {side} {say_score(run.score, limit)}", limit, LIMIT, taken, crossed)
    _label_chosen(axes, _list_chosen(run, rows, target), cost, taken, crossed)


def _label_chosen(
    axes: Axes, chosen: Sequence[dict[str, Any]], cost: str, taken: list[Box], crossed: Sequence[Box]
) -> None:
    """Names the budgets beside what they chose, and away from what others chose."""
    places = [tuple(axes.transData.transform((row[cost], row["val"]))) for row in chosen]
    frame = _frame(axes)
    for row, (x, y) in zip(chosen, places, strict=True):
        others = [(u - 30, v - 22, u + 30, v + 22) for u, v in places if (u, v) != (x, y)]
        text = textwrap.fill(str(row["names"]), 26)
        size = _measure(axes, text, 10, weight="bold")
        box = choose_box(surround(x, y, *size, frame), taken, [*crossed, *others], frame)
        _write(axes, text, box, (x, y), fontsize=10, color=ACCENT, weight="bold")
        taken.append(box)


def _frame(axes: Axes) -> Box:
    left, bottom, right, top = axes.get_window_extent().extents
    return float(left), float(bottom), float(right), float(top)


def _list_marks(axes: Axes, rows: pd.DataFrame, cost: str) -> list[Box]:
    """What a label should not cover, in pixels: marks, their upright bars, and the lines drawn."""
    place = axes.transData.transform
    values = rows["val"].to_numpy(float)
    below, above = _spans(rows, "val")
    points = place(np.column_stack([rows[cost], values]))
    lows, highs = (place(np.column_stack([rows[cost], values + s]))[:, 1] for s in (-below, above))
    boxes: list[Box] = [(x - 9, y - 9, x + 9, y + 9) for x, y in points]
    boxes += [(x - 1, low, x + 1, high) for x, low, high in zip(points[:, 0], lows, highs, strict=True)]
    for line in axes.lines:
        path = np.asarray(line.get_transform().transform_path(line.get_path()).vertices)
        for (x0, y0), (x1, y1) in pairwise(path):
            if "steps" in line.get_drawstyle():  # first along, then up
                boxes += [(x0, y0 - 1, x1, y0 + 1), (x1 - 1, min(y0, y1), x1 + 1, max(y0, y1))]
            else:
                boxes.append((min(x0, x1) - 1, min(y0, y1) - 1, max(x0, x1) + 1, max(y0, y1) + 1))
    return boxes


def _label_level(axes: Axes, text: str, value: float, colour: str, taken: list[Box], crossed: Sequence[Box]) -> None:
    """Names a level line, above or below it, from its right end leftwards."""
    frame = _frame(axes)
    width, height = _measure(axes, text, 9)
    y = float(axes.transData.transform((1, value))[1])
    starts = np.linspace(frame[2] - width - 2, frame[0] + 2, 12)
    ways = [(x, b, x + width, b + height) for x in starts for b in (y + 2, y - height - 2)]
    box = choose_box(ways, taken, crossed, frame)
    _write(axes, text, box, None, fontsize=9, color=colour)
    taken.append(box)


def _label_limit(axes: Axes, text: str, limit: float, taken: list[Box], crossed: Sequence[Box]) -> None:
    """Names an upright limit along its line; one that lies far off at the edge, with an arrow."""
    frame, (low, high) = _frame(axes), axes.get_xlim()
    off = limit < low or limit > high
    if off:
        text = f"{text} →" if limit > high else f"← {text}"
    turn = 0 if off else 90
    width, height = _measure(axes, text, 8.5, rotation=turn)
    heights = np.linspace(frame[1] + 3, frame[3] - height - 3, 24)
    if off:
        left = frame[2] - width - 2 if limit > high else frame[0] + 4
        ways = [(left, b, left + width, b + height) for b in heights]
    else:
        ways = follow(list(heights), float(axes.transData.transform((limit, 1))[0]), width, height)
    box = choose_box(ways, taken, crossed, frame)
    _write(axes, text, box, None, fontsize=8.5, color=LIMIT, rotation=turn)
    taken.append(box)


def _measure(axes: Axes, text: str, fontsize: float, **looks: Any) -> tuple[float, float]:
    """Width and height in pixels, with a little air."""
    note = _annotate(axes, text, (0, 0), fontsize=fontsize, **looks)
    box = note.get_window_extent()
    note.remove()
    return float(box.width) + 3, float(box.height) + 2


def _write(axes: Axes, text: str, box: Box, named: tuple[float, float] | None, **looks: Any) -> None:
    """Writes into the box; a thin line leads from it to what it names, where that is not beside it."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    _annotate(axes, text, (box[0] + 1.5, box[1] + 1), **looks)
    if named is None:
        return
    near = float(np.clip(named[0], box[0], box[2])), float(np.clip(named[1], box[1], box[3]))
    if np.hypot(near[0] - named[0], near[1] - named[1]) > 18:
        ends = axes.transAxes.inverted().transform([near, named])
        axes.plot(ends[:, 0], ends[:, 1], transform=axes.transAxes, color=looks["color"], lw=0.7, alpha=0.7, zorder=5)


def _annotate(axes: Axes, text: str, corner: tuple[float, float], **looks: Any) -> Annotation:
    """Text with its lower left corner at these pixels, kept as a share of the axes: right at any resolution."""
    ground = {"boxstyle": "square,pad=0.05", "facecolor": PAPER, "edgecolor": "none", "alpha": 0.75}
    across, up = axes.transAxes.inverted().transform(corner)
    return axes.annotate(
        text, (across, up), xycoords="axes fraction", ha="left", va="bottom", zorder=7, bbox=ground, **looks
    )
