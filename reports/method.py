"""How it was measured, and what to be warned of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reports.blocks import Block, Facts, Items, Section, Text
from reports.cells import (
    summarise,
)
from reports.run_tables import (
    COSTS,
    Run,
)
from reports.words import (
    name_quantity,
)


def show_method(run: Run) -> Section | None:
    """How it was measured: host, versions, protocol, provenance of each quantity, how often test was read."""
    blocks: list[Block] = []
    facts = summarise(run.environment)
    reads = run.family.get("test_reads")
    if reads is not None:
        facts["Test set read"] = f"{reads} time{'' if reads == 1 else 's'} in the history of this run folder"
    for key in ("data", "coverage", "recipe"):
        facts |= summarise({key: run.family.get(key) or {}})
    if run.family.get("untrained"):
        facts["Untrained graphs"] = _say_untrained(run.family["untrained"])
    sources = _find_provenance(run)
    if sources:
        facts["Provenance"] = "; ".join(f"{name_quantity(q)}: {v}" for q, v in sources.items())
    for column in ("host", "versions"):
        known = list(run.records[column].dropna().astype(str).unique()) if column in run.records else []
        if known and column.capitalize() not in facts:
            facts[column.capitalize()] = "; ".join(known)
    if facts:
        blocks.append(Facts(facts))
    blocks.append(
        Text(
            "Choices were made on validation data; test was read afterwards. A limit is kept when the bad "
            "end of the 95 % interval keeps it. Every score is that of the file that ships. Intervals: "
            "Wilson for shares of rows, otherwise a bootstrap of rows or groups; "
            "differences are paired over rows and seeds, corrected after Holm over the distinct students."
        )
    )
    blocks.append(Items(tuple(str(n) for n in run.family.get("notes") or ())))
    return Section("How it was measured", tuple(b for b in blocks if not isinstance(b, Items) or b.items))


def _say_untrained(found: Mapping[str, Any]) -> str:
    """How the graphs that the search measured before training compare with the finalists' files."""
    said = (
        f"of {found['finalists']} finalists, {found['same_operators']} of {found['files']} have the operators of the "
    )
    said += f"trained file, size within {_say_percent(found['size_within'])}"
    for target, one in (found.get("latency") or {}).items():
        interval = f"{one['low']:.2f}–{one['high']:.2f}"
        said += f"; latency on {target} {one['ratio']:.2f} ({interval}) × that of the trained file"
    return said


def _say_percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.001 else "0.1 %"


def _find_provenance(run: Run) -> dict[str, str]:
    columns = {q: f"{q}_provenance" for q in COSTS if f"{q}_provenance" in run.records}
    found = {q: sorted(run.records[c].dropna().astype(str).unique()) for q, c in columns.items()}
    return {q: ", ".join(v) for q, v in found.items() if v}


def show_warnings(run: Run) -> Section | None:
    warnings = tuple(str(w) for w in run.family.get("warnings") or ())
    return Section("Warnings", (Items(warnings),) if warnings else (Text("None."),))
