"""Figures and findings in words that a manager understands, and that claim no more than was shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from reports.run_tables import COSTS, Run, find_main_cost, find_record, find_target, take_records

SHARES = ("accuracy", "macro_f1", "exact_match")
NAMES = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "exact_match": "exact match",
    "cosine": "cosine similarity",
    "auroc": "AUROC",
    "rmse": "RMSE",
    "mae": "mean absolute error",
    "r2": "R²",
    "bits_per_byte": "bits per byte",
    "ms_per_token": "time per token",
    "first_token_ms": "time to the first token",
    "latency_ms": "latency",
    "file_ms": "latency of the file alone",
    "tokenizer_ms": "latency of the tokenizer alone",
    "latency_direct_ms": "latency, timed directly",
    "latency_p95_ms": "latency, 95th percentile",
    "latency_without_front_ms": "latency without front",
    "memory_mb": "memory",
    "size_kb": "file size",
    "download_kb": "file size compressed",
    "instructions_m": "instructions",
    "score": "score",
}
QUALIFIERS = {
    "ms_per_token": " per token",
    "first_token_ms": " to the first token",
    "download_kb": " compressed",
    "latency_p95_ms": " at the 95th percentile",
    "file_ms": " of the file alone",
    "tokenizer_ms": " of the tokenizer alone",
    "latency_direct_ms": " timed directly",
    "latency_without_front_ms": " without front",
    "memory_mb": " of memory",
}
UNITS = {
    "ms_per_token": "ms",
    "first_token_ms": "ms",
    "latency_ms": "ms",
    "file_ms": "ms",
    "tokenizer_ms": "ms",
    "latency_direct_ms": "ms",
    "latency_p95_ms": "ms",
    "latency_without_front_ms": "ms",
    "memory_mb": "MB",
    "size_kb": "kB",
    "download_kb": "kB",
    "instructions_m": "M instructions",
}


def name_quantity(quantity: str) -> str:
    return NAMES.get(quantity, quantity.replace("_", " "))


def say_number(value: float, digits: int = 3) -> str:
    """Three significant digits, without exponents, thousands apart: 0.0412, 41.2, 1 240."""
    if value is None or not np.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    places = max(digits - 1 - int(np.floor(np.log10(abs(value)))), 0)
    return f"{value:,.{places}f}".replace(",", " ").replace("-", "−")


def say_score(score: str, value: float | None) -> str:
    if value is None or not np.isfinite(value):
        return "–"
    if score in SHARES:
        return f"{100 * value:.1f} %"
    return f"{value:.3f}".replace("-", "−") if score in ("auroc", "r2") else say_number(value)


def say_interval(score: str, interval: Mapping[str, Any] | None) -> str:
    """`96.1 % (95.2–96.9)`."""
    if not interval or interval.get("value") is None:
        return "–"
    text = say_score(score, interval["value"])
    low, high = interval.get("low"), interval.get("high")
    if low is None or high is None or not np.isfinite([low, high]).all():
        return text
    return f"{text} ({say_score(score, low).removesuffix(' %')}–{say_score(score, high).removesuffix(' %')})"


def say_gap(score: str, value: float | None, sign: bool = False) -> str:
    """A difference of scores: `1.2 points`, or a plain number; with `sign` as `+1.2`."""
    if value is None or not np.isfinite(value):
        return "unknown"
    if score in SHARES:
        value = round(100 * value, 1) / 100
    mark = ("+" if value > 0 else "−" if value < 0 else "") if sign else ""
    if score in SHARES:
        return f"{mark}{abs(100 * value):.1f}" + ("" if sign else " points")
    return f"{mark}{say_number(abs(value), 2)}"


def say_range(score: str, gap: Mapping[str, Any]) -> str:
    """The interval of a difference: `+0.3 to +2.1`."""
    return f"{say_gap(score, gap.get('low'), True)} to {say_gap(score, gap.get('high'), True)}"


def say_cost(quantity: str, value: float | None) -> str:
    if value is None or not np.isfinite(value):
        return "–"
    unit = UNITS.get(quantity, "")
    if quantity in ("size_kb", "download_kb", "memory_mb") and value >= 1000:
        value, unit = value / 1000, {"kB": "MB", "MB": "GB"}[unit]
    return f"{say_number(value)} {unit}".strip()


def say_limit(run: Run, quantity: str, value: float | None, exact: bool = False) -> str:
    """A limit, or what was measured of it; `exact`: as the user wrote it, 0.03 and not 0.0300."""
    if quantity == "score":
        return say_score(run.score, value)
    if exact and value is not None:
        return f"{value:.6g} {UNITS.get(quantity, '')}".strip()
    return say_cost(quantity, value)


def say_budget(run: Run, name: str) -> str:
    """One sentence on what a budget got, without its name."""
    budget = run.budgets[name]
    if budget["status"] == "skipped":
        reason = budget.get("reason") or run.family.get("targets", {}).get(budget.get("target"), {}).get("unavailable")
        return f"Not tried: {str(reason or 'its target is not available on this machine').rstrip('.')}."
    if budget["status"] == "missed":
        return _say_miss(run, budget)
    parts = [_say_found(run, name, budget), _say_teacher(run, name, budget), say_control(run, budget)]
    parts += ["TF-IDF wins here"] if (budget.get("tfidf") or {}).get("wins") else []
    return "; ".join(p for p in parts if p) + "."


def _say_found(run: Run, name: str, budget: Mapping[str, Any]) -> str:
    read = budget.get("test") or {}
    where = "" if read.get("value") is not None else " on validation data"
    found = say_interval(run.score, budget.get("val") if where else read)
    text = f"{found} {name_quantity(run.score)}{where}"
    shipped, limits, target = find_shipped(run, name), budget.get("limits") or {}, find_target(run, name)
    shown = {*limits, "size_kb", find_main_cost(run, target) if target else "size_kb"}
    for quantity in (q for q in COSTS if q in shown):
        value = limits.get(quantity, {}).get("measured", shipped.get(quantity))
        if value is not None and np.isfinite(float(value)):
            text += f", {say_cost(quantity, float(value))}{QUALIFIERS.get(quantity, '')}"
    return text + (" with its coverage guard" if (budget.get("guard") or {}).get("on") else "")


def find_shipped(run: Run, name: str) -> dict[str, Any]:
    """A budget's record with the costs of the file that ships, which has a guard where records have none."""
    guard = run.budgets[name].get("guard") or {"on": False}
    costs = guard["costs"] if guard["on"] else {}
    return (find_record(run, name) or {}) | {quantity: cost["with"] for quantity, cost in costs.items()}


