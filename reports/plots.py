"""Figures, drawn once for paper and screen: colours become CSS variables where a page takes a figure in."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from reports.choice import frontier
from reports.run_tables import Run, find_main_cost, find_target, name_budgets, take_records
from reports.words import SHARES, UNITS, name_quantity, say_number, say_score

COLOURS = {
    "ink": "#1c2127",
    "muted": "#68707b",
    "faint": "#cfd4da",
    "accent": "#0a6c74",
    "limit": "#b2561d",
    "bad": "#a3333d",
    "paper": "#fffffe",
}
INK, MUTED, FAINT, ACCENT, LIMIT, BAD, PAPER = COLOURS.values()
SHAPES = {"fp32": "o", "int8": "D"}
STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "xtick.minor.size": 2,
    "text.color": INK,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "grid.alpha": 0.6,
    "figure.facecolor": PAPER,
    "axes.facecolor": "none",
    "legend.frameon": False,
}


def save_figure(figure: Figure, folder: Path, name: str) -> str:
    """Writes NAME.png and NAME.svg; returns the SVG to set into a page, in that page's colours."""
    with mpl.rc_context(STYLE | {"svg.hashsalt": name}):
        figure.savefig(folder / f"{name}.png", dpi=180, metadata={"Software": None})
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    (folder / f"{name}.svg").write_text(text.getvalue(), encoding="utf-8")
    return inline_svg(text.getvalue(), name)


