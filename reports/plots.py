"""Figures, drawn once for paper and screen: colours become CSS variables where a page takes a figure in."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from reports.run_tables import Run
from reports.words import SHARES, UNITS, name_quantity

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
SHAPES = {"fp32": "o", "int8": "D", "int8-dynamic": "s", "int4": "h", "int8-weights": "v", "fp16-weights": "p"}
LADDERS = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), tuple(np.arange(2, 20) / 2))
VERDICTS = {"distillation helped": (ACCENT, ">"), "labels alone were better": (BAD, "<")}
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


def shape_of(precision: str) -> str:
    return SHAPES.get(precision, "^")


def show_shares(axes: Axes, score: str) -> None:
    """Percent on the upright axis where the score is a share."""
    if score in SHARES:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.4g} %"))


def name_axis(cost: str, where: str = "") -> str:
    unit = UNITS.get(cost, "")
    return f"{name_quantity(cost)}{where}" + (f", {unit} (log)" if unit else " (log)")


def mark_log_axis(axes: Axes) -> None:
    """Three to eight plain numbers, wherever the range lies and however narrow it is."""
    ticks = choose_ticks(*axes.get_xlim())
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.10g}".replace(",", "\u202f")))
    axes.xaxis.set_minor_locator(NullLocator())


def choose_ticks(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high` (both above 0): the coarsest ladder with three of them or more."""
    tens = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for steps in LADDERS:
        ticks = [float(f"{step}e{ten}") for ten in tens for step in steps]
        ticks = [t for t in ticks if low <= t <= high]
        if len(ticks) >= 3:
            return ticks[:: -(-len(ticks) // 8)]
    return [float(f"{t:.10g}") for t in MaxNLocator(5).tick_values(low, high) if low <= t <= high]


def draw_gaps(run: Run, gaps: Sequence[tuple[str, float, float, float, str]]) -> Figure:
    """Distilled - labels alone per student: (name, value, low, high, verdict), one line each, 0 marked."""
    scale = 100 if run.score in SHARES else 1
    with mpl.rc_context(STYLE | {"axes.grid.axis": "x"}):
        figure = Figure(figsize=(10.4, 0.8 + 0.42 * len(gaps)), layout="constrained")
        axes = figure.add_subplot()
        for line, (_, value, low, high, verdict) in enumerate(reversed(gaps)):
            colour, mark = VERDICTS.get(verdict, (MUTED, "o"))
            axes.plot([scale * low, scale * high], [line, line], color=colour, lw=2.2, solid_capstyle="butt")
            axes.scatter(scale * value, line, s=58, marker=mark, color=colour, zorder=3)
            place: Any = {"xy": (1.02, line), "xycoords": ("axes fraction", "data"), "va": "center"}
            axes.annotate(verdict, **place, color=colour, fontsize=9, annotation_clip=False)
        axes.axvline(0, color=INK, lw=1)
        axes.set_yticks(range(len(gaps)), [name for name, *_ in reversed(gaps)])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.spines["left"].set_visible(False)
        axes.set_ylim(-0.7, len(gaps) - 0.3)
        unit = ", points" if scale == 100 else ""
        axes.set_xlabel(f"{name_quantity(run.score)}, distilled − labels alone{unit} (test, 95 %)")
    return figure


def say_judge(run: Run) -> str:
    """Where the scores of the trials come from: only trained students have them, other engines estimate."""
    engine = (run.family.get("search") or {}).get("engine")
    return f"estimated ({engine})" if engine in ("supernet", "halving") else "validation data"


def draw_trials(run: Run, cost: str) -> Figure | None:
    """Val score against cost, or against the share of a limit; None where the trials do not say.

    The share is `violation + 1`: of the most used limit of the budget that the candidate fits best.
    """
    trials = run.trials
    if not len(trials) or "val" not in trials or not {cost, "violation"} & set(trials):
        return None
    across = trials[cost] if cost in trials else 100 * (trials["violation"] + 1)
    known = across.notna() & trials["val"].notna() & (across > 0)
    if not known.any():
        return None
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 3.2), layout="constrained")
        axes = figure.add_subplot()
        axes.set_xscale("log")
        for state, part in trials[known].groupby(trials["state"].astype(str).str.lower()):
            done = state == "complete"
            looks: Any = {"marker": "o" if done else "X", "color": ACCENT if done else LIMIT, "label": state}
            axes.scatter(across[part.index], part["val"], s=26, alpha=0.75, lw=0, **looks)
        gone = across[trials["val"].isna() & (across > 0)]
        if len(gone):
            low = axes.get_xaxis_transform()
            looks = {"color": BAD, "ms": 8, "alpha": 0.6, "label": "pruned, untrained"}
            axes.plot(gone, np.full(len(gone), 0.015), "|", transform=low, **looks)
        if cost not in trials:
            _mark_full_use(axes)
        mark_log_axis(axes)
        show_shares(axes, run.score)
        axes.set_xlabel(
            name_axis(cost) if cost in trials else "share used of the limits of the budget it fits best, % (log)"
        )
        axes.set_ylabel(f"{name_quantity(run.score)}, {say_judge(run)}")
        axes.legend(fontsize=8.5, loc="best")
    return figure


def _mark_full_use(axes: Axes) -> None:
    """A line where a limit is used up, if that is near."""
    if axes.get_xlim()[1] > 50:
        axes.axvline(100, color=LIMIT, lw=1.1, ls=(0, (2, 2)), label="the limit")
