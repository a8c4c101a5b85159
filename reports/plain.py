"""What counting words does on the same texts: a further control of every student that reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from reports.blocks import Block, Section, Table, Text
from reports.cells import unit_of
from reports.run_tables import Run, distinct_students
from reports.words import say_cost, say_gap, say_interval, say_number, say_range

TAUGHT = {"labels": "on labels", "teacher": "on the teacher's answers"}


def show_plain(run: Run) -> Section | None:
    """TF-IDF with a linear model beside the students; None where the data are no texts."""
    found: Mapping[str, Any] = run.family.get("tfidf") or {}
    if not found:
        return None
    kept = distinct_students(run)
    lines = [
        {
            "TF-IDF": TAUGHT[taught],
            "Test": say_interval(run.score, one["test"]),
            "Validation": say_interval(run.score, one["val"]),
            "Learnt from": f"{one['rows']:,} texts".replace(",", " "),
            "Weights and words": say_cost("size_kb", one["size_kb"]),
            "ms a text": say_number(one["ms"]),
        }
        for taught, one in found.items()
    ]
    caption = (
        "TF-IDF of words and pairs of words under a linear model (logistic regression; ridge where values or vectors "
        "are learnt), as strongly regularised as is best on validation data. Timed in Python, one text at a time."
    )
    gaps = [
        {"Student": label}
        | {
            f"Against TF-IDF {TAUGHT[taught]}{unit_of(run)}": f"{say_gap(run.score, gap['value'], True)} "
            f"({say_range(run.score, gap)})"
            for taught, gap in (run.budgets[name].get("tfidf") or {}).items()
            if taught in TAUGHT
        }
        for name, label in kept.items()
    ]
    blocks: list[Block] = [Text(f"{label}: {say_plain(run, name)}") for name, label in kept.items()]
    blocks.append(Table("tfidf", pd.DataFrame(lines), caption))
    blocks.append(
        Table("against-tfidf", pd.DataFrame(gaps), "Student minus TF-IDF on test, paired by rows, with 95 %.")
    )
    return Section("What counting words does", tuple(blocks))


def say_plain(run: Run, name: str) -> str:
    """Whether counting words would do as well as this budget's student."""
    gaps: Mapping[str, Any] = run.budgets[name].get("tfidf") or {}
    found = run.family.get("tfidf") or {}
    wins = gaps.get("wins")
    if wins:
        best, size = say_interval(run.score, found[wins]["test"]), say_cost("size_kb", found[wins]["size_kb"])
        return f"TF-IDF wins here: {TAUGHT[wins]} it reaches {best} on test, with {size} of weights and words."
    level = [TAUGHT[taught] for taught in TAUGHT if taught in gaps and not is_better(gaps[taught])]
    if level:
        return f"no difference from TF-IDF {' and '.join(level)} is shown."
    return "better than TF-IDF, on labels and on the teacher's answers."


def is_better(gap: Mapping[str, Any]) -> bool:
    """Whether the whole interval says so; one without ends says nothing."""
    return gap["low"] is not None and gap["low"] > 0
