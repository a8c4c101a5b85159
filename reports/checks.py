"""What static checks found of the chosen students: where they run, and what phones' accelerators would take of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from reports.blocks import Items, Section, Table
from reports.run_tables import Run, distinct_students

ACCELERATORS = {
    "nnapi": "NNAPI",
    "coreml-neuralnetwork": "Core ML NeuralNetwork",
    "coreml-mlprogram": "Core ML MLProgram",
}
FIXED, ORT = "model.fixed.onnx", "model.ort"
CAPTION = (
    "Static: by the operator lists that onnxruntime ships for NNAPI and Core ML and documents for XNNPACK; nothing ran "
    "on a phone, and the lists' notes on single operators are not checked. ◐ What an accelerator does not take falls "
    "back to the phone's CPU, and every change between the two costs time. Fixed shapes: with model.fixed.onnx, whose "
    "batch is 1. XNNPACK: nodes on its list; it shares the CPU with the rest. model.ort is for builds of onnxruntime "
    "reduced to required_operators.config, its outputs are held against those of model.onnx; what such a build weighs "
    "was not measured."
)


def show_checks(run: Run) -> Section | None:
    """A line for each chosen file that was checked."""
    kept = {name: checks for name in distinct_students(run) if (checks := run.budgets[name].get("checks"))}
    if not kept:
        return None
    labels = distinct_students(run)
    lines = [_line_up(f"{labels[n]}\n{run.budgets[n].get('precision')}", checks) for n, checks in kept.items()]
    said = tuple(f"{labels[n]}: {line}." for n, checks in kept.items() for line in _list_reasons(checks))
    table = Table("checks", pd.DataFrame(lines), CAPTION)
    return Section("On phones and in small builds", (table, Items(said)) if said else (table,))


def _line_up(student: str, checks: Mapping[str, Any]) -> dict[str, str]:
    targets = checks.get("targets") or {}
    runs = [name for name, found in targets.items() if found.get("runs")]
    untried = [name for name, found in targets.items() if found.get("runs") is None]
    shares = checks.get("accelerators") or {}
    line = {
        "Student": student,
        "Ran on": f"{', '.join(runs) or '–'}" + (f"\nnot tried: {', '.join(untried)}" if untried else ""),
    }
    line |= {title: _say_share(shares.get(name)) for name, title in ACCELERATORS.items()}
    listed = shares.get("xnnpack")
    line["XNNPACK"] = f"{listed['taken']} of {listed['nodes']}" if listed else "–"
    return line | {ORT: _say_made(checks.get(ORT) or {})}


def _say_share(found: Mapping[str, Any] | None) -> str:
    """What an accelerator takes; what follows the line break is written smaller, below."""
    if not found:
        return "–"
    pieces = f"in {found['parts']} pieces" if (found.get("parts") or 0) > 1 else ""
    below = "; ".join(said for said in (pieces, "fixed shapes" if found.get("needs_fixed_shapes") else "") if said)
    share = f"◐ {found['taken']} of {found['nodes']} nodes" if found["falls_back"] else f"all {found['nodes']} nodes"
    return f"{share}\n{below}" if below else share


def _say_made(found: Mapping[str, Any]) -> str:
    """How far outputs are from those of model.onnx."""
    if "largest_difference" not in found:
        return "–"
    return f"within {found['largest_difference']:.0e}" if found["largest_difference"] else "equal"


def _list_reasons(checks: Mapping[str, Any]) -> list[str]:
    """Why accelerators do not take all, and which files could not be made."""
    shares = checks.get("accelerators") or {}
    said = [
        f"{title} takes {shares[name]['reason']}"
        for name, title in ACCELERATORS.items()
        if "reason" in shares.get(name, {})
    ]
    return said + [f"no {name}, {checks[name]['reason']}" for name in (ORT, FIXED) if "reason" in checks.get(name, {})]


def mark_fall_back(budget: Mapping[str, Any]) -> str:
    """Accelerators on which this budget's student would fall back to the phone's CPU, Core ML where it does in both of
    its formats; empty where there is none or nothing was checked."""
    shares = (budget.get("checks") or {}).get("accelerators") or {}
    back = {title: shares[name]["falls_back"] for name, title in ACCELERATORS.items() if name in shares}
    formats = [falls for title, falls in back.items() if title.startswith("Core ML")]
    named = [title for title, falls in back.items() if falls and not title.startswith("Core ML")]
    named += ["Core ML"] if formats and all(formats) else []
    return f"◐ phones: falls back on {' and '.join(named)}" if named else ""
