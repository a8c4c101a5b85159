"""What chosen language models share with their teacher: distributions, likeliest tokens, calibration, and text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from reports.blocks import Block, Section, Table, Text
from reports.run_tables import Run, distinct_students


def show_fidelity(run: Run) -> Section | None:
    """Per distinct student its figures, and texts that student, control and teacher go on with from the same start."""
    seen = {label: told for n, label in distinct_students(run).items() if (told := run.budgets[n].get("fidelity"))}
    if not seen:
        return None
    lead = (
        "On the first rows of test, token by token. Divergence: how many bits a token the teacher's distribution is "
        "away from the student's (Kullback–Leibler). Agreement: tokens where both find the same one likeliest. "
        "A calibrated student is right as often as it says: where its confidence in its likeliest tokens is above how "
        "often they are right, it is too sure of itself."
    )
    table = Table("fidelity", pd.DataFrame([say_figures(label, told) for label, told in seen.items()]))
    blocks: list[Block] = [Text(lead), table]
    samples = [say_sample(label, one) for label, told in seen.items() for one in told["samples"]]
    if samples:
        said = "The likeliest tokens, one after another, from the same beginning of a text of test. None was picked."
        blocks.append(Table("samples", pd.DataFrame(samples), said))
    return Section("Next to the teacher", tuple(blocks))


def say_figures(label: str, told: Mapping[str, Any]) -> dict[str, str]:
    return {
        "Student": label,
        "Rows": f"{told['rows']}, {told['tokens']:,} tokens",
        "Divergence": f"{told['kl_bits']:.3f} bits a token",
        "Agreement": f"{100 * told['agreement']:.1f} %",
        "Confidence": f"{100 * told['confidence']:.1f} %",
        "Right": f"{100 * told['hits']:.1f} %",
    }


def say_sample(label: str, sample: Mapping[str, str]) -> dict[str, str]:
    said = {"Budget": label, "Text": sample["prompt"], "Teacher": sample["teacher"], "Student": sample["student"]}
    return said | {"On labels alone": sample.get("control", "")}
