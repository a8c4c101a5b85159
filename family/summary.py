"""The family as a text table, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from family.cards import say_ends, say_verdict

TOLD = {"size_kb": ".1f", "latency_ms": ".4f", "instructions_m": ".4f"}


def summary_table(family: Mapping[str, Any]) -> str:
    """The family as a text table, a row per budget; below it what was missed or skipped, and what would help."""
    rows, open_ends = [], []
    for name, entry in family["budgets"].items():
        if entry["status"] != "kept":
            rows.append({"budget": name, "status": entry["status"]})
            open_ends.append(f"{name}: {entry['status']}, {say_way_out(entry)}")
            continue
        test, costs = entry["test"], entry["costs"]
        rows.append(
            {
                "budget": name,
                "status": "kept",
                "student": f"{entry['id']} {entry['precision']}",
                f"test {family['score']['name']}": f"{test['value']:.4f} ({say_ends(test)})",
                **{
                    quantity: format(costs[quantity]["measured"], form)
                    for quantity, form in TOLD.items()
                    if quantity in costs
                },
                "against labels alone": say_verdict(entry),
            }
        )
    return "\n".join([pd.DataFrame(rows).fillna("").to_string(index=False), *open_ends])


def say_way_out(entry: Mapping[str, Any]) -> str:
    """Of a missed budget, which limits to relax and from where; of a skipped one, the reason."""
    if entry["status"] == "skipped":
        return str(entry["reason"])
    relax = [
        f"{quantity} from {entry['asked'][quantity]:g} to {value:.4g}" for quantity, value in entry["relax"].items()
    ]
    nothing = "no student could be measured against its limits"
    return f"relax {' and '.join(relax)}" if relax else "; ".join([nothing, *filter(None, [entry.get("untold")])])