def _say_teacher(run: Run, name: str, budget: Mapping[str, Any]) -> str:
    parts: list[str] = []
    shipped, teacher = find_shipped(run, name), find_teacher_costs(run, find_target(run, name))
    for quantity, word in (
        ("size_kb", "smaller"),
        ("latency_ms", "faster"),
        ("parameters", "fewer parameters"),
    ):
        ours, theirs = shipped.get(quantity), teacher.get(quantity)
        if quantity == "parameters" and parts:
            continue
        if ours and theirs and np.isfinite([float(ours), float(theirs)]).all() and theirs / ours >= 1.05:
            parts.append(f"{_say_times(float(theirs) / float(ours))} {word}")
    than = f"{' and '.join(parts)} than the teacher" if parts else ""
    gap = find_teacher_gap(run, budget)
    if gap is None:
        return than
    split, value = gap
    if abs(value) < (0.0005 if run.score in SHARES else 1e-6):
        level = f"level with {'it' if than else 'the teacher'}"
    else:
        ways = ("below", "above") if run.higher_is_better else ("better than", "worse than")
        level = f"{say_gap(run.score, abs(value))} {ways[value > 0]} {'it' if than else 'the teacher'}"
    return ", ".join(p for p in (than, level + ("" if split == "test" else " on validation data")) if p)


def _say_times(ratio: float) -> str:
    if ratio < 10:
        return f"{ratio:.1f} times"
    return f"{say_number(float(f'{ratio:.2g}'), 2)} times"


def find_teacher_costs(run: Run, target: str | None) -> dict[str, Any]:
    """What is known of the teacher's costs: from its record on this target, else from family.json."""
    costs = dict(run.family.get("teacher", {}).get("cost") or {})
    costs.pop("latency_ms", None)  # on which target is not said there
    rows = take_records(run, target, "teacher") if target else run.records.iloc[:0]
    if len(rows):
        known = {str(q): v for q, v in rows.iloc[0].items() if q in (*COSTS, "parameters")}
        costs |= {q: v for q, v in known.items() if v is not None and np.isfinite(float(v))}
    return {q: v for q, v in costs.items() if isinstance(v, (int, float))}


