"""A student's coverage guard in words and as data: for its manifest, its card, and the run's warnings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def no_guard(name: str, guard: Mapping[str, Any]) -> str:
    """Why a budget's student has none."""
    return f"{name} ships without a coverage guard, for {guard['why']}"


def tell_guard(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What a student's manifest says of its guard; nothing where it has none."""
    guard = entry.get("guard") or {"on": False}
    if not guard["on"]:
        return {}
    aim = guard["false_alarms"]["aim"]
    told = {key: guard[key] for key in ("output", "width", "false_alarms", "caught")}
    meaning = f"above 1: more unlike what the student was taught on than {1 - aim:.0%} of validation rows"
    return {"guard": told | {"above": 1.0, "meaning": meaning}}


def ship_guard(entry: Mapping[str, Any], guard: Mapping[str, Any]) -> dict[str, Any]:
    """A budget's entry with its guard; where it is on, its limits and costs are those of the file that ships, and what
    is not known of that file is left out."""
    if not guard["on"]:
        return {**entry, "guard": dict(guard)}
    parts = ("low", "high", "provenance")
    own = {q: {"measured": c["with"]} | {k: c[k] for k in parts} for q, c in guard["costs"].items()}
    limits = {quantity: found | own.get(quantity, {}) for quantity, found in entry["limits"].items()}
    costs = {quantity: found | own[quantity] for quantity, found in entry["costs"].items() if quantity in own}
    return {**entry, "limits": limits, "costs": costs, "guard": dict(guard)}


def card_guard(entry: Mapping[str, Any]) -> str:
    """The guard's line in MODEL_CARD.md, with what it misses; nothing where there is none."""
    guard = tell_guard(entry).get("guard")
    if guard is None:
        return ""
    test = guard["false_alarms"]["test"]
    caught = ", ".join(f"{what} {share['value']:.0%}" for what, share in guard["caught"].items())
    return f"""- Its output `{guard["output"]}` is above 1 for inputs unlike those. On {test["rows"]} test rows
  this was a false alarm in {test["value"]:.1%} (95 % interval {test["low"]:.1%} to {test["high"]:.1%}).
  Flagged of inputs it was never taught: {caught}.
  What is not flagged is not thereby right: the guard says nothing of mistakes on data like the test rows.
"""


def say_unguarded(guards: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for every student that was to have a guard and ships without."""
    return [f"{no_guard(name, guard)}." for name, guard in guards.items() if not guard["on"]]
