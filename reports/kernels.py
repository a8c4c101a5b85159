"""What the shipped files that are not fp32 answer on other processors' kernels."""

from __future__ import annotations

from typing import Any

import pandas as pd

from reports.blocks import Section, Table, Text
from reports.run_tables import Run, distinct_students


def show_kernels(run: Run) -> Section | None:
    """Per chosen student and kernel: rows of test whose answer differs from fp32, and by how much outputs differ."""
    lines, skipped = [], dict[str, str]()
    for name, label in distinct_students(run).items():
        for kernel, found in (run.budgets[name].get("kernels") or {}).items():
            if "skipped" in found:
                skipped[kernel] = found["skipped"]
            else:
                lines.append(say_kernel(label, str(run.budgets[name]["precision"]), kernel, found))
    if not lines:
        return None
    caption = (
        "Against the fp32 file on this host, on the same rows of test. Greatest difference: of an output, as a share "
        "of the greatest. Without VNNI, x86 saturates sums of int8 products; Arm does not."
    )
    notes = tuple(Text(f"{kernel}: not seen, {why}.") for kernel, why in skipped.items())
    table = Table("kernels", pd.DataFrame(lines), caption)
    return Section("The same file on other processors", (table, *notes))


def say_kernel(label: str, precision: str, kernel: str, found: dict[str, Any]) -> dict[str, str]:
    line = {"Student": label, "Ships": precision, "Kernels": f"{kernel} ({found['what']})"}
    if found.get("flips") is not None:
        line["Answers that differ"] = f"{found['flips']} of {found['rows']}"
    return line | {"Greatest difference": f"{100 * found['largest']:.2g} %"}