def find_teacher_gap(run: Run, budget: Mapping[str, Any]) -> tuple[str, float] | None:
    """Split and student - teacher as the score counts; None where either is unknown."""
    for split in ("test", "val"):
        ours = (budget.get(split) or {}).get("value")
        theirs = (run.family.get("teacher", {}).get(split) or {}).get("value")
        if ours is not None and theirs is not None:
            return split, float(ours) - float(theirs)
    return None


def say_control(run: Run, budget: Mapping[str, Any]) -> str:
    """What may be said of distillation; with one seed no more than "this student against this control"."""
    control = budget.get("control") or {}
    verdict, gap = control.get("verdict"), control.get("difference") or {}
    if verdict is None:
        return ""
    if verdict == "labels alone chosen":
        return "trained on labels alone, which won the bake-off"
    if verdict == "no verdict":
        return "not compared with labels alone, for too few paired seeds could be"
    amount = say_gap(run.score, abs(gap.get("value") or 0.0))
    span = f" (95 %: {say_range(run.score, gap)})" if gap.get("low") is not None else ""
    if verdict == "no difference shown":
        seen = control.get("detectable")
        if not seen:
            return "no difference from labels alone shown"
        could = f"smallest difference this test could have shown: {say_gap(run.score, seen)}"
        return f"no difference from labels alone shown ({could}){_say_corrected(run, gap)}"
    if count_seeds(budget) == 1:
        ways = ("above", "below") if run.higher_is_better else ("better than", "worse than")
        better = ways[verdict != "distillation helped"]
        return f"this student is {amount} {better} this control{span}, one seed each"
    if verdict == "distillation helped":
        if not run.higher_is_better:
            return f"distillation is {amount} better than labels alone{span}"
        return f"distillation added {amount} over labels alone{span}"
    return f"labels alone were {amount} better{span}"


def _say_corrected(run: Run, gap: Mapping[str, Any]) -> str:
    """Where an interval leaves out 0 and the verdict is none: Holm's correction over the distinct students."""
    low, high = gap.get("low"), gap.get("high")
    students = {(b.get("id"), b.get("precision")) for b in run.budgets.values() if b.get("status") == "kept"}
    if low is None or high is None or low <= 0 <= high or len(students) < 2:
        return ""
    seen = f"{say_gap(run.score, gap.get('value'), True)} was seen ({say_range(run.score, gap)})"
    return f"; {seen}, too little once all {len(students)} students are compared"


def count_seeds(budget: Mapping[str, Any]) -> int:
    control = budget.get("control") or {}
    said = (control.get("difference") or {}).get("seeds") or control.get("seeds") or budget.get("seeds") or []
    return said if isinstance(said, int) else len(said)


def _say_miss(run: Run, budget: Mapping[str, Any]) -> str:
    relax, limits = budget.get("relax") or {}, budget.get("limits") or {}
    if not relax:
        why = budget.get("untold")
        return "No student was measured that could keep it" + (f"; {why}." if why else ".")
    parts = []
    for quantity, needed in relax.items():
        limit = limits.get(quantity, {}).get("limit")
        was = f" from {say_limit(run, quantity, limit, exact=True)}" if limit is not None else ""
        parts.append(f"{name_quantity(quantity)}{was} to {_say_enough(run, quantity, needed)}")
    near = budget.get("nearest") or {}
    who = f" ({str(near['id'])[:8]}, {near.get('precision')})" if near.get("id") else ""
    return f"No student keeps it. Relax {' and '.join(parts)}, and the nearest student{who} keeps it."


def _say_enough(run: Run, quantity: str, needed: float) -> str:
    """Three digits, rounded to the side that lets the student in."""
    at_least = quantity == "score" and run.higher_is_better
    if needed == 0 or not np.isfinite(needed):
        return say_limit(run, quantity, needed)
    step = 10.0 ** (np.floor(np.log10(abs(needed))) - 2)
    if quantity == "score" and run.score in (*SHARES, "auroc", "r2"):
        step = 0.001
    rounded = np.floor(needed / step + 1e-9) if at_least else np.ceil(needed / step - 1e-9)
    return say_limit(run, quantity, float(rounded * step))
