"""Costs that a target cannot tell, such as a profile beyond its range: they keep no limit, and it is said why."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

UNKNOWN = 1e9  # in any unit: what the search is told


def value_of(figures: Mapping[str, Any], quantity: str) -> float:
    """What a target cannot tell of a candidate keeps no limit."""
    try:
        value = float(figures[quantity]["value"])
    except KeyError:
        return UNKNOWN
    return UNKNOWN if math.isnan(value) else value


def is_told(figure: Mapping[str, Any]) -> bool:
    return not math.isnan(figure["value"])


def told_alone(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a file that have a value."""
    return {quantity: figure for quantity, figure in figures.items() if is_told(figure)}


def why_untold(figures: Mapping[str, Any], quantities: Iterable[str]) -> str | None:
    """Of the first of these costs that is not known of a file; None where all are."""
    for quantity in quantities:
        if quantity not in figures:
            return f"its {quantity} was not measured"
        if not is_told(figures[quantity]):
            return f"its {quantity} is untold: {figures[quantity]['protocol']}"
    return None
