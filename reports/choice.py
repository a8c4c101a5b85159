"""Which student a budget gets: the frontier, and the rules of choice over measured rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from reports.intervals import difference, score_interval
from reports.scores import Score

SPARE = 0.9  # a runner-up with room to spare stays below this share of each limit


@dataclass(frozen=True)
class Choice:
    """`status`: kept | missed. `id`, `precision`: the winner, None where missed. `runner_up`, `nearest`: None
    or {id, precision}. `relax`: per limit the value that would let `nearest` in. `limits`: per limit what was
    measured of the winner (or of the nearest): {limit, measured, low, high, provenance}."""

    status: str
    id: str | None
    precision: str | None
    runner_up: dict[str, str] | None
    nearest: dict[str, str] | None
    relax: dict[str, float]
    limits: dict[str, dict[str, Any]]


def frontier(rows: pd.DataFrame, cost: str, score: str, higher_is_better: bool) -> pd.DataFrame:
    """The rows that no other row beats: none is at least as cheap and as good, and better in one. By cost.

    Equal rows stay together; rows without cost or score are left out, and all are where no row has one.
    """
    if not {cost, score} <= set(rows.columns):
        return rows.iloc[:0]
    known = rows.dropna(subset=[cost, score])
    worth = known[score].to_numpy(float) * (1 if higher_is_better else -1)
    price = known[cost].to_numpy(float)
    order = np.lexsort((-worth, price))
    keep, best, best_price = [], -np.inf, np.nan
    for row in order:
        if worth[row] > best or (worth[row] == best and price[row] == best_price):
            keep.append(row)
            best, best_price = worth[row], price[row]
    return known.iloc[keep]


def choose(
    limits: Mapping[str, float],
    main_cost: str | None,
    rows: pd.DataFrame,
    truth: np.ndarray,
    outputs: Mapping[tuple[str, str], np.ndarray],
    score: Score,
    groups: np.ndarray | None = None,
) -> Choice:
    """The student of one budget, judged on val.

    `rows`: one per student × precision on the budget's target, with id, precision, val and per quantity q:
    q, q_low, q_high, q_provenance. `outputs[(id, precision)]`: on the val rows of `truth`. A limit is kept
    when the bad end of the interval keeps it; what was not measured keeps none. The best val score wins;
    among those whose paired difference from it includes 0, the cheapest by `main_cost` (default size_kb).
    With a `score` limit the cheapest that keeps it wins.
    """
    rows = rows.reset_index(drop=True)
    judged = [_judge(row, limits, truth, outputs, score, groups) for row in _records(rows)]
    excess = np.array([max([_exceed(entry, q, score) for q, entry in j.items()], default=-1.0) for j in judged])
    rules = (main_cost or "size_kb", "score" in limits, truth, outputs, score, groups)
    kept = [i for i in range(len(rows)) if excess[i] <= 0]
    if not kept:
        return _miss(rows, judged, excess, score)
    winner = _pick(rows, kept, *rules)
    others = [i for i in kept if i != winner]
    spare = [i for i in others if _has_room(judged[i])]
    second = _pick(rows, spare or others, *rules) if others else None
    return Choice(
        "kept",
        str(rows.at[winner, "id"]),
        str(rows.at[winner, "precision"]),
        None if second is None else _name(rows, second),
        None,
        {},
        judged[winner],
    )


def _pick(
    rows: pd.DataFrame,
    among: Sequence[int],
    cost: str,
    cheapest: bool,
    truth: np.ndarray,
    outputs: Mapping[tuple[str, str], np.ndarray],
    score: Score,
    groups: np.ndarray | None,
) -> int:
    """Row number of the winner among these; ties go by size, then val, id and precision."""
    sign = 1 if score.higher_is_better else -1
    worth = {i: sign * _number(rows, i, "val") for i in among}

    def price(i: int) -> tuple:
        own = [_number(rows, i, q) if q in rows.columns else np.nan for q in (cost, "size_kb")]
        own = [np.inf if np.isnan(value) else value for value in own]
        return (*own, -worth[i], str(rows.at[i, "id"]), str(rows.at[i, "precision"]))

    if cheapest:
        return min(among, key=price)
    best = min(among, key=lambda i: (-worth[i], *price(i)))

    def is_level(i: int) -> bool:
        ours, theirs = outputs[_key(rows, best)], outputs[_key(rows, i)]
        return not difference(score, truth, [ours], [theirs], groups).low > 0

    return min((i for i in among if i == best or is_level(i)), key=price)


def _judge(
    row: Mapping[str, Any],
    limits: Mapping[str, float],
    truth: np.ndarray,
    outputs: Mapping[tuple[str, str], np.ndarray],
    score: Score,
    groups: np.ndarray | None,
) -> dict[str, dict[str, Any]]:
    """Per limit what was measured of this row."""
    judged = {}
    for quantity, limit in limits.items():
        if quantity == "score":
            own = score_interval(score, truth, outputs[(str(row["id"]), str(row["precision"]))], groups)
            found: tuple = (own.value, _or(own.low, own.value), _or(own.high, own.value), "val")
        else:
            value = float(row.get(quantity, np.nan))
            low, high = (_or(row.get(f"{quantity}_{end}"), value) for end in ("low", "high"))
            found = (value, low, high, row.get(f"{quantity}_provenance"))
        judged[quantity] = {"limit": float(limit)} | dict(
            zip(("measured", "low", "high", "provenance"), found, strict=True)
        )
    return judged


def _exceed(entry: Mapping[str, Any], quantity: str, score: Score) -> float:
    """By what share of the limit its bad end breaks it; ≤ 0 keeps it, inf where nothing was measured."""
    limit, bad = entry["limit"], entry[_bad_end(quantity, score)]
    over = limit - bad if _bad_end(quantity, score) == "low" else bad - limit
    return float("inf") if np.isnan(over) else float(over / max(abs(limit), 1e-12))


def _bad_end(quantity: str, score: Score) -> str:
    return "low" if quantity == "score" and score.higher_is_better else "high"


def _has_room(judged: Mapping[str, Mapping[str, Any]]) -> bool:
    return all(e["high"] <= SPARE * e["limit"] for q, e in judged.items() if q != "score")


def _miss(rows: pd.DataFrame, judged: list[dict[str, dict[str, Any]]], excess: np.ndarray, score: Score) -> Choice:
    if not np.isfinite(excess).any():
        return Choice("missed", None, None, None, None, {}, {})
    near = int(np.argmin(excess))
    relax = {q: float(entry[_bad_end(q, score)]) for q, entry in judged[near].items() if _exceed(entry, q, score) > 0}
    return Choice("missed", None, None, None, _name(rows, near), relax, judged[near])


def _number(rows: pd.DataFrame, i: int, column: str) -> float:
    return float(rows[column].to_numpy(float)[i])


def _name(rows: pd.DataFrame, i: int) -> dict[str, str]:
    return dict(zip(("id", "precision"), _key(rows, i), strict=True))


def _key(rows: pd.DataFrame, i: int) -> tuple[str, str]:
    return str(rows.at[i, "id"]), str(rows.at[i, "precision"])


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(k): v for k, v in row.items()} for row in rows.to_dict("records")]


def _or(value: Any, default: float) -> float:
    return default if value is None or np.isnan(value) else float(value)