def inline_svg(text: str, name: str) -> str:
    """An SVG element for HTML: no prologue or metadata, ids of its own, colours as CSS variables."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1 aria-hidden="true"', text, count=1)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    for colour, code in COLOURS.items():
        text = text.replace(code, f"var(--{colour})")
    return text


def draw_frontier(run: Run, target: str) -> Figure:
    """Cost against val score of every measured student on one target, with limits, controls and teacher."""
    cost = find_main_cost(run, target)
    rows = take_records(run, target).dropna(subset=[cost, "val"])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 4.7), layout="constrained")
        axes = figure.add_subplot()
        axes.set_xscale("log")
        best = frontier(rows, cost, "val", run.higher_is_better)
        rest = rows.drop(index=best.index)
        _draw_points(axes, rest, cost, MUTED, 18, 0.45)
        axes.step(best[cost], best["val"], where="post", color=ACCENT, lw=1.3, alpha=0.8, zorder=2)
        _draw_points(axes, best, cost, ACCENT, 34, 1.0)
        _draw_controls(axes, run, target, cost)
        _draw_teacher(axes, run)
        _label_chosen(axes, run, rows, target, cost)
        _draw_limits(axes, run, target, cost)
        _name_axes(axes, run, cost, target)
    return figure


def _draw_points(axes: Axes, rows: pd.DataFrame, cost: str, colour: str, size: float, alpha: float) -> None:
    for precision, part in rows.groupby("precision"):
        axes.errorbar(
            part[cost],
            part["val"],
            xerr=_spans(part, cost),
            yerr=_spans(part, "val"),
            fmt="none",
            ecolor=colour,
            elinewidth=0.8,
            alpha=0.5 * alpha,
            zorder=3,
        )
        shape = SHAPES.get(str(precision), "s")
        axes.scatter(part[cost], part["val"], s=size, marker=shape, color=colour, alpha=alpha, lw=0, zorder=4)


def _spans(rows: pd.DataFrame, column: str) -> np.ndarray | None:
    """(2, rows) lengths below and above, 0 where an end is unknown."""
    if f"{column}_low" not in rows:
        return None
    value = rows[column].to_numpy(float)
    ends = [value - rows[f"{column}_low"].to_numpy(float), rows[f"{column}_high"].to_numpy(float) - value]
    return np.asarray(np.nan_to_num(np.clip(ends, 0, None)))


def _draw_controls(axes: Axes, run: Run, target: str, cost: str) -> None:
    rows = take_records(run, target, "control").dropna(subset=[cost, "val"])
    for precision, part in rows.groupby("precision"):
        axes.scatter(
            part[cost],
            part["val"],
            s=40,
            marker=SHAPES.get(str(precision), "s"),
            facecolor=PAPER,
            edgecolor=INK,
            lw=1.0,
            zorder=5,
        )


def _draw_teacher(axes: Axes, run: Run) -> None:
    teacher = run.family.get("teacher", {})
    split = "val" if (teacher.get("val") or {}).get("value") is not None else "test"
    value = (teacher.get(split) or {}).get("value")
    if value is None:
        return
    axes.axhline(value, color=INK, lw=1, ls=(0, (6, 3)), zorder=1)
    said = f"teacher {say_score(run.score, value)}" + ("" if split == "val" else " (test)")
    axes.annotate(
        said,
        (1, value),
        xycoords=("axes fraction", "data"),
        xytext=(-2, 4),
        textcoords="offset points",
        ha="right",
        color=INK,
        fontsize=9,
    )


def _label_chosen(axes: Axes, run: Run, rows: pd.DataFrame, target: str, cost: str) -> None:
    for row in rows.to_dict("records"):
        names = name_budgets(run, row["id"], row["precision"], target)
        if not names:
            continue
        shape = SHAPES.get(row["precision"], "s")
        axes.scatter(row[cost], row["val"], s=110, marker=shape, facecolor="none", edgecolor=ACCENT, lw=1.4, zorder=6)
        axes.annotate(
            names,
            (row[cost], row["val"]),
            xytext=(8, -13 if run.higher_is_better else 9),
            textcoords="offset points",
            color=ACCENT,
            weight="bold",
            fontsize=10,
            zorder=7,
        )


def _draw_limits(axes: Axes, run: Run, target: str, cost: str) -> None:
    limits: dict[float, list[str]] = {}
    for name, budget in run.budgets.items():
        limit = budget.get("limits", {}).get(cost, {}).get("limit")
        if limit is not None and find_target(run, name) == target:
            limits.setdefault(float(limit), []).append(name)
    for limit, names in sorted(limits.items()):
        axes.axvline(limit, color=LIMIT, lw=1, ls=(0, (2, 2)), zorder=1)
        axes.annotate(
            f"{', '.join(names)} ≤ {limit:.6g}",
            (limit, 0.02),
            xycoords=("data", "axes fraction"),
            xytext=(-4, 0),
            textcoords="offset points",
            rotation=90,
            ha="right",
            va="bottom",
            color=LIMIT,
            fontsize=8.5,
        )


def _name_axes(axes: Axes, run: Run, cost: str, target: str) -> None:
    unit = UNITS.get(cost, "")
    axes.set_xlabel(f"{name_quantity(cost)} on {target}, {unit} (log)" if unit else f"{name_quantity(cost)} (log)")
    axes.set_ylabel(f"{name_quantity(run.score)} on validation data")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda v, _: say_number(v).rstrip("0").rstrip(".") if v < 100 else say_number(v))
    )
    axes.xaxis.set_minor_formatter(NullFormatter())
    if run.score in SHARES:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.4g} %"))
    axes.margins(x=0.08, y=0.12)


def draw_gaps(run: Run, gaps: Sequence[tuple[str, float, float, float, str]]) -> Figure:
    """Distilled - labels alone per student: (name, value, low, high, verdict), one line each, 0 marked."""
    scale = 100 if run.score in SHARES else 1
    with mpl.rc_context(STYLE | {"axes.grid.axis": "x"}):
        figure = Figure(figsize=(8.6, 0.9 + 0.42 * len(gaps)), layout="constrained")
        axes = figure.add_subplot()
        for line, (_, value, low, high, verdict) in enumerate(reversed(gaps)):
            colour = {"distillation helped": ACCENT, "labels alone were better": BAD}.get(verdict, MUTED)
            axes.plot([scale * low, scale * high], [line, line], color=colour, lw=2.2, solid_capstyle="butt")
            axes.scatter(scale * value, line, s=42, color=colour, zorder=3)
        axes.axvline(0, color=INK, lw=1)
        axes.set_yticks(range(len(gaps)), [name for name, *_ in reversed(gaps)])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.spines["left"].set_visible(False)
        axes.set_ylim(-0.7, len(gaps) - 0.3)
        unit = ", points" if scale == 100 else ""
        axes.set_xlabel(f"gain in {name_quantity(run.score)} over labels alone{unit} (test, 95 %)")
    return figure


def draw_trials(run: Run, cost: str) -> Figure | None:
    """Cost against the score of a short run, by state; None where the trials do not say."""
    trials = run.trials
    if not len(trials) or cost not in trials or "val" not in trials:
        return None
    known = trials.dropna(subset=[cost, "val"])
    if not len(known):
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 3.4), layout="constrained")
        axes = figure.add_subplot()
        axes.set_xscale("log")
        for precision_state, part in known.groupby("state"):
            done = str(precision_state).lower() == "complete"
            axes.scatter(
                part[cost],
                part["val"],
                s=16,
                color=ACCENT if done else MUTED,
                alpha=0.6,
                lw=0,
                label=str(precision_state).lower(),
            )
        gone = trials[trials["val"].isna()][cost].dropna()
        if len(gone):
            axes.plot(
                gone,
                np.full(len(gone), 0.015),
                "|",
                color=BAD,
                ms=8,
                alpha=0.6,
                transform=axes.get_xaxis_transform(),
                label="pruned untrained",
            )
        axes.legend(fontsize=8.5, loc="lower right")
        _name_axes(axes, run, cost, "the search's estimate")
        axes.set_ylabel(f"{name_quantity(run.score)}, short run")
        axes.set_xlabel(f"{name_quantity(cost)}, {UNITS.get(cost, '')} (log)")
    return figure
