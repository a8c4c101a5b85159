"""The coverage guards of the chosen students: what they cost, how often they are wrong, what they miss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from reports.blocks import Block, Items, Section, Table, Text
from reports.run_tables import Run
from reports.words import name_quantity, say_cost

SHOWN = ("latency_ms", "instructions_m", "size_kb")
CAUGHT, MISSED = 0.9, 0.5  # shares flagged that count as caught, and below which as missed


def show_guard(run: Run) -> Section | None:
    """Per budget whether its student has a guard and what it costs; per guarded student what it flags."""
    guards = {name: b["guard"] for name, b in run.budgets.items() if b.get("guard")}
    if not guards:
        return None
    lead = (
        "A guard is a second output of the same file that says how unlike its transfer data an input is: above 1 the "
        "student had no teacher to imitate. Students were chosen without it, and frontiers and tables compare files "
        "without; it ships where the file with it keeps the budget by a fresh measurement, and what a budget's limits "
        "say is of the file that ships. What is not flagged is not thereby right: a guard says nothing of mistakes on "
        "inputs like the data."
    )
    costs = Table("guards", pd.DataFrame([say_line(name, guard) for name, guard in guards.items()]), COSTS)
    blocks: list[Block] = [Text(lead), costs]
    seen = label_guarded(run)
    if seen:
        blocks += [tabulate_flags(seen), Items(tuple(say_limits(label, guard) for label, guard in seen.items()))]
    return Section("When an input is unlike the data", tuple(blocks))


COSTS = (
    "Costs of the file with the guard, and how many times those of the file without, both measured side by side, with "
    "95 % intervals."
)


def say_line(name: str, guard: Mapping[str, Any]) -> dict[str, str]:
    line = {"Budget": name, "Guard": "on" if guard["on"] else f"off\n{guard['why']}"}
    for quantity in (q for q in SHOWN if q in guard.get("costs", {})):
        cost = guard["costs"][quantity]
        line[name_quantity(quantity).capitalize()] = f"{say_cost(quantity, cost['with'])}\n{say_ratio(cost)}"
    return line


def say_ratio(cost: Mapping[str, Any]) -> str:
    """1.27 × (1.20–1.34)"""
    if cost["ratio"] is None:
        return ""
    low, high = (f"{cost[end]:.2f}" for end in ("ratio_low", "ratio_high"))
    return f"{cost['ratio']:.2f} ×" + ("" if low == high else f" ({low}–{high})")


def label_guarded(run: Run) -> dict[str, dict[str, Any]]:
    """Label of each distinct file that ships with a guard, all budgets that take it → its guard."""
    found: dict[tuple[Any, Any], list[str]] = {}
    for name, budget in run.budgets.items():
        if (budget.get("guard") or {}).get("on"):
            found.setdefault((budget["id"], budget["precision"]), []).append(name)
    return {", ".join(names): run.budgets[names[0]]["guard"] for names in found.values()}


def tabulate_flags(seen: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row per kind of input, a column per student."""
    rows: dict[str, dict[str, str]] = {}
    for label, guard in seen.items():
        alarms = guard["false_alarms"]
        kinds = {
            f"validation, {alarms['val']['rows']} rows (the threshold was set here)": alarms["val"],
            f"test, {alarms['test']['rows']} rows: false alarms": alarms["test"],
            **guard["caught"],
        }
        for kind, share in kinds.items():
            rows.setdefault(kind, {"Inputs": kind})[label] = say_share(share)
    aim = next(iter(seen.values()))["false_alarms"]["aim"]
    caption = (
        f"Share of inputs flagged, by the shipped file. The threshold aims at {100 * aim:.0f} % of rows like "
        "validation. Below test: inputs that nobody taught it, made from rows of test or taken from elsewhere."
    )
    return Table("guard-flags", pd.DataFrame(list(rows.values())).fillna("–"), caption)


def say_share(share: Mapping[str, Any]) -> str:
    return f"{100 * share['value']:.1f} % ({100 * share['low']:.1f}–{100 * share['high']:.1f})"


def say_limits(label: str, guard: Mapping[str, Any]) -> str:
    """What it catches and what it does not, in a sentence."""
    caught = [what for what, share in guard["caught"].items() if share["value"] >= CAUGHT]
    missed = [what for what, share in guard["caught"].items() if share["value"] < MISSED]
    between = [what for what in guard["caught"] if what not in (*caught, *missed)]
    parts = [
        f"{said} {', '.join(what)}"
        for said, what in (
            (f"flags at least {100 * CAUGHT:.0f} % of", caught),
            ("flags a part of", between),
            (f"misses more than {100 * (1 - MISSED):.0f} % of", missed),
        )
        if what
    ]
    return f"{label}: {'; '.join(parts)}."
