"""What several sections put into the cells of their tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from reports.run_tables import (
    Run,
)
from reports.words import (
    SHARES,
    say_number,
)

MOST_ROWS = 24
NOISY = "~"


def list_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(k): v for k, v in row.items()} for row in frame.to_dict("records")]


def take_interval(row: Mapping[str, Any], column: str) -> dict[str, Any] | None:
    if column not in row or pd.isna(row[column]):
        return None
    return {"value": row[column], "low": row.get(f"{column}_low"), "high": row.get(f"{column}_high")}


def say_measured(row: Mapping[str, Any], quantity: str) -> str:
    """Value and interval, this left out where it says no more at three digits."""
    value, low, high = (row.get(c, np.nan) for c in (quantity, f"{quantity}_low", f"{quantity}_high"))
    if pd.isna(value):
        return "–"
    mark = f" {NOISY}" if row.get(f"{quantity}_noisy") is True or row.get(f"{quantity}_noisy") == 1 else ""
    if pd.isna(low) or pd.isna(high) or {say_number(low), say_number(high)} == {say_number(value)}:
        return say_number(value) + mark
    return f"{say_number(value)}{mark} ({say_number(low)}–{say_number(high)})"


def say_params(params: Any) -> str:
    if not isinstance(params, str):
        return "–"
    return ", ".join(f"{k} {say_any(v)}" for k, v in json.loads(params).items())


def say_any(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.3g}".replace("-", "−")
    return ", ".join(map(say_any, value)) if isinstance(value, (list, tuple)) else str(value)


def say_share(value: Any) -> str:
    """Counts stay counts, shares become percent."""
    if value is None:
        return "–"
    return f"{100 * value:.1f} %" if isinstance(value, float) and 0 <= value <= 1 else str(value)


def summarise(nested: Mapping[str, Any]) -> dict[str, str]:
    """One fact per key: what lies below it becomes `name value` pairs. What is empty is left out."""
    facts = {str(k).replace("_", " "): say_nested(v) for k, v in nested.items() if v not in (None, "", {}, [])}
    return {k[:1].upper() + k[1:]: v for k, v in facts.items() if v}


def say_nested(value: Any) -> str:
    if not isinstance(value, Mapping):
        return say_any(value)
    parts = []
    for key, one in value.items():
        if one not in (None, "", {}, []):
            name = str(key).replace("_", " ")
            parts.append(f"{name}: {say_nested(one)};" if isinstance(one, Mapping) else f"{name} {say_nested(one)},")
    return " ".join(parts).rstrip(",;")


def join_words(words: Iterable[str]) -> str:
    """`a, b and c`."""
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def unit_of(run: Run) -> str:
    """What differences of this score are counted in, for the head of a column."""
    return ", points" if run.score in SHARES else ""


def slug_of(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name)
